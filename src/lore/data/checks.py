"""Checks of a table of preferences, before any work is spent on it."""

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from lore.data.habits import habits
from lore.data.issues import DataIssue, RowRef
from lore.data.languages import language_of
from lore.data.leaks import form_leaks
from lore.data.lookalikes import ids_of_nothing, lookalike_ids, near_duplicate_prompts, users_who_are_one
from lore.data.messages import text_of
from lore.data.preferences import ALL_USERS, Integers, Preferences
from lore.data.table import json_columns

_PROMPTS = frozenset(
    {"question", "query", "instruction", "input", "context", "message", "post", "text", "task", "title"}
)
_LANGUAGE_SAMPLE = 5_000  # comparisons whose languages are told
_GROUPS = 3  # one to test, and two of which one is held out to choose by


@dataclass(frozen=True)
class Counts:
    """Counts of what is in a table.

    Attributes:
        users: distinct ids.
        comparisons: rows of the table, or ratings.
        ratings: whether `comparisons` counts ratings.
        prompts: distinct prompts.
        responses: distinct response texts.
        conversations: distinct prompts with response: what will be embedded.
        groups: what may not be split over train and test.
        per_user: minimum, quartiles and maximum of comparisons a user.
        empty_responses: conversations whose response is empty.
        longer_chosen: share of comparisons in which the longer response was chosen, ties one half.
        disagreement: share of pairs of users, over pairs of rows that both judged, who chose differently; None
            where no two users judged the same pair.
    """

    users: int
    comparisons: int
    ratings: bool
    prompts: int
    responses: int
    conversations: int
    groups: int
    per_user: list[float]
    empty_responses: int
    longer_chosen: float | None
    disagreement: float | None


@dataclass(frozen=True)
class CheckReport:
    """The result of `lore check`: counts, and issues with the fatal ones first."""

    counts: Counts
    issues: list[DataIssue]

    @property
    def fatal(self) -> list[DataIssue]:
        """Issues for which `lore train` refuses the data."""
        return [issue for issue in self.issues if issue.fatal]

    def to_json(self) -> dict[str, object]:
        """Return counts and issues as JSON values."""
        return {"counts": asdict(self.counts), "issues": [asdict(issue) for issue in self.issues]}


def check(preferences: Preferences, row_issues: Sequence[DataIssue] = (), *, to_split: bool = False) -> CheckReport:
    """Count what is in a table and find what is wrong with it.

    Args:
        preferences: from `lore.load` or `lore.data.load_with_issues`.
        row_issues: those that were found while it was read.
        to_split: whether it must do for a split into seen and unseen users and groups, as `lore train` makes it.
    """
    if not len(preferences) and any(issue.fatal for issue in row_issues):
        return CheckReport(_counts(preferences), sorted(row_issues, key=lambda issue: not issue.fatal))
    counts = _counts(preferences)
    issues = [*row_issues, *(_too_few(preferences) if to_split else [])]
    # In the order of what they may do to the result: what gives answers away, what is no taste, what counts twice.
    if preferences.ratings is None:
        issues += form_leaks(preferences)
    issues += near_duplicate_prompts(preferences)
    issues += lookalike_ids(preferences)
    issues += ids_of_nothing(preferences)
    if preferences.ratings is None:
        issues += users_who_are_one(preferences, counts.disagreement)
        issues += habits(preferences)
        issues += _mixed_languages(preferences)
        issues += _pair_issues(preferences)
    else:
        issues += _rating_issues(preferences)
    issues += _common_issues(preferences, counts)
    return CheckReport(counts, sorted(issues, key=lambda issue: not issue.fatal))


def _too_few(preferences: Preferences) -> list[DataIssue]:
    """Return what is missing for a split, and for a choice by held-out groups of its training part."""
    ratings = preferences.ratings
    users = len(np.unique(preferences.user if ratings is None else ratings.user))
    groups = len(np.unique(preferences.row_group))
    missing = []
    if users < 2 and preferences.users != [ALL_USERS]:
        missing.append(("too few users", f"for a split ({users} of 2); add some, or train with `unseen=0`"))
    if groups < _GROUPS:
        way = ', or train with `split_by="user"`' if groups > 1 else ""
        missing.append(
            ("too few groups (prompts)", f"to learn, choose and test ({groups} of {_GROUPS}); add some{way}")
        )
        if not any(preferences.prompts):
            missing[-1] = ("no prompts:", f"all is one group; {_prompt_remedy(preferences)}")
    if ratings is None and len(preferences) and not _usable(preferences).any():
        missing.append(
            ("no usable comparison:", "in every row `chosen` equals `rejected`, or `weight` is 0; give others")
        )
    where = preferences.origin.describe([], 0)
    return [DataIssue(kind, True, f"{where}: {kind} {remedy}", 1) for kind, remedy in missing]


