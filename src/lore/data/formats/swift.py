"""ms-swift's rows: `messages` that end with the chosen response, and `rejected_response` (or `rejected_messages`)."""

from collections.abc import Iterator
from typing import Any

from lore.data.formats.rows import Row

SIGNS = (frozenset({"messages", "rejected_response"}), frozenset({"messages", "rejected_messages"}))


def rows(row: Row) -> Iterator[dict[str, Any]]:
    """Yield the row as a comparison."""
    (messages,), record = row.taken("messages")
    if not isinstance(messages, list) or not messages:
        raise row.fail("`messages` is not a list of chat messages", "end it with the chosen response")
    if record.get("rejected_response") is None and "rejected_messages" in record:
        yield record | {"chosen": messages, "rejected": record.pop("rejected_messages")}
        return
    rejected = row.required("rejected_response")
    record.pop("rejected_response")
    rejected = rejected if isinstance(rejected, list) else [{"role": "assistant", "content": rejected}]
    yield record | {"prompt": messages[:-1], "chosen": messages[-1:], "rejected": rejected}
