"""What a server counts, for Prometheus."""

from lore.errors import MissingExtra

try:
    from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
except ImportError:  # pragma: no cover - the extra is installed wherever the tests run
    raise MissingExtra("prometheus-client", "serve") from None

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Metrics:
    """Counters of one application; nothing in them names a person."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self._requests = Counter("lore_requests", "Requests answered.", labels, registry=self._registry)
        self._seconds = Histogram(
            "lore_request_seconds", "Time to answer.", ("route",), buckets=_SECONDS, registry=self._registry
        )
        self.events = Counter("lore_events", "Choices accepted.", registry=self._registry)
        self.reranked = Counter("lore_reranked", "Rerank requests.", ("personalized",), registry=self._registry)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answer."""
        self._requests.labels(method, route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self._registry)
