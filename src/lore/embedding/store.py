"""`Embeddings`: the vectors of conversations, by the hash of their content; in memory, or in a folder that resumes."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from lore.data.messages import conversation_key
from lore.data.preferences import Preferences
from lore.embedding.block_store import begin, drop, load_store
from lore.embedding.blocks import BlockEncoder
from lore.embedding.encoder import Encoded, Encoder, Fingerprint
from lore.embedding.fingerprints import length_columns, made_alike
from lore.embedding.load import load_encoder
from lore.embedding.options import EncoderOptions
from lore.embedding.packaged import default_encoder
from lore.embedding.shards import Contents, Keys, StoreFolder, as_keys
from lore.embedding.tokens import CUT, DROPPED, Conversation
from lore.embedding.workers import workers
from lore.errors import StoreError
from lore.exports import compact_repr
from lore.files import replacing
from lore.progress import Progress, silent

_SHARD = 512  # conversations that a run loses at most when it is killed
_log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class Embeddings:
    """Vectors of conversations.

    Attributes:
        vectors: `[conversations, dim]`, in the dtype of the store; mapped from a file where they come from a folder.
        keys: `conversation_key` of each row, `[conversations]`.
        status: what the length limit did to each, uint8 `[conversations]` (`lore.embedding.tokens`).
        fingerprint: of the encoder that made them.
        reference: reward direction of the encoder's own head, `[dim]`, or None.
        length_columns: columns that count how long a response is.
    """

    vectors: Tensor
    keys: Keys
    status: Tensor
    fingerprint: Fingerprint
    reference: Tensor | None
    length_columns: tuple[int, ...] = ()
    _order: NDArray[np.int64] = field(init=False, repr=False)

    __repr__ = compact_repr

    def __post_init__(self) -> None:
        object.__setattr__(self, "_order", np.argsort(self.keys))

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, keys: Sequence[bytes]) -> NDArray[np.int64]:
        """Return the row of each key, `[keys]`; -1 for what is not there."""
        if not len(self):
            return np.full(len(keys), -1)
        wanted = as_keys(keys)
        position = np.searchsorted(self.keys, wanted, sorter=self._order).clip(max=len(self) - 1)
        rows = self._order[position]
        return np.where(self.keys[rows] == wanted, rows, -1)

    def rows(self, preferences: Preferences) -> Tensor:
        """Return the row of `vectors` for each conversation of a table, int64 `[rows]`.

        Raises:
            StoreError: a conversation has not been embedded.
        """
        rows = self.find(preferences.conversation_keys())
        if missing := int((rows < 0).sum()):
            raise StoreError(
                f"{missing} of {len(rows)} conversations are not in the store; run `lore embed` on this data"
            )
        return torch.from_numpy(rows)

    def truncation_counts(self, preferences: Preferences) -> "TruncationCounts":
        """Count what the length limit did to the embedded conversations of a table, by side of the comparison."""
        rows = self.find(preferences.conversation_keys())
        status = np.zeros(len(rows), dtype=np.uint8)
        status[rows >= 0] = self.status.numpy()[rows[rows >= 0]]
        chosen, rejected = status[preferences.chosen], status[preferences.rejected]
        return TruncationCounts(
            cut=int((status == CUT).sum()),
            dropped=int((status == DROPPED).sum()),
            chosen=int((chosen != 0).sum()),
            rejected=int((rejected != 0).sum()),
            comparisons=int(((chosen == DROPPED) | (rejected == DROPPED)).sum()),
        )

    def export(self, conversations: Sequence[Conversation], path: str | Path) -> None:
        """Write vectors of conversations, one row each in the order given, as safetensors with the key `embeddings`.

        The reward head, where there is one, goes along as `reference`. With the eight responses to each prompt in turn
        this is the `train.safetensors` of PersonalLLM's pages.

        Raises:
            StoreError: a conversation has not been embedded.
        """
        rows = self.find([conversation_key(*conversation) for conversation in conversations])
        if missing := int((rows < 0).sum()):
            raise StoreError(f"{missing} of {len(rows)} conversations are not in the store; embed them first")
        tensors = {"embeddings": self.vectors[torch.from_numpy(rows)]}
        if self.reference is not None:
            tensors["reference"] = self.reference
        with replacing(Path(path)) as beside:
            save_file(tensors, beside)

    @staticmethod
    def drop(folder: str | Path, keys: Sequence[bytes]) -> int:
        """Remove the vectors of some conversations from a folder, by `Preferences.conversation_keys`; how many."""
        return drop(Path(folder), keys)

    @classmethod
    def load(cls, folder: str | Path, *, verify: bool = False) -> "Embeddings":
        """All vectors of a folder; of a large one they are mapped, and only read on demand.

        Args:
            folder: of the store.
            verify: whether to compare the checksums of large shards too, which reads them whole.

        Raises:
            StoreError: there is no store, or a shard is missing or damaged.
        """
        joined = load_store(Path(folder), verify=verify)
        return _embeddings(joined.contents, joined.fingerprint, joined.reference, joined.length_columns)


@dataclass(frozen=True)
class TruncationCounts:
    """Counts of conversations that were longer than the limit, by side of the comparison.

    Attributes:
        cut: conversations that lost an end.
        dropped: conversations that were left out.
        chosen: comparisons whose chosen side is one of either.
        rejected: comparisons whose rejected side is one of either.
        comparisons: those that are left out with a dropped conversation.
    """

    cut: int
    dropped: int
    chosen: int
    rejected: int
    comparisons: int

    def message(self) -> str | None:
        """Return the sentence for a report; None if nothing was truncated."""
        if not self.cut + self.dropped:
            return None
        bias = "" if self.chosen == self.rejected else ", which biases what is learned if it is uneven"
        sides = f" (chosen in {self.chosen:,} comparisons, rejected in {self.rejected:,}{bias})"
        dropped = f"; {self.comparisons:,} comparisons are left out" if self.dropped else ""
        long = self.cut + self.dropped
        are, were = ("response is", "was") if long == 1 else ("responses are", "were")
        return (
            f"{long:,} {are} longer than the encoder's limit and {were} {'dropped' if self.dropped else 'cut'}"
            f"{sides if self.chosen + self.rejected else ''}{dropped}"
        )


def encode(
    preferences: Preferences,
    encoder: str | Encoder | None = None,
    store: str | Path | None = None,
    *,
    options: EncoderOptions | None = None,
    reuse: Sequence[Embeddings] = (),
    progress: Progress = silent,
) -> Embeddings:
    """Embed every conversation of a table once.

    Started several times by `torchrun`, each process embeds shards of its own into the same folder.

    Args:
        preferences: whose conversations to embed.
        encoder: what `lore.embedding.load_encoder` takes, or an `Encoder`; the best that is installed by default.
        store: a folder that keeps the vectors; what is in it already is not computed again. Encoders side by side
            keep theirs apart, so that another combination computes only what is new.
        options: how to encode; for an encoder by name.
        reuse: vectors that are taken over into the store where the same encoder made them, in any version of the
            libraries that compute them.
        progress: told of every shard.

    Raises:
        StoreError: the folder was made by another encoder, or is damaged.
        EncoderError: the encoder cannot be loaded, or refuses a conversation.
    """
    if encoder is None or isinstance(encoder, str):
        encoder = load_encoder(encoder or default_encoder(), options, preferences)
    if store is None:
        shards = _encoded_shards(preferences, encoder, _nothing(encoder), progress, "embedding")
        return _joined(_nothing(encoder), [Contents(as_keys(keys), one.status, one.vectors) for keys, one in shards])
    folder = Path(store)
    blocks = encoder.blocks if isinstance(encoder, BlockEncoder) else [encoder]
    for number, (block, where) in enumerate(zip(blocks, begin(folder, encoder), strict=True), start=1):
        task = "embedding" if len(blocks) == 1 else f"embedding, encoder {number} of {len(blocks)}"
        _fill(StoreFolder(where), preferences, block, reuse, progress, task)
    return Embeddings.load(folder)


def _fill(
    folder: StoreFolder,
    preferences: Preferences,
    encoder: Encoder,
    reuse: Sequence[Embeddings],
    progress: Progress,
    task: str,
) -> None:
    """Embed what is not in the store of one encoder, which has been begun."""
    existing = _stored(folder, encoder)
    if _took_over(folder, preferences, existing, reuse):
        existing = _stored(folder, encoder)
    for keys, encoded in _encoded_shards(preferences, encoder, existing, progress, task):
        folder.append(keys, encoded)
    if workers() == 1:
        folder.merge()


def _took_over(
    folder: StoreFolder, preferences: Preferences, existing: Embeddings, reuse: Sequence[Embeddings]
) -> bool:
    """Add what an equal encoder has made of conversations that a store does not hold; return True if there was any."""
    keys = np.array(preferences.conversation_keys(), dtype=object)
    keys = keys[existing.find(keys.tolist()) < 0]
    took = False
    for other in reuse:
        rows = other.find(keys.tolist())
        if made_alike(other.fingerprint, existing.fingerprint) and bool((rows >= 0).any()):
            some = torch.from_numpy(rows[rows >= 0])
            vectors = other.vectors[some].to(existing.vectors.dtype)
            folder.append(keys[rows >= 0].tolist(), Encoded(vectors, other.status[some]))
            keys, took = keys[rows < 0], True
    return took


def _encoded_shards(
    preferences: Preferences, encoder: Encoder, existing: Embeddings, progress: Progress, task: str
) -> Iterator[tuple[list[bytes], Encoded]]:
    """Yield the keys and vectors of each shard that is missing and that this process makes."""
    keys = preferences.conversation_keys()
    shards = _shards(preferences, np.flatnonzero(existing.find(keys) < 0))
    shards = shards[int(os.environ.get("RANK", "0")) :: workers()]
    done, total = 0, sum(map(len, shards))
    for rows in shards:
        progress(task, done, total)
        encoded = _finite(encoder.encode([preferences.conversation(row) for row in rows]))
        yield [keys[row] for row in rows], encoded
        done += len(rows)
    progress(task, total, total)
    _log.info("%s: %d conversations, %d were in the store", task, total, len(keys) - total)


def _shards(preferences: Preferences, missing: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Rows to embed, shard by shard, responses to a prompt side by side.

    The same rows are in the same shards however often a run is interrupted, and so in the same batches: an embedding
    does not depend on interruptions, to the bit.
    """
    order = missing[np.argsort(preferences.row_prompt[missing], kind="stable")]
    return [order[begin : begin + _SHARD] for begin in range(0, len(order), _SHARD)]


