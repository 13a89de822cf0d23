"""OpenAI's preference rows for DPO, as other services take them, too: `input`, and a preferred output."""

from collections.abc import Iterator
from typing import Any

from lore.data.formats.rows import Row

SIGNS = (frozenset({"input", "preferred_output", "non_preferred_output"}),)


def rows(row: Row) -> Iterator[dict[str, Any]]:
    """Yield the row as a comparison; it names no user by itself."""
    (chosen, rejected, _), record = row.taken("preferred_output", "non_preferred_output", "input")
    request, sides = row.mapping("input"), {"chosen": chosen, "rejected": rejected}
    if "messages" not in request:
        raise row.fail("`input` has no `messages`", 'write {"messages": [...]}')
    tools = {"tools": request["tools"]} if request.get("tools") else {}
    yield record | {"prompt": request["messages"]} | sides | tools
