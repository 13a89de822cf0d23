"""Limits that are checked before a request is read: bytes, nesting, requests at once, requests a second."""

import asyncio
import json
import logging
import math
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from threading import Lock
from typing import Any
from urllib.parse import unquote

from lore.errors import ConfigError
from lore.serve.admission import AdmissionQueue
from lore.serve.metrics import Metrics

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

_LOG = logging.getLogger("lore.serve")
# The end of an open string counts as its end: otherwise every quote within would be tried as its beginning.
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*(?:"|\\?\Z)', re.DOTALL)
_ENCODED = re.compile("(%2[Ff]|%25)")  # what stays encoded in a path, so that an id may hold a slash
_LOCAL = ("127.0.0.1", "localhost", "[::1]")
_NOT_BRACKETS = re.compile(rb"[^\[\]{}]+")


@dataclass(frozen=True)
class Limits:
    """Limits on what one server takes.

    Attributes:
        body: bytes of a request.
        depth: nesting of its JSON.
        at_once: requests that are there; more are turned away at once.
        computing: of them, those that compute; the others wait for their turn, for the encoder, or for the disk.
        reading: seconds within which a request must have arrived.
        patience: seconds that a request of a burst may wait for its turn, a twentieth of which under lasting overload.
        rate: requests a second of one token, in the long run; 0 for no limit.
        burst: how many of them may come at once.
    """

    body: int = 8 * 2**20
    depth: int = 32
    at_once: int = 64
    computing: int = 3
    reading: float = 20.0
    patience: float = 0.1
    rate: float = 0.0
    burst: int = 100

    def __post_init__(self) -> None:
        for name in ("body", "depth", "at_once", "computing", "burst"):
            if getattr(self, name) < 1:
                raise ConfigError(f"`{name}` must be 1 or more, got {getattr(self, name)}")
        if not 0 < self.reading < math.inf:
            raise ConfigError(f"`reading` must be a positive number of seconds, got {self.reading}")
        if not 0 <= self.patience < math.inf:
            raise ConfigError(f"`patience` must be a number of seconds, 0 or more, got {self.patience}")
        if not 0 <= self.rate < math.inf:
            raise ConfigError(f"`rate` must be a number of requests a second, 0 for no limit, got {self.rate}")


class RateLimiter:
    """Token buckets: how many requests each holder may still send now."""

    def __init__(self, rate: float, burst: int) -> None:
        self._rate, self._burst = rate, burst
        self._left: dict[str, tuple[float, float]] = {}
        self._lock = Lock()

    def wait(self, holder: str) -> float:
        """Take one; 0, or the seconds to wait before there is another."""
        if self._rate == 0:
            return 0.0
        now = time.monotonic()
        with self._lock:
            left, since = self._left.get(holder, (float(self._burst), now))
            left = min(left + (now - since) * self._rate, float(self._burst))
            if left < 1:
                self._left[holder] = (left, now)
                return (1 - left) / self._rate
            self._left[holder] = (left - 1, now)
            return 0.0


class LimitsMiddleware:
    """Around the application: turns away what is too much, counts and logs the rest, names no user and no text."""

    def __init__(
        self, app: Application, limits: Limits, metrics: Metrics, admission: AdmissionQueue, *, local: bool = False
    ) -> None:
        """Stand before `app`; `local` refuses requests that were meant for another host than this machine."""
        self._app, self._limits, self._metrics, self._admission = app, limits, metrics, admission
        self._local = local
        self._at_work = 0

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, request_id = time.perf_counter(), uuid.uuid4().hex[:16]
        status = 500

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request_id.encode())]
            await send(message)

        if scope.get("raw_path"):
            scope["path"] = _decoded(scope["raw_path"])
        try:
            await self._read_and_handled(scope, receive, answered)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            seconds = time.perf_counter() - begin
            self._metrics.request(scope["method"], route, status, seconds)
            line = {
                "request": request_id,
                "method": scope["method"],
                "route": route,
                "status": status,
                "milliseconds": round(1e3 * seconds, 2),
            }
            _LOG.info(json.dumps(line))

    async def _read_and_handled(self, scope: Message, receive: Receive, send: Send) -> None:
        if self._local and _host(scope) not in _LOCAL:
            await _refused(send, 403, "without tokens this server is for its own machine: call it 127.0.0.1")
            return
        if scope["path"] == "/livez":
            await self._app(scope, receive, send)
            return
        if scope["method"] in ("POST", "PUT", "PATCH", "DELETE"):
            try:
                async with asyncio.timeout(self._limits.reading):
                    body = await _read(receive, self._limits.body)
            except TimeoutError:
                await _refused(send, 408, f"the request did not arrive within {self._limits.reading:g} seconds")
                return
            if body is None:
                await _refused(send, 413, f"the request is longer than {self._limits.body:,} bytes; send less at once")
                return
            if _depth(body) > self._limits.depth:
                await _refused(send, 422, f"the JSON is nested deeper than {self._limits.depth}; send it flat")
                return
            receive = _replayed(body, receive)
        self._at_work += 1
        try:
            await self._handled(scope, receive, send)
        finally:
            self._at_work -= 1

    async def _handled(self, scope: Message, receive: Receive, send: Send) -> None:
        if self._at_work > self._limits.at_once or not await self._admission.enter():
            await _refused(send, 503, "too many requests at once; try again in a second", retry=1)
            return
        try:
            await self._app(scope, receive, send)
        finally:
            self._admission.leave()


def _decoded(raw: bytes) -> str:
    """Return a path whose slashes and per cents within a segment stay encoded."""
    parts = _ENCODED.split(raw.partition(b"?")[0].decode("ascii", "replace"))
    return "".join(part if _ENCODED.fullmatch(part) else unquote(part) for part in parts)


def _host(scope: Message) -> str:
    named = next((value for name, value in scope["headers"] if name == b"host"), b"").decode("latin-1")
    return re.sub(r":\d+$", "", named)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Replay a body that was read, and then what comes after it."""
    sent = False

    async def replayed() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


async def _read(receive: Receive, max_bytes: int) -> bytes | None:
    """Return the body, or None if it is longer than `max_bytes`."""
    parts, size = [], 0
    while True:
        message = await receive()
        part = message.get("body", b"")
        size += len(part)
        if size > max_bytes:
            return None
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _depth(body: bytes) -> int:
    """Return how deep brackets are nested outside of strings."""
    depth = deepest = 0
    for byte in _NOT_BRACKETS.sub(b"", _STRING.sub(b"", body)):
        depth += 1 if byte in b"[{" else -1
        deepest = max(deepest, depth)
    return deepest


async def _refused(send: Send, status: int, detail: str, retry: int | None = None) -> None:
    body = json.dumps({"detail": detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if retry is not None:
        headers.append((b"retry-after", str(retry).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
