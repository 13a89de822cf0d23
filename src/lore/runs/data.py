"""`RunData`: the comparisons that a run was learned from, read again."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from lore.data.formats import load
from lore.data.preferences import Preferences
from lore.embedding.options import Pooling
from lore.embedding.store import Embeddings
from lore.errors import DataError, RunError
from lore.files import JsonFormat
from lore.pairs.table import Pairs
from lore.runs.config import TrainConfig
from lore.runs.folder import RunFolder

LAYER_FORMAT = JsonFormat(
    name="the choice of a layer", number=1, fields=frozenset({"layer", "pooling", "conversations", "scores"})
)


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
        config = config_of(folder)
        if config.experiment == "personalllm":
            raise RunError(f"{run}: its users are simulated; repeat it whole with `lore reproduce personalllm`")
        preferences = load(folder.preferences)
        embeddings = Embeddings.load(folder.embeddings)
        pairs = all_pairs(with_time_decay(preferences, config), embeddings, config)
        return cls(preferences, embeddings, pairs, config)


def config_of(folder: RunFolder) -> TrainConfig:
    """Return the arguments of a run, with the layer that it has chosen."""
    return with_chosen_layer(TrainConfig.from_json(folder.state()["config"]), folder)


def with_chosen_layer(config: TrainConfig, folder: RunFolder) -> TrainConfig:
    """Return the arguments of a run with the layer that it has chosen."""
    if config.encoding.layer != "auto" or not folder.layers.exists():
        return config
    values = LAYER_FORMAT.read(folder.layers)[1]
    if values["pooling"] not in get_args(Pooling):
        raise DataError(f"{folder.layers}: `pooling` must be one of {', '.join(get_args(Pooling))}; train again")
    layer: int | Literal["last"] = "last" if values["layer"] is None else values["layer"]
    encoding = replace(config.encoding, layer=layer, pooling=values["pooling"])
    return replace(config, encoding=encoding)


def layers_tried(folder: RunFolder) -> list[dict[str, Any]]:
    """Return the layers and poolings that a run has tried, with their log losses; none if it was told which."""
    if not folder.layers.exists():
        return []
    scores: list[dict[str, Any]] = LAYER_FORMAT.read(folder.layers)[1]["scores"]
    return scores


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
    """Return the comparisons that a run was trained on; for ratings, the pairs that were drawn from them."""
    data = RunData.load(run)
    return comparisons_of_pairs(data.preferences, data.embeddings, data.pairs)


def comparisons_of_pairs(preferences: Preferences, embeddings: Embeddings, pairs: Pairs) -> list[RunComparison]:
    """Return pairs by rows of the table of preferences that they were made from."""
    row = torch.arange(len(pairs.vectors))
    if pairs.vectors is embeddings.vectors:  # a large table is not copied: its rows are the store's
        stored = embeddings.rows(preferences)
        row[stored] = torch.arange(len(stored))
    rejected = pairs.chosen if pairs.rejected is None else pairs.rejected
    columns = (pairs.user, row[pairs.chosen], row[rejected], pairs.weight, pairs.label)
    return [
        RunComparison(pairs.users[user], chosen, other, weight, label)
        for user, chosen, other, weight, label in zip(*(column.tolist() for column in columns), strict=True)
    ]
