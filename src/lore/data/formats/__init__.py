"""Raw files to `Preferences`: one module a format, each of which parses and does nothing else."""

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, get_args

from lore.data.builder import PreferencesBuilder
from lore.data.formats import columnar, comparisons, judgements, personalllm, prism, rating_folder, tldr
from lore.data.formats.files import read_records
from lore.data.formats.names import FormatName
from lore.data.formats.rows import Row, SkipRow
from lore.data.issues import DataIssue, IssueLog, SourceLocations
from lore.data.preferences import Preferences
from lore.errors import ConfigError, DataError

# The columns by which a format is known, most telling first.
_SIGNS: dict[FormatName, frozenset[str]] = {
    "tldr": frozenset({"worker", "summaries", "choice"}),
    "comparisons": frozenset({"chosen", "rejected"}),
    "unpaired": frozenset({"completion", "label"}),
    "ranked": frozenset({"responses"}),
    "ratings": frozenset({"response", "rating"}),
    "personalllm": frozenset({"prompt", "response_1", "response_2"}),
}
_FOLDERS: dict[FormatName, Callable[[Path, PreferencesBuilder, IssueLog], None]] = {
    "ratings": rating_folder.parse_folder,
    "prism": prism.parse_folder,
}


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
    columns: Mapping[str, str] | None = None,
) -> Preferences:
    """Read comparisons from a file, a folder, or a `datasets.Dataset`.

    Args:
        source: a `.jsonl`, `.csv` or `.parquet` file, a folder of such files in one format, a folder with
            `items.jsonl` and `ratings.csv`, or an iterable of dictionaries.
        format: forces a format instead of finding it from the columns.
        columns: which column of the source holds a field, such as `{"user_id": "worker"}`.

    Raises:
        DataError: the source cannot be read, or a row of it cannot be used; the message names file and row.
    """
    loaded = load_with_issues(source, format=format, columns=columns)
    fatal = [finding for finding in loaded.issues if finding.fatal]
    if fatal:
        others = f" (and {len(fatal) - 1} more kinds of fault: run `lore check`)" if len(fatal) > 1 else ""
        raise DataError(fatal[0].message + others)
    return loaded.preferences


def load_with_issues(
    source: Any,
    *,
    format: FormatName | None = None,  # noqa: A002 - the public name
    columns: Mapping[str, str] | None = None,
) -> LoadResult:
    """Like `load`, but collects what is wrong with single rows instead of raising.

    Raises:
        ConfigError: `format` is unknown.
        DataError: the source as a whole cannot be read, or is empty.
    """
    if format is not None and format not in get_args(FormatName):
        raise ConfigError(f"`format` must be one of {', '.join(get_args(FormatName))}, got {format!r}")
    with _uncollected():
        plain_comparisons = _read_columns(source, format, columns)
    if plain_comparisons is not None:
        return LoadResult(plain_comparisons, [], "comparisons")
    builder = PreferencesBuilder(SourceLocations())
    issues = IssueLog(builder.origin)
    recognized = _folder_format(source, format)
    with _uncollected():
        if recognized is not None:
            _FOLDERS[recognized](Path(source), builder, issues)
        else:
            recognized = _read_rows(source, format, columns or {}, builder, issues)
    noted = list(issues)
    preferences = builder.build()
    if len(preferences) == 0 and not any(finding.fatal for finding in noted):
        raise DataError(f"{_name(source)}: holds no comparison; give at least one row")
    return LoadResult(preferences, noted, recognized)


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
    if names >= rating_folder.FILES and format_name in (None, "ratings"):
        return "ratings"
    if names & prism.FILES:
        if "conversations.jsonl" not in names:
            raise DataError(f"{source}: PRISM without conversations.jsonl; put the file beside the others")
        return "prism"
    return None


def _read_columns(source: Any, format_name: FormatName | None, columns: Mapping[str, str] | None) -> Preferences | None:
    """Read a file of plain comparisons a column at a time; None if it must be read row by row."""
    if columns or format_name not in (None, "comparisons") or not isinstance(source, str | Path):
        return None
    path, builder = Path(source), PreferencesBuilder(SourceLocations())
    plainly = path.is_file() and path.suffix.lower() in columnar.SUFFIXES and columnar.parse_file(path, builder)
    return builder.build() if plainly else None


def _read_rows(
    source: Any,
    format_name: FormatName | None,
    columns: Mapping[str, str],
    builder: PreferencesBuilder,
    issues: IssueLog,
) -> FormatName | None:
    """Read rows into a builder; return their format, None if there is none that could be read."""
    records = read_records(source, builder.origin, issues)
    first = next(records, None)
    if first is None:
        if any(issues):
            return None
        raise DataError(f"{_name(source)}: is empty; give at least one row")
    names = _renamed(first[1], columns, source)
    format_name = format_name or _recognize(names, source)
    parse = _parser(format_name, builder)
    checked: set[str] = set()
    for row_ref, record in chain([first], records):
        try:
            parse(Row(row_ref, _renamed(record, columns, source) if columns else record, issues, checked))
        except SkipRow:
            continue
    return format_name


def _renamed(record: dict[str, Any], columns: Mapping[str, str], source: Any) -> dict[str, Any]:
    """Return the record with the mapped columns under the names of our fields."""
    missing = [column for column in columns.values() if column not in record]
    if missing:
        raise DataError(f"{_name(source)}: no column {missing[0]!r}; name one of {', '.join(map(str, record))}")
    taken = {name: value for name, value in record.items() if name not in columns.values()}
    return taken | {field: record[column] for field, column in columns.items()}


def _recognize(names: Mapping[str, Any], source: Any) -> FormatName:
    for name, signs in _SIGNS.items():
        if signs <= names.keys():
            return name
    listed = ", ".join(map(str, names)) or "none"
    raise DataError(
        f"{_name(source)}: columns not understood ({listed}); needed are user_id with chosen and rejected, completion "
        "and label, responses, or response and rating (map other names with `columns`)"
    )


def _parser(format_name: FormatName, builder: PreferencesBuilder) -> Callable[[Row], None]:
    if format_name == "comparisons":
        return comparisons.Parser(builder).parse
    if format_name == "ranked":
        return judgements.RankedParser(builder).parse
    if format_name == "prism":
        raise DataError("PRISM is read from its folder; pass the folder that holds conversations.jsonl")
    parse = {
        "unpaired": judgements.parse_unpaired,
        "ratings": judgements.parse_rating,
        "personalllm": personalllm.parse,
        "tldr": tldr.parse,
    }[format_name]
    return lambda row: parse(row, builder)


def _name(source: Any) -> str:
    return str(source) if isinstance(source, str | Path) else type(source).__name__
