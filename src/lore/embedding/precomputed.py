"""Vectors that were made elsewhere, in a file."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lore.data.messages import MessageFault, conversation_key, conversation_of, parse_messages
from lore.data.preferences import Preferences
from lore.embedding.encoder import Encoded, Fingerprint
from lore.embedding.fingerprints import file_hash
from lore.embedding.tokens import Conversation
from lore.errors import EncoderError, first_line

_COLUMN = "embedding"


class PrecomputedVectors:
    """One row a distinct conversation of a table, in order of appearance; or by text.

    `.npy` and `.safetensors` (key `embeddings`; `reference`, `[dim]`, if there is a head) hold `[conversations, dim]`
    in the order of `lore embed --list`. Parquet holds a column `embedding` of lists of one length, in that order too,
    or beside columns `prompt` and `response` in any order.

    Attributes:
        vectors: all of the file, `[rows, dim]`.
    """

    def __init__(self, path: Path, preferences: Preferences) -> None:
        self._path = path
        content = read_vectors(path)
        vectors, reference, keys = content.vectors, content.reference, content.keys
        if keys is None:
            keys = preferences.conversation_keys()
            if len(vectors) != len(keys):
                raise EncoderError(
                    f"{path}: has {len(vectors)} rows, and the data {len(keys)} distinct conversations; give one row "
                    "for each, in the order that `lore embed --list` writes"
                )
        if not bool(vectors.isfinite().all()):
            raise EncoderError(f"{path}: embeddings must be finite; make them again")
        if reference is not None and reference.shape != vectors.shape[1:]:
            raise EncoderError(
                f"{path}: `reference` must be {vectors.shape[1]} numbers, got "
                f"{tuple(reference.shape)}; write the file again"
            )
        self.vectors, self._row = vectors, {key: row for row, key in enumerate(keys)}
        self.dim = vectors.shape[1]
        self.reference = reference
        self.fingerprint: Fingerprint = {"encoder": path.name, "weights": file_hash(path), "dtype": str(vectors.dtype)}

    def encode(self, conversations: Sequence[Conversation]) -> Encoded:
        """One vector a conversation, in order.

        Raises:
            EncoderError: the file has none for a conversation.
        """
        rows = [self._row.get(conversation_key(*conversation), -1) for conversation in conversations]
        if missing := rows.count(-1):
            raise EncoderError(f"{self._path}: has no embedding for {missing} conversations of the data; add them")
        return Encoded.whole(self.vectors[rows])


@dataclass(frozen=True)
class VectorFile:
    """The content of a file of vectors.

    Attributes:
        vectors: `[rows, dim]`.
        reference: reward head, `[dim]`, or None.
        keys: of the conversations, if the file names them.
    """

    vectors: Tensor
    reference: Tensor | None = None
    keys: list[bytes] | None = None


def read_vectors(path: Path) -> VectorFile:
    """Read a `.safetensors`, `.npy` or `.parquet` file of vectors.

    Raises:
        EncoderError: it cannot be read, or holds none.
    """
    try:
        if path.suffix == ".npy":
            return VectorFile(_matrix(path, torch.from_numpy(np.load(path, allow_pickle=False))))
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            return VectorFile(_matrix(path, _column(path, table)), keys=_keys(path, table))
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            if "embeddings" not in names:
                raise EncoderError(
                    f"{path}: has no key 'embeddings', only {', '.join(sorted(names))}; "
                    "write the vectors under that name"
                )
            reference = file.get_tensor("reference").flatten().float() if "reference" in names else None
            return VectorFile(_matrix(path, file.get_tensor("embeddings")), reference)
    except (OSError, EOFError, ValueError, TypeError, SafetensorError, pa.ArrowException) as error:
        raise EncoderError(f"{path}: cannot be read as embeddings ({first_line(error)}); write it again") from None


def _matrix(path: Path, vectors: Tensor) -> Tensor:
    if vectors.dim() != 2 or not vectors.is_floating_point() or 0 in vectors.shape:
        raise EncoderError(
            f"{path}: embeddings must be floating point [rows, dim], got {vectors.dtype} "
            f"{tuple(vectors.shape)}; write the file again"
        )
    return vectors.float() if vectors.dtype == torch.float64 else vectors


def _column(path: Path, table: pa.Table) -> Tensor:
    """Return the column of lists, without a copy where they are of a fixed size."""
    if _COLUMN not in table.column_names:
        raise EncoderError(
            f"{path}: has no column {_COLUMN!r}, only {', '.join(table.column_names)}; "
            "write the vectors under that name"
        )
    column = table[_COLUMN].combine_chunks()
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
        raise EncoderError(f"{path}: `{_COLUMN}` must hold lists of one length, got {kind}; write one list a row")
    values: Any = column.flatten().to_numpy(zero_copy_only=False)
    if len(column) == 0 or len(values) % len(column) or column.null_count:
        raise EncoderError(f"{path}: `{_COLUMN}` must hold lists of one length, and no null; write one list a row")
    return torch.from_numpy(np.array(values).reshape(len(column), -1))


def _keys(path: Path, table: pa.Table) -> list[bytes] | None:
    if not {"prompt", "response"} <= set(table.column_names):
        return None
    rows = zip(table["prompt"].to_pylist(), table["response"].to_pylist(), strict=True)
    try:
        return [
            conversation_key(
                *conversation_of(
                    parse_messages("prompt", prompt, "user", _text) if prompt else (),
                    parse_messages("response", response, "assistant", _text),
                )
            )
            for prompt, response in rows
        ]
    except MessageFault as fault:
        raise EncoderError(f"{path}: {fault.kind}; {fault.remedy}") from None


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise MessageFault(f"`{name}` must be a text, got {type(value).__name__}", "write a text or chat messages")
    return value
