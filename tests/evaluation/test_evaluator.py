from dataclasses import replace

import pytest
import torch

from builders import random_pairs
from lore.evaluation.controls import exchanged_weights, item_rate_margins
from lore.evaluation.sweep import run_sweep
from lore.fitting.config import FitConfig
from lore.pairs.splits import split
from lore.pairs.table import Pairs

QUICK = FitConfig(strength=0.01, weight_strength=0.01)


def popular(users: int = 30, seed: int = 0) -> Pairs:
    """Users who all like the same responses, for reasons that no embedding shows; each judged many of them."""
    rng = torch.Generator().manual_seed(seed)
    user = torch.arange(users).repeat_interleave(60)
    first, second = torch.randint(40, (2, len(user)), generator=rng)
    second = torch.where(first == second, (second + 1) % 40, second)
    quality = 2 * torch.randn(40, generator=rng)
    wins = torch.rand(len(user), generator=rng) < torch.sigmoid(quality[first] - quality[second])
    rows = torch.where(wins, first, second), torch.where(wins, second, first)
    return Pairs.from_rows(torch.randn(40, 3, generator=rng), *rows, user)


def test_win_rates_are_a_rule_where_test_responses_were_judged_in_training() -> None:
    parts = split(popular(), unseen=0.3, test=0.4, by="user")
    found = run_sweep(parts, [1, 2], config=QUICK)
    rate = found.result("item_rate", "unseen_test")
    assert rate is not None
    assert rate.accuracy > 0.75
    assert found.result("item_rate", "seen_train") is None
    assert "item_rate" in found.held_out["unseen_test"].right
    by_group = run_sweep(split(popular(), unseen=0.3, test=0.4), [1, 2], config=QUICK)
    assert by_group.result("item_rate", "unseen_test") is None


def test_win_rates_are_shrunk_toward_one_half() -> None:
    rows = torch.eye(4)
    trained = Pairs.from_rows(rows, torch.tensor([0, 0, 1]), torch.tensor([1, 2, 2]), torch.zeros(3, dtype=torch.long))
    test = Pairs.from_rows(rows, torch.tensor([0, 3]), torch.tensor([2, 1]), torch.zeros(2, dtype=torch.long))
    margin = item_rate_margins(test, trained)
    assert margin is not None
    assert margin.tolist() == pytest.approx([4 / 6 - 2 / 6, 1 / 2 - 3 / 6])
    nothing = replace(test, chosen=torch.tensor([3, 3]), rejected=torch.tensor([3, 3]))
    assert item_rate_margins(nothing, trained) is None


def test_users_get_the_weights_of_others_never_their_own_and_never_the_same_twice() -> None:
    pairs = random_pairs(users=6)
    weights = torch.arange(6, dtype=torch.float64)[:, None]
    exchanged = torch.cat(list(exchanged_weights(weights, pairs, seed=0)), dim=1)
    assert exchanged.shape == (6, 5)
    for user in range(6):
        assert sorted(exchanged[user].tolist()) == [other for other in range(6) if other != user]
    some = pairs.select(pairs.user != 2)
    assert all(float(one[2]) == 2 for one in exchanged_weights(weights, some, seed=0))
    assert not list(exchanged_weights(weights, pairs.select(pairs.user == 1), seed=0))


def test_a_sweep_without_tastes_chooses_pooled() -> None:
    pairs = random_pairs(users=12, pairs=900)
    alike = replace(pairs, user=pairs.user, label=torch.ones_like(pairs.label))
    config = FitConfig(strength=0.01, weight_strength=1e6)  # nothing moves from the population
    found = run_sweep(split(alike), [1, 2], config=config)
    assert not found.has_tastes
    assert found.chosen is found.pooled
    assert not torch.equal(found.fits[1].basis.vectors[:, 0], found.pooled.basis.vectors[:, 0])
