"""The summary of a report: its finding, and the statistics behind it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lore.data.preferences import Preferences
from lore.evaluation.calibration import Calibration, calibration, probabilities
from lore.evaluation.diagnostics import Collapse, LearningCurve, collapse, learning_curve
from lore.evaluation.evaluator import HeldOut
from lore.evaluation.finding import Finding, find
from lore.evaluation.intervals import MIN_PAIRS, Interval, Sample
from lore.evaluation.metrics import reachable
from lore.evaluation.noise import Noise, learn_noise
from lore.evaluation.significance import Verdicts, verdicts, worst_tenth
from lore.evaluation.sweep import Sweep
from lore.evaluation.users import UserRow, user_rows
from lore.pairs.splits import Split
from lore.pairs.table import Pairs

# Label and meaning of each setting.
SETTINGS = {
    "seen_train": ("seen, train", "the choices that the basis was learned from"),
    "seen_test": ("seen, test", "other choices of the same users, on prompts held out"),
    "unseen_shots": ("new, shots", "the few choices that new users' weights were learned from"),
    "unseen_test": ("new, test", "other choices of new users, on prompts held out"),
}


@dataclass(frozen=True)
class ReportStatistics:
    """Statistics of held-out choices beyond the mean of the headline.

    Attributes:
        calibrations: of pooled and of the chosen model, by name.
        verdicts: whom personalizing helps.
        users: each user with held-out choices, seen or new.
        worst: mean accuracy of the tenth of the users that pooled, and the chosen model, predict worst.
        without_one_user: range of the gain with one user left out.
        without_one_group: range of the gain with one group left out.
        curve: what more comparisons of a new user would bring; None if that cannot be told.
        collapse: how many directions the chosen model uses.
        noise: how consistently users choose, relative to what the chosen model says.
        reachable: accuracy that no model of rewards can pass, because of ties and contradicting choices.
        ties: share of the pairs that prefer neither side.
        without_ties: accuracy of pooled, and of the chosen model, on the other pairs.
    """

    calibrations: dict[str, Calibration]
    verdicts: Verdicts
    users: list[UserRow]
    worst: tuple[float, float]
    without_one_user: Interval
    without_one_group: Interval
    curve: LearningCurve | None
    collapse: Collapse
    noise: Noise
    reachable: float
    ties: float
    without_ties: tuple[float, float]


@dataclass(frozen=True)
class Summary:
    """All that a report shows.

    Attributes:
        title: of the data.
        split: the four parts.
        sweep: results and fits.
        finding: whether personalizing helps, and whom.
        statistics: of the held-out choices.
        counts: from `lore check`.
        warnings: from `lore check` and from the fits.
        encoder: fingerprint.
        config: the arguments of the run.
        seconds: spent in each phase.
        version: of LoRe.
        layers: of a language model that were tried: `layer`, `pooling` and `log_loss` of each.
        texts: conversations, for the directions; None if they are to stay out of the report.
        pairs: whose rows are these conversations; None if there are no texts.
    """

    title: str
    split: Split
    sweep: Sweep
    finding: Finding
    statistics: ReportStatistics
    counts: dict[str, Any]
    warnings: list[str]
    encoder: dict[str, Any]
    config: dict[str, Any]
    seconds: dict[str, float]
    version: str
    layers: Sequence[Mapping[str, Any]] = ()
    texts: Preferences | None = None
    pairs: Pairs | None = field(default=None, repr=False)


def finding_of(sweep: Sweep, more_splits: Sequence[Mapping[str, HeldOut]] = (), min_pairs: int = MIN_PAIRS) -> Finding:
    """Return the finding of a sweep, and of other splits of the same data if there are any."""
    return find([sweep.held_out, *more_splits], has_tastes=sweep.has_tastes, min_pairs=min_pairs)


def headline_setting(sweep: Sweep) -> str:
    """Return the setting that the statistics are measured in: test pairs of new users, or of seen ones."""
    return "unseen_test" if sweep.has_unseen else "seen_test"


def compute_statistics(split: Split, sweep: Sweep) -> ReportStatistics:
    """Measure on held-out groups, with the weights of pooled and of the chosen model solved to their certificates."""
    trained, test = (split.unseen_shots, split.unseen_test) if sweep.has_unseen else (split.seen_train, split.seen_test)
    bases = {"pooled": sweep.pooled.basis, sweep.chosen_model: sweep.chosen.basis}
    weights = {name: sweep.weights(trained, basis) for name, basis in bases.items()}
    chances = [probabilities(test, basis, weights[name]) for name, basis in bases.items()]
    gains = sweep.per_user.right - sweep.baseline.right
    sample = sweep.per_user.sample
    decided = test.label != 1 / 2
    decided_sample = Sample(test.select(torch.nonzero(decided).flatten()))
    return ReportStatistics(
        calibrations={name: calibration(test, basis, weights[name]) for name, basis in bases.items()},
        verdicts=verdicts(test, chances[-1], chances[0]),
        users=user_rows(split, sweep),
        worst=(worst_tenth(test, sweep.baseline.right), worst_tenth(test, sweep.per_user.right)),
        without_one_user=sample.without_one_user(gains),
        without_one_group=sample.without_one_group(gains),
        curve=learning_curve(_gains_by_shots(sweep, trained)) if sweep.by_shots else None,
        collapse=collapse(sweep.chosen, split.seen_train),
        noise=learn_noise(test, torch.logit(chances[-1], eps=1e-12)),
        reachable=sample.mean(reachable(test)),
        ties=sample.mean(1 - decided.double()),
        without_ties=(
            decided_sample.mean(sweep.baseline.right[decided]),
            decided_sample.mean(sweep.per_user.right[decided]),
        ),
    )


def _gains_by_shots(sweep: Sweep, trained: Pairs) -> dict[int, Tensor]:
    """Return users' gains by number of comparisons, with all that the median user has as the last number."""
    median = int(trained.counts.double().median())
    by_shots = sweep.by_shots if median <= max(sweep.by_shots) else {**sweep.by_shots, median: sweep.per_user}
    counted = torch.from_numpy(sweep.baseline.sample.is_counted)
    return {shots: (one.per_user - sweep.baseline.per_user)[counted] for shots, one in by_shots.items()}
