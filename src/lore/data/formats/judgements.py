"""Rows in which a user judges single responses: thumbs, ranked lists, ratings in one table."""

import json
from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from lore.data.builder import PreferencesBuilder
from lore.data.formats.rows import ComparisonIds, Row

_THUMB = frozenset({"user_id", "prompt", "completion", "label", "group"})
_RANKED = frozenset({"user_id", "prompt", "responses", "group", "weight"})
_RATED = frozenset({"user_id", "prompt", "response", "rating", "group"})
_SCORES = frozenset({"scores", "ratings", "rewards"})
_RANKS = frozenset({"ranks", "ranking"})
_BEST = frozenset({"winner", "choice", "best", "best_index", "chosen_index"})
_TRUE_FALSE = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False}


def parse_unpaired(row: Row, builder: PreferencesBuilder) -> None:
    """TRL's unpaired row: `completion` and a boolean `label`; liked ones are set against disliked ones."""
    user, label = row.identifier("user_id"), row.required("label")
    if isinstance(label, str):
        label = _TRUE_FALSE.get(label.strip().lower(), label)
    if label not in (True, False):  # 1 and 0 are equal to them
        raise row.fail("`label` is not true or false", "use true for a liked and false for a disliked completion")
    _rate(row, builder, user, "completion", float(label))
    builder.keep(row.extra(_THUMB))


class RankedParser:
    """Adds lists of `responses`, best first, to a builder: every earlier one is chosen over every later one."""

    def __init__(self, builder: PreferencesBuilder) -> None:
        self._builder, self._ids = builder, ComparisonIds()

    def parse(self, row: Row) -> None:
        """Add the comparisons of one list; their ids are that of the list, and the two places.

        Raises:
            SkipRow: the row cannot be used.
        """
        user, group, builder = row.identifier("user_id"), row.group(), self._builder
        weight = row.number("weight", 1.0, 0, float("inf"))
        responses = _as_list(row.required("responses"))
        if not isinstance(responses, list | tuple | np.ndarray) or len(responses) < 2:
            raise row.fail("`responses` is not a list of two or more", "list the responses, the best first")
        _require_order(row, len(responses))
        prompt, turns = row.conversation(
            [row.checked_messages("responses", response, "assistant") for response in responses]
        )
        listed = self._ids.check(row, repr((user, prompt, turns)))
        rows = [builder.row(prompt, response, group) for response in turns]
        extra = row.extra(_RANKED)
        for better, worse in combinations(range(len(rows)), 2):
            builder.compare(user, rows[better], rows[worse], row.row_ref, weight=weight)
            builder.keep(extra if listed is None else extra | {"comparison_id": f"{listed}/{better}-{worse}"})


def _as_list(responses: Any) -> Any:
    """Return the list that a text spells, as in CSV."""
    if isinstance(responses, str) and responses.lstrip().startswith("["):
        try:
            return json.loads(responses)
        except (ValueError, RecursionError):
            return responses
    return responses


def _require_order(row: Row, count: int) -> None:
    """Refuse a list whose scores or ranks say another order than the best first."""
    for names, sign in ((_SCORES, 1), (_RANKS, -1)):
        for name in names & row.record.keys():
            values = row.record[name]
            numbers = [value for value in values if isinstance(value, int | float)] if isinstance(values, list) else []
            if len(numbers) == count and any(sign * first < sign * second for first, second in pairwise(numbers)):
                raise row.fail(f"`{name}` say another order than that of `responses`", "sort them, the best first")
    for name in _BEST & row.record.keys():
        if row.record[name] not in (None, 0):
            raise row.fail(f"`{name}` beside `responses`, which are read as the best first", "sort them, and drop it")


def by_rank(row: Row, ranks: Sequence[float], responses: Sequence[Any]) -> Iterator[dict[str, Any]]:
    """Yield a list of responses, the best first, as a row of `ranked`; those of one rank are not compared."""
    order = sorted(range(len(ranks)), key=ranks.__getitem__)
    if len(set(ranks)) == len(ranks):
        yield {"responses": [responses[number] for number in order]}
        return
    row.warn("responses of one rank", "they are not compared with each other")
    for better, worse in combinations(order, 2):
        if ranks[better] < ranks[worse]:
            yield {"chosen": responses[better], "rejected": responses[worse]}


def parse_rating(row: Row, builder: PreferencesBuilder) -> None:
    """One rating of one response, higher is better."""
    user, rating = row.identifier("user_id"), row.number("rating", None, -float("inf"), float("inf"))
    _rate(row, builder, user, "response", rating)
    builder.keep(row.extra(_RATED))


def _rate(row: Row, builder: PreferencesBuilder, user: str, name: str, rating: float) -> None:
    prompt, (response,) = row.conversation([row.messages(name, "assistant")])
    group = row.group()
    if row.number("weight", 1.0, 0, float("inf")) != 1:
        row.warn("a rating's `weight` is not used", "drop the column, or give comparisons, whose weights count")
    builder.rate(user, builder.row(prompt, response, group), rating, row.row_ref)
