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
        if kind not in _TEXT_PARTS:
            raise MessageFault(
                f"`{name}` holds a part of kind `{kind}`", "only text is embedded: leave such rows out, or the part"
            )
        texts.append(check_text(f"{name}.content", part.get("text") if isinstance(part, Mapping) else part))
    return "\n".join(texts)


def _calls(message: Mapping[str, Any]) -> list[Any]:
    """Return the tool calls of a message, in today's form or in the one of a single function."""
    calls = message.get("tool_calls")
    if calls is None and isinstance(message.get("function_call"), Mapping):
        return [{"type": "function", "function": message["function_call"]}]
    return list(calls) if isinstance(calls, list | tuple | np.ndarray) else []


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
        if not turns or turns[-1]["role"] != "assistant":
            turns.append({"role": "assistant", "content": ""})
        if with_calls and (calls := _parsed_calls(content)):
            turns[-1]["tool_calls"] = calls
        else:
            turns[-1]["content"] = f"{turns[-1]['content']}\n{content}".lstrip("\n")
    return turns


def _parsed_calls(text: str) -> list[Any]:
    try:
        calls = json.loads(text)
    except (ValueError, RecursionError):
        return []
    return calls if isinstance(calls, list) and all(isinstance(call, dict) for call in calls) else []


def conversation_of(prompt: Messages, response: Messages) -> tuple[Messages, Messages]:
    """Return a prompt with a response to it that does not repeat it."""
    if not prompt:
        return prompt, response
    beginning, [answer] = without_prompt(prompt, [response])
    return as_messages(beginning, "user"), as_messages(answer, "assistant")


def without_prompt(prompt: Content, sides: Sequence[Content]) -> tuple[Content, list[Content]]:
    """Return a prompt, and responses to it that do not repeat it.

    What all sides begin with is the prompt where none is given (an implicit one), or where it begins or ends with the
    prompt that is given. The last message of a side is always its own; of a single side, all after the user's last.
    """
    turns = [side for side in sides if not isinstance(side, str)]
    if len(turns) < len(sides):
        return prompt, list(sides)
    shared = 0
    while shared < min(map(len, turns)) - 1 and len({side[shared] for side in turns}) == 1:
        shared += 1
    if len(turns) == 1:
        shared = max((turn + 1 for turn, (role, _) in enumerate(turns[0][:shared]) if role == "user"), default=0)
    beginning, explicit = turns[0][:shared], as_messages(prompt, "user")
    if explicit and explicit not in (beginning[: len(explicit)], beginning[-len(explicit) :]):
        return prompt, list(sides)
    return beginning, [side[shared:] for side in turns]


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
