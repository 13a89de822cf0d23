"""`Embeddings`: the vectors of conversations, by the hash of their content; in memory, or in a folder that resumes.

A folder holds `manifest.json` (format, the encoder's fingerprint, a list of shards with checksums), the shards
`shard-00000.safetensors` (`keys` uint8 `[rows, 16]`, `vectors` `[rows, dim]`), and `reference.safetensors` if the
encoder has a reward head. A shard is written whole before the manifest names it, so that a run that was killed loses
at most one.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from lore.embedding.encoders import Encoder, Fingerprint, load_encoder
from lore.errors import DataError, StoreError
from lore.files import read_json, replacing, write_json
from lore.preferences import Preferences
from lore.progress import Progress, silent

_FORMAT = 1
_SHARD = 512  # conversations that a run loses at most when it is killed
_MANIFEST = "manifest.json"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Embeddings:
    """Vectors of conversations.

    Attributes:
        vectors: `[conversations, dim]`, float32.
        index: row of `vectors` for each `conversation_key`.
        fingerprint: of the encoder that made them.
        reference: reward direction of the encoder's own head, `[dim]`, or None.
        cut: how many conversations were longer than the encoder's limit.
    """

    vectors: Tensor
    index: dict[bytes, int]
    fingerprint: Fingerprint
    reference: Tensor | None
    cut: int

    def rows(self, preferences: Preferences) -> Tensor:
        """The row of `vectors` for each conversation of a table, int64 `[rows]`.

        Raises:
            StoreError: a conversation has not been embedded.
        """
        rows = [self.index.get(key, -1) for key in preferences.conversation_keys()]
        if missing := rows.count(-1):
            raise StoreError(
                f"{missing} of {len(rows)} conversations are not in the store; run `lore embed` on this data"
            )
        return torch.tensor(rows, dtype=torch.long)

    @classmethod
    def load(cls, folder: str | Path) -> "Embeddings":
        """All vectors of a folder.

        Raises:
            StoreError: there is no store, or a shard is missing or damaged.
        """
        return _Folder(Path(folder)).load()


def encode(
    preferences: Preferences,
    encoder: str | Encoder = "minilm",
    store: str | Path | None = None,
    *,
    progress: Progress = silent,
) -> Embeddings:
    """Embed every conversation of a table once.

    Args:
        preferences: whose conversations to embed.
        encoder: "minilm", the id or folder of a reward model, or an `Encoder`.
        store: a folder that keeps the vectors; what is in it already is not computed again.
        progress: told of every shard.

    Raises:
        StoreError: the folder was made by another encoder, or is damaged.
        EncoderError: the encoder cannot be loaded.
    """
    encoder = load_encoder(encoder) if isinstance(encoder, str) else encoder
    folder = None if store is None else _Folder(Path(store))
    known = folder.begin(encoder) if folder else _nothing(encoder)
    keys = preferences.conversation_keys()
    missing = [row for row, key in enumerate(keys) if key not in known.index]
    parts, index, cut = [known.vectors], dict(known.index), known.cut
    for start in range(0, len(missing), _SHARD):
        progress("embedding", start, len(missing))
        rows = missing[start : start + _SHARD]
        encoded = encoder.encode([preferences.conversation(row) for row in rows])
        if not bool(torch.isfinite(encoded.vectors).all()):
            raise StoreError("the encoder gave vectors that are not finite; check the model's weights and dtype")
        cut += encoded.cut
        if folder:
            folder.append([keys[row] for row in rows], encoded.vectors, cut)
        for row in rows:
            index[keys[row]] = len(index)
        parts.append(encoded.vectors)
    progress("embedding", len(missing), len(missing))
    _log.info("embedded %d conversations, %d were in the store", len(missing), len(keys) - len(missing))
    return Embeddings(torch.cat(parts), index, encoder.fingerprint, encoder.reference, cut)


def _nothing(encoder: Encoder) -> Embeddings:
    return Embeddings(torch.empty(0, encoder.dim), {}, encoder.fingerprint, encoder.reference, cut=0)


class _Folder:
    """The store on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, encoder: Encoder) -> Embeddings:
        """What is there already, of the same encoder; makes an empty store where there is none."""
        if (self.path / _MANIFEST).exists():
            self._refuse_other(encoder.fingerprint)
            return self.load()
        self._manifest: dict[str, Any] = {
            "format": _FORMAT,
            "encoder": encoder.fingerprint,
            "dim": encoder.dim,
            "cut": 0,
            "shards": [],
        }
        if encoder.reference is not None:
            with replacing(self.path / "reference.safetensors") as beside:
                save_file({"reference": encoder.reference}, beside)
        write_json(self.path / _MANIFEST, self._manifest)
        return self.load()

    def _refuse_other(self, fingerprint: Fingerprint) -> None:
        stored = self._read_manifest()["encoder"]
        for name in sorted(stored.keys() | fingerprint.keys()):
            if stored.get(name) != fingerprint.get(name):
                raise StoreError(
                    f"{self.path}: made by another encoder ({name} is {stored.get(name)!r} there and "
                    f"{fingerprint.get(name)!r} here); use another folder, or delete this one"
                )

    def _read_manifest(self) -> dict[str, Any]:
        path = self.path / _MANIFEST
        try:
            manifest = read_json(path)
        except DataError:
            raise StoreError(f"{path}: no readable store of embeddings; delete the folder and embed again") from None
        if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
            raise StoreError(f"{path}: not a store of format {_FORMAT}; delete the folder and embed again")
        return manifest

    def load(self) -> Embeddings:
        self._manifest = self._read_manifest()
        parts, index = [torch.empty(0, self._manifest["dim"])], dict[bytes, int]()
        for shard in self._manifest["shards"]:
            tensors = self._load_shard(shard)
            for key in tensors["keys"].numpy():
                index[key.tobytes()] = len(index)
            parts.append(tensors["vectors"])
        reference = self.path / "reference.safetensors"
        return Embeddings(
            vectors=torch.cat(parts),
            index=index,
            fingerprint=self._manifest["encoder"],
            reference=load_file(reference)["reference"] if reference.exists() else None,
            cut=self._manifest["cut"],
        )

    def _load_shard(self, shard: dict[str, Any]) -> dict[str, Tensor]:
        path = self.path / shard["file"]
        remedy = "delete the folder of embeddings and embed again"
        if not path.exists():
            raise StoreError(f"{path}: the shard is missing; {remedy}")
        if sha256(path.read_bytes()).hexdigest() != shard["sha256"]:
            raise StoreError(f"{path}: the shard is damaged (its checksum differs); {remedy}")
        try:
            return load_file(path)
        except SafetensorError as error:
            raise StoreError(f"{path}: the shard is damaged ({error}); {remedy}") from None

    def append(self, keys: Sequence[bytes], vectors: Tensor, cut: int) -> None:
        """Write one shard, then name it in the manifest."""
        name = f"shard-{len(self._manifest['shards']):05d}.safetensors"
        array = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(len(keys), -1).copy()
        with replacing(self.path / name) as beside:
            save_file({"keys": torch.from_numpy(array), "vectors": vectors.contiguous()}, beside)
            checksum = sha256(beside.read_bytes()).hexdigest()
        self._manifest["shards"].append({"file": name, "rows": len(keys), "sha256": checksum})
        self._manifest["cut"] = cut
        write_json(self.path / _MANIFEST, self._manifest)
