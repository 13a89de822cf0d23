from dataclasses import replace
from pathlib import Path

import pytest
import torch

from builders import random_pairs
from lore.errors import ConfigError
from lore.evaluation.metrics import accuracy
from lore.evaluation.sweep import run_sweep, sweep
from lore.fitting.fit import FitConfig, fit_basis
from lore.fitting.personalize import fit_weights
from lore.pairs.splits import Split, split

QUICK = FitConfig(strength=0.01, weight_strength=0.01)


def test_a_sweep_finds_the_planted_tastes_and_its_controls_do_not(parts: Split) -> None:
    results = sweep(parts, [0, 1, 2], config=QUICK)
    found = {(result.model, result.setting): result for result in results if result.shots is None}
    assert {model for model, _ in found} == {"pooled", "simplex", "per_user", "wrong_user", "shuffled", "length"}
    assert found["simplex", "seen_test"].accuracy > found["pooled", "seen_test"].accuracy
    assert found["simplex", "seen_test"].accuracy > found["wrong_user", "seen_test"].accuracy
    assert 0.3 < found["shuffled", "seen_test"].accuracy < 0.7
    assert found["pooled", "seen_test"].gain is None
    assert found["simplex", "unseen_test"].users == len(parts.unseen_test.users)
    shots = [result.shots for result in results if result.shots is not None]
    assert shots == sorted(shots)
    assert shots


def test_a_reference_is_evaluated_where_there_is_one(parts: Split) -> None:
    results = sweep(parts, [0, 2], config=QUICK, reference=torch.ones(6).double())
    assert [result.rank for result in results if result.model == "reference"] == [0] * 4


def test_the_gaussian_family_goes_through_the_same_door(parts: Split) -> None:
    found = run_sweep(parts, [1, 2], config=replace(QUICK, family="gaussian"))
    assert found.chosen.basis.family == "gaussian"
    assert found.chosen.basis.rank in (1, 2)


def test_evaluation_and_serving_use_the_same_weights(parts: Split) -> None:
    found = run_sweep(parts, [2], config=QUICK)
    people = fit_weights(parts.unseen_shots, found.chosen.basis)
    mean = accuracy(parts.unseen_test, found.chosen.basis, people).mean
    assert mean == next(
        r.accuracy for r in found.results if (r.model, r.setting, r.shots) == ("simplex", "unseen_test", None)
    )


def test_an_interrupted_sweep_resumes_from_its_fits(parts: Split, tmp_path: Path) -> None:
    def interrupt(_: str, done: int, __: int, note: str = "") -> None:  # noqa: ARG001 - of the protocol
        if done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(parts, [1, 2], config=QUICK, checkpoints=tmp_path, progress=interrupt)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.json")}
    assert len(kept) == 1
    resumed = sweep(parts, [1, 2], config=QUICK, checkpoints=tmp_path)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    undisturbed = sweep(parts, [1, 2], config=QUICK)
    for found, expected in zip(resumed, undisturbed, strict=True):  # fits that shared a pass differ in the last bits
        assert (found.log_loss or 0.0) == pytest.approx(expected.log_loss or 0.0, rel=1e-9)
        assert replace(found, log_loss=None) == replace(expected, log_loss=None)


def test_only_pooled_is_compared_when_only_pooled_is_asked_for(parts: Split) -> None:
    assert run_sweep(parts, [1], config=QUICK).chosen.basis.rank == 1
    with pytest.raises(ConfigError, match="ranks"):
        sweep(parts, [])


def test_validation_chooses_the_rank(parts: Split) -> None:
    found = run_sweep(parts, [1, 2, 3])
    losses = {fit.basis.rank: fit.validation for fit in found.fits if fit.basis.rank > 1}
    assert found.chosen.basis.rank == min(losses, key=losses.__getitem__)


def test_without_unseen_users_only_the_seen_settings_are_reported() -> None:
    pairs = replace(random_pairs(users=6, pairs=800, rows=30), group=torch.arange(30) // 3)
    results = sweep(split(pairs, unseen=0), [2], config=QUICK)
    assert {result.setting for result in results} == {"seen_train", "seen_test"}
    alone = replace(random_pairs(users=1, pairs=300, rows=30), group=torch.arange(30) // 3)
    assert "wrong_user" not in {result.model for result in sweep(split(alone, unseen=0), [2], config=QUICK)}


def test_coins_teach_nothing_even_where_a_reference_is_known() -> None:
    pairs = random_pairs(users=24, pairs=2_400)
    reference = fit_basis(pairs, FitConfig(rank=1, strength=1e-3)).basis.vectors[:, 0]
    found = sweep(split(pairs, seed=1), [0, 2], reference=reference)
    known, coins = (
        next(result.accuracy for result in found if (result.model, result.setting) == (model, "seen_test"))
        for model in ("reference", "shuffled")
    )
    assert known > 0.7
    assert abs(coins - 0.5) < 0.15
