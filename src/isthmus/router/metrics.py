"""What a Router counts, for Prometheus. Labels name outcomes and directions, never titles, sites or patients."""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The counters of one Router, in a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._live = Gauge("isthmus_associations_live", "Associations relayed now.", registry=self._registry)
        self._opened = Counter("isthmus_associations_opened", "Associations that were set up.", registry=self._registry)
        self._refused = Counter(
            "isthmus_associations_refused", "Associations refused here.", ["reason"], registry=self._registry
        )
        self._ended = Counter(
            "isthmus_associations_ended", "Associations that ended, by outcome.", ["outcome"], registry=self._registry
        )
        self._bytes = Counter(
            "isthmus_relayed_bytes", "Bytes of ended associations.", ["direction"], registry=self._registry
        )
        self._set_up = Histogram(
            "isthmus_association_set_up_seconds",
            "From the device's A-ASSOCIATE-RQ to the answer.",
            buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 15.0, 30.0),
            registry=self._registry,
        )
        self._resent = Counter("isthmus_segments_resent", "Segments that were sent again.", registry=self._registry)
        self._bridge = Gauge("isthmus_bridge_connected", "1 while the Bridge answers.", registry=self._registry)

    def opened(self, *, seconds: float) -> None:
        """An association was set up, in that many seconds."""
        self._live.inc()
        self._opened.inc()
        self._set_up.observe(seconds)

    def ended(self, *, outcome: str, bytes_out: int, bytes_in: int) -> None:
        """An association that was set up is over."""
        self._live.dec()
        self._ended.labels(outcome).inc()
        self._bytes.labels("out").inc(bytes_out)
        self._bytes.labels("in").inc(bytes_in)

    def refused(self, reason: str) -> None:
        """An association was refused here: `reason` is the A-ASSOCIATE-RJ as result/source/reason."""
        self._refused.labels(reason).inc()

    def resent(self, segments: int) -> None:
        """So many segments had to be sent again."""
        self._resent.inc(segments)

    def bridge_connected(self, *, connected: bool) -> None:
        """The Bridge answers, or does not."""
        self._bridge.set(connected)

    def text(self) -> bytes:
        """Return all of it as Prometheus reads it."""
        return generate_latest(self._registry)
