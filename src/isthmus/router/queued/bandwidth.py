"""How much of the site's line the Router takes: a cap for each direction, by time of day, live before queued.

`CapRule` says when which cap holds, `Bucket` does the arithmetic for one direction and has no clock, `Pacer` makes
those wait who ask for more. Without a cap nobody waits and nothing is counted.

What is counted is what is handed to the providers and taken from them: blobs, requests, notices. TLS, TCP and IP come
on top, some 4 % of it.
"""

import asyncio
import re
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final, Protocol

from isthmus.errors import OperatorError
from isthmus.kit.clock import Clock
from isthmus.ports.pacing import Urgency
from isthmus.router.routing.records import CapRule, Direction

_BURST_SECONDS: Final = 0.1  # what may be saved up: 1 % of ten seconds
_SLICE_SECONDS: Final = 0.02
_LEAST_SLICE: Final = 4 * 1024
_MOST_SLICE: Final = 256 * 1024
_LEAST_RATE: Final = 16_000  # bytes a second: with less no blob arrives before its request is given up
_LOOK_SECONDS: Final = 15.0  # how late a rule of the time of day may come to hold
_MINUTES: Final = 24 * 60
_RATE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kMG]?)(bit|bps|B)(?:/s)?", re.IGNORECASE)
_TIME: Final = re.compile(r"(\d{1,2}):(\d{2})")
_FACTORS: Final = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}


def cap_at(rules: Sequence[CapRule], direction: Direction, minute: int) -> int | None:
    """Return the cap at a minute of the day, in bytes a second; None: there is none.

    A rule for some hours goes before one for all day; of several such the lowest cap holds.
    """
    mine = [rule for rule in rules if rule.direction is direction and rule.holds(minute)]
    some_hours = [rule.rate for rule in mine if not rule.is_always]
    return min(some_hours or [rule.rate for rule in mine], default=None)


def parse_rate(text: str) -> int:
    """Return the bytes a second in a rate such as 50Mbit/s or 6MB/s. Raises OperatorError."""
    hint = "a number and a unit: 50Mbit/s, 800kbit/s, 6MB/s"
    match = _RATE.fullmatch(text.strip())
    if not match:
        raise OperatorError(f"'{text}' is no rate", hint=hint)
    in_bytes = match[3] == "B"
    rate = round(float(match[1]) * _FACTORS[match[2].lower()] / (1 if in_bytes else 8))
    if rate < _LEAST_RATE:
        raise OperatorError(f"{text} is too little: {_LEAST_RATE * 8 // 1000} kbit/s at the least", hint=hint)
    return rate


def parse_minute(text: str) -> int:
    """Return the minute of the day in a time such as 07:00; 24:00 is midnight. Raises OperatorError."""
    match = _TIME.fullmatch(text.strip())
    if not match or int(match[1]) * 60 + int(match[2]) > _MINUTES or int(match[2]) > 59:
        raise OperatorError(f"'{text}' is no time of day", hint="hours and minutes: 07:00")
    return (int(match[1]) * 60 + int(match[2])) % _MINUTES


class Bucket:
    """Bytes that may go now, in one direction. May be overdrawn by one piece, which those after it then wait for."""

    def __init__(self, now: float) -> None:
        self.rate = 0.0
        self._level = 0.0
        self._at = now

    def set_rate(self, rate: float, now: float) -> None:
        """Let `rate` bytes a second through from now on; debts of before are kept in seconds."""
        self._fill(now)
        if self.rate:
            self._level = min(self._level * rate / self.rate, rate * _BURST_SECONDS)
        self.rate = rate

    def charge(self, size: int, now: float) -> None:
        """Count bytes that have gone, whether or not they might."""
        self._fill(now)
        self._level -= size

    def wait(self, now: float) -> float:
        """Return for how many seconds nothing more may go; 0: the next piece may go now."""
        self._fill(now)
        return 0.0 if self._level > 0 else (1.0 - self._level) / self.rate

    def _fill(self, now: float) -> None:
        self._level = min(self._level + (now - self._at) * self.rate, self.rate * _BURST_SECONDS)
        self._at = max(now, self._at)


class Cancellable(Protocol):
    """A call that is yet to come."""

    def cancel(self) -> None:
        """Let it not come."""
        ...


Later = Callable[[float, Callable[[], None]], Cancellable]


