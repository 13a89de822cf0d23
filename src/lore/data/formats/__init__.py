"""Raw files to `Preferences`: one module a format, each of which parses and does nothing else."""

import difflib
import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from lore.data.builder import PreferencesBuilder
from lore.data.formats import columnar
from lore.data.formats.files import UTF_8
from lore.data.formats.names import FORMATS, FormatName
from lore.data.formats.readers import Record, is_untyped, read_records
from lore.data.formats.registry import FOLDERS, Export, export_of, judgement_of, parsers
from lore.data.formats.rows import Row, RowContext, SkipRow
from lore.data.formats.turn_texts import SAMPLE, turn_readers
from lore.data.issues import DataIssue, IssueLog, SourceLocations
from lore.data.preferences import ALL_USERS, Preferences
from lore.data.table import is_table, load_table
from lore.errors import ConfigError, DataError

Columns = Mapping[str, str | None]

_RATED = frozenset({"ratings", "unpaired"})
_FIELDS = ("user_id", "prompt", "chosen", "rejected", "completion", "response", "rating", "label")
_WINNERS = ("winner", "choice", "preference", "selected")  # columns that say which of two sides won


@dataclass(frozen=True)
class LoadResult:
    """A table that was read from a source.

    Attributes:
        preferences: the table.
        issues: with single rows of the source.
        format: that it was read as; None if there is none, as of a simulation.
    """

    preferences: Preferences
    issues: list[DataIssue]
    format: FormatName | None = None


def load(
    source: Any,
    *,
    format: FormatName | None = None,  # noqa: A002 - the public name
    columns: Columns | None = None,
    encoding: str | None = None,
    skip_bad: bool = False,
) -> Preferences:
    """Read comparisons from a file, a folder, a data frame or a `datasets.Dataset`.

    Args:
        source: a file (JSON, CSV, Parquet or Arrow, also packed), a folder of such files in one format, a folder with
            `items.jsonl` and `ratings.csv`, a data frame, or an iterable of dictionaries.
        format: forces a format instead of finding it from the columns.
        columns: which column of the source holds a field, such as `{"user_id": "worker"}`, or a value inside an object
            (`"metadata.user_id"`); `{"user_id": None}` where no user is named: all rows are of one.
        encoding: of text files; UTF-8 by default.
        skip_bad: leave out rows that cannot be used instead of refusing all.

    Raises:
        DataError: the source cannot be read, or a row of it cannot be used; the message names file and row.
    """
    loaded = load_with_issues(source, format=format, columns=columns, encoding=encoding, skip_bad=skip_bad)
    fatal = [finding for finding in loaded.issues if finding.fatal]
    if fatal:
        others = f" (and {len(fatal) - 1} more kinds of fault: run `lore check`)" if len(fatal) > 1 else ""
        raise DataError(fatal[0].message + others)
    return loaded.preferences


def load_with_issues(
    source: Any,
    *,
    format: FormatName | None = None,  # noqa: A002 - the public name
    columns: Columns | None = None,
    encoding: str | None = None,
    skip_bad: bool = False,
) -> LoadResult:
    """Like `load`, but collects what is wrong with single rows instead of raising.

    Raises:
        ConfigError: `format` or `encoding` is unknown.
        DataError: the source as a whole cannot be read, or is empty.
    """
    if format is not None and format not in FORMATS:
        raise ConfigError(f"`format` must be one of {', '.join(FORMATS)}, got {format!r}")
    _require_encoding(encoding)
    if not columns and isinstance(source, str | Path) and is_table(Path(source)):
        table = load_table(Path(source))
        stored: FormatName = "comparisons" if table.ratings is None else "ratings"
        if format in (None, stored):
            return LoadResult(table, [], stored)
    with _uncollected():
        plain_comparisons = _read_columns(source, format, columns) if encoding is None else None
    if plain_comparisons is not None:
        return LoadResult(plain_comparisons, [], "comparisons")
    builder = PreferencesBuilder(SourceLocations())
    issues = IssueLog(builder.origin, skip_bad=skip_bad)
    with _uncollected():
        recognized = _folder_format(source, format)
        if recognized is not None:
            FOLDERS[recognized][1](Path(source), builder, RowContext(issues, untyped=True))
        else:
            recognized = _RowReader(source, columns or {}, builder, issues).read(format, encoding or UTF_8)
    noted = list(issues)
    preferences = builder.build()
    if len(preferences) == 0 and not any(finding.fatal for finding in noted):
        reason = f" ({noted[0].message})" if noted else ""
        raise DataError(f"{_name(source)}: holds no comparison{reason}; give at least one row")
    return LoadResult(preferences, noted, recognized)


