"""Group commit: events of many requests share one transaction, and one sync of the disk."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from lore.serve.admission import Released
from lore.serve.batching import BatchingThread
from lore.serve.store.events import Batch, EventStore, Outcome

_MAX_EVENTS = 2_000  # in one transaction


@dataclass(frozen=True)
class _Write:
    """A batch of events, and vectors of their conversations by key."""

    batch: Batch
    vectors: dict[bytes, bytes]


class Writer:
    """The one path by which events get into the store."""

    def __init__(self, events: EventStore, released: Released = nullcontext) -> None:
        """Begin the thread that commits; `released` is entered while a request waits for it."""
        self._events = events
        self._thread = BatchingThread(
            "lore-writer",
            self._commit,
            size=lambda write: len(write.batch.events),
            max_size=_MAX_EVENTS,
            retry_alone=False,
            released=released,
        )

    def append(self, batch: Batch, vectors: dict[bytes, bytes]) -> Outcome:
        """Commit a batch, with the vectors of its conversations; returns when it is on disk, or raises why not."""
        return self._thread.submit(_Write(batch, vectors))

    def close(self) -> None:
        """Commit what is waiting, and end the thread."""
        self._thread.close()

    def _commit(self, writes: Sequence[_Write]) -> Sequence[Outcome]:
        vectors = {key: vector for write in writes for key, vector in write.vectors.items()}
        return self._events.append([write.batch for write in writes], vectors)
