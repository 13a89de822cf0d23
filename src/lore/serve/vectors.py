"""Vectors of conversations: remembered, kept, or encoded now, together with whatever else is waiting."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from contextlib import nullcontext
from dataclasses import dataclass
from queue import SimpleQueue

import numpy as np
import torch
from torch import Tensor

from lore.embedding import Embeddings, Encoder
from lore.embedding.tokens import DROPPED, WHOLE, Conversation
from lore.errors import DataError, LoreError
from lore.preferences import conversation_key
from lore.serve.turnstile import Pause
from lore.users import UserStore

_MOST_AT_ONCE = 256  # conversations in one call of the encoder
_REMEMBERED = 2**28  # bytes of vectors
_CUT = b"\1"

Kept = Callable[[Sequence[bytes]], dict[bytes, bytes]]


class EncoderDownError(LoreError):
    """The encoder failed on input that is fine: nothing can be scored, and nothing is invented."""


@dataclass(frozen=True)
class Vector:
    """A vector `[dim]`, and whether the text was longer than the encoder reads."""

    values: Tensor
    truncated: bool


def as_bytes(vector: Vector) -> bytes:
    """A vector as it is kept: float32, the least significant byte first, and one more byte where the text was cut."""
    return vector.values.float().cpu().numpy().astype("<f4").tobytes() + (_CUT if vector.truncated else b"")


def vector_of(kept: bytes) -> Vector:
    """The vector that `as_bytes` wrote."""
    cut = len(kept) % 4 != 0
    return Vector(torch.from_numpy(np.frombuffer(kept[: len(kept) // 4 * 4], "<f4").copy()), cut)


def kept_vectors(embeddings: Embeddings, store: UserStore, keys: Sequence[bytes]) -> dict[bytes, bytes]:
    """Those of some vectors that lie in a run, or in the database."""
    rows = embeddings.find(list(keys)).tolist()
    found = {
        key: as_bytes(Vector(embeddings.vectors[row], int(embeddings.status[row]) != WHOLE))
        for key, row in zip(keys, rows, strict=True)
        if row >= 0
    }
    return found | store.vectors([key for key in keys if key not in found])


class Vectors:
    """The vectors of conversations, by what they say."""

    def __init__(self, encoder: Encoder, kept: Kept, pause: Pause = nullcontext) -> None:
        """Begin the thread that encodes.

        Args:
            encoder: of the run.
            kept: those of some vectors that lie on disk, by key, as float32 bytes.
            pause: entered while somebody waits for the encoder.
        """
        self._encoder, self._kept, self._pause = encoder, kept, pause
        self._most = max(_REMEMBERED // (4 * encoder.dim), 1)
        self._known: OrderedDict[bytes, Vector] = OrderedDict()
        self._lock = threading.Lock()
        self._waiting: SimpleQueue[_Wanted | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._encode_waiting, name="lore-encoder", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Encode what is waiting, and end the thread."""
        self._waiting.put(None)
        self._thread.join()

    def of(self, conversations: Sequence[Conversation]) -> list[Vector]:
        """One vector a conversation, in order.

        Raises:
            EncoderDownError: the encoder failed.
            DataError: a conversation is longer than the encoder reads, and such are refused or dropped.
        """
        keys = [conversation_key(*conversation) for conversation in conversations]
        found = self._remembered(keys)
        missing = {key: said for key, said in zip(keys, conversations, strict=True) if key not in found}
        if missing:
            kept = self._kept(list(missing))
            found |= {key: vector_of(kept[key]) for key in kept}
            unknown = {key: said for key, said in missing.items() if key not in kept}
            if unknown:
                wanted = _Wanted(list(unknown.values()), Future())
                self._waiting.put(wanted)
                with self._pause():
                    wait([wanted.vectors])
                found |= dict(zip(unknown, wanted.vectors.result(), strict=True))
            self._remember({key: found[key] for key in missing})
        return [found[key] for key in keys]

    def forget(self, keys: Sequence[bytes]) -> None:
        """No longer remember these."""
        with self._lock:
            for key in keys:
                self._known.pop(key, None)

    def _remembered(self, keys: Sequence[bytes]) -> dict[bytes, Vector]:
        with self._lock:
            found = {key: self._known[key] for key in keys if key in self._known}
            for key in found:
                self._known.move_to_end(key)
        return found

    def _remember(self, vectors: dict[bytes, Vector]) -> None:
        with self._lock:
            self._known |= vectors
            while len(self._known) > self._most:
                self._known.popitem(last=False)

    def _encode_waiting(self) -> None:
        """Encode all that waits in one call, again and again."""
        ending = False
        while not ending:
            first = self._waiting.get()
            batch = [] if first is None else [first]
            ending = first is None
            while not self._waiting.empty() and sum(len(wanted.conversations) for wanted in batch) < _MOST_AT_ONCE:
                more = self._waiting.get()
                if more is None:
                    ending = True
                else:
                    batch.append(more)
            if batch:
                self._answer(batch)

    def _answer(self, batch: "Sequence[_Wanted]") -> None:
        """The vectors of everybody who waits; if they cannot be had together, one after the other."""
        try:
            vectors = self._encoded([said for wanted in batch for said in wanted.conversations])
        except Exception as error:
            if len(batch) > 1:
                for wanted in batch:
                    self._answer([wanted])
                return
            batch[0].vectors.set_exception(_explained(error))
            return
        for wanted in batch:
            wanted.vectors.set_result(vectors[: len(wanted.conversations)])
            vectors = vectors[len(wanted.conversations) :]

    def _encoded(self, conversations: Sequence[Conversation]) -> list[Vector]:
        encoded = self._encoder.encode(list(conversations))
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


@dataclass(frozen=True)
class _Wanted:
    """Conversations that somebody waits for."""

    conversations: list[Conversation]
    vectors: "Future[list[Vector]]"
