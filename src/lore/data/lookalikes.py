"""Doubles in a table: ids that look alike, users who are one, prompts that say the same."""

import math
import unicodedata
from collections import defaultdict

import numpy as np

from lore.data.issues import DataIssue
from lore.data.messages import folded, text_of
from lore.data.preferences import Preferences

_EXAMPLES = 3
_PUNCTUATION = str.maketrans(dict.fromkeys(".,;:!?\"'`", " "))
_NOTHING = frozenset({"nan", "none", "null", "na", "n/a", "undefined", "<na>"})
_BY_CHANCE = 0.01  # expected number of pairs of users who agree in everything by chance, above which nothing is said


def lookalike_ids(preferences: Preferences) -> list[DataIssue]:
    """Ids that differ only in case, white space, Unicode form or characters that cannot be seen."""
    alike: dict[str, list[str]] = defaultdict(list)
    for user in preferences.users:
        visible = user if user.isascii() else "".join(one for one in user if unicodedata.category(one) != "Cf")
        alike[folded(visible)].append(user)
    several = [users for users in alike.values() if len(users) > 1]
    if not several:
        return []
    shown = "; ".join(", ".join(map(ascii, users[:_EXAMPLES])) for users in several[:_EXAMPLES])
    count = sum(map(len, several))
    message = (
        f"{_where(preferences)}: {count} user ids look alike ({shown}); they are different users, unless you mend it"
    )
    return [DataIssue("user ids look alike", False, message, count)]


def ids_of_nothing(preferences: Preferences) -> list[DataIssue]:
    """Users whose id is what programs write for a missing value."""
    missing = [user for user in preferences.users if user.strip().lower() in _NOTHING]
    if not missing:
        return []
    message = (
        f"{_where(preferences)}: user ids {', '.join(map(repr, missing))} look like missing values; all such rows are "
        "of one user: fill them in or drop them"
    )
    return [DataIssue("user ids that look like missing values", False, message, len(missing))]


def users_who_are_one(preferences: Preferences, disagreement: float | None) -> list[DataIssue]:
    """Users who judged the same pairs and never differed, where that is too much for chance.

    Two users agree on a pair with the probability with which two others who judged it do, shrunk toward that of all
    pairs by one pair of users; ties do not count.

    Args:
        preferences: comparisons.
        disagreement: share of pairs of users who chose differently, over all pairs of rows.
    """
    if not disagreement or disagreement >= 1:
        return []
    users, decided = len(preferences.users), preferences.label != 1 / 2
    user = preferences.user[decided]
    chosen, rejected = (rows[decided] for rows in preferences.preferred())
    low, high = np.minimum(chosen, rejected), np.maximum(chosen, rejected)
    pair = np.unique(low * np.int64(preferences.rows) + high, return_inverse=True)[1]
    choices = np.unique(np.stack([user, pair, (chosen == low).astype(np.int64)], axis=1), axis=0)
    counts = np.bincount(choices[:, 1])
    first = np.bincount(choices[:, 1], weights=choices[:, 2])
    together = counts * (counts - 1) / 2
    agreed = np.log1p(-(disagreement + first * (counts - first)) / (1 + together))
    enough = math.log(_BY_CHANCE / max(users * (users - 1) / 2, 1))
    starts = np.flatnonzero(np.diff(choices[:, 0], prepend=-1)).tolist()
    alike: dict[bytes, list[str]] = defaultdict(list)
    for begin, end in zip(starts, [*starts[1:], len(choices)], strict=True):
        if agreed[choices[begin:end, 1]].sum() <= enough:
            alike[choices[begin:end, 1:].tobytes()].append(preferences.users[choices[begin, 0]])
    several = [same for same in alike.values() if len(same) > 1]
    if not several:
        return []
    count = sum(map(len, several))
    shown = "; ".join(", ".join(map(repr, same[:_EXAMPLES])) for same in several[:_EXAMPLES])
    message = (
        f"{_where(preferences)}: {count} users made the very choices of another one ({shown}), which chance does not; "
        "if they are one, give them one id, or a test learns from what it asks"
    )
    return [DataIssue("users who are one", False, message, count)]


def near_duplicate_prompts(preferences: Preferences) -> list[DataIssue]:
    """Prompts of different groups that differ in case, white space and punctuation only.

    What is learned on one is tested on the other.
    """
    groups = np.full(len(preferences.prompts), -1, dtype=np.int64)
    groups[preferences.row_prompt] = preferences.row_group
    by_words: dict[str, list[int]] = defaultdict(list)
    for number, prompt in enumerate(preferences.prompts):
        words = folded(text_of(prompt).translate(_PUNCTUATION))
        if words:
            by_words[words].append(number)
    alike = [same for same in by_words.values() if len(same) > 1 and len(set(groups[same].tolist())) > 1]
    if not alike:
        return []
    count = sum(map(len, alike))
    first, second = (text_of(preferences.prompts[number])[:40] for number in alike[0][:2])
    message = (
        f"{_where(preferences)}: {count} prompts hold the same words as another one, such as {first!r} and {second!r}; "
        "if they ask the same, give them one `group`, or test prompts are learned from"
    )
    return [DataIssue("prompts that say the same", False, message, count)]


def _where(preferences: Preferences) -> str:
    return preferences.origin.describe([], 0)
