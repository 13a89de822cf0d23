import math
from dataclasses import replace

import pytest
import torch

from lore.evaluation.evaluator import HeldOut
from lore.evaluation.finding import Finding, combined, find
from lore.pairs.splits import split
from lore.pairs.table import Pairs


def held_out(
    users: int = 40, each: int = 20, prompts: int = 200, *, seed: int = 0, flukes: float = 0.0, **shares: float
) -> HeldOut:
    """Choices that each model has right with its own probability; `flukes` adds luck of single prompts to "chosen"."""
    rng = torch.Generator().manual_seed(seed)
    user = torch.arange(users).repeat_interleave(each)
    prompt = torch.randint(prompts, (len(user),), generator=rng)
    pairs = Pairs.from_rows(
        torch.ones(2 * prompts, 1), 2 * prompt, 2 * prompt + 1, user, group=torch.arange(2 * prompts) // 2
    )
    luck = flukes * torch.randn(prompts, generator=rng)[prompt]
    right = {}
    for model, share in shares.items():
        chance = share + (luck if model == "chosen" else 0.0)
        right[model] = (torch.rand(len(user), generator=rng) < chance).double()
    return HeldOut(pairs, right)


def of_new_users(one: HeldOut) -> Finding:
    return find([{"unseen_test": one}], has_tastes=True, min_pairs=5)


@pytest.mark.parametrize(
    ("shares", "verdict", "words"),
    [
        ({"chosen": 0.8, "pooled": 0.6, "wrong_user": 0.6}, "helps", "Personalizing helps new users by +"),
        ({"chosen": 0.6, "pooled": 0.6, "wrong_user": 0.6}, "unclear", "does not measurably help new users"),
        ({"chosen": 0.5, "pooled": 0.7, "wrong_user": 0.5}, "hurts", "Personalizing hurts new users: -"),
        ({"chosen": 0.8, "pooled": 0.6, "wrong_user": 0.8}, "not personal", "but over other users' weights"),
        (
            {"chosen": 0.8, "pooled": 0.6, "wrong_user": 0.6, "item_rate": 0.8},
            "item rate",
            "than a list of popular responses",
        ),
    ],
)
def test_a_headline_says_what_was_planted(shares: dict[str, float], verdict: str, words: str) -> None:
    found = of_new_users(held_out(**shares))
    assert found.groups[0].verdict == verdict
    assert words in found.headline


def test_what_holds_for_the_prompts_tested_alone_is_said_to() -> None:
    shares = {"chosen": 0.68, "pooled": 0.6, "wrong_user": 0.6}
    found = of_new_users(held_out(users=300, prompts=8, flukes=0.2, seed=1, **shares))
    assert found.groups[0].verdict == "helps here"
    assert "on the prompts tested" in found.headline
    assert "but not surely on new ones" in found.headline


def test_few_users_and_differences_in_few_of_them_say_nothing() -> None:
    few = of_new_users(held_out(users=4, chosen=0.9, pooled=0.5, wrong_user=0.5))
    assert few.groups[0].verdict == "too few"
    assert "of whom 4 could be tested and 5 are needed" in few.headline
    same = held_out(chosen=0.6, pooled=0.6)
    lucky = same.right["pooled"].clone()
    wrong = torch.nonzero(lucky == 0).flatten()
    lucky[wrong[:120:20]] = 1.0  # six choices of six users, all for the better
    lucky_six = HeldOut(
        same.pairs, {"chosen": lucky, "pooled": same.right["pooled"], "wrong_user": same.right["pooled"]}
    )
    found = of_new_users(lucky_six).groups[0]
    assert found.discordant < 8
    assert found.verdict == "unclear"


