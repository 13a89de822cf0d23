"""`Pairs`: rows of embeddings, and who preferred which row to which; and splits of them that do not leak."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lore.embedding import Embeddings
from lore.embedding.tokens import DROPPED
from lore.errors import ConfigError, DataError, ShapeError
from lore.objective import working_dtype
from lore.preferences import Preferences, text_of

SplitBy = Literal["group", "user"]
PART_NAMES = ("seen_train", "seen_test", "unseen_shots", "unseen_test")

_COPIED = 2**30  # bytes of embeddings up to which a table is made smaller by copying
_CHECKED = 4_096  # rows of a table that are looked at at once
_ENUMERATED = 1_000  # items of one user up to which all strict pairs are listed before some are drawn


@dataclass(frozen=True)
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

    def only(self, kept: Tensor) -> "RatedRows":
        """The ratings in `kept`, a mask `[ratings]`."""
        return replace(self, user=self.user[kept], row=self.row[kept], rating=self.rating[kept])

    def at(self, place: Tensor, used: Tensor) -> "RatedRows":
        """The same over a table of the rows in `used`, in which they are at `place` `[ratings]`."""
        return replace(self, row=place, prompt=None if self.prompt is None else self.prompt[used])


@dataclass(frozen=True)
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
        response: equal for rows with the same response text, `[rows]`.
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

    def __len__(self) -> int:
        return len(self.user)

    @property
    def dim(self) -> int:
        """Numbers in an embedding."""
        return self.vectors.shape[1]

    @property
    def like(self) -> Tensor:
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
        lengths = torch.tensor([len(text_of(turns)) for turns in preferences.responses])
        row_response = torch.from_numpy(preferences.row_response)
        vectors, place = _table_of(embeddings.vectors, rows)
        size = len(vectors)
        table = cls(
            vectors=vectors,
            chosen=place[torch.from_numpy(preferences.chosen)],
            rejected=place[torch.from_numpy(preferences.rejected)],
            user=torch.from_numpy(preferences.user),
            weight=torch.from_numpy(preferences.weight).float(),
            label=torch.from_numpy(preferences.label).float(),
            users=tuple(preferences.users),
            group=_placed(torch.from_numpy(preferences.row_group), place, size),
            response=_placed(row_response, place, size),
            length=_placed(lengths[row_response].float(), place, size),
            comparison=torch.arange(len(preferences)),
        )
        dropped = _placed(embeddings.status[rows] == DROPPED, place, size)
        if preferences.ratings is None:
            strict = (table.chosen != table.rejected) & (table.weight > 0)
            return table.select(strict & ~dropped[table.chosen] & ~dropped[table.rejected])
        row = place[torch.from_numpy(preferences.ratings.row)]
        kept = ~dropped[row]
        rated = RatedRows(
            user=torch.from_numpy(preferences.ratings.user)[kept],
            row=row[kept],
            rating=torch.from_numpy(preferences.ratings.rating)[kept],
            prompt=None
            if preferences.ratings.across
            else _placed(torch.from_numpy(preferences.row_prompt), place, size),
            pairs_per_user=pairs_per_user,
            seed=seed,
        )
        return replace(table, ratings=rated).drawn(part=0)

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
        return cls.from_rows(vectors, rows, None, user, users=users or [str(at) for at in range(len(differences))])

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
        people = 1 + int(user.max()) if len(user) else 0
        names = tuple(users) if users is not None else tuple(str(at) for at in range(people))
        _check_index("chosen", chosen, rows, len(user))
        if rejected is not None:
            _check_index("rejected", rejected, rows, len(user))
        _check_index("user", user, len(names), len(user))
        own = torch.arange(rows, device=device)
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
            group=own if group is None else group,
            response=own,
            comparison=torch.arange(len(user), device=device),
        )

    def differences(self) -> Tensor:
        """Chosen minus rejected embedding, `[pairs, dim]`: of some pairs, not for all of many."""
        chosen = self.vectors.index_select(0, self.chosen).to(self.like)
        return chosen if self.rejected is None else chosen - self.vectors.index_select(0, self.rejected).to(self.like)

    def select(self, kept: Tensor) -> "Pairs":
        """The pairs in `kept`, a mask or indices over `[pairs]`; users and table stay."""
        index = kept.nonzero().flatten() if kept.dtype == torch.bool else kept
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

    def sample(self, most: int) -> "Pairs":
        """At most `most` of the pairs, evenly spaced."""
        size, device = min(len(self), most), self.user.device
        return self.select(torch.linspace(0, len(self) - 1, size, dtype=torch.float64, device=device).long())

    def of_users(self, kept: Tensor) -> "Pairs":
        """The pairs of the users in `kept`, indices, who are numbered anew in that order."""
        number = torch.full((len(self.users),), -1, dtype=torch.long, device=self.user.device)
        number[kept] = torch.arange(len(kept), device=self.user.device)
        part = self.select(number[self.user] >= 0)
        ratings = self.ratings
        if ratings is not None:
            ratings = ratings.only(number[ratings.user] >= 0)
            ratings = replace(ratings, user=number[ratings.user])
        names = tuple(self.users[at] for at in kept.tolist())
        return replace(part, user=number[part.user], users=names, ratings=ratings)

    def compact(self) -> "Pairs":
        """The same pairs over a table of only the rows that they, and their ratings, use.

        A table above 1 GiB, which may be mapped from a file, is not copied: it stays whole.
        """
        sides = [side for side in (self.chosen, self.rejected) if side is not None]
        if self.ratings is not None:
            sides.append(self.ratings.row)
        used, position = torch.cat(sides).unique(return_inverse=True)
        if len(used) == len(self.vectors) or len(used) * self.vectors[0].nbytes > _COPIED:
            return self
        return replace(
            self,
            vectors=self.vectors[used],
            chosen=position[: len(self)],
            rejected=None if self.rejected is None else position[len(self) : 2 * len(self)],
            group=self.group[used],
            response=self.response[used],
            length=None if self.length is None else self.length[used],
            ratings=None if self.ratings is None else self.ratings.at(position[-len(self.ratings.row) :], used),
        )

    def parted(self, in_test: Tensor, part: int = 1, shares: tuple[float, float] = (1.0, 1.0)) -> "tuple[Pairs, Pairs]":
        """Training and test pairs for test rows `[rows]`, a mask.

        A pair that straddles is in neither, and no pair for training has a response that is in a test pair. Pairs from
        ratings are drawn anew in both, `shares` of the pairs of each user, and other ones for another `part`.
        """
        if self.ratings is not None:
            test = self.drawn(part + 1, in_test[self.ratings.row], shares[1])
            clean = ~in_test & ~same_response(self, test)
            return self.drawn(part, clean[self.ratings.row], shares[0]), test
        first, second = _by_pair(self, in_test)
        test = self.select(first & second)
        leaking = _by_pair(self, in_test | same_response(self, test))
        return self.select(~leaking[0] & ~leaking[1]), test

    def drawn(self, part: int, kept: Tensor | None = None, share: float = 1.0) -> "Pairs":
        """A share of the pairs of each user, drawn from some of the ratings, a mask `[ratings]`; by `part` others."""
        if self.ratings is None:
            return self
        ratings = self.ratings if kept is None else self.ratings.only(kept)
        chosen, rejected, user = _draw(replace(ratings, pairs_per_user=round(share * ratings.pairs_per_user)), part)
        return replace(
            self,
            chosen=chosen,
            rejected=rejected,
            user=user,
            weight=self.like.new_ones(len(user)),
            label=self.like.new_ones(len(user)),
            ratings=ratings,
            comparison=None,
        )

    def shots(self, shots: int, seed: int) -> "Pairs":
        """At most `shots` pairs of every user, at random; more shots with the same seed hold fewer."""
        generator = torch.Generator().manual_seed(seed)
        shuffled = torch.randperm(len(self), generator=generator).to(self.user.device)
        order = shuffled[torch.argsort(self.user[shuffled], stable=True)]
        first = (self.counts.cumsum(0) - self.counts)[self.user[order]]
        position = torch.arange(len(self), device=self.user.device) - first
        return self.select(order[position < shots].sort().values)


def _table_of(vectors: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The vectors of some rows, and where each row lies in them: packed, or above 1 GiB all of them as they are."""
    if len(rows) * vectors.shape[1] * vectors.element_size() > _COPIED or torch.equal(rows, torch.arange(len(vectors))):
        return vectors, rows
    return vectors[rows], torch.arange(len(rows))


