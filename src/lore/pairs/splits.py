"""Splits of pairs into seen and unseen users, training and test groups, that do not leak."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from lore.errors import ConfigError, DataError
from lore.exports import compact_repr
from lore.files import JsonFormat
from lore.pairs.table import Pairs, by_pair

SplitBy = Literal["group", "user"]

PART_NAMES = ("seen_train", "seen_test", "unseen_shots", "unseen_test")
SPLIT_FORMAT = JsonFormat(
    name="the split",
    number=1,
    fields=frozenset({"seen_users", "unseen_users", "pairs", "comparisons", "dropped", "shared_groups"}),
    optional=frozenset({"data"}),  # that of the simulated users of an experiment names no data
    remedy="leave it out, or give the split.json of a run on the same data",
)


@dataclass(frozen=True, repr=False)
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

    __repr__ = compact_repr

    def parts(self) -> dict[str, Pairs]:
        """Return the four parts by name."""
        return {name: getattr(self, name) for name in PART_NAMES}

    def to_json(self) -> dict[str, object]:
        """Users, counts, and where there are any the numbers of the comparisons in each part, as JSON values."""
        numbers = {name: part.comparison for name, part in self.parts().items()}
        return {
            "seen_users": list(self.seen_train.users),
            "unseen_users": list(self.unseen_shots.users),
            "pairs": {name: len(part) for name, part in self.parts().items()},
            "comparisons": {
                name: None if comparison is None else comparison.tolist() for name, comparison in numbers.items()
            },
            "dropped": self.dropped,
            "shared_groups": self.shared,
        }

    @classmethod
    def from_json(cls, values: dict[str, Any], pairs: Pairs) -> "Split":
        """Return the split that `to_json` described, of the pairs it was made from.

        Raises:
            DataError: it is of other pairs, or of ratings, whose pairs are drawn anew.
        """
        other = DataError(
            "the split is of other data, or of ratings, whose pairs are drawn anew; leave out `split_file`"
        )
        if pairs.comparison is None:
            raise other
        row_of_user = {user: row for row, user in enumerate(pairs.users)}
        position = {number: row for row, number in enumerate(pairs.comparison.tolist())}
        parts = {}
        try:
            for name in PART_NAMES:
                users = values["seen_users" if name.startswith("seen") else "unseen_users"]
                rows_of_users = torch.tensor([row_of_user[user] for user in users], dtype=torch.long)
                rows = torch.tensor([position[number] for number in values["comparisons"][name]], dtype=torch.long)
                parts[name] = pairs.select(rows).for_users(rows_of_users)
            return cls(**parts, dropped=int(values["dropped"]), shared=int(values["shared_groups"]))
        except (KeyError, TypeError, ValueError):
            raise other from None


def write_split(path: Path, parts: Split, data: str | None = None) -> None:
    """Write a split, with the fingerprint of the data that it is of."""
    SPLIT_FORMAT.write(path, ({} if data is None else {"data": data}) | parts.to_json())


def read_split(path: Path, data: str, pairs: Pairs) -> Split:
    """Return the split in a file.

    Args:
        path: of the file.
        data: fingerprint of the data.
        pairs: all pairs of these data.

    Raises:
        DataError: it cannot be read, or is of other data.
    """
    _, values = SPLIT_FORMAT.read(path)
    if values.get("data") != data:
        raise DataError(f"{path}: is not the split of these data; give the split.json of a run on the same file")
    try:
        return Split.from_json(values, pairs)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None


def split(
    pairs: Pairs,
    unseen: float = 0.2,
    test: float = 0.3,
    seed: int = 0,
    by: SplitBy = "group",
    *,
    rotation: tuple[int, int] = (0, 1),
) -> Split:
    """Split into seen and unseen users, and into training and test groups.

    No group (prompt, or item) of a test pair is in training, nor any response of it; pairs that straddle are dropped
    and counted. With `by="user"` each user's own groups are split, for data where users have prompts of their own.

    Args:
        pairs: all pairs; those drawn from ratings are drawn anew in each part.
        unseen: share of the users who are held out of learning the basis, 0 to below 1.
        test: share of the groups that are held out, above 0 and below 1.
        seed: of the split.
        by: "group" or "user".
        rotation: `(number, count)`: of `count` splits that hold out other users and groups in turn, the `number`-th.
            If both shares are `1 / count` or more, every user is unseen in one of them, and every group in test.

    Raises:
        ConfigError: a share is out of its range.
        DataError: too few users or groups for the shares.
    """
    if not 0 <= unseen < 1 or not 0 < test < 1:
        raise ConfigError(f"`unseen` must be in [0, 1) and `test` in (0, 1), got {unseen} and {test}")
    if type(seed) is not int or seed < 0:
        raise ConfigError(f"`seed` must be a whole number of 0 or more, got {seed!r}")
    if by not in ("group", "user"):
        raise ConfigError(f"`by` must be 'group' or 'user', got {by!r}")
    rng = np.random.default_rng(seed)
    turn = rotation[0] / rotation[1]
    seen_users, unseen_users = _split_users(pairs, unseen, rng, turn)
    if by == "user":
        train, held_out, shared = _split_by_user(pairs, test, rng, turn)
    else:
        train, held_out, shared = _split_by_group(pairs, test, rng, turn)
    parts = {
        "seen_train": train.for_users(seen_users),
        "seen_test": held_out.for_users(seen_users),
        "unseen_shots": train.for_users(unseen_users),
        "unseen_test": held_out.for_users(unseen_users),
    }
    if len(parts["seen_train"]) == 0 or len(parts["seen_test"]) == 0:
        raise DataError(
            "the split leaves no training or no test pair, as both sides of a pair must be in one part; give more "
            "comparisons, another `test` share, or users with several groups (prompts) each"
        )
    total = len(pairs) if pairs.ratings is None else len(train) + len(held_out)
    return Split(**parts, dropped=total - len(train) - len(held_out), shared=shared)


def _split_users(pairs: Pairs, unseen: float, rng: np.random.Generator, turn: float) -> tuple[Tensor, Tensor]:
    users = len(pairs.users)
    needed = 2 if unseen > 0 else 1
    if users < needed:
        raise DataError(
            f"too few users for a split with unseen ones ({users} of {needed}); add users, or use `unseen=0`"
        )
    held_out = min(max(round(unseen * users), 1), users - 1) if unseen > 0 else 0
    order = np.roll(rng.permutation(users), -round(turn * users))
    return torch.from_numpy(np.sort(order[held_out:])), torch.from_numpy(np.sort(order[:held_out]))


def _split_by_group(pairs: Pairs, test: float, rng: np.random.Generator, turn: float) -> tuple[Pairs, Pairs, int]:
    # Groups are drawn in order of their first row, so that the split does not depend on how they are numbered.
    groups, number = np.unique(pairs.group.cpu().numpy(), return_inverse=True)
    if len(groups) < 2:
        raise DataError(
            f'{len(groups)} group (prompt) in the data, but a split needs two; use `by="user"`, or add prompts'
        )
    count = min(max(round(test * len(groups)), 1), len(groups) - 1)
    is_test = np.zeros(len(groups), dtype=bool)
    is_test[np.roll(rng.permutation(len(groups)), -round(turn * len(groups)))[:count]] = True
    return *pairs.split_by_rows(torch.from_numpy(is_test[number]).to(pairs.group.device)), 0


def _split_by_user(pairs: Pairs, test: float, rng: np.random.Generator, turn: float) -> tuple[Pairs, Pairs, int]:
    """Each user's own groups, at least one of them in training; no response of a user is on both sides."""
    if pairs.ratings is not None:
        raters, groups = pairs.ratings.user.numpy(), pairs.group[pairs.ratings.row].numpy()
    else:
        raters = np.tile(pairs.user.cpu().numpy(), 2)
        groups = torch.cat(by_pair(pairs, pairs.group)).cpu().numpy()
    owned, code = np.unique(np.stack([raters, groups], axis=1), axis=0, return_inverse=True)
    order = np.lexsort((rng.random(len(owned)), owned[:, 0]))
    counts = np.bincount(owned[:, 0], minlength=len(pairs.users))
    position = np.empty(len(owned), dtype=np.int64)
    position[order] = np.arange(len(owned)) - np.repeat(np.cumsum(counts) - counts, counts)
    wanted = np.minimum(np.maximum(np.round(test * counts), 1), counts - 1)
    count = counts[owned[:, 0]]
    is_test = (position - np.round(turn * count).astype(np.int64)) % count < wanted[owned[:, 0]]
    shared = len(np.intersect1d(owned[is_test, 1], owned[~is_test, 1]))
    in_test = torch.from_numpy(is_test[code.ravel()]).to(pairs.user.device)
    if pairs.ratings is not None:
        held_out = pairs.redraw(stream=2, mask=in_test)
        seen = torch.isin(_user_responses(pairs, pairs.ratings.user, pairs.ratings.row), _tested(held_out))
        return pairs.redraw(stream=1, mask=~in_test & ~seen), held_out, shared
    first, second = in_test.view(2, -1)
    held_out = pairs.select(first & second)
    leaking = [torch.isin(_user_responses(pairs, pairs.user, row), _tested(held_out)) for row in _sides(pairs)]
    return pairs.select(~first & ~second & ~torch.stack(leaking).any(dim=0)), held_out, shared


def _sides(pairs: Pairs) -> list[Tensor]:
    return [pairs.chosen] if pairs.rejected is None else [pairs.chosen, pairs.rejected]


def _user_responses(pairs: Pairs, user: Tensor, row: Tensor) -> Tensor:
    """Return a number for each mention of a response by a user, equal for the same response of the same user."""
    return user * (int(pairs.response.max()) + 1) + pairs.response[row]


def _tested(test: Pairs) -> Tensor:
    """Return the numbers of all responses of users in test pairs."""
    return torch.cat([_user_responses(test, test.user, row) for row in _sides(test)])
