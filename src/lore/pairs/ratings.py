"""Ratings of rows of a table, and the strict pairs that are drawn from them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lore.exports import compact_repr

_ENUMERATED = 1_000  # items of one user up to which all strict pairs are listed before some are drawn


@dataclass(frozen=True, repr=False)
class RatedRows:
    """Ratings from which pairs are drawn anew in every part of a split.

    Attributes:
        user: who rated, `[ratings]`.
        row: what was rated, `[ratings]`.
        rating: higher is better, `[ratings]`.
        prompt: prompt of each row, `[rows]`; None where items are compared across prompts.
        pairs_per_user: pairs of a user at most, in each part.
        seed: of the draw.
    """

    user: Tensor
    row: Tensor
    rating: Tensor
    prompt: Tensor | None
    pairs_per_user: int
    seed: int

    __repr__ = compact_repr

    def only(self, mask: Tensor) -> "RatedRows":
        """Return the ratings in `mask`, a mask `[ratings]`."""
        return replace(self, user=self.user[mask], row=self.row[mask], rating=self.rating[mask])

    def over_rows(self, position: Tensor, used: Tensor) -> "RatedRows":
        """Return the same ratings over a table of the rows in `used`, in which they are at `position` `[ratings]`."""
        return replace(self, row=position, prompt=None if self.prompt is None else self.prompt[used])


def draw(ratings: RatedRows, stream: int) -> tuple[Tensor, Tensor, Tensor]:
    """Chosen row, rejected row and user of the drawn pairs; each user draws from a stream of their own."""
    user = ratings.user.numpy()
    order = np.argsort(user, kind="stable")
    row, rating = ratings.row.numpy()[order], ratings.rating.numpy()[order]
    if len(row) == 0:
        nothing = torch.zeros(0, dtype=torch.long)
        return nothing, nothing, nothing
    prompt = None if ratings.prompt is None else ratings.prompt.numpy()[row]
    users, starts = np.unique(user[order], return_index=True)
    sides: list[np.ndarray[Any, Any]] = []
    drawn_by: list[np.ndarray[Any, Any]] = []
    for rater, start, stop in zip(users, starts, [*starts[1:], len(row)], strict=True):
        rng = np.random.default_rng([ratings.seed, stream, int(rater)])
        rated = slice(start, stop)
        first, second = _strict_pairs(
            rating[rated], None if prompt is None else prompt[rated], ratings.pairs_per_user, rng
        )
        swap = rating[rated][first] < rating[rated][second]
        better, worse = np.where(swap, second, first), np.where(swap, first, second)
        sides.append(np.stack([row[rated][better], row[rated][worse]]))
        drawn_by.append(np.full(len(better), rater))
    chosen, rejected = torch.from_numpy(np.concatenate(sides, axis=1))
    return chosen, rejected, torch.from_numpy(np.concatenate(drawn_by))


def _strict_pairs(
    rating: np.ndarray[Any, Any], prompt: np.ndarray[Any, Any] | None, limit: int, rng: np.random.Generator
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return at most `limit` pairs of positions with different ratings, of one prompt where prompts are given."""
    if len(rating) <= _ENUMERATED:
        first, second = np.triu_indices(len(rating), 1)
    else:
        tried = np.unique(np.sort(rng.integers(len(rating), size=(50 * limit, 2)), axis=1), axis=0)
        first, second = tried[:, 0], tried[:, 1]
    strict = rating[first] != rating[second]
    if prompt is not None:
        strict &= prompt[first] == prompt[second]
    first, second = first[strict], second[strict]
    if len(first) > limit:
        drawn = np.sort(rng.choice(len(first), limit, replace=False))
        first, second = first[drawn], second[drawn]
    return first, second
