"""Stores of several encoders in one folder: each kept and resumed on its own, joined when they are read.

Beside `blocks.json`, which names the blocks that the folder holds with their scales, lies one store a block, in a
folder named after its encoder; the store of a single encoder lies in the folder itself. A folder that is released may
hold another combination, and the stores that are there serve it: coming back to an encoder costs nothing.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lore.embedding.blocks import BlockEncoder, joined_reference, side_by_side
from lore.embedding.encoder import Encoded, Encoder, Fingerprint
from lore.embedding.fingerprints import length_columns, short_hash
from lore.embedding.options import torch_dtype
from lore.embedding.shards import MANIFEST, Contents, StoreFolder, mapped, refuse_other
from lore.errors import DataError, StoreError
from lore.files import JsonFormat

_BLOCKS = "blocks.json"
_FORMAT = JsonFormat(
    name="the blocks of a store",
    number=1,
    fields=frozenset({"encoder", "storage", "blocks"}),
    remedy="delete the folder of embeddings and embed again",
)
_IN_MEMORY = 2**30  # bytes of joined vectors; more are kept in a file that has no name
_COPIED = 4_096  # rows at once


@dataclass(frozen=True)
class Joined:
    """Vectors, and the encoder, of a folder.

    Attributes:
        contents: the vectors of all blocks side by side, of conversations that every block has.
        fingerprint: of the encoder that made them.
        reference: reward direction of its own head, `[dim]`, or None.
        length_columns: columns that count how long a response is.
    """

    contents: Contents
    fingerprint: Fingerprint
    reference: Tensor | None
    length_columns: tuple[int, ...]


def exists(folder: Path) -> bool:
    """Return True if there is a store in a folder."""
    return (folder / _BLOCKS).exists() or (folder / MANIFEST).exists()


def folder_of_block(folder: Path, encoder: Encoder) -> Path:
    """Return where the vectors of one encoder lie: in the folder itself, if they are there, or in one of their own."""
    if (folder / MANIFEST).exists() and StoreFolder(folder).manifest()["encoder"] == encoder.fingerprint:
        return folder
    return _own_folder(folder, encoder.fingerprint)


def _own_folder(folder: Path, fingerprint: Fingerprint) -> Path:
    name = "".join(letter if letter.isalnum() else "-" for letter in str(fingerprint.get("encoder", "")))
    return folder / f"{name}-{short_hash(json.dumps(fingerprint, sort_keys=True))}"


def begin(folder: Path, encoder: Encoder) -> list[Path]:
    """Begin a store for each block of an encoder, or for a single encoder in the folder itself; return where they are.

    Raises:
        StoreError: the folder holds vectors of another encoder, and was not released.
    """
    if (current := _current(folder)) is not None:
        refuse_other(folder, current, encoder.fingerprint)
    if not isinstance(encoder, BlockEncoder) and not _own_folder(folder, encoder.fingerprint).exists():
        StoreFolder(folder).begin(encoder)
        return [folder]
    blocks, scales = (encoder.blocks, encoder.scales) if isinstance(encoder, BlockEncoder) else ([encoder], [1.0])
    folders = [_own_folder(folder, block.fingerprint) for block in blocks]
    for where, block in zip(folders, blocks, strict=True):
        StoreFolder(where).begin(block)
    storage = str(encoder.encode([]).vectors.dtype).removeprefix("torch.")
    named = [{"folder": where.name, "scale": scale} for where, scale in zip(folders, scales, strict=True)]
    _FORMAT.write(folder / _BLOCKS, {"encoder": encoder.fingerprint, "storage": storage, "blocks": named})
    return folders


def release(folder: Path) -> None:
    """Let a folder hold the vectors of another encoder; what is there stays for encoders that can use it."""
    (folder / _BLOCKS).unlink(missing_ok=True)
    if (folder / MANIFEST).exists():
        store = StoreFolder(folder)
        apart = _own_folder(folder, store.manifest()["encoder"])
        if not apart.exists():
            store.move(apart)


def _current(folder: Path) -> Fingerprint | None:
    """Return the fingerprint of what a folder holds; None if it holds nothing."""
    if (folder / _BLOCKS).exists():
        named: Fingerprint = _named(folder)["encoder"]
        return named
    manifest = StoreFolder(folder).manifest() if (folder / MANIFEST).exists() else {"shards": []}
    return manifest["encoder"] if manifest["shards"] else None


def _named(folder: Path) -> dict[str, Any]:
    try:
        return _FORMAT.read(folder / _BLOCKS)[1]
    except DataError as error:
        raise StoreError(str(error)) from None


def load_store(folder: Path, *, verify: bool) -> Joined:
    """Return what a folder holds.

    Args:
        folder: of the store, or stores.
        verify: whether to compare the checksums of large shards too, which reads them whole.

    Raises:
        StoreError: there is no store, or a shard is missing or damaged.
    """
    if not (folder / _BLOCKS).exists():
        store = StoreFolder(folder)
        fingerprint, dim = store.manifest()["encoder"], store.manifest()["dim"]
        columns = length_columns([(fingerprint, dim)])
        return Joined(store.contents(verify=verify), fingerprint, store.reference(), columns)
    named = _named(folder)
    stores = [StoreFolder(folder / block["folder"]) for block in named["blocks"]]
    scales = [block["scale"] for block in named["blocks"]]
    dims = [store.manifest()["dim"] for store in stores]
    columns = length_columns([(store.manifest()["encoder"], dim) for store, dim in zip(stores, dims, strict=True)])
    parts = [store.contents(verify=verify) for store in stores]
    if len(parts) == 1:
        return Joined(parts[0], named["encoder"], stores[0].reference(), columns)
    reference = joined_reference([store.reference() for store in stores], scales, dims)
    contents = _joined(parts, scales, torch_dtype(named["storage"]), folder)
    return Joined(contents, named["encoder"], reference, columns)


def drop(folder: Path, keys: Sequence[bytes]) -> int:
    """Remove the vectors of some conversations from every store in a folder; return how many rows there were."""
    stores = [manifest.parent for manifest in [*folder.glob(MANIFEST), *folder.glob(f"*/{MANIFEST}")]]
    return sum(StoreFolder(store).drop(keys) for store in stores)


def _joined(parts: Sequence[Contents], scales: Sequence[float], dtype: torch.dtype, folder: Path) -> Contents:
    """Return the vectors of several stores side by side, of conversations that all hold."""
    keys = parts[0].keys
    for part in parts[1:]:
        keys = keys[np.isin(keys, part.keys)]
    rows = []
    for part in parts:
        order = np.argsort(part.keys)
        rows.append(torch.from_numpy(order[np.searchsorted(part.keys, keys, sorter=order)]))
    dim = sum(part.vectors.shape[1] for part in parts)
    status = torch.empty(len(keys), dtype=torch.uint8)
    if len(keys) * dim * dtype.itemsize <= _IN_MEMORY:
        vectors = torch.empty(len(keys), dim, dtype=dtype)
    else:
        with mapped(folder, len(keys), dim, dtype) as vectors:
            pass  # the file lives as long as the tensor
    for begin in range(0, len(keys), _COPIED):
        some = slice(begin, begin + _COPIED)
        blocks = [
            Encoded(part.vectors[row[some]], part.status[row[some]]) for part, row in zip(parts, rows, strict=True)
        ]
        joined = side_by_side(blocks, scales, dtype)
        vectors[some], status[some] = joined.vectors, joined.status
    return Contents(keys, status, vectors)
