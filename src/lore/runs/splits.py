"""The split of a run: the one it has, a new one by its arguments, or one of a table that has not been embedded."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lore.data.preferences import ALL_USERS, Preferences
from lore.embedding.store import Embeddings
from lore.pairs.splits import Split, read_split, split
from lore.pairs.table import Pairs
from lore.runs.config import TrainConfig
from lore.runs.folder import RunFolder
from lore.runs.paper.protocols import load_settings
from lore.runs.paper.splits import experiment_split


def config_for(preferences: Preferences, config: TrainConfig) -> TrainConfig:
    """Return the arguments for a table: where it names no user, none can be kept out of learning the basis."""
    return replace(config, unseen=0.0) if preferences.users == [ALL_USERS] else config


def split_of_run(folder: RunFolder, preferences: Preferences, pairs: Pairs, config: TrainConfig) -> Split:
    """Return the split that the run has already, or a new one by its arguments.

    Raises:
        DataError: `split_file` is of other data, or the data are too few for a split.
    """
    if config.split_file is not None:
        return read_split(Path(config.split_file), preferences.fingerprint(), pairs)
    if pairs.ratings is None and folder.split.exists():
        return read_split(folder.split, preferences.fingerprint(), pairs)
    if config.experiment is not None:
        settings = load_settings(config.experiment, config.protocol)
        return experiment_split(config.experiment, settings, preferences, pairs, config.seed)
    return new_split(pairs, config, 0)


def new_split(pairs: Pairs, config: TrainConfig, number: int) -> Split:
    """Return a split by the arguments of a run, the `number`-th of its rotations."""
    test = max(config.test, 1 / config.splits) if config.splits > 1 else config.test
    rotation = (number, config.splits)
    parts = split(pairs, unseen=config.unseen, test=test, seed=config.seed, by=config.split_by, rotation=rotation)
    if config.train_pairs is not None:
        parts = replace(parts, seen_train=parts.seen_train.shots(config.train_pairs, config.seed))
    if config.shots is not None:
        parts = replace(parts, unseen_shots=parts.unseen_shots.shots(config.shots, config.seed))
    return parts


class Unembedded(Embeddings):
    """A table of vectors of one zero each, a row for each conversation."""

    @classmethod
    def of(cls, preferences: Preferences) -> "Unembedded":
        """Return the table for the conversations of `preferences`."""
        rows = preferences.rows
        status = torch.zeros(rows, dtype=torch.uint8)
        return cls(torch.zeros(rows, 1), np.zeros(0, dtype="S16"), status, {}, None)

    def rows(self, preferences: Preferences) -> Tensor:
        """Return the rows themselves."""
        return torch.arange(preferences.rows)
