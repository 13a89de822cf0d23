"""The splits that the experiments on human data prescribe."""

import numpy as np
import torch

from lore.data.preferences import Preferences
from lore.errors import ConfigError, DataError
from lore.pairs.splits import Split, split
from lore.pairs.table import Pairs, same_response
from lore.runs.config import Experiment
from lore.runs.paper.protocols import ExperimentSettings


def experiment_split(
    experiment: Experiment, protocol: ExperimentSettings, preferences: Preferences, pairs: Pairs, seed: int
) -> Split:
    """Return the split that an experiment on human data prescribes.

    Raises:
        ConfigError: the experiment is on simulated users.
        DataError: too few users are left.
    """
    if experiment == "prism":
        return _prism_split(pairs, **protocol.sampling)
    if experiment == "tldr":
        return _tldr_split(preferences, pairs, seed, **protocol.sampling)
    raise ConfigError("`experiment` 'personalllm' simulates its users; use `lore reproduce personalllm`")


def _prism_split(pairs: Pairs, dialogs: int, unseen: float, test: float, seed: int) -> Split:
    """Users with enough dialogs; unseen ones, and half of every user's dialogs, are held out."""
    owned = torch.stack([pairs.user, pairs.group[pairs.chosen]]).unique(dim=1)[0]
    users = torch.nonzero(torch.bincount(owned, minlength=len(pairs.users)) >= dialogs).flatten()
    if len(users) < 2:
        raise DataError(f"{len(users)} users with {dialogs} dialogs or more, but a split needs two; use more data")
    return split(pairs.for_users(users), unseen=unseen, test=test, seed=seed, by="user")


def _tldr_split(
    preferences: Preferences, pairs: Pairs, seed: int, unseen: float, train_pairs: int, shot_pairs: int
) -> Split:
    """Workers who are in training and in validation rows, half of them unseen; tested on their validation rows."""
    if "split" not in preferences.extra:
        raise DataError("the rows have no column `split`, which says train or valid; use the published rows")
    strict = preferences.chosen != preferences.rejected
    named = np.array([str(value) for value in preferences.extra["split"]])[strict]
    if "None" in named:
        raise DataError("a row has no `split`, which says train or valid; use the published rows")
    is_test = torch.from_numpy(named != "train")
    test_groups = pairs.group[pairs.chosen[is_test]].unique()
    in_test = torch.isin(pairs.group, test_groups) | same_response(pairs, pairs.select(is_test))
    leaking = ~is_test & (in_test[pairs.chosen] | in_test[pairs.rejected])
    train, test = pairs.select(~is_test & ~leaking), pairs.select(is_test)
    both = torch.nonzero((train.counts > 0) & (test.counts > 0)).flatten().numpy()
    if len(both) < 2:
        raise DataError(f"{len(both)} workers are in training and in validation rows, but a split needs two")
    order = np.random.default_rng(seed).permutation(both)  # of sorted rows: it does not depend on hashes
    held_out = min(max(round(unseen * len(both)), 1), len(both) - 1)
    new, seen = (torch.from_numpy(np.sort(part)) for part in (order[:held_out], order[held_out:]))
    return Split(
        seen_train=train.for_users(seen).shots(train_pairs, seed),
        seen_test=test.for_users(seen),
        unseen_shots=train.for_users(new).shots(shot_pairs, seed),
        unseen_test=test.for_users(new),
        dropped=int(leaking.sum()),
        shared=0,
    )
