import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import HashEncoder, random_pairs, small_rows
from lore.embedding import encode
from lore.errors import ConfigError, DataError, ShapeError
from lore.pairs import Pairs, Split, split
from lore.sources import load


def embedded(rows, **options) -> Pairs:
    preferences = load(rows)
    return Pairs.from_embeddings(preferences, encode(preferences, HashEncoder()), **options)


def rating_rows(users: int = 8, items: int = 20, *, prompt: bool = False) -> list[dict[str, object]]:
    rng = np.random.default_rng(0)
    return [
        {
            "user_id": f"u{user}",
            "prompt": f"p{item // 4}" if prompt else "",
            "response": f"{'abcdefghij'[item % 10] * (item + 1)} text",
            "rating": float(rng.integers(5)),
        }
        for user in range(users)
        for item in range(items)
    ]


def test_comparisons_that_tell_nothing_are_left_out_and_their_people_stay() -> None:
    rows = small_rows(users=3, prompts=4)
    untold = {"weight": 0.0}, {"rejected": rows[5]["chosen"]}
    pairs = embedded([*rows[:4], rows[4] | untold[0], rows[5] | untold[1], *rows[8:]])
    assert pairs.comparison is not None
    assert pairs.comparison.tolist() == [0, 1, 2, 3, 6, 7, 8, 9]
    assert pairs.counts.tolist() == [4, 0, 4]


def test_a_split_is_written_and_read_back(planted: Pairs) -> None:
    for by in ("group", "user"):
        parts = split(planted, seed=4, by=by)
        again = Split.from_json(json.loads(json.dumps(parts.to_json())), planted)
        assert again.to_json() == parts.to_json()
        for name, part in parts.parts().items():
            assert torch.equal(again.parts()[name].differences(), part.differences())
            assert torch.equal(again.parts()[name].user, part.user)


def test_a_split_of_other_pairs_is_refused(planted: Pairs) -> None:
    state = split(planted).to_json()
    others = (planted.select(torch.arange(5)), planted.of_users(torch.arange(3)), replace(planted, comparison=None))
    for other in others:
        with pytest.raises(DataError, match="of other data"):
            Split.from_json(state, other)


def test_differences_and_rows_give_the_same_projection() -> None:
    pairs = random_pairs()
    differences = pairs.vectors[pairs.chosen] - pairs.vectors[pairs.rejected]
    listed = Pairs.from_differences([differences[pairs.user == user] for user in range(len(pairs.users))])
    assert len(listed) == len(pairs)
    assert listed.rejected is None
    assert torch.equal(listed.counts, pairs.counts)
    order = torch.argsort(pairs.user, stable=True)
    torch.testing.assert_close(listed.vectors[listed.chosen], differences[order])


def test_compact_keeps_the_pairs_and_drops_the_rows_that_none_uses() -> None:
    part = random_pairs(rows=60).select(torch.arange(5))
    small = part.compact()
    assert len(small.vectors) <= 10
    torch.testing.assert_close(small.vectors[small.chosen], part.vectors[part.chosen])
    torch.testing.assert_close(small.vectors[small.rejected], part.vectors[part.rejected])


def test_users_are_numbered_anew_in_the_order_asked_for() -> None:
    pairs = random_pairs()
    kept = torch.tensor([5, 2])
    part = pairs.of_users(kept)
    assert part.users == ("u5", "u2")
    assert torch.equal(part.counts, pairs.counts[kept])


def test_shots_are_nested_and_at_most_as_many_as_asked() -> None:
    pairs = random_pairs()
    few, more = pairs.shots(2, seed=1), pairs.shots(5, seed=1)
    assert int(few.counts.max()) == 2
    taken = {(int(a), int(b), int(c)) for a, b, c in zip(more.user, more.chosen, more.rejected, strict=True)}
    assert all((int(a), int(b), int(c)) in taken for a, b, c in zip(few.user, few.chosen, few.rejected, strict=True))
    assert len(pairs.shots(10**6, seed=0)) == len(pairs)


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


