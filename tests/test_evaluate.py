import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import oracle
from conftest import random_pairs
from lore.basis import RewardBasis
from lore.errors import ConfigError, ShapeError
from lore.evaluate import accuracy, accuracy_of_margins, gain, log_loss, run_sweep, sweep
from lore.fit import FitConfig, fit_basis
from lore.pairs import Pairs, Split, split
from lore.personalize import fit_weights
from lore.report import rigour

QUICK = FitConfig(strength=0.01, weight_strength=0.01)


def basis_of(vectors: torch.Tensor, center: torch.Tensor) -> RewardBasis:
    return RewardBasis(vectors, center, torch.zeros(vectors.shape[1]).to(vectors), "gaussian", vectors.shape[1])


@pytest.fixture
def parts() -> Split:
    pairs = random_pairs(users=20, rows=40, pairs=2000, polar=True)
    pairs = replace(pairs, group=torch.arange(40) // 4, length=torch.arange(40).float())
    return split(pairs, unseen=0.3, test=0.4)


def test_accuracy_equals_the_oracle_with_ties_and_users_without_pairs() -> None:
    pairs = random_pairs(users=6, pairs=60)
    pairs = pairs.select(pairs.user != 2)
    rng = torch.Generator().manual_seed(0)
    basis = basis_of(torch.randn(6, 2, generator=rng).double(), torch.randn(6, generator=rng).double())
    weights = torch.randn(6, 2, generator=rng).double()
    tied = replace(pairs, rejected=torch.where(torch.arange(len(pairs)) % 5 == 0, pairs.chosen, pairs.rejected))
    found = accuracy(tied, basis, weights)
    expected = torch.tensor(oracle.accuracy(tied, basis.vectors, basis.center, weights)).double()
    torch.testing.assert_close(found.per_user, expected, equal_nan=True)
    assert math.isnan(float(found.per_user[2]))
    assert found.users == 5
    assert found.low <= found.mean <= found.high


def other_way_round(pairs: Pairs) -> Pairs:
    """The same choices, each told by its other side."""
    assert pairs.rejected is not None
    return replace(pairs, chosen=pairs.rejected, rejected=pairs.chosen, label=1 - pairs.label)


def test_a_choice_told_by_its_other_side_is_the_same_choice(parts: Split) -> None:
    label = torch.tensor([1.0, 0.7, 0.5, 0.2, 0.0]).double()
    pairs = replace(random_pairs(), label=label[torch.arange(240) % 5])
    fit = fit_basis(pairs, FitConfig(rank=2))
    found, other = (accuracy(told, fit.basis, fit.weights) for told in (pairs, other_way_round(pairs)))
    torch.testing.assert_close(other.per_user, found.per_user)
    told = replace(parts, **{name: other_way_round(part) for name, part in parts.parts().items()})
    for family in ("simplex", "gaussian"):
        first, second = (run_sweep(split, [2], config=FitConfig(family=family, rank=2)) for split in (parts, told))
        for one, same in zip(first.results, second.results, strict=True):
            if one.model != "shuffled":  # its coins fall otherwise
                assert same.accuracy == pytest.approx(one.accuracy, abs=0.005), one
        groups = rigour(parts, first).groups
        assert rigour(told, second).groups.low == pytest.approx(groups.low, abs=0.005)


def test_a_tie_is_half_right_whatever_is_predicted() -> None:
    pairs = random_pairs()
    margin = torch.randn(len(pairs), generator=torch.Generator().manual_seed(0))
    assert accuracy_of_margins(replace(pairs, label=torch.full_like(pairs.label, 0.5)), margin).mean == 0.5


def test_a_perfect_model_is_always_right_and_its_opposite_never() -> None:
    pairs = random_pairs()
    for sign, expected in ((1.0, 1.0), (-1.0, 0.0), (0.0, 0.5)):
        found = accuracy_of_margins(pairs, torch.full((len(pairs),), sign))
        assert found.mean == found.low == found.high == expected


def test_gain_is_paired_over_users() -> None:
    pairs = random_pairs()
    margin = torch.randn(len(pairs), generator=torch.Generator().manual_seed(0))
    found = accuracy_of_margins(pairs, margin)
    same = gain(found, found)
    assert (same.mean, same.low, same.high, same.users) == (0.0, 0.0, 0.0, 12)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(100):
        rng = torch.Generator().manual_seed(seed)
        pairs = random_pairs(users=60, pairs=600, seed=seed)
        found = accuracy_of_margins(pairs, torch.randn(600, generator=rng))
        covered += found.low <= 0.5 <= found.high
    assert covered >= 88


def test_the_interval_covers_the_truth_with_few_people_too() -> None:
    covered = 0
    for seed in range(300):
        rng = torch.Generator().manual_seed(seed)
        pairs = random_pairs(users=6, pairs=600, seed=seed)
        strangers = 0.3 * torch.randn(6, generator=rng)  # people differ, and 0 is their mean
        found = accuracy_of_margins(pairs, strangers[pairs.user] + torch.randn(600, generator=rng))
        covered += found.low <= 0.5 <= found.high
    assert covered >= 0.92 * 300


def test_four_people_give_no_interval() -> None:
    found = accuracy_of_margins(random_pairs(users=4), torch.ones(240))
    assert found.mean == 1.0
    assert math.isnan(found.low)


def test_nobody_with_pairs_gives_nothing_rather_than_a_number() -> None:
    empty = random_pairs().select(torch.zeros(0, dtype=torch.long))
    assert math.isnan(accuracy_of_margins(empty, torch.zeros(0)).mean)


def test_weights_of_another_shape_are_refused() -> None:
    basis = basis_of(torch.ones(6, 2).double(), torch.zeros(6).double())
    with pytest.raises(ShapeError, match=r"\[12, 2\]"):
        accuracy(random_pairs(), basis, torch.ones(3, 2))


def test_log_loss_is_the_oracles() -> None:
    pairs = random_pairs()
    basis = basis_of(torch.randn(6, 2, generator=torch.Generator().manual_seed(1)).double(), torch.zeros(6).double())
    weights = torch.full((12, 2), 0.5).double()
    assert log_loss(pairs, basis, weights) == pytest.approx(float(oracle.loss(pairs, basis.vectors, weights)))


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
