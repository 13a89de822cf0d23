import math
from dataclasses import replace

import pytest
import torch

from builders import random_pairs
from lore.evaluation.significance import FALSE_DISCOVERIES, verdicts, worst_tenth
from lore.pairs.table import Pairs


def judged(users: int, pairs_each: int, seed: int = 0) -> Pairs:
    """Choices between items that nobody meets twice."""
    count = users * pairs_each
    rng = torch.Generator().manual_seed(seed)
    vectors = torch.randn(2 * count, 2, generator=rng, dtype=torch.float64)
    user = torch.arange(users).repeat_interleave(pairs_each)
    return Pairs.from_rows(vectors, torch.arange(count), torch.arange(count, 2 * count), user)


def told(truth: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Choices with these probabilities: whether each fell so, as probabilities of what was chosen."""
    fell = torch.rand(truth.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) < truth
    return torch.where(fell, truth, 1 - truth), fell


def test_people_who_are_helped_are_found_and_the_others_left_undecided() -> None:
    pairs = judged(users=40, pairs_each=100)
    half = torch.full((len(pairs),), 0.5, dtype=torch.float64)
    personal, _ = told(torch.where(pairs.user < 20, 0.8, 0.5).double(), seed=1)
    found = verdicts(pairs, personal, half)
    assert int((found.verdict[:20] == 1).sum()) >= 18
    assert bool((found.verdict[20:] == 0).all())
    assert int((found.log_odds[:20] > math.log(10)).sum()) >= 18
    helped = found.counts()["helps"]
    assert found.counts() == {"helps": helped, "hurts": 0, "undecided": 20 - helped, "untestable": 20}
    reversed_ = verdicts(pairs, half, personal)
    assert reversed_.counts() == {"helps": 0, "hurts": helped, "undecided": 20 - helped, "untestable": 20}
    torch.testing.assert_close(reversed_.log_odds, -found.log_odds)


def test_false_discoveries_stay_at_their_rate() -> None:
    wrong, discoveries = 0, 0
    for seed in range(60):
        pairs = judged(users=40, pairs_each=40, seed=seed)
        truth = torch.where(pairs.user < 10, 0.75, 0.5).double()
        _, fell = told(truth, seed)
        personal = torch.where(fell, 0.65, 0.35).double()
        found = verdicts(pairs, personal, torch.full_like(personal, 0.5))
        wrong += int((found.verdict[10:] > 0).sum())
        discoveries += int((found.verdict != 0).sum())
    # Those to whom 0.65 is told and who flip coins are hurt in truth: only "helps" is wrong of them.
    assert discoveries > 200
    assert wrong / discoveries <= FALSE_DISCOVERIES


def test_choices_that_share_items_count_as_fewer() -> None:
    rng = torch.Generator().manual_seed(0)
    vectors = torch.randn(12, 2, generator=rng, dtype=torch.float64)
    every = torch.combinations(torch.arange(12))
    same = Pairs.from_rows(vectors, every[:, 0], every[:, 1], torch.zeros(len(every), dtype=torch.long))
    fresh = judged(users=1, pairs_each=len(every))
    personal = torch.where(torch.arange(len(every)) % 3 > 0, 0.7, 0.3).double()
    half = torch.full_like(personal, 0.5)
    repeated, independent = verdicts(same, personal, half), verdicts(fresh, personal, half)
    assert float(repeated.log_odds) == pytest.approx(float(independent.log_odds) / (len(every) / 11))
    assert float(repeated.p_value) > float(independent.p_value)


def test_a_person_without_choices_has_no_odds_and_one_with_a_single_choice_no_verdict() -> None:
    pairs = judged(users=3, pairs_each=2).select(torch.tensor([0, 1, 2]))
    found = verdicts(pairs, torch.tensor([0.9, 0.8, 0.9]).double(), torch.full((3,), 0.5).double())
    assert math.isnan(float(found.log_odds[2]))
    assert float(found.p_value[1]) == 1.0
    assert found.counts() == {"helps": 0, "hurts": 0, "undecided": 0, "untestable": 2}


def test_the_worst_tenth_of_users_who_are_all_alike_is_no_worse_than_the_rest() -> None:
    rng = torch.Generator().manual_seed(0)
    pairs = judged(users=200, pairs_each=20)
    alike = (torch.rand(len(pairs), generator=rng) < 0.7).double()
    assert worst_tenth(pairs, alike) == pytest.approx(0.7, abs=0.05)
    chance = torch.where(pairs.user < 20, 0.2, 0.7)
    some_worse = (torch.rand(len(pairs), generator=rng) < chance).double()
    assert 0.2 <= worst_tenth(pairs, some_worse) < 0.4
    assert math.isnan(worst_tenth(pairs.select(pairs.user < 0), alike[:0]))


def test_predictions_that_differ_by_rounding_are_not_tested() -> None:
    pairs = judged(users=5, pairs_each=40)
    half = torch.full((len(pairs),), 0.5, dtype=torch.float64)
    found = verdicts(pairs, half - 1e-7, half + 1e-7)
    assert found.counts() == {"helps": 0, "hurts": 0, "undecided": 0, "untestable": 5}
    assert bool((found.p_value == 1).all())


def test_the_sign_test_is_the_exact_binomial_one() -> None:
    pairs = judged(users=1, pairs_each=10)
    common = torch.full((10,), 0.4, dtype=torch.float64)
    personal = torch.tensor(8 * [0.9] + 2 * [0.3]).double()  # better in eight choices, alike in two
    found = verdicts(pairs, personal, common)
    assert float(found.p_value) == pytest.approx(2 * 0.5**8)
    assert found.names() == ["helps"]


def test_a_model_that_is_certain_and_wrong_is_not_infinitely_surprising() -> None:
    pairs = random_pairs(users=1, rows=24, pairs=12)
    pairs = replace(pairs, label=torch.tensor([0.5] + 11 * [1.0], dtype=torch.float64))
    certain = torch.cat([torch.ones(1), torch.full((11,), 0.7)])
    even = torch.full((12,), 0.5)
    for personal, common in ((certain, certain), (certain, even), (even, certain)):
        measured = verdicts(pairs, personal, common)
        assert measured.log_odds.isfinite().all()
        assert 0 <= float(measured.p_value[0]) <= 1
