"""Comparisons that users added to a run after it was trained, and what is known of these users altogether."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lore.data.builder import PreferencesBuilder, without_user
from lore.data.formats import load
from lore.data.issues import SourceLocations
from lore.data.messages import Messages, conversation_key
from lore.data.preferences import Preferences
from lore.data.table import save_table
from lore.embedding.store import Embeddings
from lore.fitting.basis import RewardBasis
from lore.fitting.personalize import fit_weights
from lore.pairs.table import Pairs
from lore.runs.artifacts import Run, save_users
from lore.runs.data import RunData, all_pairs, comparisons_of_pairs, config_of, with_time_decay
from lore.runs.folder import RunFolder

_SAME = 1e-3  # difference of weights that are learned from the same comparisons on different machines


@dataclass(frozen=True)
class _Comparison:
    """One comparison as texts, so that it can be put into another table."""

    user: str
    chosen: tuple[Messages, Messages]
    rejected: tuple[Messages, Messages]
    weight: float
    label: float
    timestamp: object

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for a comparison that is told again."""
        return self.user, conversation_key(*self.chosen), conversation_key(*self.rejected), self.label, self.timestamp


def read_added(folder: RunFolder) -> Preferences | None:
    """Return the comparisons that were added to a run; None if there are none."""
    return load(folder.added) if folder.added.exists() else None


def add_to_run(data: RunData | None, folder: RunFolder, more: Preferences, embeddings: Embeddings) -> None:
    """Add comparisons to those that a run holds; what it holds already is not added again.

    Args:
        data: of the run; None if its users are simulated.
        folder: of the run.
        more: comparisons of known users and new ones, or ratings, of which pairs are drawn.
        embeddings: of their conversations.
    """
    held = read_added(folder)
    table = [] if held is None else list(_of_table(held, held.users))
    existing = {one.key for one in (*_of_run(data, more.users), *table)}
    if more.ratings is None:
        comparisons = _of_table(more, more.users)
    else:
        comparisons = _of_pairs(more, embeddings, all_pairs(more, embeddings, config_of(folder)), more.users)
    if new := [one for one in comparisons if one.key not in existing]:
        save_table(_built([*table, *new]), folder.added)


def erase_added(folder: RunFolder, user: str) -> bool:
    """Remove what a user added; return True if there was anything."""
    added = read_added(folder)
    if added is None or user not in added.users:
        return False
    save_table(without_user(added, user), folder.added)
    return True


def pairs_of_users(data: RunData | None, folder: RunFolder, users: Collection[str]) -> Pairs:
    """Return all that a run holds of some users, from training and added since, under its arguments."""
    held, added = list(_of_run(data, users)), read_added(folder)
    if added is not None:
        held += _of_table(added, users)
    table = with_time_decay(_built(held), config_of(folder))
    return Pairs.from_embeddings(table, Embeddings.load(folder.embeddings))


def save_with_added(
    folder: RunFolder, weights: Mapping[str, Tensor], users: Collection[str], basis: RewardBasis
) -> None:
    """Write the weights of a run's users, those of some learned from all that the run holds of them.

    Args:
        folder: of the run.
        weights: of all users `[columns]`, by id.
        users: who are learned.
        basis: of the run.
    """
    learned = fit_weights(pairs_of_users(run_data(folder), folder, users), basis)
    combined = {**weights, **dict(zip(learned.pairs.users, learned.weights, strict=True))}
    save_users(folder.users, list(combined), torch.stack(list(combined.values())))


def run_data(folder: RunFolder) -> RunData | None:
    """Return the data of a run; None if its users are simulated."""
    return None if config_of(folder).experiment == "personalllm" else RunData.load(folder.path)


def _of_run(data: RunData | None, users: Collection[str]) -> Iterator[_Comparison]:
    """Yield the comparisons of some users that a run was trained on; of ratings, the pairs that were drawn."""
    if data is None:
        return iter(())
    if data.preferences.ratings is None:
        return _of_table(data.preferences, users)
    return _of_pairs(data.preferences, data.embeddings, data.pairs, users)


def _of_table(table: Preferences, users: Collection[str]) -> Iterator[_Comparison]:
    timestamps = table.extra.get("timestamp") or [None] * len(table)
    for row in np.flatnonzero(np.isin(table.user, _numbers(table.users, users))).tolist():
        yield _Comparison(
            user=table.users[table.user[row]],
            chosen=table.conversation(table.chosen[row]),
            rejected=table.conversation(table.rejected[row]),
            weight=float(table.weight[row]),
            label=float(table.label[row]),
            timestamp=timestamps[row],
        )


def _of_pairs(
    table: Preferences, embeddings: Embeddings, pairs: Pairs, users: Collection[str]
) -> Iterator[_Comparison]:
    wanted = pairs.for_users(torch.tensor(_numbers(pairs.users, users), dtype=torch.long))
    for one in comparisons_of_pairs(table, embeddings, wanted):
        sides = table.conversation(one.chosen), table.conversation(one.rejected)
        yield _Comparison(one.user, *sides, one.weight, one.label, None)


def _numbers(ids: Sequence[str], users: Collection[str]) -> list[int]:
    """Return the positions of some users in a list of ids."""
    wanted = set(users)
    return [number for number, user in enumerate(ids) if user in wanted]


def _built(comparisons: Collection[_Comparison]) -> Preferences:
    origin = SourceLocations()
    origin.open("the run", "comparison")
    builder = PreferencesBuilder(origin)
    for number, one in enumerate(comparisons, 1):
        sides = builder.row(*one.chosen), builder.row(*one.rejected)
        builder.compare(one.user, *sides, origin.add_row(number), weight=one.weight, label=one.label)
        if one.timestamp is not None:
            builder.keep({"timestamp": one.timestamp})
    return builder.build()


def learned_covariance(run: Run, data: RunData | None, user: str) -> Tensor | None:
    """Return the posterior covariance of a user's weights, `[columns, columns]` (gaussian family).

    Args:
        run: whose weights these are.
        data: of the run; None if its users are simulated.
        user: an id of the run.

    Returns:
        None if the run does not hold the comparisons that the weights were learned from.
    """
    pairs = pairs_of_users(data, RunFolder(run.folder), [user])
    if user not in pairs.users:
        return None
    solved = fit_weights(pairs, run.basis)
    if not torch.allclose(solved.weights[0], run.weights_of(user), atol=_SAME):
        return None
    return solved.covariance(torch.tensor([0]))[0].double()
