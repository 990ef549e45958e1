"""How often one Router may ask: a bucket of requests that fills with time."""

import math
from dataclasses import dataclass
from typing import Final

from isthmus.envelope.identity import RouterId
from isthmus.errors import Problem
from isthmus.kit.clock import Clock


@dataclass(frozen=True, slots=True)
class Rate:
    """Requests a second in the long run, and how many may come at once after a pause."""

    per_second: float
    burst: int


REQUESTS: Final = Rate(200, 2000)
"""Two for an association: a hundred a second, or all that a Router relays at once, are far from it."""
BLOBS: Final = Rate(1000, 4000)
"""Puts, gets and deletes of blobs: where segments travel as blobs, there are two or three for each."""
NOTICES: Final = Rate(1000, 4000)
"""Batches of notices, sent and received, where WebSockets are forbidden: each tiny exchange may be one of its own."""


@dataclass(slots=True)
class _Bucket:
    left: float
    filled: float


class Rates:
    """Counts the requests of each Router, after its signature was checked: nobody spends another's."""

    def __init__(self, rate: Rate, clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        self._buckets: dict[RouterId, _Bucket] = {}

    def __repr__(self) -> str:
        return f"<Rates of {self._rate}, {len(self._buckets)} Routers>"

    def take(self, router_id: RouterId) -> None:
        """Count one request. Raises Problem 429, which says when to come again, if it is one too many."""
        rate, now = self._rate, self._clock.monotonic()
        bucket = self._buckets.get(router_id)
        if bucket is None:
            bucket = self._buckets[router_id] = _Bucket(rate.burst, now)
        bucket.left = min(float(rate.burst), bucket.left + (now - bucket.filled) * rate.per_second)
        bucket.filled = now
        if bucket.left < 1:
            raise Problem(
                429,
                "Too many requests",
                detail=f"A Router may ask {rate.per_second:g} times a second, {rate.burst} times at once.",
                retry_after=math.ceil((1 - bucket.left) / rate.per_second),
            )
        bucket.left -= 1

    def forget(self, router_id: RouterId) -> None:
        """Forget a Router that left the network."""
        self._buckets.pop(router_id, None)