def _placed(values: Tensor, place: Tensor, size: int) -> Tensor:
    """Values of rows at their places, `[size]`; one more than the largest where there is no row."""
    spread = torch.full((size,), 1 + int(values.max()) if len(values) else 0, dtype=values.dtype)
    spread[place] = values
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
        raise DataError(f"`{name}` must be finite, not negative{' and at most 1' if high == 1 else ''}")
    return values.to(like)


def _draw(ratings: RatedRows, part: int) -> tuple[Tensor, Tensor, Tensor]:
    """Chosen row, rejected row and user of the drawn pairs; each user draws from a stream of their own."""
    user = ratings.user.numpy()
    order = np.argsort(user, kind="stable")
    row, rating = ratings.row.numpy()[order], ratings.rating.numpy()[order]
    if len(row) == 0:
        nothing = torch.zeros(0, dtype=torch.long)
        return nothing, nothing, nothing
    prompt = None if ratings.prompt is None else ratings.prompt.numpy()[row]
    people, starts = np.unique(user[order], return_index=True)
    sides: list[np.ndarray[Any, Any]] = []
    drawn_by: list[np.ndarray[Any, Any]] = []
    for person, start, stop in zip(people, starts, [*starts[1:], len(row)], strict=True):
        rng = np.random.default_rng([ratings.seed, part, int(person)])
        own = slice(start, stop)
        first, second = _strict_pairs(rating[own], None if prompt is None else prompt[own], ratings.pairs_per_user, rng)
        swap = rating[own][first] < rating[own][second]
        better, worse = np.where(swap, second, first), np.where(swap, first, second)
        sides.append(np.stack([row[own][better], row[own][worse]]))
        drawn_by.append(np.full(len(better), person))
    chosen, rejected = torch.from_numpy(np.concatenate(sides, axis=1))
    return chosen, rejected, torch.from_numpy(np.concatenate(drawn_by))