def test_ratings_give_strict_pairs_across_items_drawn_in_each_part() -> None:
    preferences = load(rating_rows())
    assert preferences.ratings is not None
    assert preferences.ratings.across
    pairs = embedded(rating_rows(), pairs_per_user=15)
    assert int(pairs.counts.max()) == 15
    parts = split(pairs, unseen=0.25, test=0.4)
    ratings = pairs.ratings
    table = zip(ratings.user.tolist(), ratings.row.tolist(), ratings.rating.tolist(), strict=True)
    rating = {(user, row): value for user, row, value in table}
    for name, part in parts.parts().items():
        assert 0 < int(part.counts.max()) <= 15, name
        ids = [pairs.users.index(user) for user in part.users]
        for u, c, r in zip(part.user.tolist(), part.chosen.tolist(), part.rejected.tolist(), strict=True):
            assert rating[ids[u], c] > rating[ids[u], r]


def test_ratings_of_several_responses_to_a_prompt_are_compared_within_it() -> None:
    pairs = embedded(rating_rows(prompt=True))
    assert (pairs.group[pairs.chosen] == pairs.group[pairs.rejected]).all()


def test_a_user_with_very_many_ratings_is_drawn_from_not_listed() -> None:
    rows = torch.arange(1500)
    pairs = embedded(rating_rows(users=2, items=4))
    many = replace(pairs.ratings, user=torch.zeros(1500, dtype=torch.long), row=rows, rating=(rows % 7).double())
    drawn = replace(pairs, ratings=many).drawn(part=0)
    assert len(drawn) == 200
    assert (drawn.chosen % 7 > drawn.rejected % 7).all()
    assert len(replace(pairs, ratings=many).drawn(part=0, kept=torch.zeros(1500, dtype=torch.bool))) == 0
    assert random_pairs().drawn(part=0).ratings is None


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"vectors": torch.ones(3)}, ShapeError, "vectors"),
        ({"vectors": torch.ones(3, 2, dtype=torch.long)}, ShapeError, "floating"),
        ({"vectors": torch.full((3, 2), float("nan"))}, DataError, "finite"),
        ({"chosen": torch.tensor([0])}, ShapeError, "chosen"),
        ({"chosen": torch.tensor([0, 9])}, ShapeError, "0..2"),
        ({"rejected": torch.tensor([0.0, 1.0])}, ShapeError, "int64"),
        ({"users": ["only"]}, ShapeError, "user"),
        ({"group": torch.zeros(5)}, ShapeError, "group"),
        ({"weight": torch.ones(3)}, ShapeError, "weight"),
        ({"weight": torch.tensor([1.0, -1.0])}, DataError, "not negative"),
        ({"label": torch.tensor([0.5, 1.5])}, DataError, "at most 1"),
        ({"label": torch.tensor([0.5, float("nan")])}, DataError, "finite"),
    ],
)
def test_bad_tensors_are_refused_by_name(change, error, words: str) -> None:
    good = {
        "vectors": torch.ones(3, 2),
        "chosen": torch.tensor([0, 1]),
        "rejected": torch.tensor([2, 2]),
        "user": torch.tensor([0, 1]),
    }
    arguments = good | change
    with pytest.raises(error, match=words):
        Pairs.from_rows(**arguments)


def test_one_number_in_a_large_table_that_is_none_is_found() -> None:
    vectors = torch.zeros(10_000, 2)
    vectors[9_999, 1] = torch.inf
    rows = torch.tensor([0])
    with pytest.raises(DataError, match="finite"):
        Pairs.from_rows(vectors, rows, rows + 1, rows)


def test_differences_of_several_dims_are_refused() -> None:
    with pytest.raises(ShapeError, match="torch tensors"):
        Pairs.from_differences([np.ones((2, 3))])  # type: ignore[list-item]
    with pytest.raises(ShapeError, match="one dim"):
        Pairs.from_differences([torch.ones(2, 3), torch.ones(2, 4)])


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
