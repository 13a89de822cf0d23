"""Sentences of the report and the terminal: what lies behind the mean, in plain terms."""

import math
from collections.abc import Iterator

from lore.evaluation.evaluator import Model
from lore.evaluation.finding import USERS_OF
from lore.evaluation.intervals import MIN_USERS, Interval
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
        yield from _against_each_alone(summary)
        if summary.sweep.baseline.users >= MIN_USERS:
            yield from _sensitivity("user", statistics.without_one_user)
            yield from _sensitivity("prompt", statistics.without_one_group)
    for name, measured in statistics.calibrations.items():
        verdict = "That is no more." if measured.error <= _CALIBRATED * measured.perfect_error else "That is more."
        yield (
            f"Probabilities of {name} are off by {100 * measured.error:.1f} points on average. From as many choices "
            f"a perfect model would seem off by {100 * measured.perfect_error:.1f} points. {verdict}"
        )
    if statistics.reachable < 1 - _SHOWN:
        yield (
            f"No model can be right in more than {100 * statistics.reachable:.1f} % of these choices: some prefer "
            "neither side, and some contradict others of the same user."
        )
    if statistics.ties > 0:
        pooled, chosen = statistics.without_ties
        yield (
            f"{100 * statistics.ties:.1f} % of these choices are ties, which count as half right whatever is predicted."
            f" Without them the chosen model is right in {100 * chosen:.1f} %, and one model for all in "
            f"{100 * pooled:.1f} %."
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
        wrong = f" (a share of {statistics.verdicts.rate:.0%} of these may be wrong)"
        yield (
            f"For {tested} of {sum(counts.values())} {users} the two models predict enough choices differently to test "
            f"each alone: helped {counts['helps']}, hurt {counts['hurts']}"
            f"{wrong if counts['helps'] + counts['hurts'] else ''}, undecided {counts['undecided']}."
        )
    pooled, chosen = statistics.worst
    if summary.sweep.baseline.users >= _MIN_FOR_TENTH and math.isfinite(chosen):
        yield (
            f"The tenth of users whom the model predicts worst on one half of their held-out choices: "
            f"{100 * chosen:.1f} % right on the other half. For the worst tenth of pooled: {100 * pooled:.1f} %."
        )
    if (curve := statistics.curve) is not None and summary.finding.has_tastes:
        yield (
            f"With {curve.shots} comparisons of a new user, twice what the median one has, a gain of "
            f"{100 * curve.gain:+.1f} points is extrapolated for these prompts ({100 * curve.low:+.1f} to "
            f"{100 * curve.high:+.1f})."
        )
    if summary.finding.has_tastes:
        yield f"Users' tastes vary along about {statistics.collapse.effective_rank:.1f} independent directions."
    yield from _noise_sentences(summary)


def _noise_sentences(summary: Summary) -> Iterator[str]:
    noise = summary.statistics.noise
    how, confidence = ("less", "over") if noise.median > 1 else ("more", "under")
    ratio = noise.median if noise.median > 1 else 1 / noise.median
    yield (
        f"Choices of the median user are {ratio:.2f} times {how} predictable than the model says: it is "
        f"{confidence}-confident by that factor."
    )
    if noise.sure is not None:
        over, under = noise.sure
        yield f"It is surely over-confident about {_count(over, 'user')}, and under-confident about {under}."
    if noise.tie > 0:
        yield f"Users call it a tie with a propensity of {noise.tie:.2f} (Davidson 1970)."


def _against_each_alone(summary: Summary) -> Iterator[str]:
    """Yield what sharing directions gains over learning each user alone."""
    sample, right = summary.sweep.per_user.sample, summary.sweep.held_out[headline_setting(summary.sweep)].right
    if "per_user" in right:
        over = sample.estimate(right["chosen"] - right["per_user"])
        low, high = (100 * end for end in (over.new_prompts.low, over.new_prompts.high))
        interval = f" ({low:+.1f} to {high:+.1f})" if math.isfinite(low) else ""
        yield f"Against learning each user alone, it gains {100 * over.mean:+.1f} points{interval}."


_CALIBRATED = 1.5  # times the error of a perfect model, up to which a model's is called no more
_MIN_FOR_TENTH = 50  # users, of whom a tenth is five
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
