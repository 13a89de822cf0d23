"""`Pairs`: rows of embeddings, and who preferred which row to which."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from lore.data.messages import Messages, folded, text_of
from lore.data.preferences import Preferences
from lore.embedding import Embeddings
from lore.embedding.tokens import DROPPED
from lore.errors import DataError, ShapeError
from lore.exports import compact_repr
from lore.pairs.ratings import RatedRows, draw
from lore.solvers.objective import working_dtype

COPIED = 2**30  # bytes of embeddings up to which a table is made smaller by copying
_CHECKED = 4_096  # rows of a table that are looked at at once


@dataclass(frozen=True, repr=False)
class Pairs:
    """Choices between rows of a table of embeddings.

    Memory grows with distinct responses (`rows · dim`), not with pairs; parts of a split share the table.

    Attributes:
        vectors: embeddings `[rows, dim]`; differences chosen minus rejected where `rejected` is None.
        chosen: preferred row, `[pairs]`.
        rejected: other row, `[pairs]`, or None.
        user: row of the users' weights, `[pairs]`, in 0..len(users)-1.
        weight: what a pair counts, `[pairs]`, not negative.
        label: probability that chosen is preferred, `[pairs]`.
        users: ids; some may have no pairs.
        group: what may not be split over train and test, `[rows]`.
        response: equal for rows whose response texts differ at most in case, white space and Unicode form, `[rows]`.
        length: characters of the response, `[rows]`, or None where it is not known.
        ratings: where the pairs are all that was drawn from ratings, those; None for a selection of them.
        comparison: number of the comparison that each pair was made from, `[pairs]`; None for those drawn from ratings.
    """

    vectors: Tensor
    chosen: Tensor
    rejected: Tensor | None
    user: Tensor
    weight: Tensor
    label: Tensor
    users: tuple[str, ...]
    group: Tensor
    response: Tensor
    length: Tensor | None = None
    ratings: RatedRows | None = None
    comparison: Tensor | None = None

    __repr__ = compact_repr

    def __len__(self) -> int:
        return len(self.user)

    @property
    def dim(self) -> int:
        """Numbers in an embedding."""
        return self.vectors.shape[1]

    @property
    def empty(self) -> Tensor:
        """An empty tensor of the device and the dtype to compute in: float32 for embeddings of half precision."""
        return torch.empty(0, dtype=working_dtype(self.vectors.dtype), device=self.vectors.device)

    @property
    def counts(self) -> Tensor:
        """Pairs of each user, `[users]`."""
        return torch.bincount(self.user, minlength=len(self.users))

    @classmethod
    def from_embeddings(
        cls, preferences: Preferences, embeddings: Embeddings, *, pairs_per_user: int = 200, seed: int = 0
    ) -> "Pairs":
        """Pairs of a table whose conversations have been embedded.

        Left out are comparisons with a conversation that was dropped as too long, with equal sides, or of weight 0.

        Args:
            preferences: comparisons, or ratings, of which at most `pairs_per_user` strict pairs a user are drawn.
            embeddings: vectors of its conversations.
            pairs_per_user: for ratings only.
            seed: of that draw.

        Raises:
            StoreError: a conversation has not been embedded.
        """
        rows = embeddings.rows(preferences)
        row_response = torch.from_numpy(preferences.row_response)
        vectors, position = _gather_table(embeddings.vectors, rows)
        size = len(vectors)
        table = cls(
            vectors=vectors,
            chosen=position[torch.from_numpy(preferences.chosen)],
            rejected=position[torch.from_numpy(preferences.rejected)],
            user=torch.from_numpy(preferences.user),
            weight=torch.from_numpy(preferences.weight).float(),
            label=torch.from_numpy(preferences.label).float(),
            users=tuple(preferences.users),
            group=_scatter_rows(torch.from_numpy(preferences.row_group), position, size),
            response=_scatter_rows(_variants(preferences.responses)[row_response], position, size),
            length=_scatter_rows(torch.from_numpy(preferences.response_lengths)[row_response].float(), position, size),
            comparison=torch.arange(len(preferences)),
        )
        dropped = _scatter_rows(embeddings.status[rows] == DROPPED, position, size)
        if preferences.ratings is None:
            strict = (table.chosen != table.rejected) & (table.weight > 0)
            return table.select(strict & ~dropped[table.chosen] & ~dropped[table.rejected])
        row = position[torch.from_numpy(preferences.ratings.row)]
        mask = ~dropped[row]
        rated = RatedRows(
            user=torch.from_numpy(preferences.ratings.user)[mask],
            row=row[mask],
            rating=torch.from_numpy(preferences.ratings.rating)[mask],
            prompt=None
            if preferences.ratings.across_prompts
            else _scatter_rows(torch.from_numpy(preferences.row_prompt), position, size),
            pairs_per_user=pairs_per_user,
            seed=seed,
        )
        return replace(table, ratings=rated).redraw(stream=0)

    @classmethod
    def from_differences(cls, differences: Sequence[Tensor], users: Sequence[str] | None = None) -> "Pairs":
        """Pairs of one tensor `[pairs of the user, dim]` a user, chosen minus rejected; each pair its own group."""
        if not all(isinstance(tensor, Tensor) for tensor in differences):
            kinds = sorted({type(tensor).__name__ for tensor in differences})
            raise ShapeError(f"`differences` must be torch tensors, one a user, got {', '.join(kinds)}; convert them")
        shapes = {tuple(tensor.shape[1:]) for tensor in differences}
        if not differences or len(shapes) != 1 or any(tensor.dim() != 2 for tensor in differences):
            raise ShapeError(f"`differences` must be tensors [pairs, dim] of one dim, one a user, got {sorted(shapes)}")
        vectors = torch.cat(list(differences))
        counts = torch.tensor([len(tensor) for tensor in differences], device=vectors.device)
        user = torch.arange(len(differences), device=vectors.device).repeat_interleave(counts)
        rows = torch.arange(len(vectors), device=vectors.device)
        names = [str(number) for number in range(len(differences))] if users is None else users
        if len(names) != len(differences):
            raise ShapeError(f"`users` must name each of the {len(differences)} tensors, got {len(names)} names")
        return cls.from_rows(vectors, rows, None, user, users=names)

    @classmethod
    def from_rows(
        cls,
        vectors: Tensor,
        chosen: Tensor,
        rejected: Tensor | None,
        user: Tensor,
        *,
        users: Sequence[str] | None = None,
        group: Tensor | None = None,
        weight: Tensor | None = None,
        label: Tensor | None = None,
    ) -> "Pairs":
        """Pairs of rows of a table.

        Args:
            vectors: `[rows, dim]`, finite.
            chosen: preferred row, `[pairs]`.
            rejected: other row, `[pairs]`; None if `vectors` are differences already.
            user: number of the user who chose, `[pairs]`.
            users: ids by number; "0", "1", ... by default.
            group: what may not be split over train and test, `[rows]`; each row its own by default.
            weight: `[pairs]`, not negative; ones by default.
            label: probability that chosen is preferred, `[pairs]`; ones by default.

        Raises:
            ShapeError: shapes or indices do not fit together.
            DataError: vectors, weights or labels are out of their range.
        """
        if vectors.dim() != 2 or vectors.shape[1] == 0 or not vectors.is_floating_point():
            raise ShapeError(
                f"`vectors` must be floating point [rows, dim], got {vectors.dtype} {tuple(vectors.shape)}"
            )
        # Block by block: the table may be larger than memory, and mapped from a file.
        if not all(bool(block.isfinite().all()) for block in vectors.split(_CHECKED)):
            raise DataError(
                "`vectors` must be finite, and some hold infinities or NaN; embed again, or leave those out"
            )
        rows, device = len(vectors), vectors.device
        like = torch.empty(0, dtype=working_dtype(vectors.dtype), device=device)
        count = 1 + int(user.max()) if len(user) else 0
        names = tuple(users) if users is not None else tuple(str(number) for number in range(count))
        _check_index("chosen", chosen, rows, len(user))
        if rejected is not None:
            _check_index("rejected", rejected, rows, len(user))
        _check_index("user", user, len(names), len(user))
        each_row = torch.arange(rows, device=device)
        if group is not None and group.shape != (rows,):
            raise ShapeError(f"`group` must be [rows] = [{rows}], got {tuple(group.shape)}")
        return cls(
            vectors=vectors,
            chosen=chosen,
            rejected=rejected,
            user=user,
            weight=_checked("weight", weight, len(user), float("inf"), like),
            label=_checked("label", label, len(user), 1.0, like),
            users=names,
            group=each_row if group is None else group,
            response=each_row,
            comparison=torch.arange(len(user), device=device),
        )

    def differences(self) -> Tensor:
        """Chosen minus rejected embedding, `[pairs, dim]`: of some pairs, not for all of many."""
        chosen = self.vectors.index_select(0, self.chosen).to(self.empty)
        return chosen if self.rejected is None else chosen - self.vectors.index_select(0, self.rejected).to(self.empty)

    def select(self, selection: Tensor) -> "Pairs":
        """Return the pairs in `selection`, a mask or indices over `[pairs]`; users and table stay."""
        index = selection.nonzero().flatten() if selection.dtype == torch.bool else selection
        return replace(
            self,
            ratings=None,
            chosen=self.chosen[index],
            rejected=None if self.rejected is None else self.rejected[index],
            user=self.user[index],
            weight=self.weight[index],
            label=self.label[index],
            comparison=None if self.comparison is None else self.comparison[index],
        )

    def sample(self, limit: int) -> "Pairs":
        """Return at most `limit` of the pairs, evenly spaced."""
        size, device = min(len(self), limit), self.user.device
        return self.select(torch.linspace(0, len(self) - 1, size, dtype=torch.float64, device=device).long())

    def for_users(self, rows: Tensor) -> "Pairs":
        """Return the pairs of the users in `rows`, indices, who are numbered anew in that order."""
        number = torch.full((len(self.users),), -1, dtype=torch.long, device=self.user.device)
        number[rows] = torch.arange(len(rows), device=self.user.device)
        part = self.select(number[self.user] >= 0)
        ratings = self.ratings
        if ratings is not None:
            ratings = ratings.only(number[ratings.user] >= 0)
            ratings = replace(ratings, user=number[ratings.user])
        names = tuple(self.users[row] for row in rows.tolist())
        return replace(part, user=number[part.user], users=names, ratings=ratings)

    def compact(self) -> "Pairs":
        """Return the same pairs over a table of only the rows that they, and their ratings, use.

        A table above 1 GiB, which may be mapped from a file, is not copied: it stays whole.
        """
        sides = [side for side in (self.chosen, self.rejected) if side is not None]
        if self.ratings is not None:
            sides.append(self.ratings.row)
        used, position = torch.cat(sides).unique(return_inverse=True)
        if len(used) == len(self.vectors) or len(used) * self.vectors[0].nbytes > COPIED:
            return self
        return replace(
            self,
            vectors=self.vectors[used],
            chosen=position[: len(self)],
            rejected=None if self.rejected is None else position[len(self) : 2 * len(self)],
            group=self.group[used],
            response=self.response[used],
            length=None if self.length is None else self.length[used],
            ratings=None if self.ratings is None else self.ratings.over_rows(position[-len(self.ratings.row) :], used),
        )

    def split_by_rows(
        self, in_test: Tensor, stream: int = 1, shares: tuple[float, float] = (1.0, 1.0)
    ) -> "tuple[Pairs, Pairs]":
        """Training and test pairs for test rows `[rows]`, a mask.

        A pair that straddles is in neither, and no pair for training has a response that is in a test pair. Pairs from
        ratings are drawn anew in both, `shares` of the pairs of each user, and others by another `stream`.
        """
        if self.ratings is not None:
            test = self.redraw(stream + 1, in_test[self.ratings.row], shares[1])
            clean = ~in_test & ~same_response(self, test)
            return self.redraw(stream, clean[self.ratings.row], shares[0]), test
        first, second = by_pair(self, in_test)
        test = self.select(first & second)
        leaking = by_pair(self, in_test | same_response(self, test))
        return self.select(~leaking[0] & ~leaking[1]), test

    def redraw(self, stream: int, mask: Tensor | None = None, share: float = 1.0) -> "Pairs":
        """Draw a share of each user's pairs from the ratings in a mask `[ratings]`; another `stream` draws others."""
        if self.ratings is None:
            return self
        ratings = self.ratings if mask is None else self.ratings.only(mask)
        chosen, rejected, user = draw(replace(ratings, pairs_per_user=round(share * ratings.pairs_per_user)), stream)
        return replace(
            self,
            chosen=chosen,
            rejected=rejected,
            user=user,
            weight=self.empty.new_ones(len(user)),
            label=self.empty.new_ones(len(user)),
            ratings=ratings,
            comparison=None,
        )

    def shots(self, shots: int, seed: int) -> "Pairs":
        """Draw at most `shots` pairs of every user, at random; more shots with the same seed hold fewer."""
        generator = torch.Generator().manual_seed(seed)
        shuffled = torch.randperm(len(self), generator=generator).to(self.user.device)
        order = shuffled[torch.argsort(self.user[shuffled], stable=True)]
        first = (self.counts.cumsum(0) - self.counts)[self.user[order]]
        position = torch.arange(len(self), device=self.user.device) - first
        return self.select(order[position < shots].sort().values)


