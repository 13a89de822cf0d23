"""Messages of a conversation: a role and a content each; one parser of them, and one hash of a conversation."""

import json
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

Message = tuple[str, str]  # role and content
Messages = tuple[Message, ...]
Content = Messages | str  # a text alone is one message of the expected role: user in a prompt, assistant in a response
CheckText = Callable[[str, Any], str]

TOOL_CALLS = "tool_calls"  # role of a message of ours: the calls of the assistant's message before it, as JSON
ROLES = frozenset({"system", "user", "assistant", "tool", "developer", TOOL_CALLS})

_SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "system": "system",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
}
_SYSTEM = frozenset({"system", "developer"})
_ASKING = _SYSTEM | {"user"}
_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})


class MessageFault(Exception):  # noqa: N818 - who parses makes an error of it that names the place
    """A fault of a value that should be a text or chat messages.

    Attributes:
        kind: what is wrong with which field.
        remedy: what to do about it.
    """

    def __init__(self, kind: str, remedy: str) -> None:
        super().__init__(kind)
        self.kind, self.remedy = kind, remedy


def parse_messages(name: str, value: Any, role: str, check_text: CheckText) -> Messages:
    """Return a text as one message of `role`, or a list of chat messages as it is.

    Messages are `{"role": ..., "content": ...}`, or ShareGPT's `{"from": ..., "value": ...}`. A content may be a list
    of text parts, which become lines of one text. Calls of tools become a message of role `tool_calls`, with the calls
    as JSON: `for_template` gives them back to a chat template, all other encoders read the JSON.

    Args:
        name: of the field, for messages.
        value: a text, or a list of mappings with `role` and `content`.
        role: of a text alone.
        check_text: returns the text of a field if it can be used, and raises otherwise.

    Raises:
        MessageFault: it is neither.
    """
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping) and ("role" in value or "from" in value):
        value = [value]  # one message by itself
    if not isinstance(value, list | tuple):
        return ((role, check_text(name, value)),)
    if not value:
        raise MessageFault(f"`{name}` is an empty list of messages", "drop the row, or use an empty text")
    return tuple(message for entry in value for message in _parse_message(name, entry, check_text))


def _parse_message(name: str, message: Any, check_text: CheckText) -> Iterator[Message]:
    if isinstance(message, Mapping) and message.keys() >= {"from", "value"} and "role" not in message:
        role, content = _SHAREGPT_ROLES.get(str(message["from"]).lower(), message["from"]), message["value"]
    elif isinstance(message, Mapping) and "role" in message and ("content" in message or _calls(message)):
        role, content = message["role"], message.get("content")
    else:
        raise MessageFault(
            f"`{name}` is a list, but not of chat messages",
            'write a text, or messages {"role": ..., "content": ...}',
        )
    if not isinstance(role, str) or role not in ROLES:
        raise MessageFault(f"unknown role {role!r} in `{name}`", f"use {', '.join(sorted(ROLES))}")
    calls = _calls(message)
    if calls is None:
        raise MessageFault(f"`{name}.tool_calls` is not a list of calls", "write the list itself")
    if isinstance(content, list | tuple | np.ndarray):
        content = _joined_parts(name, list(content), check_text)
    if not (calls and content in (None, "")):
        yield role, check_text(f"{name}.content", content)
    if calls:
        try:
            text = json.dumps([_plain_call(call) for call in calls], ensure_ascii=False, sort_keys=True)
        except (TypeError, ValueError, RecursionError):
            raise MessageFault(f"`{name}.tool_calls` cannot be written as JSON", "correct it") from None
        yield TOOL_CALLS, check_text(f"{name}.tool_calls", text)


def _joined_parts(name: str, parts: Sequence[Any], check_text: CheckText) -> str:
    """Return the texts of a content that is a list of parts, one a line."""
    texts = []
    for part in parts:
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        if not isinstance(kind, str) or kind not in _TEXT_PARTS:
            raise MessageFault(
                f"`{name}` holds a part of kind `{kind}`", "only text is embedded: leave such rows out, or the part"
            )
        texts.append(check_text(f"{name}.content", part.get("text") if isinstance(part, Mapping) else part))
    return "\n".join(texts)


