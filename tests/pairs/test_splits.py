import pytest
import torch

from builders import random_pairs, small_rows
from lore.errors import ConfigError, DataError
from lore.pairs.splits import split
from lore.pairs.table import Pairs
from pairs_builders import embedded, rating_rows


@pytest.mark.parametrize("seed", range(5))
def test_no_prompt_and_no_response_of_a_test_pair_is_in_training(seed: int) -> None:
    pairs = embedded(small_rows())
    parts = split(pairs, unseen=0.34, test=0.3, seed=seed)
    for train, test in ((parts.seen_train, parts.seen_test), (parts.seen_train, parts.unseen_test)):
        for of_row in (pairs.group, pairs.response):
            learned = set(of_row[torch.cat([train.chosen, train.rejected])].tolist())
            tested = set(of_row[torch.cat([test.chosen, test.rejected])].tolist())
            assert not learned & tested
    assert set(parts.seen_train.users).isdisjoint(parts.unseen_shots.users)
    total = sum(len(part) for part in parts.parts().values())
    assert total + parts.dropped == len(pairs)


def test_pairs_that_straddle_are_dropped_and_counted() -> None:
    rows = torch.arange(8)
    pairs = Pairs.from_rows(torch.eye(8), rows, rows.roll(1), torch.arange(8) % 2, users=["a", "b"])
    parts = split(pairs, unseen=0, test=0.5, seed=3)
    assert parts.dropped > 0
    assert len(parts.unseen_shots) == len(parts.unseen_test) == 0
    assert len(parts.seen_train) + len(parts.seen_test) + parts.dropped == 8


@pytest.mark.parametrize("source", ["comparisons", "ratings"])
def test_split_by_user_divides_each_users_own_groups(source: str) -> None:
    pairs = embedded(small_rows() if source == "comparisons" else rating_rows())
    parts = split(pairs, unseen=0, test=0.25, by="user")
    for user in range(len(pairs.users)):
        groups = []
        for part in (parts.seen_train, parts.seen_test):
            own = part.select(part.user == user)
            assert len(own) > 0
            groups.append(set(pairs.group[torch.cat([own.chosen, own.rejected])].tolist()))
        assert not groups[0] & groups[1]
    assert parts.shared > 0


def test_the_same_seed_gives_the_same_split_and_another_another() -> None:
    pairs = embedded(small_rows())
    first, again, other = (split(pairs, seed=seed).to_json() for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"unseen": 1.0}, ConfigError, "unseen"),
        ({"test": 0.0}, ConfigError, "test"),
        ({"by": "row"}, ConfigError, "by"),
    ],
)
def test_bad_splits_are_refused(options, error, words: str) -> None:
    with pytest.raises(error, match=words):
        split(random_pairs(), **options)


def test_splits_that_the_data_cannot_carry_are_refused() -> None:
    lonely = random_pairs(users=1)
    with pytest.raises(DataError, match="too few users"):
        split(lonely)
    assert len(split(lonely, unseen=0).seen_train) > 0
    one_group = Pairs.from_rows(
        torch.eye(2),
        torch.tensor([0, 1]),
        torch.tensor([1, 0]),
        torch.tensor([0, 1]),
        group=torch.zeros(2, dtype=torch.long),
    )
    with pytest.raises(DataError, match="two"):
        split(one_group)
    with pytest.raises(DataError, match="no training or no test"):
        split(one_group, by="user")


@pytest.mark.parametrize("seed", range(5))
def test_variants_of_a_test_response_are_not_in_training(seed: int) -> None:
    rows = small_rows(users=8, prompts=12)
    variants = ["The Same  Answer", "the same answer ", "\uff34he same\u00a0answer"]
    for number, row in enumerate(rows):
        if number % 12 < len(variants):
            row["chosen"] = variants[number % 12]
    pairs = embedded(rows)
    parts = split(pairs, unseen=0, test=0.5, seed=seed)
    learned, tested = (
        {int(pairs.response[row]) for side in (part.chosen, part.rejected) for row in side}
        for part in (parts.seen_train, parts.seen_test)
    )
    assert not learned & tested
    distinct = {text for row in rows for text in (row["chosen"], row["rejected"])}
    assert len(pairs.response.unique()) == len(distinct) - 2


@pytest.mark.parametrize("source", ["comparisons", "ratings"])
def test_no_response_of_a_user_is_on_both_sides_of_a_split_by_user(source: str) -> None:
    rows = small_rows(users=6, prompts=8) if source == "comparisons" else rating_rows(prompt=True)
    name = "chosen" if source == "comparisons" else "response"
    for number, row in enumerate(rows):
        if number % 3 == 0:
            row[name] = "again"
    pairs = embedded(rows)
    parts = split(pairs, unseen=0, test=0.4, by="user")
    mentions = [
        {
            (user, int(pairs.response[row]))
            for side in (part.chosen, part.rejected)
            for user, row in zip(part.user.tolist(), side.tolist(), strict=True)
        }
        for part in (parts.seen_train, parts.seen_test)
    ]
    assert all(mentions)
    assert not mentions[0] & mentions[1]
