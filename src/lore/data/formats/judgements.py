"""Rows in which a user judges single responses: thumbs, ranked lists, ratings in one table."""

from itertools import combinations

import numpy as np

from lore.data.builder import PreferencesBuilder
from lore.data.formats.rows import ComparisonIds, Row

_THUMB = frozenset({"user_id", "prompt", "completion", "label", "group"})
_RANKED = frozenset({"user_id", "prompt", "responses", "group", "weight"})
_RATED = frozenset({"user_id", "prompt", "response", "rating", "group"})
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
        responses = row.required("responses")
        if not isinstance(responses, list | tuple | np.ndarray) or len(responses) < 2:
            raise row.fail("`responses` is not a list of two or more", "list the responses, the best first")
        prompt, turns = row.conversation(
            [row.checked_messages("responses", response, "assistant") for response in responses]
        )
        listed = self._ids.check(row, repr((user, prompt, turns)))
        rows = [builder.row(prompt, response, group) for response in turns]
        extra = row.extra(_RANKED)
        for better, worse in combinations(range(len(rows)), 2):
            builder.compare(user, rows[better], rows[worse], row.row_ref, weight=weight)
            builder.keep(extra if listed is None else extra | {"comparison_id": f"{listed}/{better}-{worse}"})


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