def _require_encoding(encoding: str | None) -> None:
    try:
        "".encode(encoding or UTF_8)
    except (LookupError, ValueError):
        raise ConfigError(f"`encoding` must be one that Python knows, such as latin-1, got {encoding!r}") from None


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection: what is read lives to the end, and walking it again and again takes half of the time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _folder_format(source: Any, format_name: FormatName | None) -> FormatName | None:
    if not isinstance(source, str | Path) or not Path(source).is_dir():
        return None
    names = {file.name for file in Path(source).iterdir()}
    if names >= FOLDERS["ratings"][0] and format_name in (None, "ratings"):
        return "ratings"
    if names & FOLDERS["prism"][0]:
        if "conversations.jsonl" not in names:
            raise DataError(f"{source}: PRISM without conversations.jsonl; put the file beside the others")
        return "prism"
    return None


def _read_columns(source: Any, format_name: FormatName | None, columns: Columns | None) -> Preferences | None:
    """Read a file of plain comparisons a column at a time; None if it must be read row by row."""
    if columns or format_name not in (None, "comparisons") or not isinstance(source, str | Path):
        return None
    path, builder = Path(source), PreferencesBuilder(SourceLocations())
    plainly = path.is_file() and path.suffix.lower() in columnar.SUFFIXES and columnar.parse_file(path, builder)
    return builder.build() if plainly else None


class _RowReader:
    """Reads a source row by row into a builder."""

    def __init__(self, source: Any, columns: Columns, builder: PreferencesBuilder, issues: IssueLog) -> None:
        self._source, self._columns = source, columns
        self._builder, self._issues = builder, issues

    def read(self, format_name: FormatName | None, encoding: str) -> FormatName | None:
        """Add all rows; return their format, None if there is none that could be read."""
        records = read_records(self._source, self._builder.origin, self._issues, encoding)
        sample = list(islice(records, SAMPLE))
        if not sample:
            if any(self._issues):
                return None
            raise DataError(f"{_name(self._source)}: is empty; give at least one row")
        if format_name == "prism":
            raise DataError("PRISM is read from its folder; pass the folder that holds conversations.jsonl")
        names = dict.fromkeys(name for _, record in sample for name in record)
        self._refuse_half_mapped(names)
        mapped = {name: None for name in names if name not in self._columns.values()} | dict.fromkeys(self._columns)
        export = self._export(format_name, names)
        quiet = IssueLog(self._builder.origin)
        seen = [row.record for row in self._rows(sample, export, RowContext(quiet))]
        self._require_columns(seen, names)
        if export is None and format_name is None:
            format_name = judgement_of(mapped)
            if format_name is None:
                raise DataError(_not_understood(self._source, names))
        self._refuse_names_of_columns(seen, names)
        context = RowContext(self._issues, is_untyped(self._source), turn_readers(seen))
        parse = parsers(self._builder)
        rated = _mostly_rated(seen) if export is not None else None
        for row in self._rows(chain(sample, records), export, context):
            judgement = judgement_of(row.record) if export is not None else format_name
            try:
                if judgement is None:
                    raise _unjudged(row)
                if rated is not None and (judgement in _RATED) is not rated:
                    kinds = ("comparisons", "ratings or thumbs")
                    row.warn(f"{kinds[not rated]} where most rows are {kinds[rated]}", "they are left out")
                    continue
                parse[judgement](row)
            except SkipRow:
                continue
        return format_name if export is None else export[0]

    def _export(self, format_name: FormatName | None, names: Mapping[str, Any]) -> tuple[FormatName, Export] | None:
        """Return the export format; None where the columns of plain judgements are named."""
        export = export_of(format_name, names)
        if export is None or format_name is not None:
            return export
        sides = {"chosen", "rejected"} | ({"left", "right"} if export[0] == "arena" else set())
        return None if sides & self._columns.keys() else export

    def _rows(
        self, records: Iterable[Record], export: tuple[FormatName, Export] | None, context: RowContext
    ) -> Iterator[Row]:
        """Yield rows of judgements, with the columns under the names of our fields."""
        for row_ref, record in records:
            row = Row(row_ref, record, context)
            try:
                judgements = [record] if export is None else list(export[1](row))
            except SkipRow:
                continue
            for one in judgements:
                yield row.with_record(self._renamed(one, record) if self._columns else one)

    def _renamed(self, record: Mapping[str, Any], raw: Mapping[str, Any]) -> dict[str, Any]:
        """Return the record with the mapped columns as our fields; some may stand in the raw record only."""
        renamed = {
            name: value
            for name, value in record.items()
            if name not in self._columns.values() and name not in self._columns
        }
        for field, column in self._columns.items():
            if column is None:
                renamed[field] = ALL_USERS
            elif (value := _value(record, column)) is not _ABSENT or (value := _value(raw, column)) is not _ABSENT:
                renamed[field] = value
        for side in ("left", "right"):
            if side in self._columns and renamed.get("winner") == self._columns[side]:
                renamed["winner"] = side
        return renamed

    def _refuse_half_mapped(self, names: Mapping[str, Any]) -> None:
        """Refuse a mapping of the two sides that ignores which of them won."""
        if not {"chosen", "rejected"} & self._columns.keys():
            return
        for winner in _WINNERS:
            if winner in names and winner not in self._columns.values():
                raise DataError(
                    f"{_name(self._source)}: column {winner!r} seems to say which side won, and would not be read; "
                    'name the sides `columns={"left": ...}` and `columns={"right": ...}` and it '
                    f'`columns={{"winner": "{winner}"}}` instead, or drop the column'
                )

    def _refuse_names_of_columns(self, records: Sequence[Mapping[str, Any]], names: Mapping[str, Any]) -> None:
        """Refuse sides that are names of other columns, and a winner that contradicts them."""
        if {"left", "right"} & self._columns.keys():
            return
        for side in ("chosen", "rejected"):
            values = [value for record in records if isinstance(value := record.get(side), str) and value]
            if values and all(value in names for value in values):
                raise DataError(
                    f"{_name(self._source)}: `{side}` holds names of columns, such as {values[0]!r}, instead of texts; "
                    'name the sides `columns={"left": ...}`, `columns={"right": ...}` and the '
                    'winner `columns={"winner": "chosen"}`'
                )
        if any(record.get("winner") == "rejected" for record in records if "chosen" in record):
            raise DataError(
                f"{_name(self._source)}: `winner` is 'rejected' in some rows, against what `chosen` says; "
                'name the sides `columns={"left": "chosen"}` and `columns={"right": "rejected"}`'
            )

    def _require_columns(self, records: Sequence[Mapping[str, Any]], names: Mapping[str, Any]) -> None:
        for field, column in self._columns.items():
            if column is not None and records and not any(field in record for record in records):
                likely = _likely(column, names)
                raise DataError(
                    f"{_name(self._source)}: no column {column!r}{likely}; name one of {', '.join(map(str, names))}"
                )