def _gather_table(vectors: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the vectors of some rows, and the position of each row: packed, or above 1 GiB all as they are."""
    if len(rows) * vectors.shape[1] * vectors.element_size() > COPIED or torch.equal(rows, torch.arange(len(vectors))):
        return vectors, rows
    return vectors[rows], torch.arange(len(rows))


def _variants(responses: Sequence[Messages]) -> Tensor:
    """Return a number for each response, equal where texts differ in case, white space and Unicode form alone.

    Millions of folded texts do not fit into memory beside the texts themselves: compared are 64-bit hashes, of which
    two among 2 million are equal by chance once in 10 million tables.
    """
    hashes = (hash(folded(text_of(messages))) for messages in responses)
    _, first, number = np.unique(
        np.fromiter(hashes, dtype=np.int64, count=len(responses)), return_index=True, return_inverse=True
    )
    return torch.from_numpy(first[number])


def _scatter_rows(values: Tensor, position: Tensor, size: int) -> Tensor:
    """Values of rows at their places, `[size]`; one more than the largest where there is no row."""
    spread = torch.full((size,), 1 + int(values.max()) if len(values) else 0, dtype=values.dtype)
    spread[position] = values
    return spread


def _check_index(name: str, index: Tensor, limit: int, pairs: int) -> None:
    if index.dtype != torch.long or index.shape != (pairs,):
        raise ShapeError(f"`{name}` must be int64 [pairs] = [{pairs}], got {index.dtype} {tuple(index.shape)}")
    if pairs and (int(index.min()) < 0 or int(index.max()) >= limit):
        raise ShapeError(f"`{name}` must be in 0..{limit - 1}, got {int(index.min())}..{int(index.max())}")


def _checked(name: str, values: Tensor | None, pairs: int, high: float, like: Tensor) -> Tensor:
    if values is None:
        return torch.ones(pairs, dtype=like.dtype, device=like.device)
    if values.shape != (pairs,):
        raise ShapeError(f"`{name}` must be [pairs] = [{pairs}], got {tuple(values.shape)}")
    if not bool(torch.isfinite(values).all()) or not bool(((values >= 0) & (values <= high)).all()):
        rule = "from 0 to 1" if high == 1 else "0 or more"
        raise DataError(
            f"`{name}` must be finite and {rule}, got {float(values.min())} to {float(values.max())}; "
            "leave the others out"
        )
    return values.to(like)


def by_pair(pairs: Pairs, of_row: Tensor) -> tuple[Tensor, Tensor]:
    """Return a value of each row, for the chosen and for the rejected row of each pair."""
    chosen = of_row[pairs.chosen]
    return chosen, chosen if pairs.rejected is None else of_row[pairs.rejected]


def same_response(pairs: Pairs, held_out: Pairs) -> Tensor:
    """Rows, as a mask `[rows]`, whose response text is in a pair of `held_out`."""
    in_test = torch.zeros(int(pairs.response.max()) + 1, dtype=torch.bool, device=pairs.response.device)
    for response in by_pair(held_out, pairs.response):
        in_test[response] = True
    return in_test[pairs.response]
