"""Accuracies and gains over several splits of one data set, with intervals for new users and new prompts.

Splits of one data set overlap, so that a spread over them says too little of other users and prompts. Here every choice
counts once, with the mean of how right it was predicted over the splits in which it was held out.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lore.evaluation.evaluator import HeldOut
from lore.evaluation.finding import combined
from lore.evaluation.intervals import MIN_PAIRS, Sample
from lore.evaluation.metrics import Accuracy, accuracy_of_right, gain

Split = Mapping[str, HeldOut]  # by setting


@dataclass(frozen=True)
class OverSplits:
    """Accuracies of models in one setting over all splits.

    Attributes:
        accuracies: by model.
        users: users who are counted.
        choices: distinct test choices.
    """

    accuracies: Mapping[str, Accuracy]
    users: int
    choices: int

    def __contains__(self, model: str) -> bool:
        return model in self.accuracies

    def accuracy(self, model: str, *, ends: bool = True) -> str:
        """Return an accuracy in percent, with the ends of its interval."""
        measured = self.accuracies[model]
        return f"{100 * measured.mean:.1f}" + (_ends(measured.low, measured.high) if ends else "")

    def gain(self, model: str, rival: str = "pooled") -> str:
        """Return the gain of a model over a rival in points, with the ends of its interval."""
        over = gain(self.accuracies[model], self.accuracies[rival])
        return f"{100 * over.mean:+.1f}{_ends(over.low, over.high, '+')}"


def over_splits(splits: Sequence[Split], setting: str) -> OverSplits:
    """Return accuracies in one setting; models that a split lacks are left out."""
    merged = combined([split[setting] for split in splits if setting in split])
    sample = Sample(merged.pairs, MIN_PAIRS)
    accuracies = {model: accuracy_of_right(right, sample) for model, right in merged.right.items()}
    return OverSplits(accuracies, sample.users, len(merged.pairs))


def _ends(low: float, high: float, sign: str = "") -> str:
    return "" if math.isnan(low) else f" ({100 * low:{sign}.1f} to {100 * high:{sign}.1f})"
