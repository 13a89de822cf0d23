import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from builders import random_pairs, small_rows
from lore.errors import DataError, ShapeError
from lore.pairs.splits import Split, split
from lore.pairs.table import Pairs
from pairs_builders import embedded


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
    others = (planted.select(torch.arange(5)), planted.for_users(torch.arange(3)), replace(planted, comparison=None))
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
    part = pairs.for_users(kept)
    assert part.users == ("u5", "u2")
    assert torch.equal(part.counts, pairs.counts[kept])


def test_shots_are_nested_and_at_most_as_many_as_asked() -> None:
    pairs = random_pairs()
    few, more = pairs.shots(2, seed=1), pairs.shots(5, seed=1)
    assert int(few.counts.max()) == 2
    taken = {(int(a), int(b), int(c)) for a, b, c in zip(more.user, more.chosen, more.rejected, strict=True)}
    assert all((int(a), int(b), int(c)) in taken for a, b, c in zip(few.user, few.chosen, few.rejected, strict=True))
    assert len(pairs.shots(10**6, seed=0)) == len(pairs)


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
        ({"weight": torch.tensor([1.0, -1.0])}, DataError, "0 or more, got -1"),
        ({"label": torch.tensor([0.5, 1.5])}, DataError, "from 0 to 1, got 0.5 to 1.5"),
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
