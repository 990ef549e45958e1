"""Metrics for Prometheus: one registry of this Bridge's own. Hot counters are plain numbers, read when asked."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from isthmus.bridge.blobs.store import BlobStore
from isthmus.bridge.sessions.service import Sessions
from isthmus.bridge.signalling.hub import Hub


class Metrics:
    """What the operator's monitoring reads. Labels are routes, statuses and outcomes: never a name of anybody."""

    def __init__(self, hub: Hub, sessions: Sessions, blobs: BlobStore) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "isthmus_bridge_requests", "Answered requests", ["method", "route", "status"], registry=self._registry
        )
        self._registry.register(_State(hub, sessions, blobs))

    def count_request(self, method: str, route: str, status: int) -> None:
        """Note one answered request."""
        known = method if method in {"GET", "PUT", "POST", "DELETE", "HEAD"} else "other"
        self._requests.labels(known, route, str(status)).inc()

    def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)


class _State(Collector):
    def __init__(self, hub: Hub, sessions: Sessions, blobs: BlobStore) -> None:
        self._hub = hub
        self._sessions = sessions
        self._blobs = blobs

    def collect(self) -> Iterator[Metric]:
        hub = self._hub
        yield GaugeMetricFamily("isthmus_bridge_routers_online", "Routers that listen now", value=len(hub.online))
        yield GaugeMetricFamily("isthmus_bridge_sessions_live", "Live sessions", value=len(self._sessions.live))
        yield GaugeMetricFamily("isthmus_bridge_blob_bytes", "Bytes of blobs kept", value=self._blobs.used)
        yield CounterMetricFamily("isthmus_bridge_notices", "Notices forwarded", value=hub.forwarded_notices)
        yield CounterMetricFamily("isthmus_bridge_notice_bytes", "Bytes of them", value=hub.forwarded_bytes)
        dropped = CounterMetricFamily("isthmus_bridge_dropped_bytes", "Notices dropped, and why", labels=["reason"])
        for reason, count in hub.dropped_bytes.items():
            dropped.add_metric([reason], count)
        yield dropped
        outcomes = CounterMetricFamily("isthmus_bridge_setups", "Sessions asked for, by outcome", labels=["outcome"])
        for outcome, count in self._sessions.outcomes.items():
            outcomes.add_metric([outcome], count)
        yield outcomes
