"""One thread that does the work of many requests together."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import nullcontext
from queue import SimpleQueue
from typing import Generic, TypeVar

from lore.serve.admission import Released

Item = TypeVar("Item")
Result = TypeVar("Result")


class BatchingThread(Generic[Item, Result]):
    """Collects what is waiting and works on all of it at once; each caller waits for its own result."""

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        size: Callable[[Item], int],
        max_size: int,
        *,
        retry_alone: bool,
        released: Released = nullcontext,
    ) -> None:
        """Begin the thread.

        Args:
            name: of the thread.
            work: results of some items, in their order; what it raises is raised to whoever waits.
            size: of an item.
            max_size: sum of sizes at which a batch is not added to.
            retry_alone: work on each item of a batch that failed by itself, so that one bad item fails alone.
            released: entered while a caller waits.
        """
        self._work, self._size, self._max_size, self._retry_alone = work, size, max_size, retry_alone
        self._released = released
        self._waiting: SimpleQueue[tuple[Item, Future[Result]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, item: Item) -> Result:
        """Return the result of an item, or raise why there is none."""
        future: Future[Result] = Future()
        self._waiting.put((item, future))
        with self._released():
            return future.result()

    def close(self) -> None:
        """Work on what is waiting, and end the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        ending = False
        while not ending:
            batch: list[tuple[Item, Future[Result]]] = []
            entry = self._waiting.get()
            while entry is not None:
                batch.append(entry)
                if self._waiting.empty() or sum(self._size(item) for item, _ in batch) >= self._max_size:
                    break
                entry = self._waiting.get()
            ending = entry is None
            if batch:
                self._answer(batch)

    def _answer(self, batch: "Sequence[tuple[Item, Future[Result]]]") -> None:
        try:
            results = self._work([item for item, _ in batch])
        except Exception as error:  # every caller that waits gets it
            if self._retry_alone and len(batch) > 1:
                for entry in batch:
                    self._answer([entry])
                return
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)
