"""Cautions: what a reader must know before they believe the finding, and what to try."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

from lore.evaluation.evaluator import Model, Result
from lore.evaluation.finding import USERS_OF, Finding
from lore.evaluation.summary import headline_setting
from lore.evaluation.sweep import Sweep

ControlVerdict = Literal["holds", "does not hold", "cannot be told"]
_TOO_WIDE, _NO_INTERVAL = "the interval is too wide", "there are too few users for an interval"
_COIN = 0.1  # accuracy by which a fit to coins may miss one half: its one draw strays further than its interval says
_NEGLIGIBLE = 0.01  # gain with another user's weights that is no fault, even where the model itself gains little


@dataclass(frozen=True)
class Control:
    """A model that must not do well, and whether it does not.

    Attributes:
        name: of the model.
        verdict: from its interval; "cannot be told" where that allows for both.
        sentence: what was measured, and what it means.
    """

    name: Model
    verdict: ControlVerdict
    sentence: str


def controls(sweep: Sweep) -> list[Control]:
    """Return the controls, measured in the setting of the statistics."""
    setting = headline_setting(sweep)
    results = []
    if (other := sweep.result("wrong_user", setting)) is not None and not torch.equal(
        sweep.per_user.right, sweep.baseline.right
    ):
        results.append(_wrong_user(other, (sweep.per_user.mean - sweep.baseline.mean)))
    if (coins := sweep.result("shuffled", setting)) is not None:
        results.append(_shuffled(coins))
    return results


def _wrong_user(result: Result, own_gain: float) -> Control:
    gain, low, high = (
        math.nan if value is None else value for value in (result.gain, result.gain_low, result.gain_high)
    )
    verdict: ControlVerdict = "cannot be told"
    meaning = f"Whether any gain is personal cannot be told: {_TOO_WIDE if math.isfinite(low) else _NO_INTERVAL}."
    if low > 0 and gain >= own_gain / 2:
        verdict, meaning = "does not hold", "At least half of what the model gains is not personal."
    elif high <= max(_NEGLIGIBLE, own_gain / 2):
        verdict, meaning = "holds", "What the model gains, it gains by each user's own weights."
    measured = f"{100 * gain:+.1f} points against one model for all{_ends(low, high, signed=True)}"
    return Control("wrong_user", verdict, f"With the weights of other users: {measured}. {meaning}")


def _shuffled(result: Result) -> Control:
    verdict: ControlVerdict = "cannot be told"
    meaning = f"Whether it is near 50 % cannot be told: {_TOO_WIDE if math.isfinite(result.low) else _NO_INTERVAL}."
    if result.low > 0.5 + _COIN or result.high < 0.5 - _COIN:
        verdict, meaning = "does not hold", "Something other than the choices gives the answers away."
    elif result.low >= 0.5 - _COIN and result.high <= 0.5 + _COIN:
        verdict, meaning = "holds", "As it should, it predicts about as well as a coin."
    measured = f"{100 * result.accuracy:.1f} % right{_ends(result.low, result.high)}"
    return Control(
        "shuffled", verdict, f"Learned from choices made by a coin, real ones are predicted so: {measured}. {meaning}"
    )


def cautions(sweep: Sweep, finding: Finding) -> Iterator[str]:
    """Yield sentences that belong near the top of a report, each with what to try."""
    for group in finding.groups:
        if group.verdict == "too few" and finding.has_tastes:
            remedy = "hold out more of them (--unseen 0.5) or none (--unseen 0)"
            remedy = remedy if group.setting == "unseen_test" else "count those with fewer test pairs (--min-pairs 1)"
            yield f"Too few {USERS_OF[group.setting]} were tested: add users, {remedy}, or average splits (--splits 5)."
    for control in controls(sweep):
        if control.verdict == "does not hold":
            yield f"A control does not hold. {control.sentence}"
    setting = headline_setting(sweep)
    users, chosen = USERS_OF[setting], sweep.per_user.mean
    pooled = sweep.baseline
    if pooled.mean <= 0.5:
        yield (
            f"One model for all predicts {_percent(pooled.mean)} of the choices of {users}, no more than a coin. Check "
            "that `chosen` and `rejected` are not mixed up; then try another encoder, or more comparisons."
        )
    for name, rule in _RULES.items():
        result = sweep.result(name, setting)
        if result is not None and result.accuracy > chosen:
            yield f"{rule[0]} predicts {_percent(result.accuracy)}, and the model {_percent(chosen)}. {rule[1]}"
    for (name, rank), gain in sweep.better.items():
        if name not in _RULES and name not in ("shuffled", "wrong_user"):
            label = _LABELS.get(name, f"The {name} model of rank {rank}")
            yield (
                f"{label} is surely better than the chosen model, by {100 * gain.mean:.1f} points"
                f"{_ends(gain.low, gain.high, signed=True, level=99)}. {_REMEDIES.get(name, _REMEDY)}"
            )


# Rules without tastes: what each says of itself when it beats the model, and what to try.
_RULES: dict[Model, tuple[str, str]] = {
    "length": (
        "Preferring the longer response",
        "The embeddings may miss what users judge by; try another encoder.",
    ),
    "reference": (
        "The reward model's own head",
        "More comparisons are needed to improve on it; until then use the head alone.",
    ),
    "item_rate": (
        "Preferring the response that won more often in training",
        "A list of popular responses does as well where all responses are known; the model is for new ones.",
    ),
}
_LABELS: dict[Model, str] = {"per_user": "Learning each user alone", "pooled": "One model for all"}
_REMEDIES: dict[Model, str] = {
    "per_user": "There are enough comparisons of each user; a higher rank may serve them better (--ranks).",
    "pooled": "Personal weights do harm here; more comparisons of each user are needed.",
}
_REMEDY = "Validation chose otherwise; --ranks fits that one alone."


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _ends(low: float, high: float, *, signed: bool = False, level: int = 95) -> str:
    """Return an interval in brackets, empty if there is none."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    form = "{:+.1f} to {:+.1f}" if signed else "{:.1f} to {:.1f}"
    return f" ({level} % interval {form.format(100 * low, 100 * high)})"
