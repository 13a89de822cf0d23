"""Lets few requests compute at a time, and turns away early what it could not answer soon."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

_SHORT = 1 / 20  # of the patience, while there is a standing queue

Released = Callable[[], AbstractContextManager[None]]


class AdmissionQueue:
    """A queue with controlled delay, as in Nichols and Jacobson 2012 ("Controlling queue delay", ACM Queue 10(5)).

    Each request of a burst may wait for as long as `patience`. If the queue has not been empty for that long, the
    server is overloaded. From then on requests that waited longer than a twentieth of the patience are rejected when
    their turn comes. Those that are let in are answered nearly as fast as without load. All methods but `released`
    belong to the thread of the event loop.
    """

    def __init__(self, slots: int, patience: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Let `slots` requests compute at a time; `patience` in seconds."""
        self._free, self._patience, self._clock = slots, patience, clock
        self._queue: deque[tuple[float, asyncio.Future[bool]]] = deque()
        self._empty = clock()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def enter(self) -> bool:
        """Wait for a turn; False if there is none, and `leave` is not to be called."""
        self._loop, now = asyncio.get_running_loop(), self._clock()
        if not self._queue:
            self._empty = now
        if self._free > 0:
            self._free -= 1
            return True
        turn = self._loop.create_future()
        self._queue.append((now, turn))
        try:
            return await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self.leave()
            raise

    def leave(self) -> None:
        """Give the turn to whoever waits."""
        self._free += 1
        now = self._clock()
        standing = now - self._empty > self._patience
        longest_wait = self._patience * (_SHORT if standing else 1.0)
        while self._free > 0 and self._queue:
            since, turn = self._queue.popleft()
            if turn.done():
                continue
            let_in = now - since <= longest_wait
            self._free -= let_in
            turn.set_result(let_in)
        if not self._queue:
            self._empty = now

    def _return(self) -> None:
        self._free -= 1

    @contextmanager
    def released(self) -> Iterator[None]:
        """Make room for another while a thread that computes waits for the encoder or the disk."""
        loop = self._loop
        if loop is None:  # nothing has been admitted yet
            yield
            return
        loop.call_soon_threadsafe(self.leave)
        try:
            yield
        finally:
            loop.call_soon_threadsafe(self._return)