def test_both_groups_of_users_are_in_the_headline_and_share_the_error() -> None:
    helped = held_out(chosen=0.8, pooled=0.6, wrong_user=0.6)
    unclear = held_out(chosen=0.6, pooled=0.6, wrong_user=0.6, seed=5)
    both = find([{"seen_test": helped, "unseen_test": unclear}], has_tastes=True, min_pairs=5)
    assert [group.setting for group in both.groups] == ["unseen_test", "seen_test"]
    assert "does not measurably help new users" in both.headline
    assert "helps users it learned from" in both.headline
    alone = find([{"seen_test": helped}], has_tastes=True, min_pairs=5)
    assert both.groups[1].gain.low < alone.groups[0].gain.low
    for verdict, words in (("helps", "Personalizing helps new users by +"), ("helps here", "On the prompts tested, ")):
        alike = replace(both, groups=tuple(replace(group, verdict=verdict) for group in both.groups))
        assert alike.headline.startswith(words)
        assert "users it learned from by +" in alike.headline
    neither = find([{"seen_test": unclear, "unseen_test": unclear}], has_tastes=True, min_pairs=5)
    assert neither.headline.startswith("Personalizing does not measurably help, against one model for all. New users: ")


def test_without_tastes_nothing_else_is_said() -> None:
    same = held_out(chosen=0.6, pooled=0.6, wrong_user=0.6)
    found = find([{"unseen_test": same}], has_tastes=False, min_pairs=5)
    assert found.headline.startswith("No tastes found")
    assert "+0.0" not in found.headline


def test_tastes_that_change_no_prediction_have_no_interval() -> None:
    same = held_out(chosen=0.6, pooled=0.6)
    right = same.right["pooled"]
    found = of_new_users(HeldOut(same.pairs, {"chosen": right, "pooled": right, "wrong_user": right}))
    assert found.headline.startswith("No tastes found")
    assert "+0.0" not in found.headline


def test_one_prompt_cannot_tell_of_new_ones() -> None:
    found = of_new_users(held_out(prompts=1, chosen=0.9, pooled=0.5, wrong_user=0.5))
    assert math.isnan(found.groups[0].gain.low)
    assert found.groups[0].verdict == "helps here"
    assert "from one prompt that cannot be told" in found.headline


def test_splits_are_combined_so_that_each_choice_counts_once() -> None:
    everything = held_out(users=10, chosen=0.7, pooled=0.6)
    parts = [split(everything.pairs, unseen=0.3, test=0.5, rotation=(number, 2)).seen_test for number in range(2)]
    right = [{"chosen": torch.full((len(part),), float(number)).double()} for number, part in enumerate(parts)]
    merged = combined([HeldOut(part, own) for part, own in zip(parts, right, strict=True)])
    numbers = [set(part.comparison.tolist()) for part in parts if part.comparison is not None]
    assert set(merged.pairs.comparison.tolist()) == numbers[0] | numbers[1]  # type: ignore[union-attr]
    for comparison, user, value in zip(
        merged.pairs.comparison.tolist(),  # type: ignore[union-attr]
        merged.pairs.user.tolist(),
        merged.right["chosen"].tolist(),
        strict=True,
    ):
        of_splits = [number for number in range(2) if comparison in numbers[number]]
        assert value == sum(of_splits) / len(of_splits)
        assert merged.pairs.users[user] == everything.pairs.users[int(everything.pairs.user[comparison])]
    undrawn = [HeldOut(replace(one.pairs, comparison=None), one.right) for one in (everything, everything)]
    asked = torch.unique(torch.stack([everything.pairs.user, everything.pairs.chosen]), dim=1).shape[1]
    assert len(combined(undrawn).pairs) == asked


def test_rotations_test_every_group_and_make_every_user_new_once() -> None:
    pairs = held_out(users=20, chosen=0.6).pairs
    for by in ("group", "user"):
        parts = [split(pairs, unseen=0.2, test=0.3, by=by, rotation=(number, 5)) for number in range(5)]  # type: ignore[arg-type]
        assert sorted(user for one in parts for user in one.unseen_shots.users) == sorted(pairs.users)
        tested = {
            number
            for one in parts
            for part in (one.seen_test, one.unseen_test)
            for number in (part.comparison.tolist() if part.comparison is not None else [])
        }
        assert tested == set(range(len(pairs)))
    assert split(pairs, rotation=(0, 5)).seen_train.users == split(pairs).seen_train.users