_ABSENT = object()


def _mostly_rated(records: Sequence[Mapping[str, Any]]) -> bool:
    """Return True if more rows are ratings or thumbs than are comparisons."""
    kinds = [judgement_of(record) for record in records]
    return sum(kind in _RATED for kind in kinds) > sum(kind is not None and kind not in _RATED for kind in kinds)


def _value(record: Mapping[str, Any], column: str) -> Any:
    """Return the value of a column, or of a path with dots into objects; `_ABSENT` if there is none."""
    value: Any = record
    if column in record:
        return record[column]
    for key in column.split("."):
        if not isinstance(value, Mapping) or key not in value:
            return _ABSENT
        value = value[key]
    return value


def _unjudged(row: Row) -> SkipRow:
    names = ", ".join(map(str, row.record))
    return row.fail(
        f"the columns ({names}) hold no judgement that is read", 'name them, such as `columns={"left": ...}`'
    )


def _likely(column: str, names: Iterable[Any]) -> str:
    close = difflib.get_close_matches(column, [str(name) for name in names], n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _not_understood(source: Any, names: Mapping[str, Any]) -> str:
    listed = ", ".join(map(str, names)) or "none"
    if "conversation_history" in names:
        return f"{_name(source)}: PRISM's conversations; pass the folder that holds the file"
    close = {field: _likely(field, names) for field in _FIELDS if field not in names}
    meant = [f"{field}{likely}" for field, likely in close.items() if likely]
    missing = f"; not there: {', '.join(meant)}" if meant else ""
    return (
        f"{_name(source)}: columns not understood ({listed}){missing}; needed are user_id with chosen and rejected, "
        "left, right and winner, completion and label, responses, or response and rating; name columns that are called "
        'otherwise, such as `columns={"user_id": ...}`'
    )


def _name(source: Any) -> str:
    return str(source) if isinstance(source, str | Path) else type(source).__name__
