from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
import torch
from safetensors.torch import load_file, save_file

from builders import random_pairs
from fitting_builders import FIXED
from lore.errors import ConfigError, DataError
from lore.fitting import validation
from lore.fitting.checkpoint import Checkpoint
from lore.fitting.fit import FitConfig, fit_bases, fit_basis, iterate_fits
from lore.pairs.table import Pairs
from lore.solvers.objective import Likelihood

HELD_OUT_LOSS = validation.held_out_loss


def interrupted_after(calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C at a pass over the data."""
    passes, project = iter(range(calls)), Likelihood.project

    def project_or_stop(table: Likelihood, basis: torch.Tensor) -> torch.Tensor:
        if next(passes, None) is None:
            raise KeyboardInterrupt
        return project(table, basis)

    monkeypatch.setattr(Likelihood, "project", project_or_stop)


@pytest.mark.parametrize("passes", [20, 30])
def test_an_interrupted_fit_goes_on_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: int
) -> None:
    pairs, path = random_pairs(pairs=20_001, rows=400), tmp_path / "fit.safetensors"
    config = replace(FIXED, tolerance=1e-4)
    whole = fit_basis(pairs, config)
    with monkeypatch.context() as patch:
        interrupted_after(passes, patch)
        with pytest.raises(KeyboardInterrupt):
            fit_basis(pairs, config, checkpoint=path)
    resumed = fit_basis(pairs, config, checkpoint=path)
    assert resumed.objective == pytest.approx(whole.objective, rel=1e-4)
    assert resumed.history[0] < whole.history[0]
    assert list(tmp_path.iterdir()) == []


def test_what_was_validated_before_an_interruption_is_not_validated_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: Pairs
) -> None:
    path, config = tmp_path / "fit.safetensors", FitConfig(rank=2)
    whole, losses = fit_basis(planted, config), []

    def stopping(*arguments: object) -> float:
        if len(losses) == 3:
            raise KeyboardInterrupt
        losses.append(HELD_OUT_LOSS(*arguments))
        return losses[-1]

    def counting(*arguments: object) -> float:
        losses.append(HELD_OUT_LOSS(*arguments))
        return losses[-1]

    with monkeypatch.context() as patch:
        patch.setattr(validation, "held_out_loss", stopping)
        with pytest.raises(KeyboardInterrupt):
            fit_basis(planted, config, checkpoint=path)
        patch.setattr(validation, "held_out_loss", counting)
        resumed = fit_basis(planted, config, checkpoint=path)
        interrupted = len(losses)
        losses.clear()
        fit_basis(planted, config)
        assert len(losses) == interrupted
    assert (resumed.strength, resumed.weight_strength) == (whole.strength, whole.weight_strength)
    assert torch.equal(resumed.basis.vectors, whole.basis.vectors)


def test_a_checkpoint_of_something_else_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: Pairs
) -> None:
    path = tmp_path / "fit.safetensors"
    with monkeypatch.context() as patch:
        interrupted_after(12, patch)
        with pytest.raises(KeyboardInterrupt):
            fit_basis(planted, FIXED, checkpoint=path)
    for pairs, config in [(planted, replace(FIXED, rank=2)), (planted.select(torch.arange(200)), FIXED)]:
        with pytest.raises(ConfigError, match=r"`checkpoint` .*other pairs"):
            fit_basis(pairs, config, checkpoint=path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match="not the checkpoint of a fit"):
        fit_basis(planted, FIXED, checkpoint=path)


def test_a_checkpoint_is_written_every_few_seconds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    clock = iter(range(0, 1_000, 2))
    monkeypatch.setattr("lore.fitting.checkpoint.time.monotonic", lambda: next(clock))
    path = tmp_path / "fit.safetensors"
    checkpoint, written = Checkpoint(path, ""), []
    for step in range(6):
        checkpoint.keep({"basis": torch.full((2, 1), float(step))})
        written.append(float(load_file(path)["basis"][0, 0]) if path.exists() else None)
    assert written == [None, None, 2.0, 2.0, 2.0, 5.0]


@pytest.mark.parametrize(
    "config",
    [FitConfig(rank=2), FitConfig(rank="auto"), FitConfig(family="gaussian", rank="auto")],
    ids=["simplex", "simplex-auto", "gaussian-auto"],
)
def test_what_ninety_percent_of_a_fit_have_done_is_not_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: FitConfig
) -> None:
    pairs, path = random_pairs(users=20, pairs=600, polar=True), tmp_path / "fit.safetensors"
    product, calls = Likelihood.project, [0]

    def counted(table: Likelihood, basis: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        if calls[0] == limit:
            raise KeyboardInterrupt
        return product(table, basis)

    monkeypatch.setattr(Likelihood, "project", counted)
    limit = 0
    whole = fit_basis(pairs, config)
    total, limit = calls[0], round(0.9 * calls[0])
    calls[0] = 0
    with pytest.raises(KeyboardInterrupt):
        fit_basis(pairs, config, checkpoint=path)
    calls[0], limit = 0, 0
    resumed = fit_basis(pairs, config, checkpoint=path)
    assert calls[0] < 0.6 * total
    assert resumed.basis.rank == whole.basis.rank
    assert resumed.strength == whole.strength
    assert resumed.validation == pytest.approx(whole.validation, abs=2e-4)
    assert resumed.objective == pytest.approx(whole.objective, rel=2e-2)
    assert not path.exists()


def test_a_file_of_another_kind_is_refused_in_a_line(tmp_path: Path, planted: Pairs) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.ones(1)}, path, {"format": "pt"})
    with pytest.raises(DataError, match="not the checkpoint of a fit; remove it"):
        fit_basis(planted, checkpoint=path)


def test_fits_that_share_passes_are_there_as_soon_as_each_is_done(planted: Pairs, tmp_path: Path) -> None:
    configs = [FitConfig(rank=rank, strength=1e-3, weight_strength=0.01, tolerance=1e-6) for rank in (1, 3)]
    paths = [tmp_path / f"{rank}.safetensors" for rank in (1, 3)]
    fits = iterate_fits(planted, configs, checkpoints=paths)
    assert next(fits)[0] == 0
    stopped = mock.patch("lore.fitting.simplex_descent.evaluate_and_solve", side_effect=KeyboardInterrupt)
    with stopped, pytest.raises(KeyboardInterrupt):
        next(fits)
    assert [path.exists() for path in paths] == [False, True]
    together = fit_bases(planted, configs)
    again = dict(iterate_fits(planted, configs, checkpoints=paths))
    assert [again[number].objective for number in (0, 1)] == pytest.approx(
        [fit.objective for fit in together], rel=1e-5
    )