def _prompt_remedy(preferences: Preferences) -> str:
    """Return which column may be the prompt, and what to do if there is none."""
    texts = [name for name, values in preferences.extra.items() if sum(isinstance(one, str) for one in values) > 1]
    likely = [name for name in texts if name.strip().lower() in _PROMPTS]
    likely += difflib.get_close_matches("prompt", texts, n=1)
    columns = ", ".join(f"`{name}`" for name in preferences.extra) or "none beside"
    named = f': `columns={{"prompt": "{likely[0]}"}}`' if likely else f" (columns: {columns})"
    return f"name the column of the prompt{named}, or give a `group` column of what belongs together"


def _usable(preferences: Preferences) -> Integers:
    """Which comparisons can be learned from."""
    return (preferences.chosen != preferences.rejected) & (preferences.weight > 0)


def _counts(preferences: Preferences) -> Counts:
    ratings = preferences.ratings
    user = preferences.user if ratings is None else ratings.user
    per_user = np.bincount(user, minlength=len(preferences.users)) if len(user) else np.zeros(1)
    return Counts(
        users=len(preferences.users),
        comparisons=len(preferences),
        ratings=ratings is not None,
        prompts=len(preferences.prompts),
        responses=len(preferences.responses),
        conversations=preferences.rows,
        groups=len(np.unique(preferences.row_group)),
        per_user=np.quantile(per_user, [0, 0.25, 0.5, 0.75, 1]).tolist(),
        empty_responses=_empty_responses(preferences),
        longer_chosen=_longer_chosen(preferences),
        disagreement=_disagreement(preferences) if ratings is None else _rating_disagreement(preferences),
    )


def _empty_responses(preferences: Preferences) -> int:
    """Return the number of conversations whose response is empty."""
    empties = (not text_of(turns).strip() for turns in preferences.responses)
    empty = np.fromiter(empties, dtype=bool, count=len(preferences.responses))
    return int(empty[preferences.row_response].sum())


def _longer_chosen(preferences: Preferences) -> float | None:
    if preferences.ratings is not None or len(preferences) == 0:
        return None
    length = preferences.response_lengths[preferences.row_response]
    difference = length[preferences.chosen] - length[preferences.rejected]
    return float(np.mean(1 + np.sign(difference) * np.sign(preferences.label - 0.5)) / 2)


