import math
from dataclasses import replace

import pytest
import torch

import oracle
from builders import random_pairs
from lore.errors import ShapeError
from lore.evaluation.intervals import Sample
from lore.evaluation.metrics import (
    accuracy,
    accuracy_of_margins,
    accuracy_of_right,
    anytime_gain,
    correct,
    gain,
    log_loss,
    reachable,
)
from lore.evaluation.summary import compute_statistics
from lore.evaluation.sweep import run_sweep
from lore.fitting.basis import RewardBasis
from lore.fitting.fit import FitConfig, fit_basis
from lore.pairs.splits import Split
from lore.pairs.table import Pairs


def basis_of(vectors: torch.Tensor, center: torch.Tensor) -> RewardBasis:
    return RewardBasis(vectors, center, torch.zeros(vectors.shape[1]).to(vectors), "gaussian", vectors.shape[1])


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
        groups = compute_statistics(parts, first).without_one_group
        assert compute_statistics(told, second).without_one_group.low == pytest.approx(groups.low, abs=0.005)


def test_a_tie_is_half_right_whatever_is_predicted() -> None:
    pairs = random_pairs()
    margin = torch.randn(len(pairs), generator=torch.Generator().manual_seed(0))
    assert accuracy_of_margins(replace(pairs, label=torch.full_like(pairs.label, 0.5)), margin).mean == pytest.approx(
        0.5
    )


def test_a_perfect_model_is_always_right_and_its_opposite_never() -> None:
    pairs = random_pairs()
    for sign, expected in ((1.0, 1.0), (-1.0, 0.0), (0.0, 0.5)):
        found = accuracy_of_margins(pairs, torch.full((len(pairs),), sign))
        assert (found.mean, found.low, found.high) == pytest.approx((expected, expected, expected))


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


def test_looking_again_and_again_finds_no_difference_where_there_is_none() -> None:
    wrong, once = 0, 0
    for seed in range(80):
        rng = torch.Generator().manual_seed(seed)
        pairs = random_pairs(users=40, rows=4_000, pairs=2_000, seed=seed)
        right = (torch.rand(2, 2_000, generator=rng) < 0.6).double()
        looks = []
        for seen in range(100, 2_001, 100):  # as choices come
            sample = Sample(pairs.select(torch.arange(seen)))
            model, baseline = (accuracy_of_right(one[:seen], sample) for one in right)
            every, single = anytime_gain(model, baseline), gain(model, baseline)
            looks.append((every.low > 0 or every.high < 0, single.low > 0 or single.high < 0))
        wrong += any(every for every, _ in looks)
        once += any(single for _, single in looks)
    assert wrong <= 0.06 * 80
    assert once > 0.12 * 80  # which is why


def test_no_model_passes_what_is_reachable() -> None:
    label = torch.tensor([1.0, 1.0, 0.5, 0.0])
    chosen, rejected = torch.tensor([0, 1, 0, 2]), torch.tensor([1, 0, 2, 1])
    pairs = Pairs.from_rows(torch.eye(3), chosen, rejected, torch.zeros(4, dtype=torch.long), label=label)
    best = max(
        float(correct(pairs, rewards[chosen] - rewards[rejected]).mean())
        for rewards in torch.tensor([[2.0, 1.0, 0.0], [0.0, 1.0, 2.0], [1.0, 2.0, 0.0], [2.0, 0.0, 1.0]])
    )
    assert float(reachable(pairs).mean()) == best == 0.625  # one of two contradicting choices, half of a tie


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


def test_a_basis_of_another_encoder_is_refused(planted: Pairs) -> None:
    basis = RewardBasis(torch.ones(9, 1), torch.zeros(9), torch.ones(1), "simplex", 1)
    with pytest.raises(ShapeError, match="use one encoder"):
        accuracy(planted, basis, torch.ones(len(planted.users), 1))
