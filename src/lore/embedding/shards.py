"""The store on disk: shards, and a manifest that names them.

A folder holds `manifest.json`: the format, the encoder's fingerprint, and a list of shards with checksums. A shard
`shard-00000.safetensors` holds `keys` uint8 `[rows, 16]`, `status` uint8 `[rows]` and `vectors` `[rows, dim]`. If the
encoder has a reward head there is `reference.safetensors`. A shard is written whole, synced and renamed before the
manifest names it; what the manifest does not name is not there. Whoever changes the manifest holds a lock, so that
several processes may add to one store. A finished store is merged to one shard, which is mapped, not read.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from lore.embedding.encoder import Encoded, Encoder, Fingerprint
from lore.embedding.options import torch_dtype
from lore.errors import DataError, StoreError
from lore.files import read_json, replacing, sync_folder, write_json

_FORMAT = 2
MANIFEST = "manifest.json"
_CHECKED = 2**28  # bytes of a shard up to which its checksum is verified whenever it is opened
_REMEDY = "delete the folder of embeddings and embed again"
Keys = NDArray[np.bytes_]  # of 16 bytes each


def as_keys(keys: Sequence[bytes]) -> Keys:
    """Keys as one array, `[keys]`."""
    return np.frombuffer(b"".join(keys), dtype="S16")


@dataclass(frozen=True)
class Contents:
    """The contents of a store.

    Attributes:
        keys: of the conversation in each row, `[rows]`.
        status: what the length limit did to it, uint8 `[rows]`.
        vectors: `[rows, dim]`, mapped from the file where it is one.
    """

    keys: Keys
    status: Tensor
    vectors: Tensor


class StoreFolder:
    """A store on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read_shards: set[str] = set()  # shards whose keys the caller knows

    @contextmanager
    def _locked(self) -> Iterator[None]:
        self.path.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path / ".lock"):
            yield

    # --- writing --------------------------------------------------------------------------------------------------

    def begin(self, encoder: Encoder) -> None:
        """Make an empty store where there is none, or an empty one, and clear what killed processes left.

        Raises:
            StoreError: the store was made by another encoder.
        """
        with self._locked():
            self._clear_partial()
            if (self.path / MANIFEST).exists() and self.manifest()["shards"]:
                refuse_other(self.path, self.manifest()["encoder"], encoder.fingerprint)
                return
            if encoder.reference is not None:
                with replacing(self.path / "reference.safetensors") as beside:
                    save_file({"reference": encoder.reference.contiguous()}, beside)
            self._write_manifest(
                {
                    "format": _FORMAT,
                    "encoder": encoder.fingerprint,
                    "dim": encoder.dim,
                    "dtype": str(encoder.encode([]).vectors.dtype).removeprefix("torch."),
                    "next": 0,
                    "shards": [],
                }
            )

    def append(self, keys: Sequence[bytes], encoded: Encoded) -> None:
        """Add a shard, without the rows that another process has added since."""
        with self._locked():
            manifest = self.manifest()
            others = {
                key
                for shard in manifest["shards"]
                if shard["file"] not in self._read_shards
                for key in self._keys(shard)
            }
            new = [row for row, key in enumerate(keys) if key not in others]
            if new:
                rows = [keys[row] for row in new]
                self._add(manifest, as_keys(rows), encoded.status[new], encoded.vectors[new])

    def _add(self, manifest: dict[str, Any], keys: Keys, status: Tensor, vectors: Tensor) -> None:
        name = f"shard-{manifest['next']:05d}.safetensors"
        with replacing(self.path / name) as beside:
            array = torch.from_numpy(keys.view(np.uint8).reshape(len(keys), 16).copy())
            save_file({"keys": array, "status": status, "vectors": vectors.contiguous()}, beside)
            checksum = _checksum(beside)
        shard = {"file": name, "rows": len(keys), "sha256": checksum}
        self._read_shards.add(name)
        self._write_manifest({**manifest, "next": manifest["next"] + 1, "shards": [*manifest["shards"], shard]})

    def merge(self) -> None:
        """Make one shard of several, so that it can be mapped; checksums are verified on the way."""
        with self._locked():
            manifest = self.manifest()
            shards = manifest["shards"]
            if len(shards) < 2:
                return
            parts = [self._opened(shard, verify=True) for shard in shards]
            rows, dim = sum(shard["rows"] for shard in shards), manifest["dim"]
            with mapped(self.path, rows, dim, torch_dtype(manifest["dtype"])) as vectors:
                row = 0
                for part in parts:
                    vectors[row : row + len(part.vectors)] = part.vectors
                    row += len(part.vectors)
                keys, status = np.concatenate([part.keys for part in parts]), torch.cat([part.status for part in parts])
                self._add({**manifest, "shards": []}, keys, status, vectors)
            for shard in shards:
                (self.path / shard["file"]).unlink()

    def drop(self, keys: Sequence[bytes]) -> int:
        """Remove the vectors of some conversations; shards that hold any are written anew. How many there were."""
        removed = 0
        with self._locked():
            for shard in self.manifest()["shards"]:
                part = self._opened(shard, verify=True)
                mask = torch.from_numpy(~np.isin(part.keys, as_keys(keys)))
                if bool(mask.all()):
                    continue
                removed += int((~mask).sum())
                manifest = self.manifest()
                others = [other for other in manifest["shards"] if other["file"] != shard["file"]]
                rest = {**manifest, "shards": others}
                if bool(mask.any()):
                    self._add(rest, part.keys[mask.numpy()], part.status[mask], part.vectors[mask])
                else:
                    self._write_manifest(rest)
                (self.path / shard["file"]).unlink()
        return removed

    def _clear_partial(self) -> None:
        """Files that a process which is no more was writing, and shards that no manifest names."""
        for path in self.path.glob(".*.partial"):
            process = re.search(r"\.(\d+)\.partial$", path.name)
            if process and not _is_alive(int(process[1])):
                path.unlink(missing_ok=True)
        named = {shard["file"] for shard in self.manifest()["shards"]} if (self.path / MANIFEST).exists() else set()
        for path in self.path.glob("shard-*.safetensors"):
            if path.name not in named:
                path.unlink()

    def _write_manifest(self, manifest: dict[str, Any]) -> None:
        write_json(self.path / MANIFEST, manifest)

    def move(self, path: Path) -> None:
        """Move the store to a folder that is not there yet."""
        with self._locked():
            manifest = self.manifest()
            path.mkdir()
            names = [shard["file"] for shard in manifest["shards"]] + ["reference.safetensors", MANIFEST]
            for name in names:
                if (self.path / name).exists():
                    (self.path / name).replace(path / name)
            sync_folder(path)

    # --- reading --------------------------------------------------------------------------------------------------

    def manifest(self) -> dict[str, Any]:
        """Return the manifest of the store.

        Raises:
            StoreError: there is no store, or one of another format.
        """
        path = self.path / MANIFEST
        try:
            manifest = read_json(path)
        except DataError:
            raise StoreError(f"{path}: no readable store of embeddings; delete the folder and embed again") from None
        if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
            raise StoreError(f"{path}: not a store of format {_FORMAT}; delete the folder and embed again")
        return manifest

    def contents(self, *, verify: bool) -> Contents:
        """All rows; `verify` says whether to read everything and compare checksums, or only what is small.

        Raises:
            StoreError: a shard is missing or damaged.
        """
        manifest = self.manifest()
        parts = [self._opened(shard, verify=verify) for shard in manifest["shards"]]
        self._read_shards = {shard["file"] for shard in manifest["shards"]}
        if len(parts) == 1:
            return parts[0]
        empty = torch.empty(0, manifest["dim"], dtype=torch_dtype(manifest["dtype"]))
        return Contents(
            keys=np.concatenate([as_keys([]), *(part.keys for part in parts)]),
            status=torch.cat([torch.empty(0, dtype=torch.uint8), *(part.status for part in parts)]),
            vectors=torch.cat([empty, *(part.vectors for part in parts)]),
        )

    def reference(self) -> Tensor | None:
        """Return the encoder's own reward direction, `[dim]`."""
        path = self.path / "reference.safetensors"
        if not path.exists():
            return None
        try:
            return load_file(path)["reference"]
        except (OSError, SafetensorError, KeyError) as error:
            raise StoreError(f"{path}: damaged ({error}); {_REMEDY}") from None

    def _keys(self, shard: dict[str, Any]) -> list[bytes]:
        self._read_shards.add(shard["file"])
        keys = self._opened(shard, verify=False).keys
        return [key.ljust(16, b"\0") for key in keys.tolist()]

    def _opened(self, shard: dict[str, Any], *, verify: bool) -> Contents:
        path = self.path / shard["file"]
        if not path.exists():
            raise StoreError(f"{path}: the shard is missing; {_REMEDY}")
        if (verify or path.stat().st_size <= _CHECKED) and _checksum(path) != shard["sha256"]:
            raise StoreError(f"{path}: the shard is damaged (its checksum differs); {_REMEDY}")
        try:
            with safe_open(path, "pt") as file:
                keys = file.get_tensor("keys").clone().numpy().view("S16").reshape(-1)
                return Contents(keys, file.get_tensor("status").clone(), file.get_tensor("vectors"))
        except (OSError, SafetensorError) as error:
            raise StoreError(f"{path}: the shard is damaged ({error}); {_REMEDY}") from None


def refuse_other(path: Path, stored: Fingerprint, wanted: Fingerprint) -> None:
    """Refuse a store of another encoder.

    Raises:
        StoreError: the fingerprints differ.
    """
    for name in sorted(stored.keys() | wanted.keys()):
        if stored.get(name) != wanted.get(name):
            raise StoreError(
                f"{path}: made by another encoder ({name} is {stored.get(name)!r} there and {wanted.get(name)!r} "
                "here); use another folder, or delete this one"
            )


@contextmanager
def mapped(folder: Path, rows: int, dim: int, dtype: torch.dtype) -> Iterator[Tensor]:
    """Yield a tensor `[rows, dim]` in a temporary file, which the kernel may write out when memory is short."""
    path = folder / f".merged.{os.getpid()}.partial"
    try:
        yield torch.from_file(str(path), shared=True, size=rows * dim, dtype=dtype).view(rows, dim)
    finally:
        path.unlink(missing_ok=True)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