def _disagreement(preferences: Preferences) -> float | None:
    """Sum of ab over that of (a+b choose 2), over pairs of rows with a users on one side and b on the other.

    Who has said both, or neither, is on no side.
    """
    users = np.int64(len(preferences.users))
    low = np.minimum(preferences.chosen, preferences.rejected)
    high = np.maximum(preferences.chosen, preferences.rejected)
    _, pair = np.unique(low * np.int64(preferences.rows) + high, return_inverse=True)
    prefers_low = (preferences.chosen == low) == (preferences.label > 0.5)
    choices = np.unique((2 * (pair * users + preferences.user) + prefers_low)[preferences.label != 0.5])  # sorted
    chose_both = np.flatnonzero(choices[1:] // 2 == choices[:-1] // 2)
    choices = np.delete(choices, np.concatenate([chose_both, chose_both + 1]))
    pair, prefers_low = choices // 2 // users, choices % 2
    counts = np.bincount(pair)
    first = np.bincount(pair, weights=prefers_low)
    second = counts - first
    possible = (counts * (counts - 1) / 2).sum()
    return float((first * second).sum() / possible) if possible else None


def _rating_disagreement(preferences: Preferences) -> float | None:
    """Return the disagreement over pairs of rows that two users both ordered strictly, of the 400 most rated rows."""
    ratings = preferences.ratings
    assert ratings is not None  # noqa: S101 - for the type checker; the caller has looked
    rated = np.bincount(ratings.row, minlength=preferences.rows)
    rows = np.argsort(-rated, kind="stable")[:400]
    position = np.full(preferences.rows, -1)
    position[rows] = np.arange(len(rows))
    mask = position[ratings.row] >= 0
    table = np.full((len(preferences.users), len(rows)), np.nan, dtype=np.float32)
    table[ratings.user[mask], position[ratings.row[mask]]] = ratings.rating[mask]
    above = np.stack([(table[:, [item]] > table).sum(axis=0, dtype=np.int64) for item in range(len(rows))])
    first, second = (side[np.triu_indices(len(rows), 1)] for side in (above, above.T))
    possible = ((first + second) * (first + second - 1) / 2).sum()
    return float((first * second).sum() / possible) if possible else None


def _note(preferences: Preferences, kind: str, places: Integers, remedy: str, fatal: bool = False) -> list[DataIssue]:
    places = np.unique(places)
    if len(places) == 0:
        return []
    where = preferences.origin.describe([RowRef(ref) for ref in places[:5]], len(places))
    return [DataIssue(kind, fatal, f"{where}: {kind}; {remedy}", len(places))]


def _pair_issues(preferences: Preferences) -> list[DataIssue]:
    """Equal sides, duplicates, and users who chose both ways."""
    if len(preferences) == 0:
        return []
    user, (chosen, rejected) = preferences.user, preferences.preferred()
    equal = preferences.row_ref[chosen == rejected]
    order = np.lexsort((rejected, chosen, user))
    table = np.stack([user, chosen, rejected], axis=1)[order]
    repeated = np.flatnonzero((table[1:] == table[:-1]).all(axis=1))
    low, high = np.minimum(chosen, rejected), np.maximum(chosen, rejected)
    unordered = np.lexsort((chosen, high, low, user))
    keys = np.stack([user, low, high, chosen], axis=1)[unordered]
    same_pair = (keys[1:, :3] == keys[:-1, :3]).all(axis=1)
    both = np.flatnonzero(same_pair & (keys[1:, 3] != keys[:-1, 3]))
    return [
        *_without_prompt(preferences),
        *_note(preferences, "chosen and rejected are equal", np.sort(equal), "they are left out of the pairs"),
        *_note(
            preferences,
            "exact duplicates of another row",
            np.sort(preferences.row_ref[order[repeated + 1]]),
            "each of them counts",
        ),
        *_note(
            preferences,
            "a user chose both ways",
            np.sort(preferences.row_ref[unordered[both + 1]]),
            "both choices count",
        ),
    ]


def _without_prompt(preferences: Preferences) -> list[DataIssue]:
    """Comparisons without a prompt among others that have one: they are one group."""
    is_empty = np.array([not text_of(prompt).strip() for prompt in preferences.prompts], dtype=bool)
    if is_empty.all():
        return []
    rows = is_empty[preferences.row_prompt[preferences.chosen]]
    return _note(preferences, "no prompt", preferences.row_ref[rows], "such rows are one group; give them theirs")


def _rating_issues(preferences: Preferences) -> list[DataIssue]:
    ratings = preferences.ratings
    assert ratings is not None  # noqa: S101 - for the type checker; the caller has looked
    order = np.lexsort((ratings.row, ratings.user))
    user, row = ratings.user[order], ratings.row[order]
    repeated = order[np.flatnonzero((user[1:] == user[:-1]) & (row[1:] == row[:-1])) + 1]
    low, high = np.full(len(preferences.users), np.inf), np.full(len(preferences.users), -np.inf)
    np.minimum.at(low, ratings.user, ratings.rating)
    np.maximum.at(high, ratings.user, ratings.rating)
    issues = _note(
        preferences, "a user rated the same item again", ratings.row_ref[np.sort(repeated)], "each rating counts"
    )
    if constant := int((low == high).sum()):
        message = f"{constant} users gave one rating to everything; they have no strict preference and are kept"
        issues.append(DataIssue("users without a strict preference", False, message, constant))
    return issues


def _mixed_languages(preferences: Preferences) -> list[DataIssue]:
    """Comparisons of responses in different languages or scripts: a model may learn the language."""
    shown = np.linspace(0, len(preferences) - 1, min(len(preferences), _LANGUAGE_SAMPLE)).astype(np.int64)
    sides = np.stack([preferences.chosen[shown], preferences.rejected[shown]], axis=1)
    responses = preferences.row_response[sides]
    languages = {
        number: language_of(text_of(preferences.responses[number])) for number in np.unique(responses).tolist()
    }
    languages_of_sides = [(languages[first], languages[second]) for first, second in responses.tolist()]
    mixed = np.array([None not in pair and pair[0] != pair[1] for pair in languages_of_sides], dtype=bool)
    remedy = f"a model may learn the language (looked for in {len(shown):,} comparisons)"
    return _note(preferences, "responses in different languages", preferences.row_ref[shown[mixed]], remedy)


def _common_issues(preferences: Preferences, counts: Counts) -> list[DataIssue]:
    ratings = preferences.ratings
    user = preferences.user if ratings is None else ratings.user
    issues = []
    if names := json_columns(preferences):
        listed = ", ".join(f"`{name}`" for name in names)
        message = f"{len(names)} columns that LoRe does not read are kept as JSON texts ({listed})"
        issues.append(DataIssue("columns kept as JSON texts", False, message, len(names)))
    if few := int((np.bincount(user, minlength=len(preferences.users)) < 2).sum()):
        message = f"{few} users have fewer than two comparisons; they are kept, and take part where they can"
        issues.append(DataIssue("users with fewer than two comparisons", False, message, few))
    if empty := counts.empty_responses:
        message = f"{empty} conversations have an empty response; they are kept"
        issues.append(DataIssue("empty responses", False, message, empty))
    return issues