def missing_shards(preferences: Preferences, folder: Path) -> list[NDArray[np.int64]]:
    """Rows of a table that a store does not hold, shard by shard: for those who hand out the work themselves."""
    existing = Embeddings.load(folder, verify=True)
    return _shards(preferences, np.flatnonzero(existing.find(preferences.conversation_keys()) < 0))


def _finite(encoded: Encoded) -> Encoded:
    if not bool(torch.isfinite(encoded.vectors).all()):
        raise StoreError("the encoder gave vectors that are not finite; check the model's weights and dtype")
    return encoded


def _stored(folder: StoreFolder, encoder: Encoder) -> Embeddings:
    return _embeddings(folder.contents(verify=True), encoder.fingerprint, encoder.reference)


def _embeddings(
    contents: Contents, fingerprint: Fingerprint, reference: Tensor | None, columns: tuple[int, ...] = ()
) -> Embeddings:
    return Embeddings(contents.vectors, contents.keys, contents.status, fingerprint, reference, columns)


def _nothing(encoder: Encoder) -> Embeddings:
    nothing = Contents(as_keys([]), torch.empty(0, dtype=torch.uint8), torch.empty(0, encoder.dim))
    blocks = encoder.blocks if isinstance(encoder, BlockEncoder) else [encoder]
    columns = length_columns([(block.fingerprint, block.dim) for block in blocks])
    return _embeddings(nothing, encoder.fingerprint, encoder.reference, columns)


def _joined(existing: Embeddings, made: Sequence[Contents]) -> Embeddings:
    if not made:
        return existing
    return replace(
        existing,
        vectors=torch.cat([part.vectors for part in made]),
        keys=np.concatenate([part.keys for part in made]),
        status=torch.cat([part.status for part in made]),
    )
