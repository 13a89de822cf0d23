"""Open WebUI's feedback export: ratings of an answer, with the chat that it stands in.

A rated answer with siblings (other answers to the same message) is compared with them; one without is a single thumb.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from lore.data.formats.rows import Row

SIGNS = (frozenset({"user_id", "data", "meta", "snapshot"}),)


def rows(row: Row) -> Iterator[dict[str, Any]]:
    """Yield a comparison with every sibling, or a row of `unpaired`."""
    record = row.record
    data, meta = row.mapping("data"), row.mapping("meta")
    rating = str(data.get("rating")).removesuffix(".0")
    if rating not in ("1", "-1"):
        row.warn("feedback without a rating of 1 or -1", "it is left out")
        return
    messages = _messages(record.get("snapshot"))
    rated_id = str(meta.get("message_id"))
    rated = messages.get(rated_id)
    if rated is None:
        raise row.fail("the rated message is not in `snapshot`", "export the feedback with its chats")
    shared = {"user_id": row.required("user_id"), "group": meta.get("chat_id"), "timestamp": record.get("created_at")}
    shared |= {"prompt": _history(messages, str(rated.get("parentId"))), "model": data.get("model_id")}
    siblings = messages.get(str(rated.get("parentId")), {}).get("childrenIds")
    names = [str(one) for one in siblings] if isinstance(siblings, list) else []
    others = [messages[name] for name in names if name != rated_id and name in messages]
    for other in others:
        chosen, rejected = (rated, other) if rating == "1" else (other, rated)
        yield shared | {"chosen": chosen.get("content"), "rejected": rejected.get("content")}
    if not others:
        yield shared | {"completion": rated.get("content"), "label": rating == "1"}


def _messages(snapshot: Any) -> dict[str, Mapping[str, Any]]:
    """Return the messages of the chat in a snapshot, by id; it lies at one depth or two."""
    for key in ("chat", "chat", "history", "messages"):
        if isinstance(snapshot, Mapping) and key in snapshot:
            snapshot = snapshot[key]
    messages = snapshot.items() if isinstance(snapshot, Mapping) else ()
    return {str(name): message for name, message in messages if isinstance(message, Mapping)}


def _history(messages: Mapping[str, Mapping[str, Any]], last: str) -> list[dict[str, Any]]:
    """Return the turns from the first to one of them."""
    turns: list[dict[str, Any]] = []
    while last in messages and len(turns) < len(messages):
        turns.append({"role": messages[last].get("role"), "content": messages[last].get("content")})
        last = str(messages[last].get("parentId"))
    return turns[::-1]
