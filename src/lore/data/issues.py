"""Issues with rows of a source, and where these rows are."""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NewType

RowRef = NewType("RowRef", int)


@dataclass(frozen=True)
class DataIssue:
    """Something that `lore check` says about a file.

    Attributes:
        kind: a few words, the same for all issues of a kind.
        fatal: whether `lore train` refuses the file for it.
        message: what is wrong, where, and what to do: one sentence.
        count: how many rows it concerns.
    """

    kind: str
    fatal: bool
    message: str
    count: int


class IssueLog:
    """Collects what is wrong with single rows, a few refs of each kind."""

    _EXAMPLES = 5

    def __init__(self, origin: "SourceLocations", *, skip_bad: bool = False) -> None:
        """Begin without faults.

        Args:
            origin: where rows are.
            skip_bad: whether a row with a fault is left out instead of all being refused.
        """
        self.origin, self._skip_bad = origin, skip_bad
        self._refs: dict[tuple[str, bool, str], list[RowRef]] = {}
        self._counts: dict[tuple[str, bool, str], int] = {}
        self._last: dict[tuple[str, bool, str], RowRef] = {}

    def add(self, kind: str, row_ref: RowRef, remedy: str, fatal: bool = True) -> None:
        """Note that the row at `row_ref` has a fault of this kind."""
        if fatal and self._skip_bad:
            fatal, remedy = False, "it is left out"
        key = (kind, fatal, remedy)
        if self._last.get(key) == row_ref:  # several values of one row
            return
        self._last[key] = row_ref
        self._counts[key] = self._counts.get(key, 0) + 1
        refs = self._refs.setdefault(key, [])
        if len(refs) < self._EXAMPLES:
            refs.append(row_ref)

    def __iter__(self) -> Iterator[DataIssue]:
        """Yield the kinds of fault in the order of their first rows."""
        for (kind, fatal, remedy), refs in sorted(self._refs.items(), key=lambda noted: noted[1][0]):
            count = self._counts[kind, fatal, remedy]
            yield DataIssue(kind, fatal, f"{self.origin.describe(refs, count)}: {kind}; {remedy}", count)


class SourceLocations:
    """The locations of rows: files, and the line or row in each."""

    def __init__(self) -> None:
        self.files: list[str] = []
        self.unit: list[str] = []
        self._file, self._number = array("i"), array("q")

    def open(self, name: str, unit: str) -> None:
        """Begin a file, whose rows are counted in this unit ("line" or "row")."""
        self.files.append(name)
        self.unit.append(unit)

    def add_row(self, number: int) -> RowRef:
        """Note the next row; `number` counts from 1."""
        self._file.append(len(self.files) - 1)
        self._number.append(number)
        return RowRef(len(self._number) - 1)

    def add_rows(self, rows: int) -> RowRef:
        """Note the next `rows` rows, which follow the last one of a file without a gap; the place of the first."""
        first = RowRef(len(self._number))
        number = self._number[-1] if first and self._file[-1] == len(self.files) - 1 else 0
        self._file.extend([len(self.files) - 1] * rows)
        self._number.extend(range(number + 1, number + rows + 1))
        return first

    def __len__(self) -> int:
        return len(self._number)

    def describe(self, refs: Sequence[RowRef], count: int) -> str:
        """Return a text such as `data.jsonl, lines 7, 9 and 12 more`."""
        if not refs:
            return ", ".join(self.files)
        file = self._file[refs[0]]
        numbers = [str(self._number[ref]) for ref in refs if self._file[ref] == file]
        more = count - len(numbers)
        listed = ", ".join(numbers) + (f" and {more} more" if more else "")
        return f"{self.files[file]}, {self.unit[file]}{'s' if count > 1 else ''} {listed}"