def _strict_pairs(
    rating: np.ndarray[Any, Any], prompt: np.ndarray[Any, Any] | None, most: int, rng: np.random.Generator
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """At most `most` pairs of positions with different ratings, of one prompt where prompts are given."""
    if len(rating) <= _ENUMERATED:
        first, second = np.triu_indices(len(rating), 1)
    else:
        tried = np.unique(np.sort(rng.integers(len(rating), size=(50 * most, 2)), axis=1), axis=0)
        first, second = tried[:, 0], tried[:, 1]
    strict = rating[first] != rating[second]
    if prompt is not None:
        strict &= prompt[first] == prompt[second]
    first, second = first[strict], second[strict]
    if len(first) > most:
        kept = np.sort(rng.choice(len(first), most, replace=False))
        first, second = first[kept], second[kept]
    return first, second


# --- splits -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """Four parts: seen and unseen users, on training groups and on test groups.

    Attributes:
        seen_train: seen users, training groups: the basis is learned here.
        seen_test: the same users on test groups.
        unseen_shots: unseen users, training groups: their few comparisons.
        unseen_test: the same users on test groups.
        dropped: pairs that straddle train and test, or whose response is also in a test pair.
        shared: with `by="user"`, groups that are in training for one user and in test for another.
    """

    seen_train: Pairs
    seen_test: Pairs
    unseen_shots: Pairs
    unseen_test: Pairs
    dropped: int
    shared: int

    def parts(self) -> dict[str, Pairs]:
        """The four parts by name."""
        return {name: getattr(self, name) for name in PART_NAMES}

    def to_json(self) -> dict[str, object]:
        """Users, counts, and where there are any the numbers of the comparisons in each part, as JSON values."""
        numbers = {name: part.comparison for name, part in self.parts().items()}
        return {
            "seen_users": list(self.seen_train.users),
            "unseen_users": list(self.unseen_shots.users),
            "pairs": {name: len(part) for name, part in self.parts().items()},
            "comparisons": {name: None if own is None else own.tolist() for name, own in numbers.items()},
            "dropped": self.dropped,
            "shared_groups": self.shared,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any], pairs: Pairs) -> "Split":
        """The split that `to_json` described, of the pairs it was made from.

        Raises:
            DataError: it is of other pairs, or of ratings, whose pairs are drawn anew.
        """
        other = DataError("the split is of other data, or of ratings, whose pairs are drawn anew; leave it out")
        if pairs.comparison is None:
            raise other
        people = {user: row for row, user in enumerate(pairs.users)}
        position = {number: row for row, number in enumerate(pairs.comparison.tolist())}
        parts = {}
        try:
            for name in PART_NAMES:
                users = values["seen_users" if name.startswith("seen") else "unseen_users"]
                kept = torch.tensor([people[user] for user in users], dtype=torch.long)
                rows = torch.tensor([position[number] for number in values["comparisons"][name]], dtype=torch.long)
                parts[name] = pairs.select(rows).of_users(kept)
            return cls(**parts, dropped=int(values["dropped"]), shared=int(values["shared_groups"]))
        except (KeyError, TypeError, ValueError):
            raise other from None


def split(pairs: Pairs, unseen: float = 0.2, test: float = 0.3, seed: int = 0, by: SplitBy = "group") -> Split:
    """Split into seen and unseen users, and into training and test groups.

    No group (prompt, or item) of a test pair is in training, nor any response of it; pairs that straddle are dropped
    and counted. With `by="user"` each user's own groups are split, for data where people have prompts of their own.

    Args:
        pairs: all pairs; those drawn from ratings are drawn anew in each part.
        unseen: share of the users who are held out of learning the basis, 0 to below 1.
        test: share of the groups that are held out, above 0 and below 1.
        seed: of the split.
        by: "group" or "user".

    Raises:
        ConfigError: a share is out of its range.
        DataError: too few users or groups for the shares.
    """
    if not 0 <= unseen < 1 or not 0 < test < 1:
        raise ConfigError(f"`unseen` must be in [0, 1) and `test` in (0, 1), got {unseen} and {test}")
    if by not in ("group", "user"):
        raise ConfigError(f"`by` must be 'group' or 'user', got {by!r}")
    rng = np.random.default_rng(seed)
    seen_users, unseen_users = _split_users(pairs, unseen, rng)
    if by == "user":
        train, held_out, shared = _split_by_user(pairs, test, rng)
    else:
        train, held_out, shared = _split_by_group(pairs, test, rng)
    parts = {
        "seen_train": train.of_users(seen_users),
        "seen_test": held_out.of_users(seen_users),
        "unseen_shots": train.of_users(unseen_users),
        "unseen_test": held_out.of_users(unseen_users),
    }
    if len(parts["seen_train"]) == 0 or len(parts["seen_test"]) == 0:
        raise DataError(
            "the split leaves no training or no test pair, as both sides of a pair must be in one part; give more "
            "comparisons, another `test` share, or people with several groups (prompts) each"
        )
    total = len(pairs) if pairs.ratings is None else len(train) + len(held_out)
    return Split(**parts, dropped=total - len(train) - len(held_out), shared=shared)


def _split_users(pairs: Pairs, unseen: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    users = len(pairs.users)
    needed = 2 if unseen > 0 else 1
    if users < needed:
        raise DataError(
            f"too few users for a split with unseen ones ({users} of {needed}); add users or use --unseen 0"
        )
    held_out = min(max(round(unseen * users), 1), users - 1) if unseen > 0 else 0
    order = rng.permutation(users)
    return torch.from_numpy(np.sort(order[held_out:])), torch.from_numpy(np.sort(order[:held_out]))


def _split_by_group(pairs: Pairs, test: float, rng: np.random.Generator) -> tuple[Pairs, Pairs, int]:
    # Groups are drawn in order of their first row, so that the split does not depend on how they are numbered.
    groups, number = np.unique(pairs.group.cpu().numpy(), return_inverse=True)
    if len(groups) < 2:
        raise DataError(
            f"{len(groups)} group (prompt) in the data, but a split needs two; use --split user, or add prompts"
        )
    count = min(max(round(test * len(groups)), 1), len(groups) - 1)
    is_test = np.zeros(len(groups), dtype=bool)
    is_test[rng.permutation(len(groups))[:count]] = True
    return *pairs.parted(torch.from_numpy(is_test[number]).to(pairs.group.device)), 0


def _by_pair(pairs: Pairs, of_row: Tensor) -> tuple[Tensor, Tensor]:
    """A value of each row, for the chosen and for the rejected row of each pair."""
    chosen = of_row[pairs.chosen]
    return chosen, chosen if pairs.rejected is None else of_row[pairs.rejected]


def same_response(pairs: Pairs, held_out: Pairs) -> Tensor:
    """Rows, as a mask `[rows]`, whose response text is in a pair of `held_out`."""
    in_test = torch.zeros(int(pairs.response.max()) + 1, dtype=torch.bool, device=pairs.response.device)
    for response in _by_pair(held_out, pairs.response):
        in_test[response] = True
    return in_test[pairs.response]


def _split_by_user(pairs: Pairs, test: float, rng: np.random.Generator) -> tuple[Pairs, Pairs, int]:
    """Each user's own groups, at least one of them in training."""
    if pairs.ratings is not None:
        people, groups = pairs.ratings.user.numpy(), pairs.group[pairs.ratings.row].numpy()
    else:
        people = np.tile(pairs.user.cpu().numpy(), 2)
        groups = torch.cat(_by_pair(pairs, pairs.group)).cpu().numpy()
    owned, code = np.unique(np.stack([people, groups], axis=1), axis=0, return_inverse=True)
    order = np.lexsort((rng.random(len(owned)), owned[:, 0]))
    counts = np.bincount(owned[:, 0], minlength=len(pairs.users))
    position = np.empty(len(owned), dtype=np.int64)
    position[order] = np.arange(len(owned)) - np.repeat(np.cumsum(counts) - counts, counts)
    wanted = np.minimum(np.maximum(np.round(test * counts), 1), counts - 1)
    is_test = position < wanted[owned[:, 0]]
    shared = len(np.intersect1d(owned[is_test, 1], owned[~is_test, 1]))
    in_test = torch.from_numpy(is_test[code.ravel()]).to(pairs.user.device)
    if pairs.ratings is not None:
        return pairs.drawn(part=1, kept=~in_test), pairs.drawn(part=2, kept=in_test), shared
    first, second = in_test.view(2, -1)
    return pairs.select(~first & ~second), pairs.select(first & second), shared
