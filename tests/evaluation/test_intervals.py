import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from builders import random_pairs
from lore.evaluation.intervals import Sample
from lore.pairs.table import Pairs


def judged(users: int, groups: int, each: int, seed: int, user_spread: float, group_spread: float) -> float:
    """Draw a world whose mean is 0; return 1 if the interval for new prompts covers it, and 0 if not."""
    pairs, values = world(users, groups, each, seed, user_spread, group_spread)
    found = Sample(pairs).estimate(values).new_prompts
    return float(found.low <= 0 <= found.high)


def world(
    users: int, groups: int, each: int, seed: int, user_spread: float, group_spread: float
) -> tuple[Pairs, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    user = torch.arange(users).repeat_interleave(each)
    group = torch.randint(groups, (users * each,), generator=rng)
    pairs = Pairs.from_rows(
        torch.ones(2 * groups, 1), 2 * group, 2 * group + 1, user, group=torch.arange(2 * groups) // 2
    )
    values = user_spread * torch.randn(users, generator=rng)[user]
    values += group_spread * torch.randn(groups, generator=rng)[group] + 0.5 * torch.randn(len(user), generator=rng)
    return pairs, values


@pytest.mark.parametrize(
    ("users", "groups", "each", "user_spread", "group_spread"),
    [(10, 30, 20, 0.1, 0.1), (100, 10, 8, 0.02, 0.15), (40, 100, 15, 0.1, 0.1), (40, 200, 10, 0.0, 0.0)],
)
def test_intervals_for_new_prompts_cover_as_often_as_they_say(
    users: int, groups: int, each: int, user_spread: float, group_spread: float
) -> None:
    covered = np.mean([judged(users, groups, each, seed, user_spread, group_spread) for seed in range(300)])
    assert 0.91 <= covered <= 0.985


def test_many_users_of_few_prompts_are_sure_about_these_prompts_alone() -> None:
    pairs, values = world(200, 10, 8, 0, 0.02, 0.3)
    found = Sample(pairs).estimate(values)
    these, new = (interval.high - interval.low for interval in (found.these_prompts, found.new_prompts))
    assert new > 3 * these


def test_the_variance_is_the_sum_over_all_two_pairs_that_share_a_user_or_a_group() -> None:
    pairs = replace(random_pairs(users=40, rows=300, pairs=900), group=torch.arange(300) // 2)
    values = torch.randn(900, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values += 3 * torch.randn(150, generator=torch.Generator().manual_seed(2)).double()[pairs.group[pairs.chosen]]
    sample = Sample(pairs)
    found = sample.estimate(values)
    n = pairs.counts.double()
    worth = n / (1 + 0.05 * (n - 1))
    share = (worth / worth.sum() / n)[pairs.user]
    deviation = share * (values - found.mean)
    sides = torch.stack([pairs.group[pairs.chosen], pairs.group[pairs.rejected]])
    related = pairs.user[:, None] == pairs.user
    for one in sides:
        for other in sides:
            related |= one[:, None] == other
    expected = math.sqrt(float(deviation @ related.double() @ deviation))
    half = (found.new_prompts.high - found.new_prompts.low) / 2
    assert half / 1.98 == pytest.approx(expected, rel=0.06)  # the leverage of clusters, and Student's quantile


def test_the_mean_counts_users_by_what_their_pairs_are_worth() -> None:
    pairs = Pairs.from_differences([torch.ones(1, 2), torch.ones(200, 2)] + 5 * [torch.ones(10, 2)])
    values = torch.cat([torch.ones(1), torch.zeros(250)])
    found = Sample(pairs).estimate(values)
    assert found.equal == pytest.approx(1 / 7)
    assert found.mean == pytest.approx(1 / (1 + 200 / (1 + 0.05 * 199) + 5 * 10 / 1.45))
    assert found.mean < found.equal / 5


def test_users_with_few_pairs_are_left_out_and_counted() -> None:
    pairs = Pairs.from_differences([torch.ones(4, 2)] + 6 * [torch.ones(5, 2)])
    sample = Sample(pairs, min_pairs=5)
    assert (sample.users, sample.left_out) == (6, 1)
    values = torch.cat([torch.ones(4), torch.zeros(30)])
    assert sample.estimate(values).mean == 0
    assert sample.per_user(values)[0] == 1


def test_prompts_that_no_two_users_share_add_nothing() -> None:
    pairs = Pairs.from_differences([torch.ones(8, 2)] * 30)
    found = Sample(pairs).estimate(torch.randn(240, generator=torch.Generator().manual_seed(0)))
    assert found.new_prompts.high == pytest.approx(found.these_prompts.high, rel=0.05)


def test_too_few_users_or_one_prompt_give_no_interval() -> None:
    few = Sample(Pairs.from_differences([torch.ones(8, 2)] * 4)).estimate(torch.ones(32))
    assert few.mean == 1
    assert math.isnan(few.these_prompts.low)
    pairs = random_pairs()
    one = Sample(replace(pairs, group=torch.zeros_like(pairs.group))).estimate(torch.rand(len(pairs)))
    assert math.isnan(one.new_prompts.low)
    assert one.these_prompts.low < one.mean < one.these_prompts.high
    assert math.isnan(Sample(pairs.select(torch.zeros(0, dtype=torch.long))).estimate(torch.ones(0)).mean)


def test_at_least_half_of_the_users_are_counted() -> None:
    sample = Sample(Pairs.from_differences([torch.ones(each, 2) for each in (1, 2, 2, 3, 4)]), min_pairs=5)
    assert (sample.users, sample.left_out) == (4, 1)


def test_a_surer_interval_is_wider() -> None:
    pairs = random_pairs()
    values = torch.rand(len(pairs), generator=torch.Generator().manual_seed(0))
    usual, surer = (Sample(pairs).estimate(values, level).new_prompts for level in (0.95, 0.975))
    assert surer.low < usual.low < usual.high < surer.high
