"""Comparisons of plain texts, read a column at a time: what `comparisons` gives row by row, in a third of the time.

Looks at whole columns, and leaves a file alone where anything in it calls for a look at single rows.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
import pyarrow.parquet as pq

from lore.data.builder import PreferencesBuilder
from lore.data.formats.rows import MAX_CHARACTERS
from lore.data.formats.turn_texts import SUSPICIOUS

SUFFIXES = frozenset({".json", ".jsonl", ".parquet"})

_REQUIRED = frozenset({"user_id", "chosen", "rejected"})
_TEXTS = ("prompt", "chosen", "rejected")
_BLOCK = 1 << 22  # bytes of JSON parsed at once; a longer line is left to the reader of rows
_CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"


def parse_file(path: Path, builder: PreferencesBuilder) -> bool:
    """Add all comparisons of a JSON lines or Parquet file; False where its rows must be looked at one by one.

    That is so with other columns than user_id, prompt, chosen and rejected, with chat messages, nulls, blank lines,
    texts that may not be used, and all that does not parse. What was added until then is of no use.
    """
    parquet = path.suffix.lower() == ".parquet"
    builder.origin.open(str(path), "row" if parquet else "line")
    rows = 0
    try:
        for batch in _parquet_batches(path) if parquet else _json_batches(path):
            if not _is_plain(batch):
                return False
            prompts = _listed(batch["prompt"]) if "prompt" in batch.schema.names else [""] * batch.num_rows
            sides = np.stack([_objects(batch["chosen"]), _objects(batch["rejected"])], axis=1)
            builder.compare_all(_listed(batch["user_id"].cast(pa.string())), prompts, sides.ravel().tolist())
            rows += batch.num_rows
    except (pa.ArrowException, UnicodeDecodeError, OSError):
        return False
    return rows > 0 and (parquet or rows == _lines(path))


def _json_batches(path: Path) -> Iterator[pa.RecordBatch]:
    options = pj.ParseOptions(explicit_schema=pa.schema([(name, pa.string()) for name in _TEXTS]))
    with pj.open_json(path, read_options=pj.ReadOptions(block_size=_BLOCK), parse_options=options) as reader:
        for batch in reader:
            absent = batch["prompt"].null_count == batch.num_rows
            yield batch.drop_columns(["prompt"]) if absent else batch


def _parquet_batches(path: Path) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path) as file:
        yield from file.iter_batches()


def _lines(path: Path) -> int:
    """Lines of a file; a blank one counts twice, so that rows and lines differ where a row's number is not its line."""
    with path.open("rb") as lines:
        return sum(2 if line.isspace() else 1 for line in lines)


def _is_plain(batch: pa.RecordBatch) -> bool:
    """Return True if all columns are known ones, of usable texts (or numbers, for users), with nothing missing."""
    names = set(batch.schema.names)
    if not _REQUIRED <= names <= _REQUIRED | {"prompt"} or len(names) < len(batch.schema.names):
        return False
    if any(column.null_count for column in batch.columns):
        return False
    batch.validate(full=True)
    users = batch["user_id"]
    if not pa.types.is_integer(users.type) and not (_is_usable(users) and _all_said(users)):
        return False
    return all(_is_usable(batch[name]) and not _may_spell_turns(batch[name]) for name in names - {"user_id"})


def _may_spell_turns(texts: pa.Array) -> bool:
    return bool(pc.any(pc.match_substring_regex(texts, SUSPICIOUS)).as_py())


def _is_usable(texts: pa.Array) -> bool:
    return (
        pa.types.is_string(texts.type)
        and pc.max(pc.binary_length(texts)).as_py() <= MAX_CHARACTERS
        and not pc.any(pc.match_substring_regex(texts, _CONTROL)).as_py()
    )


def _all_said(texts: pa.Array) -> bool:
    return not pc.any(pc.equal(pc.utf8_trim_whitespace(texts), "")).as_py()


def _objects(texts: pa.Array) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
    return texts.to_numpy(zero_copy_only=False)


def _listed(texts: pa.Array) -> list[str]:
    return list(_objects(texts))