class Pacer:
    """One direction of the line, shared by all that the Router sends or receives (`isthmus.ports.pacing.Pacing`)."""

    def __init__(self, clock: Clock, later: Later | None = None) -> None:
        """`later` calls after so many seconds of `clock`, and can be cancelled; default: the running loop's."""
        self._clock = clock
        self._later = later or _later
        self._bucket: Bucket | None = None
        self._waiting: tuple[deque[tuple[int, asyncio.Future[None]]], ...] = tuple(deque() for _ in Urgency)
        self._timer: Cancellable | None = None
        self.slice_bytes = _MOST_SLICE

    def __repr__(self) -> str:
        return f"<Pacer: {'no cap' if self._bucket is None else f'{self._bucket.rate:.0f} bytes/s'}>"

    @property
    def rate(self) -> float | None:
        """The cap in bytes a second, or None."""
        return None if self._bucket is None else self._bucket.rate

    @property
    def is_free(self) -> bool:
        """Whether nobody has to ask: there is no cap."""
        return self._bucket is None

    def set_rate(self, rate: int | None) -> None:
        """Cap at `rate` bytes a second from now on; None: no more."""
        now = self._clock.monotonic()
        if rate is None:
            self._bucket, self.slice_bytes = None, _MOST_SLICE
        else:
            if self._bucket is None:
                self._bucket = Bucket(now)
            self._bucket.set_rate(rate, now)
            self.slice_bytes = max(_LEAST_SLICE, min(int(rate * _SLICE_SECONDS), _MOST_SLICE))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._serve()

    async def take(self, size: int, urgency: Urgency) -> None:
        """Return when `size` bytes may go; those of a higher urgency go first."""
        if self.take_at_once(size, urgency):
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size, turn)
        self._waiting[urgency].append(entry)
        self._arm()
        try:
            await turn
        except asyncio.CancelledError:
            if entry in self._waiting[urgency]:
                self._waiting[urgency].remove(entry)
            raise

    def take_at_once(self, size: int, urgency: Urgency) -> bool:
        """Return whether `size` bytes may go now, and count them if so."""
        bucket = self._bucket
        if bucket is None:
            return True
        now = self._clock.monotonic()
        if any(self._waiting[: urgency + 1]) or bucket.wait(now) > 0:
            return False
        bucket.charge(size, now)
        return True

    def count(self, size: int) -> float:
        """Count bytes that are gone or here already; return for how many seconds nothing more should come."""
        if self._bucket is None:
            return 0.0
        now = self._clock.monotonic()
        self._bucket.charge(size, now)
        return self._bucket.wait(now)

    def _serve(self) -> None:
        """Let go on who may."""
        for queue in self._waiting:
            while queue:
                if self._bucket is not None:
                    now = self._clock.monotonic()
                    if self._bucket.wait(now) > 0:
                        self._arm()
                        return
                    self._bucket.charge(queue[0][0], now)
                turn = queue.popleft()[1]
                if not turn.done():
                    turn.set_result(None)

    def _arm(self) -> None:
        if self._timer is None and self._bucket is not None:
            wait = self._bucket.wait(self._clock.monotonic())
            self._timer = self._later(wait, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._serve()


class Bandwidth:
    """Both directions, kept to what the operator's rules say for the time of day."""

    def __init__(self, clock: Clock, rules: Callable[[], Sequence[CapRule]]) -> None:
        """`rules` is asked again and again, so that a change holds at once after `apply`."""
        self.up = Pacer(clock)
        self.down = Pacer(clock)
        self._clock = clock
        self._rules = rules

    def apply(self) -> None:
        """Bring the caps up to the rules and the time of day. On the event loop."""
        rules = self._rules()
        local = datetime.fromtimestamp(self._clock.now(), UTC).astimezone()
        for direction, pacer in ((Direction.UP, self.up), (Direction.DOWN, self.down)):
            cap = cap_at(rules, direction, local.hour * 60 + local.minute)
            if cap != pacer.rate:
                pacer.set_rate(cap)

    async def run(self) -> None:
        """Keep to the time of day, for ever."""
        while True:
            self.apply()
            await asyncio.sleep(_LOOK_SECONDS)


def _later(seconds: float, call: Callable[[], None]) -> Cancellable:
    return asyncio.get_running_loop().call_later(seconds, call)
