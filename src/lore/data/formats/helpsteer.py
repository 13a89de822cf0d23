"""HelpSteer 1 to 3 (NVIDIA): responses with a helpfulness, and pairs with a strength of preference.

A strength is negative where the first response is better; HelpSteer3 has up to three annotators a row, without ids.
"""

from collections.abc import Iterator
from typing import Any

from lore.data.formats.rows import Row

SIGNS = (
    frozenset({"response_1", "response_2", "preference_strength"}),
    frozenset({"context", "response1", "response2", "overall_preference"}),
    frozenset({"prompt", "response", "helpfulness", "correctness"}),
)
_SIDES = (("response_1", "response_2", "preference_strength"), ("response1", "response2", "overall_preference"))


def rows(row: Row) -> Iterator[dict[str, Any]]:
    """Yield the row as one of `pairwise`, or of `ratings` by helpfulness."""
    if "helpfulness" in row.record:
        (rating,), record = row.taken("helpfulness")
        yield record | {"rating": rating}
        return
    first, second, strength = _SIDES["response1" in row.record]
    preference = row.number(strength, None, -3, 3)
    (left, right), record = row.taken(first, second)
    winner = "tie" if preference == 0 else "left" if preference < 0 else "right"
    prompt = {"prompt": record.pop("context")} if "context" in record else {}
    yield record | prompt | {"left": left, "right": right, "winner": winner}
