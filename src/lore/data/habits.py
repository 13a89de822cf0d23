"""Habits of users that are no tastes: always one side, always the longer text, answers faster than one can read."""

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom, false_discovery_control

from lore.data.issues import DataIssue
from lore.data.preferences import Floats, Integers, Preferences, seconds_of

CHOSEN_SIDE = "chosen_side"  # column of where the chosen response stood, left or right, of formats that say so

_NEARLY_ALWAYS = 0.9
_FALSE_DISCOVERIES = 0.05
_CHARACTERS_A_SECOND = 150.0  # four times what a quick reader reads
_CHOICES = 5  # of a user, with times, before a pace is judged
_PAUSE = 600.0  # seconds between choices that are not spent on reading


def habits(preferences: Preferences) -> list[DataIssue]:
    """Users who nearly always choose one side or the longer response, and users who answer faster than one can read."""
    if not len(preferences):
        return []
    length = preferences.response_lengths[preferences.row_response]
    difference = (length[preferences.chosen] - length[preferences.rejected]) * np.sign(preferences.label - 0.5)
    longer = _of_users(preferences, difference > 0, difference != 0, "the longer response")
    sides: list[DataIssue] = []
    if (column := preferences.extra.get(CHOSEN_SIDE)) is not None:
        side = np.array([str(value) for value in column])
        known_side = (side == "left") | (side == "right")
        for name in ("left", "right"):
            sides += _of_users(preferences, side == name, known_side, f"the {name} response")
    return [*sides, *longer, *_too_quick(preferences, length)]


def _of_users(
    preferences: Preferences, taken: NDArray[np.bool_], counted: NDArray[np.bool_], what: str
) -> list[DataIssue]:
    """Return who took something in nine of ten choices or more, surely more often than by tossing a coin."""
    users = len(preferences.users)
    counts = np.bincount(preferences.user[counted], minlength=users)
    wins = np.bincount(preferences.user[taken & counted], minlength=users)
    chance = binom.sf(wins - 1, counts, 0.5)
    surely = (false_discovery_control(chance) <= _FALSE_DISCOVERIES) & (wins >= _NEARLY_ALWAYS * counts) & (counts > 0)
    does = (
        f"of {users} users chose {what} in at least 90 % of their comparisons, surely more often than by chance; a "
        "habit is learned as a taste: look at their answers"
    )
    return _issue(preferences, surely, f"users who always choose {what}", does)


def _too_quick(preferences: Preferences, length: Integers) -> list[DataIssue]:
    """Return who answered, in the median, before both responses could be read."""
    column = preferences.extra.get("timestamp")
    if column is None:
        return []
    times: Floats = np.array([seconds_of(value) for value in column])
    times[~np.isfinite(times)] = np.nan
    order = np.lexsort((times, preferences.user))
    user, sorted_times = preferences.user[order], times[order]
    passed = np.diff(sorted_times)
    characters = (length[preferences.chosen] + length[preferences.rejected])[order][1:]
    of_one = (user[1:] == user[:-1]) & np.isfinite(passed) & (passed < _PAUSE)
    quick = characters > _CHARACTERS_A_SECOND * passed
    users = len(preferences.users)
    counts = np.bincount(user[1:][of_one], minlength=users)
    fast = np.bincount(user[1:][of_one & quick & (passed > 0)], minlength=users)
    hasty = (fast > counts / 2) & (counts >= _CHOICES)
    does = (
        "users chose faster, most of the time, than four quick readers read (above "
        f"{_CHARACTERS_A_SECOND:.0f} characters a second); their choices may be clicks"
    )
    return _issue(preferences, hasty, "users who answer too quickly", does)


def _issue(preferences: Preferences, concerned: NDArray[np.bool_], kind: str, does: str) -> list[DataIssue]:
    """Return the finding about the users concerned, `[users]`, with the first of them; none if there is none."""
    if not concerned.any():
        return []
    count = int(concerned.sum())
    shown = ", ".join(repr(preferences.users[number]) for number in np.flatnonzero(concerned)[:3])
    message = f"{preferences.origin.describe([], 0)}: {count} {does} ({shown})"
    return [DataIssue(kind, False, message, count)]
