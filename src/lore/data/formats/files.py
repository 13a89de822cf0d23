"""Files of rows: JSON lines, CSV and Parquet, or a `datasets.Dataset`, one record after the other."""

import csv
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lore.data.issues import IssueLog, RowRef, SourceLocations
from lore.errors import DataError, first_line

Record = tuple[RowRef, dict[str, Any]]
_Reader = Callable[[Path, SourceLocations, IssueLog], Iterator[Record]]


def read_records(source: Any, origin: SourceLocations, issues: IssueLog) -> Iterator[Record]:
    """Yield the rows of a file, of a folder of files in one format, or of a dataset, with where they are.

    Raises:
        DataError: the file is missing, is not readable, or is in no format that is known.
    """
    if not isinstance(source, str | Path):
        yield from _from_dataset(source, origin)
        return
    for path in _files(Path(source)):
        reader = _READERS[path.suffix.lower()]
        try:
            yield from reader(path, origin, issues)
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}: not UTF-8 text ({error.reason} at byte {error.start}); convert it first"
            ) from None
        except OSError as error:
            raise DataError(
                f"{path}: cannot be read ({error.strerror or error}); check the path and its rights"
            ) from None


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; give a .jsonl, .csv or .parquet file, or a folder of them")
    if path.is_file():
        if path.suffix.lower() not in _READERS:
            raise DataError(
                f"{path}: unknown kind of file {path.suffix!r}; convert it to one of {', '.join(sorted(_READERS))}"
            )
        return [path]
    if not path.is_dir():
        raise DataError(
            f"{path}: neither a file nor a folder; give a .jsonl, .csv or .parquet file, or a folder of them"
        )
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in _READERS)
    suffixes = {file.suffix.lower() for file in files}
    if not files:
        raise DataError(
            f"{path}: the folder holds no file that ends in {', '.join(sorted(_READERS))}; convert to one of these"
        )
    if len(suffixes) > 1:
        raise DataError(f"{path}: the folder mixes {', '.join(sorted(suffixes))} files; keep one format in a folder")
    return files


def _from_jsonl(path: Path, origin: SourceLocations, issues: IssueLog) -> Iterator[Record]:
    origin.open(str(path), "line")
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            row_ref = origin.add_row(number)
            try:
                record = json.loads(line)
            except (json.JSONDecodeError, RecursionError):
                issues.add("broken JSON", row_ref, "write one JSON object a line")
                continue
            if not isinstance(record, dict):
                issues.add(
                    "not a JSON object",
                    row_ref,
                    'write one JSON object a line, such as {"user_id": ...}; a file that is one list is not read',
                )
                continue
            yield row_ref, record


def _from_csv(path: Path, origin: SourceLocations, issues: IssueLog) -> Iterator[Record]:
    origin.open(str(path), "line")
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines)
        try:
            for record in reader:
                row_ref = origin.add_row(reader.line_num)
                if None in record or None in record.values():
                    issues.add("wrong number of fields", row_ref, "quote fields that hold commas or line breaks")
                    continue
                yield row_ref, _without_empty(record)
        except csv.Error as error:
            raise DataError(
                f"{path}, line {reader.line_num}: not valid CSV ({error}); quote fields that hold commas or line breaks"
            ) from None


def _without_empty(record: Mapping[str, str]) -> dict[str, Any]:
    """CSV has no null: an empty cell is an empty text where a text belongs, and is absent elsewhere."""
    texts = ("prompt", "chosen", "rejected", "completion", "response", "user_id")
    return {name: value for name, value in record.items() if value != "" or name in texts}


def _from_parquet(path: Path, origin: SourceLocations, issues: IssueLog) -> Iterator[Record]:
    del issues  # a Parquet file is readable as a whole, or not at all
    origin.open(str(path), "row")
    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for record in batch.to_pylist():
                    number += 1
                    yield origin.add_row(number), record
    except pa.ArrowException as error:
        raise DataError(f"{path}: not a readable Parquet file ({first_line(error)}); write it again") from None


def _from_dataset(dataset: Any, origin: SourceLocations) -> Iterator[Record]:
    """Rows of a `datasets.Dataset`, or of any other iterable of dictionaries."""
    origin.open(type(dataset).__name__, "row")
    if isinstance(dataset, Mapping):
        names = ", ".join(map(str, dataset))
        raise DataError(f"a dictionary of datasets ({names}); pass one of them, such as dataset['train']")
    for number, record in enumerate(dataset, start=1):
        if not isinstance(record, Mapping):
            raise DataError(f"row {number} of the {origin.files[-1]} is a {type(record).__name__}; give dictionaries")
        yield origin.add_row(number), dict(record)


_READERS: dict[str, _Reader] = {
    ".csv": _from_csv,
    ".json": _from_jsonl,
    ".jsonl": _from_jsonl,
    ".parquet": _from_parquet,
}
