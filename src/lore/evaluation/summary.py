"""The summary of a report: its headline, and the statistics behind it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from lore.data.preferences import Preferences
from lore.evaluation.calibration import Calibration, calibration, probabilities
from lore.evaluation.diagnostics import Collapse, LearningCurve, collapse, learning_curve
from lore.evaluation.metrics import Accuracy, Gain, correct, gain
from lore.evaluation.noise import Noise, learn_noise
from lore.evaluation.significance import (
    Sensitivity,
    Verdicts,
    verdicts,
    without_one_group,
    without_one_user,
    worst_tenth,
)
from lore.evaluation.sweep import Sweep
from lore.pairs.splits import Split
from lore.pairs.table import Pairs

# Label and meaning of each setting.
SETTINGS = {
    "seen_train": ("seen, train", "what the basis was learned from"),
    "seen_test": ("seen, test", "the same users on held-out groups"),
    "unseen_shots": ("unseen, shots", "new users on the few comparisons they were learned from"),
    "unseen_test": ("unseen, test", "new users on held-out groups"),
}
_SHOWN_GAIN = 5e-4  # half of the last digit of a gain in points: a smaller one is shown as 0.0


@dataclass(frozen=True)
class ReportStatistics:
    """Statistics of held-out choices beyond the mean of the headline.

    Attributes:
        calibrations: of pooled and of the chosen model, by name.
        verdicts: whom personalizing helps.
        worst: mean accuracy of the tenth of the users that pooled, and the chosen model, predict worst.
        users: the gain with one user left out.
        groups: the gain with one group left out.
        curve: what more comparisons of a new user would bring; None if that cannot be told.
        collapse: how many directions the chosen model uses.
        noise: how consistently users choose, relative to what the chosen model says.
    """

    calibrations: dict[str, Calibration]
    verdicts: Verdicts
    worst: tuple[float, float]
    users: Sensitivity
    groups: Sensitivity
    curve: LearningCurve | None
    collapse: Collapse
    noise: Noise


@dataclass(frozen=True)
class Summary:
    """All that a report shows.

    Attributes:
        title: of the data.
        split: the four parts.
        sweep: results and fits.
        statistics: of the held-out choices.
        counts: from `lore check`.
        warnings: from `lore check` and from the fits.
        encoder: fingerprint.
        config: the arguments of the run.
        seconds: spent in each phase.
        version: of LoRe.
        texts: conversations, for the directions; None if they are to stay out of the report.
        pairs: whose rows are these conversations; None if there are no texts.
    """

    title: str
    split: Split
    sweep: Sweep
    statistics: ReportStatistics
    counts: dict[str, Any]
    warnings: list[str]
    encoder: dict[str, Any]
    config: dict[str, Any]
    seconds: dict[str, float]
    version: str
    texts: Preferences | None = None
    pairs: Pairs | None = field(default=None, repr=False)


def headline(sweep: Sweep) -> str:
    """Return one plain sentence: whether personalizing helps, which users, and by how much."""
    users = headline_users(sweep)
    measured = headline_gain(sweep)
    if not np.isfinite(measured.low):
        return (
            f"Whether personalizing helps {users} cannot be told from so few ({measured.users}); it takes five or more."
        )
    low, high = 100 * measured.low, 100 * measured.high
    interval = f"{100 * measured.mean:+.1f} points (95 % interval {low:+.1f} to {high:+.1f})"
    if measured.low > _SHOWN_GAIN and (other := _gain_with_other_weights(sweep)) > 0:
        return (
            f"The model for {users} is {interval} better than one model for all, but not because it is personal: "
            f"with another user's weights it is better by {100 * other:.1f} points as well."
        )
    if measured.low > _SHOWN_GAIN:
        return f"Personalizing helps {users} by {interval} over one model for all."
    if measured.high < -_SHOWN_GAIN:
        return f"Personalizing hurts {users}: {interval} against one model for all."
    return f"Personalizing does not measurably help {users}: {interval} against one model for all."


def headline_users(sweep: Sweep) -> str:
    """Return whom the headline is about."""
    return "new users" if sweep.has_unseen else "the users it learned from"


def headline_setting(sweep: Sweep) -> str:
    """Return the setting that the headline is measured in."""
    return "unseen_test" if sweep.has_unseen else "seen_test"


def headline_gain(sweep: Sweep) -> Gain:
    """Return the gain of the chosen model over pooled, on held-out groups."""
    return gain(sweep.per_user, sweep.baseline)


def _gain_with_other_weights(sweep: Sweep) -> float:
    """Return the gain over pooled with another user's weights if it is sure and half of the gain, else 0."""
    setting = headline_setting(sweep)
    control = [result for result in sweep.results if result.model == "wrong_user" and result.setting == setting]
    if not control or not (control[0].gain_low or 0.0) > 0:
        return 0.0
    other = control[0].gain or 0.0
    return other if other >= headline_gain(sweep).mean / 2 else 0.0


def compute_statistics(split: Split, sweep: Sweep) -> ReportStatistics:
    """Measure on held-out groups, with the weights of pooled and of the chosen model solved to their certificates."""
    trained, test = (split.unseen_shots, split.unseen_test) if sweep.has_unseen else (split.seen_train, split.seen_test)
    bases = {"pooled": sweep.pooled.basis, sweep.chosen.basis.family: sweep.chosen.basis}
    weights = {name: sweep.weights(trained, basis) for name, basis in bases.items()}
    chances = [probabilities(test, basis, weights[name]) for name, basis in bases.items()]
    common, personal = (correct(test, chance - 1 / 2) for chance in (chances[0], chances[-1]))
    return ReportStatistics(
        calibrations={name: calibration(test, basis, weights[name]) for name, basis in bases.items()},
        verdicts=verdicts(test, chances[-1], chances[0]),
        worst=(worst_tenth(sweep.baseline), worst_tenth(sweep.per_user)),
        users=without_one_user(sweep.per_user, sweep.baseline),
        groups=without_one_group(test, personal - common),
        curve=learning_curve(_by_shots(sweep, trained), sweep.baseline) if sweep.by_shots else None,
        collapse=collapse(sweep.chosen, split.seen_train),
        noise=learn_noise(test, torch.logit(chances[-1], eps=1e-12)),
    )


def _by_shots(sweep: Sweep, trained: Pairs) -> dict[int, Accuracy]:
    """Return accuracies by number of comparisons, with all that the median user has as the last number."""
    median = int(trained.counts.double().median())
    return sweep.by_shots if median <= max(sweep.by_shots) else {**sweep.by_shots, median: sweep.per_user}