def _calls(message: Mapping[str, Any]) -> list[Any] | None:
    """Return the tool calls of a message, in today's form or in the one of a single function; None for other values."""
    calls = message.get("tool_calls")
    if calls is None and isinstance(message.get("function_call"), Mapping):
        return [{"type": "function", "function": message["function_call"]}]
    if isinstance(calls, str):
        return _parsed_calls(calls) if calls.strip() else []
    return list(calls) if isinstance(calls, list | tuple | np.ndarray) else None if calls else []


def _plain_call(call: Any) -> Any:
    """Return a call without its id, which is drawn by chance, and with its arguments parsed."""
    if not isinstance(call, Mapping):
        return call
    plain = {key: _plain_call(value) for key, value in call.items() if value is not None and key != "id"}
    if isinstance(plain.get("arguments"), str):
        try:
            plain["arguments"] = json.loads(plain["arguments"])
        except ValueError:
            return plain
    return plain


def for_template(messages: Messages, *, with_calls: bool) -> list[dict[str, Any]]:
    """Return messages as a chat template takes them.

    Args:
        messages: of a conversation.
        with_calls: whether the template knows `tool_calls`; else the assistant says the calls as JSON text.
    """
    turns: list[dict[str, Any]] = []
    for role, content in messages:
        if role != TOOL_CALLS:
            turns.append({"role": role, "content": content})
            continue
        if not turns or turns[-1]["role"] != "assistant" or "tool_calls" in turns[-1]:
            turns.append({"role": "assistant", "content": ""})
        if with_calls and (calls := _parsed_calls(content)):
            turns[-1]["tool_calls"] = calls
        else:
            turns[-1]["content"] = f"{turns[-1]['content']}\n{content}".lstrip("\n")
    return turns


def _parsed_calls(text: str) -> list[Any] | None:
    try:
        calls = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return calls if isinstance(calls, list) and all(isinstance(call, dict) for call in calls) else None


def conversation_of(prompt: Messages, response: Messages) -> tuple[Messages, Messages]:
    """Return a prompt with a response to it, as `without_prompt` tells them apart."""
    beginning, [answer] = without_prompt(prompt, [response])
    return as_messages(beginning, "user"), as_messages(answer, "assistant")


def without_prompt(prompt: Content, sides: Sequence[Content]) -> tuple[Content, list[Content]]:
    """Return a prompt, and responses to it that do not repeat it.

    A prompt that is given is taken off each side that begins with it, or with its end. Sides may have system messages
    before it, which then begin the prompt, if all have the same. What is asked at the beginning of all sides belongs to
    the prompt: up to the last message of a user or the system that they share. The last message of a side is its own.
    """
    if all(isinstance(side, str) for side in sides):
        return prompt, list(sides)
    explicit = as_messages(prompt, "user")
    stripped = [_without(explicit, as_messages(side, "assistant")) for side in sides]
    leads = {lead for lead, _ in stripped}
    if len(leads) > 1:
        return prompt, list(sides)
    turns = [rest for _, rest in stripped]
    shared = 0
    while shared < min(map(len, turns)) - 1 and len({side[shared] for side in turns}) == 1:
        shared += 1
    shared = max((turn + 1 for turn, (role, _) in enumerate(turns[0][:shared]) if role in _ASKING), default=0)
    return (*leads.pop(), *explicit, *turns[0][:shared]), [side[shared:] for side in turns]


def _without(prompt: Messages, side: Messages) -> tuple[Messages, Messages]:
    """Return what stands before the prompt in a side, and what stands after it: all of it if the prompt is not there.

    A prompt may begin earlier than the side: then the side begins with the end of the prompt.
    """
    for length in range(min(len(prompt), len(side) - 1), 0, -1):
        if _alike(prompt[-length:], side[:length]):
            return (), side[length:]
    system = 0
    while system < len(side) and side[system][0] in _SYSTEM:
        system += 1
    end = system + len(prompt)
    if prompt and system > 0 and end < len(side) and _alike(side[system:end], prompt):
        return side[:system], side[end:]
    return (), side


def _alike(first: Messages, second: Messages) -> bool:
    """Return True if messages differ in white space around their texts at most."""
    return all(
        role == other and content.strip() == text.strip()
        for (role, content), (other, text) in zip(first, second, strict=True)
    )


def text_of(messages: Messages) -> str:
    """Return the contents of messages, without their roles."""
    return messages[0][1] if len(messages) == 1 else "\n".join(content for _, content in messages)


def folded(text: str) -> str:
    """Return a text without differences of case, white space and Unicode form (NFKC)."""
    normal = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return " ".join(normal.casefold().split())


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
