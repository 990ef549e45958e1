"""Connections of ours that share one line: each keeps to its part as soon as they lose packets to each other.

A sender learns what a line carries by sending more. Where several of ours do that at once, the queue before the line
overflows again and again: up to three bytes of ten are sent twice, one connection of six gets next to nothing for a
second, and whatever is small and urgent on that line waits behind it or is lost with it. So each is told how fast it
may send (SO_MAX_PACING_RATE): a little more than its part of what all of them carry, which grows until packets are lost
again. Only Linux says what was lost; elsewhere, and where hardly anything is, nobody is limited.
"""

import asyncio
import statistics
from collections import deque
from typing import Final

from isthmus.kit import platform
from isthmus.kit.clock import Clock
from isthmus.kit.platform import Sent

LARGE_BYTES: Final = 512 * 1024
"""From which on a body counts: what is smaller is gone before anybody has looked."""
LOOK_SECONDS: Final = 0.1
_RECENT: Final = 10  # looks
_LEAST_BYTES: Final = 256 * 1024  # fewer are too few to judge by
_LOSSY: Final = 0.03  # of the bytes sent: more than this is no accident, but a queue that overflows
_FEW: Final = 3  # connections, which leave each other room
_LEEWAY: Final = 1.1  # each rests for a moment between two bodies, and the others are to fill that
_FULL: Final = 0.85  # of the limit: with less, it is not the limit that holds them up
_AT_FIRST: Final = 1.15  # by which the limit grows, until something is lost under it
_MORE: Final = 1.03
_LESS: Final = 0.95
_HOLD: Final = 3  # judgements after a change: what was lost before it comes to light in a round trip or two
_IN_VAIN: Final = 0.8  # of what went without a limit: one that is lower than this costs more than it gains
FREE_SECONDS: Final = 60.0
"""How long nobody is limited after a limit was in vain."""


class Share:
    """How fast each of several connections may send, judged by what all of them sent and lost.

    Attributes:
        limit: bytes a second for all of them together; None: there is none.
    """

    def __init__(self) -> None:
        self.limit: float | None = None
        self._growth = _AT_FIRST
        self._hold = 0
        self._unlimited = 0.0  # goodput when the limit was set
        self._free_until = 0.0
        self._goodputs: deque[float] = deque(maxlen=_RECENT)
        self._counts: deque[int] = deque(maxlen=_RECENT)
        self._start_over()

    def __repr__(self) -> str:
        return f"<Share: {'no limit' if self.limit is None else f'{self.limit / 1e6:.1f} MB/s'}>"

    def _start_over(self) -> None:
        self._seconds = 0.0
        self._acked = self._sent = self._again = 0

    def rested(self) -> None:
        """Nothing was sent for a while: what was seen before says nothing about now, but for the limit."""
        self._goodputs.clear()
        self._counts.clear()
        self._start_over()

    def note(self, now: float, seconds: float, *, acked: int, sent: int, again: int, busy: int) -> None:
        """Take note of the last `seconds`: bytes acknowledged, sent, and sent again, by `busy` connections."""
        self._counts.append(busy)
        self._seconds += seconds
        self._acked, self._sent, self._again = self._acked + acked, self._sent + sent, self._again + again
        if self._sent >= _LEAST_BYTES and self._seconds > 0:
            self._judge(now, self._acked / self._seconds, self._again / self._sent, busy)
            self._start_over()

    def each(self) -> int | None:
        """Return how many bytes a second one connection may send; None: as many as it can."""
        count = statistics.median_high(self._counts) if self._counts else 0
        return None if self.limit is None or count <= _FEW else int(self.limit * _LEEWAY / count)

    def _judge(self, now: float, goodput: float, lost: float, busy: int) -> None:
        self._goodputs.append(goodput)
        if self._hold:
            self._hold -= 1
        elif self.limit is None:
            if lost > _LOSSY and busy > _FEW and now >= self._free_until:
                self.limit, self._unlimited = max(self._goodputs), statistics.fmean(self._goodputs)
                self._growth, self._hold = _AT_FIRST, _HOLD
        elif lost > _LOSSY:
            self.limit *= _LESS
            self._growth, self._hold = _MORE, _HOLD
            if self.limit < self._unlimited * _IN_VAIN:  # somebody else overflows the queue, or the line just loses
                self.limit, self._free_until = None, now + FREE_SECONDS
        elif goodput > self.limit * _FULL:
            self.limit *= self._growth


class Line:
    """The connections over which large bodies go to one place. Used on its loop only."""

    def __init__(self, clock: Clock) -> None:
        self._share = Share()
        self._clock = clock
        self._sending: dict[asyncio.BaseTransport, Sent] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._looked = 0.0

    def __repr__(self) -> str:
        return f"<Line: {len(self._sending)} connections, {self._share!r}>"

    def carry(self, transport: asyncio.BaseTransport | None, size: int) -> None:
        """A body of so many bytes is about to be sent over this connection; it counts until all is acknowledged."""
        if size < LARGE_BYTES or transport is None or transport in self._sending:
            return
        if (sent := _sent_over(transport)) is None:
            return
        if not self._sending:
            self._share.rested()
        self._sending[transport] = sent
        _limit(transport, self._share.each())
        if self._timer is None:
            self._look_again()

    def close(self) -> None:
        """Look no more."""
        self._sending.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_again(self) -> None:
        self._looked = self._clock.monotonic()
        self._timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look)

    def _look(self) -> None:
        self._timer = None
        acked = sent = again = busy = 0
        for transport, before in list(self._sending.items()):
            after = _sent_over(transport)
            if after is None or (after.sent == before.sent and not after.waiting):
                del self._sending[transport]
                _limit(transport, None)  # whatever else it carries next
                continue
            self._sending[transport] = after
            acked += after.acked - before.acked
            sent += after.sent - before.sent
            again += after.again - before.again
            busy += after.waiting > 0
        now = self._clock.monotonic()
        self._share.note(now, now - self._looked, acked=acked, sent=sent, again=again, busy=busy)
        if not self._sending:
            return
        each = self._share.each()
        for transport in self._sending:
            _limit(transport, each)
        self._look_again()


class Lines:
    """The lines to several places."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lines: dict[str, Line] = {}

    def __repr__(self) -> str:
        return f"<Lines: {len(self._lines)}>"

    def to(self, place: str) -> Line:
        """Return the line to a place."""
        if (line := self._lines.get(place)) is None:
            line = self._lines[place] = Line(self._clock)
        return line

    def close(self) -> None:
        """Look at none of them any more."""
        for line in self._lines.values():
            line.close()


def _sent_over(transport: asyncio.BaseTransport) -> Sent | None:
    sock = None if transport.is_closing() else transport.get_extra_info("socket")
    return None if sock is None else platform.sent_over(sock)


def _limit(transport: asyncio.BaseTransport, rate: int | None) -> None:
    if not transport.is_closing() and (sock := transport.get_extra_info("socket")) is not None:
        platform.limit_sending(sock, rate)
