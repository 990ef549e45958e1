"""Sessions that are over here, for a while: a far Router that missed the last word asks on, and is told so."""

from collections import OrderedDict
from dataclasses import dataclass
from math import inf
from typing import Final

from isthmus.router.providers.pair import CloudPair

REMEMBERED_SECONDS: Final = 60.0
"""Longer than a stream waits for a word before it gives up by itself."""
AGAIN_SECONDS: Final = 1.0
MOST: Final = 10_000


@dataclass(slots=True)
class Over:
    """A session that is over: who was at the other end, over which pair, until when that is remembered."""

    far_router: str
    pair: CloudPair
    until: float
    told: float = -inf


class Forgotten:
    """Which Router was at the other end of a session that has ended. Bounded in number and time."""

    def __init__(self) -> None:
        self._over: OrderedDict[bytes, Over] = OrderedDict()

    def __len__(self) -> int:
        return len(self._over)

    def add(self, session_id: bytes, far_router: str, pair: CloudPair, now: float) -> None:
        """Remember a session that ended at monotonic second `now`."""
        self._over[session_id] = Over(far_router, pair, now + REMEMBERED_SECONDS)
        while self._over and (len(self._over) > MOST or next(iter(self._over.values())).until < now):
            self._over.popitem(last=False)

    def whom_to_tell(self, session_id: bytes, now: float) -> Over | None:
        """Return whom to tell that a session is over, as a notice of it came; None if unknown or just told."""
        over = self._over.get(session_id)
        if over is None or over.until < now or now - over.told < AGAIN_SECONDS:
            return None
        over.told = now
        return over
