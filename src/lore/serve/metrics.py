"""Counters of a server: for Prometheus, and of the last minutes for its own page."""

import time
from collections import deque
from dataclasses import dataclass

from lore.errors import MissingExtra

try:
    from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
except ImportError:  # pragma: no cover - the extra is installed wherever the tests run
    raise MissingExtra("prometheus-client", "serve") from None

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)

SPAN = 5.0  # seconds of one entry of the load
_SPANS = 120


@dataclass
class Span:
    """Requests answered within `SPAN` seconds.

    Attributes:
        start: when the span begins, in seconds since 1970.
        requests: answered.
        refused: of them, as there were too many.
        seconds: that they took together.
        slowest: of them, in seconds.
    """

    start: float
    requests: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0


class Metrics:
    """Counters of one application; nothing in them names a user."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self._requests = Counter("lore_requests", "Requests answered.", labels, registry=self._registry)
        self._seconds = Histogram(
            "lore_request_seconds", "Time to answer.", ("route",), buckets=_SECONDS, registry=self._registry
        )
        self._load: deque[Span] = deque(maxlen=_SPANS)
        self.events = Counter("lore_events", "Choices accepted.", registry=self._registry)
        self.reranked = Counter("lore_reranked", "Rerank requests.", ("personalized",), registry=self._registry)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answer."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)
        start = time.time() // SPAN * SPAN
        if not self._load or self._load[-1].start != start:
            self._load.append(Span(start))
        span = self._load[-1]
        span.requests += 1
        span.refused += status in (429, 503)
        span.seconds += seconds
        span.slowest = max(span.slowest, seconds)

    def load(self) -> list[Span]:
        """Return the spans of the last ten minutes, without those that had no requests."""
        return list(self._load)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)
