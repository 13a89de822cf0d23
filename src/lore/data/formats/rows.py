"""One field of one record: what is allowed in it, and what is said when it is something else."""

import math
import re
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from lore.data.issues import IssueLog, RowRef
from lore.data.messages import Content, MessageFault, compact_messages, parse_messages

Record = Mapping[str, Any]

MAX_CHARACTERS = 1_000_000  # of a text
_UNUSABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
_IDENTIFIERS = (str, int)


class SkipRow(Exception):  # noqa: N818 - not an error: it ends one row, quietly
    """This row cannot be used; the reason has been noted. Never leaves `lore.data.formats`."""


class Row:
    """A record at its place; every getter notes what is wrong before it gives up on the row."""

    __slots__ = ("_checked", "_issues", "record", "row_ref")

    def __init__(self, row_ref: RowRef, record: Record, issues: IssueLog, checked: set[str] | None = None) -> None:
        self.row_ref, self.record, self._issues = row_ref, record, issues
        self._checked = set() if checked is None else checked  # texts that other rows held: each is looked at once

    def fail(self, kind: str, remedy: str) -> SkipRow:
        """Note a fault and return the exception to raise."""
        self._issues.add(kind, self.row_ref, remedy)
        return SkipRow()

    def warn(self, kind: str, remedy: str) -> None:
        """Note something that does not keep the row from being used."""
        self._issues.add(kind, self.row_ref, remedy, fatal=False)

    def required(self, name: str) -> Any:
        """Return the value of a field that must be there and must not be null."""
        if name not in self.record:
            raise self.fail(f"missing field `{name}`", _remedy(name))
        if self.record[name] is None:
            raise self.fail(f"null in `{name}`", "fill it in or drop the row")
        return self.record[name]

    def text(self, name: str) -> str:
        """Return a required string."""
        return self.checked_text(name, self.required(name))

    def checked_text(self, name: str, value: Any) -> str:
        """`value` if it is a usable text."""
        if type(value) is str and value in self._checked:
            return value
        if not isinstance(value, str):
            raise self.fail(f"`{name}` is a {_kind(value)} where a text belongs", "store the text itself")
        if len(value) > MAX_CHARACTERS:
            raise self.fail(f"`{name}` is longer than {MAX_CHARACTERS:,} characters", "shorten it or drop the row")
        if _UNUSABLE.search(value):
            raise self.fail(f"`{name}` holds control characters or half a surrogate pair", "clean the text")
        self._checked.add(value)
        return value

    def identifier(self, name: str) -> str:
        """Return a required id: a string that is not blank, or a whole number."""
        value = self.required(name)
        if not isinstance(value, _IDENTIFIERS) or isinstance(value, bool):
            raise self.fail(f"`{name}` is a {_kind(value)} where an id belongs", "use a string or a whole number")
        if not str(value).strip():
            raise self.fail(f"empty `{name}`", "fill it in or drop the row")
        return self.checked_text(name, str(value))

    def number(self, name: str, default: float | None, low: float, high: float) -> float:
        """Return a finite number within bounds; `default` where the field is absent or null, unless that is None."""
        value = self.record.get(name)
        if value is None and default is not None:
            return default
        value = self.required(name)
        try:
            number = float(value) if not isinstance(value, bool) else math.nan
        except (TypeError, ValueError):
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
        if not isinstance(value, list | tuple):
            return self.checked_text(name, value)
        try:
            return compact_messages(parse_messages(name, value, role, self.checked_text), role)
        except MessageFault as fault:
            raise self.fail(fault.kind, fault.remedy) from None

    def prompt(self) -> Content:
        """Return the prompt as messages or a text; `()` if there is none, or an empty one."""
        if self.record.get("prompt") is None or self.record["prompt"] in ("", [], ()):
            return ()
        return self.messages("prompt", "user")

    def group(self) -> str | None:
        """Return the explicit group, or None."""
        return self.identifier("group") if self.record.get("group") is not None else None

    def extra(self, read: frozenset[str]) -> dict[str, Any]:
        """Return the columns that are not in `read`."""
        if self.record.keys() <= read:
            return {}
        return {name: value for name, value in self.record.items() if name not in read}


class ComparisonIds:
    """Remembers ids, to find one that stands for two contents."""

    def __init__(self) -> None:
        self._contents: dict[str, bytes] = {}

    def check(self, row: Row, content: str) -> str | None:
        """Return the `comparison_id` of a row, None where it has none.

        Raises:
            SkipRow: a row before had the same one and another content.
        """
        if row.record.get("comparison_id") is None:
            return None
        comparison_id = row.identifier("comparison_id")
        digest = blake2b(content.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        if self._contents.setdefault(comparison_id, digest) != digest:
            raise row.fail("`comparison_id` stands for another comparison before", "give each comparison its own id")
        return comparison_id


_MAPPED = frozenset({"user_id", "prompt", "chosen", "rejected"})


def _remedy(name: str) -> str:
    return "add it, or name its column with `columns`" if name in _MAPPED else "add it"


def _kind(value: Any) -> str:
    names = {list: "list", dict: "JSON object", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), type(value).__name__)
