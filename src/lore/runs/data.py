"""`RunData`: the comparisons that a run was learned from, read again."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lore.data.formats import load
from lore.data.preferences import Preferences
from lore.embedding.store import Embeddings
from lore.errors import RunError
from lore.fitting.personalize import fit_weights
from lore.pairs.table import Pairs
from lore.runs.artifacts import Run
from lore.runs.config import TrainConfig
from lore.runs.folder import RunFolder

_SAME = 1e-3  # difference of weights that are learned from the same comparisons on different machines


@dataclass(frozen=True)
class RunData:
    """The table, embeddings and pairs that a run was learned from.

    Attributes:
        preferences: the table.
        embeddings: of its conversations.
        pairs: all comparisons, with the time decay of the run.
        config: the arguments of the run.
    """

    preferences: Preferences
    embeddings: Embeddings
    pairs: Pairs
    config: TrainConfig

    @classmethod
    def load(cls, run: str | Path) -> "RunData":
        """Read the data of a RUN folder whose conversations have been embedded.

        Raises:
            RunError: there is no run, or its users are simulated.
        """
        folder = RunFolder(Path(run))
        state = folder.state()["config"]
        if state.get("experiment") == "personalllm":
            raise RunError(f"{run}: its users are simulated; repeat it whole with `lore reproduce personalllm`")
        config = TrainConfig.from_json(state)
        preferences = load(folder.preferences)
        embeddings = Embeddings.load(folder.embeddings)
        pairs = all_pairs(with_time_decay(preferences, config), embeddings, config)
        return cls(preferences, embeddings, pairs, config)


def with_time_decay(preferences: Preferences, config: TrainConfig) -> Preferences:
    """Return the table, with older comparisons counting less if the run has a half-life."""
    return preferences if config.half_life is None else preferences.with_time_decay(config.half_life)


def all_pairs(decayed: Preferences, embeddings: Embeddings, config: TrainConfig) -> Pairs:
    """Return all pairs of a table that `with_time_decay` returned, under the arguments of a run."""
    return Pairs.from_embeddings(decayed, embeddings, pairs_per_user=config.pairs_per_user, seed=config.seed)


@dataclass(frozen=True)
class RunComparison:
    """One comparison of a run, by rows of its table of preferences."""

    user: str
    chosen: int
    rejected: int
    weight: float
    label: float


def comparisons_of_run(run: str | Path) -> list[RunComparison]:
    """Return the comparisons that weights were learned from; for ratings, the pairs that were drawn from them."""
    data = RunData.load(run)
    pairs, embeddings = data.pairs, data.embeddings
    row = torch.arange(len(pairs.vectors))
    if pairs.vectors is embeddings.vectors:  # a large table is not copied: its rows are the store's
        stored = embeddings.rows(data.preferences)
        row[stored] = torch.arange(len(stored))
    rejected = pairs.chosen if pairs.rejected is None else pairs.rejected
    columns = (pairs.user, row[pairs.chosen], row[rejected], pairs.weight, pairs.label)
    return [
        RunComparison(pairs.users[user], chosen, other, weight, label)
        for user, chosen, other, weight, label in zip(*(column.tolist() for column in columns), strict=True)
    ]


def learned_covariance(run: Run, pairs: Pairs, user: str) -> Tensor | None:
    """Return the posterior covariance of a user's weights, `[columns, columns]` (gaussian family).

    Args:
        run: whose weights these are.
        pairs: all pairs of the run.
        user: an id of the run.

    Returns:
        None for a user whom `lore personalize` added or learned again, as the run does not store what they chose.
    """
    if user not in pairs.users:
        return None
    solved = fit_weights(pairs.for_users(torch.tensor([pairs.users.index(user)])), run.basis)
    if not torch.allclose(solved.weights[0], run.weights_of(user), atol=_SAME):
        return None
    return solved.covariance(torch.tensor([0]))[0].double()
