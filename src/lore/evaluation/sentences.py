"""Sentences of the report and the terminal: what lies behind the mean, in plain terms."""

import math
from collections.abc import Iterator

from lore.evaluation.evaluator import Model
from lore.evaluation.finding import USERS_OF
from lore.evaluation.intervals import Interval
from lore.evaluation.summary import Summary, headline_setting

_LABELS: dict[Model, str] = {
    "reference": "reference (the reward model's own head)",
    "pooled": "pooled (one model for all)",
    "per_user": "each user alone",
    "wrong_user": "control: weights of other users",
    "shuffled": "control: choices made by a coin",
    "length": "rule: the longer response",
    "item_rate": "rule: the response that won more often",
}


def model_label(model: Model, rank: int | None) -> str:
    """Return the name of a model as tables show it."""
    return _LABELS.get(model, f"{model}, {f'rank {rank}' if rank else 'no tastes found'}")


def trust_sentences(summary: Summary) -> Iterator[str]:
    """Yield how far the finding can be trusted."""
    statistics = summary.statistics
    if summary.finding.has_tastes:
        yield from _sensitivity("user", statistics.without_one_user)
        yield from _sensitivity("prompt", statistics.without_one_group)
    for name, measured in statistics.calibrations.items():
        yield (
            f"Probabilities of {name} are off by {100 * measured.error:.1f} points on average; if all were true, "
            f"{100 * measured.perfect_error:.1f} points would be expected of so few choices."
        )
    if statistics.reachable < 1 - _SHOWN:
        yield (
            f"No model can be right in more than {100 * statistics.reachable:.1f} % of these choices: some prefer "
            "neither side, and some contradict others of the same user."
        )


def user_sentences(summary: Summary) -> Iterator[str]:
    """Yield whom personalizing helps, and how users choose."""
    statistics, users = summary.statistics, USERS_OF[headline_setting(summary.sweep)]
    for group in summary.finding.groups:
        if group.left_out:
            yield (
                f"{_count(group.left_out, 'user')} among the {USERS_OF[group.setting]} had too few test pairs to be "
                "counted (--min-pairs)."
            )
    if summary.finding.has_tastes:
        counts = statistics.verdicts.counts()
        tested = counts["helps"] + counts["hurts"] + counts["undecided"]
        yield (
            f"{_count(tested, 'user')} of {sum(counts.values())} {users} could be tested one by one: of them the two "
            f"models predict enough choices differently. Personalizing surely helps {counts['helps']} and surely hurts "
            f"{counts['hurts']}; at most {statistics.verdicts.rate:.0%} of these verdicts are expected to be wrong."
        )
    pooled, chosen = statistics.worst
    if math.isfinite(chosen):
        yield (
            f"For the tenth of users that it predicts worst, the model is right in {100 * chosen:.1f} % of choices; "
            f"one model for all, in {100 * pooled:.1f} % for its own worst tenth."
        )
    if (curve := statistics.curve) is not None and summary.finding.has_tastes:
        yield (
            f"With {curve.shots} comparisons of a new user, twice what the median one has, the expected gain is "
            f"{100 * curve.gain:+.1f} points ({100 * curve.low:+.1f} to {100 * curve.high:+.1f})."
        )
    if summary.finding.has_tastes:
        collapse = statistics.collapse
        yield (
            f"Users' tastes spread over about {collapse.effective_rank:.1f} directions of the "
            f"{_count(summary.sweep.chosen.basis.rank, 'direction')} that were learned."
        )
    noise = statistics.noise
    how = "more" if noise.median > 1 else "less"
    ratio = noise.median if noise.median > 1 else 1 / noise.median
    yield f"The median user chooses {ratio:.2f} times {how} at random than the model says."
    if noise.sure is not None:
        yield f"{_count(noise.sure[0], 'user')} surely choose more at random than it says, and {noise.sure[1]} less."
    if noise.tie > 0:
        yield f"Users call it a tie with a propensity of {noise.tie:.2f} (Davidson 1970)."


_SHOWN = 5e-4  # half of the last digit of a share in percent


def _sensitivity(what: str, moved: Interval) -> Iterator[str]:
    if math.isfinite(moved.low):
        yield (
            f"With any one {what} left out of the test, the gain stays between {100 * moved.low:+.1f} and "
            f"{100 * moved.high:+.1f} points."
        )


def _count(number: int, noun: str) -> str:
    """Return a number with its noun, such as "1 user" or "12 users"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
