"""Rows of files and of tables in memory, one record after another, each with where it is."""

import csv
import json
import re
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from lore.data.formats.files import UTF_8, SourceFile, source_files
from lore.data.issues import IssueLog, RowRef, SourceLocations
from lore.errors import DataError, first_line

Record = tuple[RowRef, dict[str, Any]]
_Reader = Callable[[SourceFile, SourceLocations, IssueLog, str], Iterator[Record]]

_DELIMITERS = ",;\t|"
_TEXTS = ("prompt", "chosen", "rejected", "completion", "response", "user_id")
_EXCEL = re.compile(r'"?sep=(.)"?')  # a first line that Excel writes
_QUOTED = re.compile(r'"[^"]*"')
_BESIDE = 3  # plain values beside the rows of a document: a version, a name, a count
_TURN = frozenset({"role", "from"})
_FIELDS = frozenset(  # of one row
    {*_TEXTS, "group", "question", "instruction", "history", "conversation_id", "responses", "answers", "messages"}
)


def read_records(source: Any, origin: SourceLocations, issues: IssueLog, encoding: str = UTF_8) -> Iterator[Record]:
    """Yield the rows of a file, of a folder of files in one format, or of a table in memory, with where they are.

    Args:
        source: a path, a data frame, a `datasets.Dataset`, or an iterable of dictionaries.
        origin: is told where rows are.
        issues: is told of rows that cannot be read.
        encoding: of text files.

    Raises:
        DataError: the file is missing, is not readable, or is in no format that is known.
    """
    if not isinstance(source, str | Path):
        yield from _from_table(source, origin)
        return
    for file in source_files(Path(source)):
        try:
            yield from _READERS[file.kind](file, origin, issues, encoding)
        except UnicodeDecodeError:
            raise DataError(file.undecodable(encoding)) from None
        except UnicodeError as error:
            raise DataError(f"{file.name}: not {encoding} ({first_line(error)}); name its `encoding`") from None
        except (OSError, zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or first_line(error)
            raise DataError(f"{file.name}: cannot be read ({reason}); check the path and its rights") from None


def is_untyped(source: Any) -> bool:
    """Return True if all values of a source are texts, as in CSV."""
    if not isinstance(source, str | Path):
        return False
    return all(file.kind in (".csv", ".tsv") for file in source_files(Path(source)))


# --- JSON ---------------------------------------------------------------------------------------------------------


def _from_json(file: SourceFile, origin: SourceLocations, issues: IssueLog, encoding: str) -> Iterator[Record]:
    """Rows of JSON lines, of one list, or of one object that holds a list of rows under one key."""
    with file.open_text(encoding) as lines:
        first = next((line for line in lines if line.strip()), "")
        second = next((line for line in lines if line.strip()), "")
    if _is_whole(first, second):
        with file.open_text(encoding) as text:
            rows = _rows_of_document(text.read())
        if rows is not None:
            yield from _from_list(file, rows, origin, issues)
            return
    yield from _from_lines(file, origin, issues, encoding)


def _is_whole(first: str, second: str) -> bool:
    """Return True if a file that begins with these lines may be one JSON document."""
    try:
        record = json.loads(first)
    except (ValueError, RecursionError):
        return first.lstrip()[:1] in ("[", "{")
    return not second and (isinstance(record, list) or _only_list(record) is not None)


def _rows_of_document(text: str) -> list[Any] | None:
    """Return the rows of a JSON document; None if it is none that holds any."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(document, list):
        return document
    rows = _only_list(document)
    return [document] if rows is None and isinstance(document, dict) else rows


def _only_list(document: Any) -> list[Any] | None:
    """Return the rows of an object that holds one list of objects, and beside it nothing but plain values."""
    if not isinstance(document, dict):
        return None
    lists = [value for value in document.values() if isinstance(value, list | dict) and value]
    if len(lists) != 1 or not isinstance(lists[0], list) or len(document) - 1 > _BESIDE or _FIELDS & document.keys():
        return None
    return lists[0] if all(isinstance(row, dict) and not _TURN & row.keys() for row in lists[0]) else None


def _from_list(file: SourceFile, rows: list[Any], origin: SourceLocations, issues: IssueLog) -> Iterator[Record]:
    origin.open(file.name, "item")
    for number, record in enumerate(rows, start=1):
        row_ref = origin.add_row(number)
        if isinstance(record, dict):
            yield row_ref, record
        else:
            issues.add("not a JSON object", row_ref, 'write objects, such as {"user_id": ...}')


def _from_lines(file: SourceFile, origin: SourceLocations, issues: IssueLog, encoding: str) -> Iterator[Record]:
    origin.open(file.name, "line")
    with file.open_text(encoding) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            row_ref = origin.add_row(number)
            try:
                record = json.loads(line)
            except (ValueError, RecursionError):
                issues.add("broken JSON", row_ref, "write one JSON object a line, or one list of them")
                continue
            if not isinstance(record, dict):
                issues.add("not a JSON object", row_ref, 'write one JSON object a line, such as {"user_id": ...}')
                continue
            yield row_ref, record


# --- tables -------------------------------------------------------------------------------------------------------


def _from_csv(file: SourceFile, origin: SourceLocations, issues: IssueLog, encoding: str) -> Iterator[Record]:
    origin.open(file.name, "line")
    csv.field_size_limit(sys.maxsize)
    with file.open_text(encoding) as lines:
        delimiter = _delimiter(file, encoding)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            header = next((cells for cells in reader if any(cells) and not _EXCEL.fullmatch(delimiter.join(cells))), [])
            names = [name.strip() for name in header]
            if repeated := sorted({name for name in names if name and names.count(name) > 1}):
                raise DataError(f"{file.name}: column {repeated[0]!r} stands twice; give each its own name")
            for cells in reader:
                if not cells:
                    continue
                row_ref = origin.add_row(reader.line_num)
                if len(cells) != len(names):
                    issues.add(
                        f"{len(cells)} fields where the header has {len(names)}",
                        row_ref,
                        "quote fields that hold commas or line breaks",
                    )
                    continue
                record = dict(zip(names, cells, strict=True))
                record.pop("", None)  # what a spreadsheet leaves behind the last column
                yield row_ref, record
        except csv.Error as error:
            raise DataError(
                f"{file.name}, line {reader.line_num}: not valid CSV ({error}); quote fields that hold commas or line "
                "breaks"
            ) from None


def _delimiter(file: SourceFile, encoding: str) -> str:
    """Return what stands most often between the names of the header."""
    if file.kind == ".tsv":
        return "\t"
    with file.open_text(encoding) as lines:
        header = next((line for line in lines if line.strip()), "")
    if excel := _EXCEL.fullmatch(header.strip()):
        return excel[1]
    return max(_DELIMITERS, key=_QUOTED.sub("", header).count)


def _from_parquet(file: SourceFile, origin: SourceLocations, issues: IssueLog, encoding: str) -> Iterator[Record]:
    del issues, encoding  # a Parquet file is readable as a whole, or not at all
    origin.open(file.name, "row")
    try:
        with file.open_bytes() as content:
            source = content if content.seekable() else pa.BufferReader(content.read())
            yield from _numbered(pq.ParquetFile(source).iter_batches(), origin)
    except pa.ArrowException as error:
        raise DataError(f"{file.name}: not a readable Parquet file ({first_line(error)}); write it again") from None


def _from_arrow(file: SourceFile, origin: SourceLocations, issues: IssueLog, encoding: str) -> Iterator[Record]:
    del issues, encoding
    origin.open(file.name, "row")
    try:
        with file.open_bytes() as content:
            yield from _numbered(iter(pa.ipc.open_stream(content)), origin)
    except pa.ArrowException as error:
        raise DataError(f"{file.name}: not a readable Arrow stream ({first_line(error)}); write it again") from None


def _numbered(batches: Iterator[pa.RecordBatch], origin: SourceLocations) -> Iterator[Record]:
    number = 0
    for batch in batches:
        names = batch.schema.names
        if len(set(names)) < len(names):
            raise DataError(f"{origin.files[-1]}: a column stands twice; give each its own name")
        for record in batch.to_pylist():
            number += 1
            yield origin.add_row(number), record


def _from_table(table: Any, origin: SourceLocations) -> Iterator[Record]:
    """Rows of a data frame, a `datasets.Dataset`, an Arrow table, or any other iterable of dictionaries."""
    origin.open(type(table).__name__, "row")
    if isinstance(table, Mapping):
        names = ", ".join(map(str, table))
        raise DataError(f"a dictionary of datasets ({names}); pass one of them, such as dataset['train']")
    for number, record in enumerate(_rows_in_memory(table), start=1):
        if not isinstance(record, Mapping):
            raise DataError(f"row {number} of the {origin.files[-1]} is a {type(record).__name__}; give dictionaries")
        yield origin.add_row(number), {str(name): _plain(value) for name, value in record.items()}


def _rows_in_memory(table: Any) -> Any:
    if isinstance(table, pa.Table):
        return table.to_pylist()
    if hasattr(table, "iter_rows"):  # polars
        return table.iter_rows(named=True)
    if hasattr(table, "notna") and hasattr(table, "to_dict"):  # pandas
        return table.astype(object).where(table.notna(), None).to_dict("records")
    return table


def _plain(value: Any) -> Any:
    """Return numpy's values as Python's, in lists and mappings too."""
    if isinstance(value, str):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return value


_READERS: dict[str, _Reader] = {
    ".arrow": _from_arrow,
    ".csv": _from_csv,
    ".json": _from_json,
    ".jsonl": _from_json,
    ".ndjson": _from_json,
    ".parquet": _from_parquet,
    ".tsv": _from_csv,
}
