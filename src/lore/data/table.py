"""The table that a run keeps and `lore convert` writes: our columns, and apart from them what users brought along."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lore.data.issues import SourceLocations
from lore.data.messages import Messages, as_json
from lore.data.preferences import Floats, Integers, Preferences, Ratings
from lore.errors import DataError, first_line
from lore.files import replacing

FORMAT = 1  # files of format 0 had no number, and users' columns among ours: they are read as any Parquet file
_FORMAT_KEY = b"lore_format"
_ACROSS_KEY = b"lore_across_prompts"  # whether ratings of different prompts are compared
_EXTRA = "extra."  # begins the name of a column that LoRe does not read
_AS_JSON = {b"lore_json": b"1"}  # of a column whose values are JSON texts

_TEXT = pa.large_string()  # a million long texts are more than the two gigabytes that `pa.string()` can hold
_TURNS = pa.list_(pa.struct([("role", _TEXT), ("content", _TEXT)]))
_COMPARISONS = pa.schema(
    [
        ("user_id", _TEXT),
        ("prompt", _TURNS),
        ("chosen", _TURNS),
        ("rejected", _TURNS),
        ("weight", pa.float64()),
        ("label", pa.float64()),
        ("group", pa.int64()),
        ("chosen_row", pa.int64()),
        ("rejected_row", pa.int64()),
    ]
)
_RATINGS = pa.schema(
    [
        ("user_id", _TEXT),
        ("prompt", _TURNS),
        ("response", _TURNS),
        ("rating", pa.float64()),
        ("group", pa.int64()),
        ("row", pa.int64()),
    ]
)


def save_table(preferences: Preferences, path: Path) -> None:
    """Write a table as Parquet, whole or not at all; `load_table` reads the same again.

    Columns that LoRe does not read are called `extra.<name>`; those that Arrow cannot hold as they are (`json_columns`)
    are JSON texts.
    """
    prompts = pa.array([as_json(messages) for messages in preferences.prompts], type=_TURNS)
    responses = pa.array([as_json(messages) for messages in preferences.responses], type=_TURNS)
    users, ratings = pa.array(preferences.users, type=_TEXT), preferences.ratings
    if ratings is not None:
        schema = _RATINGS
        columns = [
            users.take(pa.array(ratings.user)),
            prompts.take(pa.array(preferences.row_prompt[ratings.row])),
            responses.take(pa.array(preferences.row_response[ratings.row])),
            pa.array(ratings.rating),
            pa.array(preferences.row_group[ratings.row]),
            pa.array(ratings.row),
        ]
    else:
        schema = _COMPARISONS
        columns = [
            users.take(pa.array(preferences.user)),
            prompts.take(pa.array(preferences.row_prompt[preferences.chosen])),
            responses.take(pa.array(preferences.row_response[preferences.chosen])),
            responses.take(pa.array(preferences.row_response[preferences.rejected])),
            pa.array(preferences.weight),
            pa.array(preferences.label),
            pa.array(preferences.row_group[preferences.chosen]),
            pa.array(preferences.chosen),
            pa.array(preferences.rejected),
        ]
    fields = list(schema)
    for name, values in preferences.extra.items():
        column = _arrow_column(values)
        metadata = None
        if column is None:
            column, metadata = pa.array([None if value is None else _as_json_text(value) for value in values]), _AS_JSON
        columns.append(column)
        fields.append(pa.field(_EXTRA + name, column.type, metadata=metadata))
    across = ratings is not None and ratings.across_prompts
    numbers = {_FORMAT_KEY: str(FORMAT).encode(), _ACROSS_KEY: str(int(across)).encode()}
    with replacing(path) as beside:
        pq.write_table(pa.table(columns, schema=pa.schema(fields, metadata=numbers)), beside, compression="zstd")


def is_table(path: Path) -> bool:
    """Return True if a file is one that `save_table` wrote, whatever its number."""
    try:
        return path.is_file() and _FORMAT_KEY in (pq.read_schema(path).metadata or {})
    except (pa.ArrowException, OSError):
        return False


def load_table(path: Path) -> Preferences:
    """Read a table that `save_table` wrote.

    Raises:
        DataError: the file is damaged, or of a newer version.
    """
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({first_line(error)}); write it again") from None
    metadata = table.schema.metadata
    if metadata[_FORMAT_KEY] != str(FORMAT).encode():
        number = metadata[_FORMAT_KEY].decode(errors="replace")
        raise DataError(f"{path}: format {number} of a table, this version reads {FORMAT}; use a newer version")
    columns = _Columns(path, table)
    origin = SourceLocations()
    origin.open(str(path), "row")
    row_ref = np.arange(table.num_rows, dtype=np.int64)
    origin.add_rows(table.num_rows)
    users, user = columns.users()
    extra = {name.removeprefix(_EXTRA): columns.extra(name) for name in table.column_names if name.startswith(_EXTRA)}
    numbers, weights = np.zeros(0, dtype=np.int64), np.zeros(0)  # of no comparison
    chosen, rejected, weight, label, ratings = numbers, numbers, weights, weights, None
    if set(_RATINGS.names) <= set(table.column_names):
        rows = _Rows([columns.integers("row")], [columns.turns("response")], columns)
        across = metadata.get(_ACROSS_KEY) == b"1"
        ratings = Ratings(user, rows.numbers[0], columns.floats("rating"), row_ref, across)
        user = row_ref = numbers
    else:
        sides = ("chosen", "rejected")
        mentions = [columns.integers(f"{side}_row") for side in sides]
        rows = _Rows(mentions, [columns.turns(side) for side in sides], columns)
        chosen, rejected = rows.numbers
        weight, label = columns.floats("weight"), columns.floats("label")
    return Preferences(
        users=users,
        prompts=rows.prompts,
        responses=rows.responses,
        row_prompt=rows.prompt,
        row_response=rows.response,
        row_group=rows.group,
        user=user,
        chosen=chosen,
        rejected=rejected,
        weight=weight,
        label=label,
        row_ref=row_ref,
        ratings=ratings,
        extra=extra,
        origin=origin,
    )


def json_columns(preferences: Preferences) -> list[str]:
    """Return the names of the columns that Arrow cannot hold as they are, and that are written as JSON texts."""
    return [name for name, values in preferences.extra.items() if _arrow_column(values) is None]


@dataclass(frozen=True)
class _Columns:
    """Columns of a table, each checked when it is read."""

    path: Path
    table: pa.Table

    def _column(self, name: str) -> pa.ChunkedArray:
        wanted = (_RATINGS if name in _RATINGS.names else _COMPARISONS).field(name).type
        if name not in self.table.column_names or self.table[name].type != wanted or self.table[name].null_count:
            raise DataError(f"{self.path}: column `{name}` is missing or was changed; write the table again")
        return self.table[name]

    def integers(self, name: str) -> Integers:
        return self._column(name).to_numpy().astype(np.int64)

    def floats(self, name: str) -> Floats:
        values: Floats = self._column(name).to_numpy().astype(np.float64)
        if not np.isfinite(values).all():
            raise DataError(f"{self.path}: column `{name}` holds a number that is not finite; write the table again")
        return values

    def turns(self, name: str) -> pa.Array:
        return self._column(name).combine_chunks()

    def users(self) -> tuple[list[str], Integers]:
        """Return ids in order of appearance, and the number of each row's user, `[rows]`."""
        encoded = self._column("user_id").combine_chunks().dictionary_encode()
        return encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int64)

    def extra(self, name: str) -> list[Any]:
        """Return the values of a column that LoRe does not read."""
        values: list[Any] = self.table[name].to_pylist()
        if (self.table.schema.field(name).metadata or {}).get(b"lore_json") != b"1":
            return values
        return [None if value is None else json.loads(value) for value in values]


