"""What Prometheus reads at /metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_COUNTS = (1, 2, 4, 8, 16, 32, 64)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "recmind_requests", "Answered requests", ["route", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "recmind_request_seconds",
            "From a request's head to its answer",
            ["route"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.batch = Histogram(
            "recmind_batch_requests",
            "Requests that were ranked together",
            buckets=_COUNTS,
            registry=self.registry,
        )
        self.waiting = self._gauge("recmind_waiting_requests", "Requests that wait for a ranking")
        self.swaps = self._gauge("recmind_bundle_swaps", "Bundles that replaced the one before")
        self.refused = self._gauge("recmind_bundles_refused", "Bundles that could not be served")
        self.users = self._gauge("recmind_bundle_users", "Users of the bundle")
        self.items = self._gauge("recmind_bundle_items", "Items of the bundle")

    def count(self, route: str, status: int, seconds: float) -> None:
        """Counts an answered request."""
        self.requests.labels(route, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """In Prometheus's format."""
        return generate_latest(self.registry)

    def _gauge(self, name: str, meaning: str) -> Gauge:
        return Gauge(name, meaning, registry=self.registry)
