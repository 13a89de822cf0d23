"""One field of one record: what is allowed in it, and what is said when it is something else."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np

from lore.data.issues import IssueLog, RowRef
from lore.data.messages import (
    TOOL_CALLS,
    Content,
    MessageFault,
    as_messages,
    compact_messages,
    parse_messages,
    without_prompt,
)

Record = Mapping[str, Any]
ReadTurns = Callable[[str], "list[dict[str, Any]] | None"]

MAX_CHARACTERS = 1_000_000  # of a text
_UNUSABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_IDENTIFIERS = (str, int, float)
_MOST_BITS = 3_400
_EXACT = 2**53  # whole numbers beyond it are not exact as floats
_WHOLE = re.compile(r"-?\d+\.0+")
_EXPONENT = re.compile(r"-?\d\.\d+[eE]\+?\d+")
_USERS = re.compile(
    "user|annotator|labell?er|judge|worker|rater|visitor|reviewer|evaluator|participant|author|session|completed_by",
    re.IGNORECASE,
)


class SkipRow(Exception):  # noqa: N818 - not an error: it ends one row, quietly
    """This row cannot be used; the reason has been noted. Never leaves `lore.data.formats`."""


@dataclass
class RowContext:
    """Context that the rows of a source share.

    Attributes:
        issues: where faults are noted.
        untyped: whether all values are texts, as in CSV, so that a spreadsheet's `7.0` may have been 7.
        turns: readers of columns whose texts spell chat turns.
        checked: texts that other rows held: each is looked at once.
    """

    issues: IssueLog
    untyped: bool = False
    turns: Mapping[str, ReadTurns] = field(default_factory=dict)
    checked: set[str] = field(default_factory=set)


class Row:
    """A record at its place; every getter notes what is wrong before it gives up on the row."""

    __slots__ = ("_context", "record", "row_ref")

    def __init__(self, row_ref: RowRef, record: Record, context: RowContext) -> None:
        self.row_ref, self.record, self._context = row_ref, record, context

    def with_record(self, record: Record) -> "Row":
        """Return another record at the same place."""
        return Row(self.row_ref, record, self._context)

    def fail(self, kind: str, remedy: str) -> SkipRow:
        """Note a fault and return the exception to raise."""
        self._context.issues.add(kind, self.row_ref, remedy)
        return SkipRow()

    def warn(self, kind: str, remedy: str) -> None:
        """Note something that does not keep the row from being used."""
        self._context.issues.add(kind, self.row_ref, remedy, fatal=False)

    def required(self, name: str) -> Any:
        """Return the value of a field that must be there and must not be null."""
        if name not in self.record:
            raise self.fail(f"missing field `{name}`", self._remedy(name))
        if self.record[name] is None:
            raise self.fail(f"null in `{name}`", "fill it in or drop the row")
        return self.record[name]

    def optional(self, name: str) -> Any:
        """Return the value of a field, None where it is absent; an empty cell of CSV, which has no null, is absent."""
        value = self.record.get(name)
        return None if value == "" and self._context.untyped else value

    def taken(self, *names: str) -> tuple[list[Any], dict[str, Any]]:
        """Return the values of required fields, and the record without them."""
        values = [self.required(name) for name in names]
        return values, {name: value for name, value in self.record.items() if name not in names}

    def mapping(self, name: str) -> Mapping[str, Any]:
        """Return a required field that is an object."""
        value = self.required(name)
        if not isinstance(value, Mapping):
            raise self.fail(f"`{name}` is a {_kind(value)} where an object belongs", "correct it or drop the row")
        return value

    def mappings(self, name: str) -> list[Mapping[str, Any]]:
        """Return a required field that is a list of objects."""
        values = self.required(name)
        if not isinstance(values, list) or not all(isinstance(value, Mapping) for value in values):
            raise self.fail(f"`{name}` is not a list of objects", "correct it or drop the row")
        return values

    def _remedy(self, name: str) -> str:
        """Return how a field that is missing can be named."""
        if name != "user_id":
            return f'add it, or name its column: `columns={{"{name}": ...}}`'
        likely = [str(column) for column in self.record if _USERS.search(str(column))]
        named = f'"{likely[0]}"' if likely else "..."
        return (
            f'name its column: `columns={{"user_id": {named}}}`, or `columns={{"user_id": None}}` for one model of all'
        )

    def text(self, name: str) -> str:
        """Return a required string."""
        return self.checked_text(name, self.required(name))

    def checked_text(self, name: str, value: Any) -> str:
        """`value` if it is a usable text."""
        if type(value) is str and value in self._context.checked:
            return value
        if not isinstance(value, str):
            raise self.fail(f"`{name}` is a {_kind(value)} where a text belongs", "store the text itself")
        if len(value) > MAX_CHARACTERS:
            raise self.fail(f"`{name}` is longer than {MAX_CHARACTERS:,} characters", "shorten it or drop the row")
        if _UNUSABLE.search(value):
            raise self.fail(f"`{name}` holds control characters or half a surrogate pair", "clean the text")
        self._context.checked.add(value)
        return value

    def identifier(self, name: str) -> str:
        """Return a required id: a string that is not blank, or a whole number, be it stored as a float."""
        value = self.required(name)
        if not isinstance(value, _IDENTIFIERS) or isinstance(value, bool):
            raise self.fail(f"`{name}` is a {_kind(value)} where an id belongs", "use a string or a whole number")
        if isinstance(value, str) and self._context.untyped and _EXPONENT.fullmatch(value.strip()):
            value = float(value)
        if isinstance(value, float):
            if not value.is_integer():
                raise self.fail(f"`{name}` is a number with a fraction", "use a string or a whole number")
            if abs(value) > _EXACT:
                raise self.fail(
                    f"`{name}` is a number that was rounded, beyond {_EXACT:,}",
                    "write long ids as texts, from the source",
                )
            value = int(value)
        if isinstance(value, int) and value.bit_length() > _MOST_BITS:
            raise self.fail(f"`{name}` is a number of more than a thousand digits", "use a shorter id")
        if not str(value).strip():
            raise self.fail(f"empty `{name}`", "fill it in or drop the row")
        if isinstance(value, str) and self._context.untyped and _WHOLE.fullmatch(value):
            value = value.partition(".")[0]
        return self.checked_text(name, str(value))

    def number(self, name: str, default: float | None, low: float, high: float) -> float:
        """Return a finite number within bounds; `default` where the field is absent or null, unless that is None."""
        value = self.optional(name)
        if value is None and default is not None:
            return default
        value = self.required(name)
        try:
            number = float(value) if not isinstance(value, bool) else math.nan
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not math.isfinite(number) or not low <= number <= high:
            rule = f"a number from {low:g} to {high:g}" if math.isfinite(high) else "a finite number"
            rule += " that is not negative" if low == 0 and not math.isfinite(high) else ""
            raise self.fail(f"`{name}` is not {rule}", "correct it or drop the row")
        return number

    def messages(self, name: str, role: str) -> Content:
        """Return a required text or list of chat messages; a single message of `role` as its text alone."""
        return self.checked_messages(name, self.required(name), role)

    def checked_messages(self, name: str, value: Any, role: str) -> Content:
        """Return `value` if it is a usable text or list of chat messages."""
        if isinstance(value, str):
            value = self._turns_of(name, value)
        if isinstance(value, str):
            return self.checked_text(name, value)
        try:
            messages = parse_messages(name, value, role, self.checked_text)
        except MessageFault as fault:
            raise self.fail(fault.kind, fault.remedy) from None
        if any(speaker == TOOL_CALLS for speaker, _ in messages):
            self.warn("calls of tools", "they are read by the chat template if it knows them, else as JSON text")
        return compact_messages(messages, role)

    def _turns_of(self, name: str, text: str) -> Any:
        """Return the turns that a text spells if its column holds such texts, and else the text."""
        reader = self._context.turns.get(name)
        if reader is None:
            return text
        turns = reader(text)
        if turns is None:
            if text.strip():
                self.warn(f"`{name}` is a plain text where other rows spell chat turns", "it is read as a text")
            return text
        self.warn(f"`{name}` is a text that spells chat turns", "it is read as turns")
        if name == "prompt" and turns and turns[-1] == {"role": "assistant", "content": ""}:
            turns = turns[:-1]  # where the response follows
        return turns or ""

    def prompt(self) -> Content:
        """Return the prompt as messages or a text; `()` if there is none, or an empty one."""
        value = self.record.get("prompt")
        if value is None or (isinstance(value, str | list | tuple | np.ndarray) and len(value) == 0):
            return ()
        return self.messages("prompt", "user") or ()

    def conversation(self, sides: Sequence[Content]) -> tuple[Content, list[Content]]:
        """Return the prompt, and responses that do not repeat it."""
        explicit = self.prompt()
        if all(isinstance(side, str) for side in sides):
            return explicit, list(sides)
        prompt, answers = without_prompt(explicit, sides)
        whole, rest = ([as_messages(side, "assistant") for side in both] for both in (sides, answers))
        if explicit != () and whole != rest:
            self.warn("the responses begin with the prompt", "it is read once")
        for end, position in (("begins", 0), ("ends", -1)):
            if any(not isinstance(side, str) and side[position][0] == "user" for side in answers):
                self.warn(f"a response {end} with a user's turn", "it is read as part of the response")
        return prompt, [side if isinstance(side, str) else compact_messages(side, "assistant") for side in answers]

    def group(self) -> str | None:
        """Return the explicit group, or None."""
        return self.identifier("group") if self.optional("group") is not None else None

    def extra(self, read: frozenset[str]) -> dict[str, Any]:
        """Return the columns that are not in `read`."""
        if self.record.keys() <= read:
            return {}
        extra = {name: value for name, value in self.record.items() if name not in read}
        return {name: value for name, value in extra.items() if value != ""} if self._context.untyped else extra


class ComparisonIds:
    """Remembers ids, to find one that stands for two contents."""

    def __init__(self) -> None:
        self._contents: dict[str, bytes] = {}

    def check(self, row: Row, content: str) -> str | None:
        """Return the `comparison_id` of a row, None where it has none.

        Raises:
            SkipRow: a row before had the same one and another content.
        """
        if row.optional("comparison_id") is None:
            return None
        comparison_id = row.identifier("comparison_id")
        digest = blake2b(content.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        if self._contents.setdefault(comparison_id, digest) != digest:
            raise row.fail("`comparison_id` stands for another comparison before", "give each comparison its own id")
        return comparison_id


def _kind(value: Any) -> str:
    names = {type(None): "null", list: "list", dict: "JSON object", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), type(value).__name__)
