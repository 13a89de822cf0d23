"""Messages of a conversation: a role and a content each; one parser of them, and one hash of a conversation."""

import json
import unicodedata
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any

Message = tuple[str, str]  # role and content
Messages = tuple[Message, ...]
Content = Messages | str  # a text alone is one message of the expected role: user in a prompt, assistant in a response

ROLES = frozenset({"system", "user", "assistant", "tool", "developer"})


class MessageFault(Exception):  # noqa: N818 - who parses makes an error of it that names the place
    """A fault of a value that should be a text or chat messages.

    Attributes:
        kind: what is wrong with which field.
        remedy: what to do about it.
    """

    def __init__(self, kind: str, remedy: str) -> None:
        super().__init__(kind)
        self.kind, self.remedy = kind, remedy


def parse_messages(name: str, value: Any, role: str, check_text: Callable[[str, Any], str]) -> Messages:
    """Return a text as one message of `role`, or a list of chat messages as it is.

    Args:
        name: of the field, for messages.
        value: a text, or a list of mappings with `role` and `content`.
        role: of a text alone.
        check_text: returns the text of a field if it can be used, and raises otherwise.

    Raises:
        MessageFault: it is neither.
    """
    if not isinstance(value, list | tuple):
        return ((role, check_text(name, value)),)
    if not value:
        raise MessageFault(f"`{name}` is an empty list of messages", "drop the row, or use an empty text")
    return tuple(_parse_message(name, message, check_text) for message in value)


def _parse_message(name: str, message: Any, check_text: Callable[[str, Any], str]) -> Message:
    if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
        raise MessageFault(
            f"`{name}` is a list, but not of chat messages",
            'write a text, or messages {"role": ..., "content": ...}',
        )
    if not isinstance(message["role"], str) or message["role"] not in ROLES:
        raise MessageFault(f"unknown role {message['role']!r} in `{name}`", f"use {', '.join(sorted(ROLES))}")
    return message["role"], check_text(f"{name}.content", message["content"])


def text_of(messages: Messages) -> str:
    """Return the contents of messages, without their roles."""
    return messages[0][1] if len(messages) == 1 else "\n".join(content for _, content in messages)


def folded(text: str) -> str:
    """Return a text without differences of case, white space and Unicode form (NFKC)."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def compact_messages(messages: Messages, role: str) -> Content:
    """Return the text alone of a single message of `role`, and other messages as they are."""
    return messages[0][1] if len(messages) == 1 and messages[0][0] == role else messages


def as_messages(content: Content, role: str) -> Messages:
    """Undo `compact_messages`: a text alone is one message of `role`."""
    return ((role, content),) if isinstance(content, str) else content


def as_json(messages: Messages) -> list[dict[str, str]]:
    """Return messages as JSON values."""
    return [{"role": role, "content": content} for role, content in messages]


def conversation_key(prompt: Messages, response: Messages) -> bytes:
    """Return 16 bytes that stand for a conversation, the same on every machine."""
    text = json.dumps([prompt, response], ensure_ascii=True, separators=(",", ":"))
    return blake2b(text.encode("ascii"), digest_size=16).digest()
