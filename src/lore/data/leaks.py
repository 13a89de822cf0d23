"""Leaks through form: ways to tell chosen from rejected without reading either."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np

from lore.data.issues import DataIssue
from lore.data.messages import text_of
from lore.data.preferences import Preferences

_T = TypeVar("_T")

SAMPLE = 20_000  # comparisons that are looked at where a look at all would take long
_LEAK = 0.9  # share of pairs that form alone must tell apart to be called a leak
_DISTINCT = 20  # distinct texts on a side, below which a common beginning may be chance
_AFFIX = 8  # characters


def form_leaks(preferences: Preferences) -> list[DataIssue]:
    """Ways to tell chosen from rejected by form alone: a constant prefix or suffix, or whitespace.

    A model trained on such data learns the form and not the taste; the published PRISM accuracies of 0.95 to 0.98
    came from a list that was printed into one side. Looks at no more than 20,000 comparisons, evenly spread.
    """
    if len(preferences) == 0:
        return []
    shown = np.linspace(0, len(preferences) - 1, min(len(preferences), SAMPLE)).astype(np.int64)
    decided = (preferences.chosen[shown] != preferences.rejected[shown]) & (preferences.label[shown] != 1 / 2)
    numbers = [preferences.row_response[rows[shown[decided]]].tolist() for rows in preferences.preferred()]
    sides = [[text_of(preferences.responses[number]) for number in side] for side in numbers]
    if min(len(set(side)) for side in sides) < _DISTINCT:
        return []
    where = preferences.origin.describe([], 0)
    roles = [[tuple(role for role, _ in preferences.responses[number]) for number in side] for side in numbers]
    return [
        *_role_leaks(where, roles),
        *_affix_leaks(where, sides, "begins with", lambda text, length: text[:length]),
        *_affix_leaks(where, sides, "ends with", lambda text, length: text[-length:]),
        *_leak(where, sides, "begins or ends with white space", lambda text: text != text.strip()),
    ]


def _role_leaks(where: str, sides: list[list[tuple[str, ...]]]) -> list[DataIssue]:
    """Return a leak if most responses of a side are made of messages of other roles than those of the other side."""
    shape, count = Counter(sides[0]).most_common(1)[0]
    if count < _LEAK * len(sides[0]):
        return []
    return _leak(where, sides, f"is made of messages by {', '.join(shape)}", shape.__eq__)


def _affix_leaks(where: str, sides: list[list[str]], relation: str, cut: Callable[[str, int], str]) -> list[DataIssue]:
    """Return the longest affix that most texts of a side share, if it tells the sides apart."""
    for length in range(_AFFIX, 0, -1):
        for side in sides:
            affix, count = Counter(cut(text, length) for text in side).most_common(1)[0]
            if count < _LEAK * len(side):
                continue
            shared = {text for both in sides for text in both if cut(text, length) == affix}
            if leaks := _leak(where, sides, f"{relation} {affix!r}", shared.__contains__):
                return leaks
    return []


def _leak(where: str, sides: Sequence[Sequence[_T]], form: str, has: Callable[[_T], bool]) -> list[DataIssue]:
    chosen, rejected = ([has(text) for text in side] for side in sides)
    only_chosen = np.mean([first and not second for first, second in zip(chosen, rejected, strict=True)])
    only_rejected = np.mean([second and not first for first, second in zip(chosen, rejected, strict=True)])
    share, side = max((only_chosen, "chosen"), (only_rejected, "rejected"))
    if share < _LEAK:
        return []
    message = (
        f"{where}: in {share:.0%} of the comparisons only the {side} response {form}, so that form alone gives the "
        "answer away; render both sides alike"
    )
    return [DataIssue("chosen and rejected can be told apart by form", True, message, len(chosen))]
