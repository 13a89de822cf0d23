"""PKU-SafeRLHF: two responses, of which one is called better and one safer; the better one counts."""

from collections.abc import Iterator
from typing import Any

from lore.data.formats.rows import Row

SIGNS = (frozenset({"response_0", "response_1", "better_response_id"}),)


def rows(row: Row) -> Iterator[dict[str, Any]]:
    """Yield the row as one of `pairwise`."""
    (left, right), record = row.taken("response_0", "response_1")
    better = row.number("better_response_id", None, 0, 1)
    if better not in (0, 1):
        raise row.fail("`better_response_id` is not 0 or 1", "use the published rows")
    yield record | {"left": left, "right": right, "winner": "right" if better else "left"}