class _Rows:
    """Conversations of a table, each text once.

    Attributes:
        prompts: distinct prompts.
        responses: distinct responses.
        prompt: of each row, `[rows]`.
        response: of each row, `[rows]`.
        group: of each row, `[rows]`.
        numbers: row of each mention, one array for each column of mentions.
    """

    def __init__(self, mentions: Sequence[Integers], turns: Sequence[pa.Array], columns: _Columns) -> None:
        every = np.stack(mentions, axis=1).ravel()  # in the order in which a reader meets them
        _, first, rows = np.unique(every, return_index=True, return_inverse=True)
        self.numbers = list(rows.reshape(-1, len(mentions)).T.astype(np.int64))
        first_row, side = first // len(mentions), first % len(mentions)
        self.group = columns.integers("group")[first_row]
        self.prompts, self.prompt = _distinct(_messages(columns.turns("prompt").take(pa.array(first_row))))
        texts: list[Messages] = [()] * len(first)
        for number, column in enumerate(turns):
            of_side = np.flatnonzero(side == number)
            for row, value in zip(of_side.tolist(), _messages(column.take(pa.array(first_row[of_side]))), strict=True):
                texts[row] = value
        self.responses, self.response = _distinct(texts)


def _messages(turns: pa.Array) -> list[Messages]:
    """Return the messages of each row of a column of turns, in a tenth of the time of `to_pylist`."""
    flat, ends = turns.flatten(), turns.offsets.to_pylist()
    every = list(zip(*(flat.field(name).to_pylist() for name in ("role", "content")), strict=True))
    begin = ends[0]
    return [tuple(every[first - begin : last - begin]) for first, last in pairwise(ends)]


def _distinct(values: Sequence[Messages]) -> tuple[list[Messages], Integers]:
    """Return distinct messages in order of appearance, and the number of each value."""
    numbers: dict[Messages, int] = {}
    number = [numbers.setdefault(value, len(numbers)) for value in values]
    return list(numbers), np.array(number, dtype=np.int64)


def _arrow_column(values: Sequence[Any]) -> pa.Array | None:
    """Return an Arrow column that holds exactly these values; None if Arrow or Parquet cannot."""
    try:
        column = pa.array(values)
        # Arrow takes a number beside dates for a date.
        if any(held != value and value == value for held, value in zip(column.to_pylist(), values, strict=True)):
            return None
        pq.write_table(pa.table({"": column}), pa.BufferOutputStream())
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return None
    return column


def _as_json_text(value: Any) -> str:
    try:
        return json.dumps(value, default=str)
    except (TypeError, ValueError, RecursionError):
        return json.dumps(str(value))
