"""Stanford Human Preferences: two comments on a post, and which was voted up more."""

from collections.abc import Iterator
from typing import Any

from lore.data.formats.rows import Row

SIGNS = (frozenset({"history", "human_ref_A", "human_ref_B", "labels"}),)


def rows(row: Row) -> Iterator[dict[str, Any]]:
    """Yield the row as one of `pairwise`."""
    (prompt, left, right), record = row.taken("history", "human_ref_A", "human_ref_B")
    label = row.number("labels", None, 0, 1)
    record.setdefault("group", record.get("post_id"))
    winner = "tie" if label == 1 / 2 else "left" if label > 1 / 2 else "right"
    yield record | {"prompt": prompt, "left": left, "right": right, "winner": winner}
