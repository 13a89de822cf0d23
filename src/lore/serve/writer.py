"""Group commit: events of many requests share one transaction, and one sync of the disk."""

import threading
from concurrent.futures import Future
from contextlib import nullcontext
from queue import SimpleQueue

from lore.serve.turnstile import Pause
from lore.users import Batch, Outcome, UserStore

_MOST_EVENTS = 2_000  # in one transaction


class Writer:
    """The one path by which events get into the store."""

    def __init__(self, store: UserStore, pause: Pause = nullcontext) -> None:
        """Begin the thread that commits; `pause` is entered while somebody waits for it."""
        self._store, self._pause = store, pause
        self._waiting: SimpleQueue[tuple[Batch, dict[bytes, bytes], Future[Outcome]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._commit_waiting, name="lore-writer", daemon=True)
        self._thread.start()

    def append(self, batch: Batch, vectors: dict[bytes, bytes]) -> Outcome:
        """Commit a batch, with the vectors of its conversations; returns when it is on disk, or raises why not."""
        answer: Future[Outcome] = Future()
        self._waiting.put((batch, vectors, answer))
        with self._pause():
            return answer.result()

    def close(self) -> None:
        """Commit what is waiting, and end the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _commit_waiting(self) -> None:
        ending = False
        while not ending:
            group = []
            item = self._waiting.get()
            while item is not None:
                group.append(item)
                if self._waiting.empty() or sum(len(batch.events) for batch, _, _ in group) >= _MOST_EVENTS:
                    break
                item = self._waiting.get()
            ending = item is None
            if group:
                self._commit(group)

    def _commit(self, group: "list[tuple[Batch, dict[bytes, bytes], Future[Outcome]]]") -> None:
        vectors = {key: value for _, own, _ in group for key, value in own.items()}
        try:
            outcomes = self._store.append([batch for batch, _, _ in group], vectors)
        except Exception as error:  # everybody who waits is told
            for _, _, answer in group:
                answer.set_exception(error)
            return
        for (_, _, answer), outcome in zip(group, outcomes, strict=True):
            answer.set_result(outcome)
