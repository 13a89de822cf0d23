"""Vectors of conversations: remembered, stored, or encoded now, together with whatever else is waiting."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lore.data.messages import conversation_key
from lore.embedding.encoder import Encoder
from lore.embedding.store import Embeddings
from lore.embedding.tokens import DROPPED, WHOLE, Conversation
from lore.errors import DataError, LoreError
from lore.serve.admission import Released
from lore.serve.batching import BatchingThread
from lore.serve.store.vectors import VectorStore

_MAX_CONVERSATIONS = 256  # in one call of the encoder
_REMEMBERED = 2**28  # bytes of vectors in memory
_CUT = b"\1"

StoredVectors = Callable[[Sequence[bytes]], dict[bytes, bytes]]


class EncoderDownError(LoreError):
    """A failure of the encoder on valid input: nothing can be scored, and nothing is invented."""


@dataclass(frozen=True)
class Vector:
    """A vector `[dim]`, and whether the text was longer than the encoder reads."""

    values: Tensor
    truncated: bool


def as_bytes(vector: Vector) -> bytes:
    """Return a vector as it is stored: float32, least significant byte first, and a byte more if the text was cut."""
    return vector.values.float().cpu().numpy().astype("<f4").tobytes() + (_CUT if vector.truncated else b"")


def vector_of(stored: bytes) -> Vector:
    """Return the vector that `as_bytes` wrote."""
    cut = len(stored) % 4 != 0
    return Vector(torch.from_numpy(np.frombuffer(stored[: len(stored) // 4 * 4], "<f4").copy()), cut)


def stored_vectors(embeddings: Embeddings, store: VectorStore, keys: Sequence[bytes]) -> dict[bytes, bytes]:
    """Return the vectors of these keys that lie in a run, or in the database."""
    rows = embeddings.find(list(keys)).tolist()
    in_run = {
        key: as_bytes(Vector(embeddings.vectors[row], int(embeddings.status[row]) != WHOLE))
        for key, row in zip(keys, rows, strict=True)
        if row >= 0
    }
    return in_run | store.get([key for key in keys if key not in in_run])


class Vectors:
    """The vectors of conversations, by their content."""

    def __init__(self, encoder: Encoder, stored: StoredVectors, released: Released = nullcontext) -> None:
        """Begin the thread that encodes.

        Args:
            encoder: of the run.
            stored: returns the vectors of keys that lie on disk, as float32 bytes.
            released: entered while a request waits for the encoder.
        """
        self._encoder, self._stored = encoder, stored
        self._max_remembered = max(_REMEMBERED // (4 * encoder.dim), 1)
        self._memory: OrderedDict[bytes, Vector] = OrderedDict()
        self._lock = threading.Lock()
        self._thread: BatchingThread[list[Conversation], list[Vector]] = BatchingThread(
            "lore-encoder",
            self._encode,
            size=len,
            max_size=_MAX_CONVERSATIONS,
            retry_alone=True,
            released=released,
        )

    def close(self) -> None:
        """Encode what is waiting, and end the thread."""
        self._thread.close()

    def of(self, conversations: Sequence[Conversation]) -> list[Vector]:
        """Return one vector a conversation, in order.

        Raises:
            EncoderDownError: the encoder failed.
            DataError: a conversation is longer than the encoder reads, and such are refused or dropped.
        """
        keys = [conversation_key(*conversation) for conversation in conversations]
        vectors = self._remembered(keys)
        missing = {key: content for key, content in zip(keys, conversations, strict=True) if key not in vectors}
        if missing:
            vectors |= {key: vector_of(stored) for key, stored in self._stored(list(missing)).items()}
            new = {key: content for key, content in missing.items() if key not in vectors}
            if new:
                vectors |= dict(zip(new, self._thread.submit(list(new.values())), strict=True))
            self._remember({key: vectors[key] for key in missing})
        return [vectors[key] for key in keys]

    def forget(self, keys: Sequence[bytes]) -> None:
        """Remove vectors from memory."""
        with self._lock:
            for key in keys:
                self._memory.pop(key, None)

    def _remembered(self, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        with self._lock:
            vectors = {key: self._memory[key] for key in keys if key in self._memory}
            for key in vectors:
                self._memory.move_to_end(key)
        return vectors

    def _remember(self, vectors: dict[bytes, Vector]) -> None:
        with self._lock:
            self._memory |= vectors
            while len(self._memory) > self._max_remembered:
                self._memory.popitem(last=False)

    def _encode(self, waiting: Sequence[list[Conversation]]) -> list[list[Vector]]:
        """Encode the conversations of all requests in one call."""
        try:
            vectors = self._encoded([content for conversations in waiting for content in conversations])
        except Exception as error:
            raise _explained(error) from error
        results = []
        for conversations in waiting:
            results.append(vectors[: len(conversations)])
            vectors = vectors[len(conversations) :]
        return results

    def _encoded(self, conversations: list[Conversation]) -> list[Vector]:
        encoded = self._encoder.encode(conversations)
        if bool((encoded.status == DROPPED).any()):
            raise DataError("a text is longer than the encoder reads; shorten it, or serve a run that cuts long texts")
        if not bool(encoded.vectors.isfinite().all()):
            raise EncoderDownError("the encoder gave numbers that are not finite; look at its model")
        cut = (encoded.status != WHOLE).tolist()
        return [Vector(*pair) for pair in zip(encoded.vectors.float().cpu(), cut, strict=True)]


def _explained(error: Exception) -> LoreError:
    if isinstance(error, LoreError):
        return error
    return EncoderDownError(f"the encoder failed ({type(error).__name__}); try again, or look at the server's log")
