"""Doubles in a table: ids that look alike, users who are one, prompts that say the same."""

import math
import re
import unicodedata
from collections import defaultdict

import numpy as np

from lore.data.issues import DataIssue
from lore.data.messages import folded, text_of
from lore.data.preferences import Preferences

_EXAMPLES = 3
_WORDS = re.compile(r"\w+")
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


def users_who_are_one(preferences: Preferences, disagreement: float | None) -> list[DataIssue]:
    """Users who judged the same pairs and never differed, where that is too much for chance.

    Two users who judge n pairs agree in all of them with a probability of about `(1 - disagreement) ** n`.

    Args:
        preferences: comparisons.
        disagreement: share of pairs of users who chose differently.
    """
    if not disagreement or disagreement >= 1:
        return []
    users = len(preferences.users)
    enough = math.log(_BY_CHANCE / max(users * (users - 1) / 2, 1)) / math.log(1 - disagreement)
    low = np.minimum(preferences.chosen, preferences.rejected)
    choice = np.stack([low, np.maximum(preferences.chosen, preferences.rejected), preferences.chosen == low], axis=1)
    order = np.lexsort((*choice.T[::-1], preferences.user))
    starts = np.flatnonzero(np.diff(preferences.user[order], prepend=-1))
    alike: dict[bytes, list[str]] = defaultdict(list)
    for begin, end in zip(starts.tolist(), [*starts[1:].tolist(), len(order)], strict=True):
        choices = np.unique(choice[order[begin:end]], axis=0) if end - begin >= enough else np.zeros(0)
        if len(choices) >= enough:
            alike[choices.tobytes()].append(preferences.users[preferences.user[order[begin]]])
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
    """Prompts of different groups that hold the same words: what is learned on one is tested on the other."""
    groups = np.full(len(preferences.prompts), -1, dtype=np.int64)
    groups[preferences.row_prompt] = preferences.row_group
    by_words: dict[int, list[int]] = defaultdict(list)
    for number, prompt in enumerate(preferences.prompts):
        words = frozenset(_WORDS.findall(text_of(prompt).casefold())) if prompt else frozenset()
        if words:
            by_words[hash(words)].append(number)
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
