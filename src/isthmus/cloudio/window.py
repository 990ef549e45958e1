"""The two ends of a one-way stream: what the writer keeps until it is acknowledged, what the reader puts in order.

Pure: time is an argument, nothing is sealed, opened or sent here.
"""

from collections import deque
from dataclasses import dataclass
from math import inf
from typing import Final

from isthmus.cloudio.control import MOST_RANGES
from isthmus.cloudio.options import StreamOptions
from isthmus.cloudio.path import Path
from isthmus.cloudio.pool import Share
from isthmus.errors import RemoteMisuse

MOST_AHEAD: Final = 8192  # segments under way; bounds the memory that tiny segments take beside their bytes
_MOST_BURST: Final = 64  # segments sent again at once
SEAL_OVERHEAD: Final = 64  # header, tag and key commitment: no sealed segment is longer than its payload by more


@dataclass(slots=True, eq=False)
class Sealed:
    """A sealed segment that waits for its acknowledgement. Its bytes are made once and never change.

    Attributes:
        sequence: its place in the stream.
        notice: the ciphertext, as the DATA notice that carries it.
        end: payload bytes of the stream up to the end of this segment, which is what credit counts.
        as_blob: too large to ride in a notice: it is put as a blob, and a small notice tells.
        sent_at: when a notice of it was last handed over.
        tries: how often it was sent again.
    """

    sequence: int
    notice: bytes
    end: int
    as_blob: bool
    sent_at: float = inf
    tries: int = 0


class WriterWindow:
    """Sealed segments on their way: queued, under way, to be sent again."""

    def __init__(self, *, credit: int, pool: Share, options: StreamOptions) -> None:
        self._options = options
        self._pool = pool
        self.path = Path(options)
        self.credit = credit
        self._credit_step = credit // 2
        self.acknowledged = 0
        self.sent = 0
        self.held_bytes = 0
        self._sealed_payload = 0
        self._queued: deque[Sealed] = deque()
        self._flying: deque[Sealed] = deque()
        self._again: deque[Sealed] = deque()
        self._far_holds: tuple[tuple[int, int], ...] = ()
        self._progress_at = -inf
        self._fruitless = 0
        self._burst = 1
        self._recover_until = 0
        self.resent = 0

    @property
    def empty(self) -> bool:
        """Nothing waits for an acknowledgement."""
        return not self._queued and not self._flying

    def add(self, segment: Sealed) -> None:
        """Keep a segment until it is acknowledged, and queue it."""
        self._queued.append(segment)
        self._sealed_payload = segment.end
        self.held_bytes += len(segment.notice)
        self._pool.take(len(segment.notice))

    def has_room(self) -> bool:
        """Whether the caller may go on writing: window, pool and credit all leave room."""
        return (
            self.held_bytes < min(self.path.window, self._pool.free)
            and self._sealed_payload < self.credit
            and len(self._queued) + len(self._flying) < MOST_AHEAD // 2
        )

    def has_half(self) -> bool:
        """Whether a caller who was stopped may go on: half of everything is back."""
        return (
            not self.starved
            and self.held_bytes <= self.path.window // 2
            and self.credit - self._sealed_payload >= self._credit_step
            and len(self._queued) + len(self._flying) <= MOST_AHEAD // 4
        )

    @property
    def starved(self) -> bool:
        """Whether it is the pool that keeps a caller who was stopped from going on."""
        free = self._pool.free
        return free <= 0 or self.held_bytes > free // 2

    def take(self) -> Sealed | None:
        """Return the next segment to publish, or None: first what must go again, then what credit allows."""
        while self._again:
            segment = self._again.popleft()
            if self._still_missed(segment):
                segment.sent_at = inf  # its time starts anew when it is handed over
                return segment
        if self._queued and self._queued[0].end <= self.credit and len(self._flying) < MOST_AHEAD:
            segment = self._queued.popleft()
            self._flying.append(segment)
            self.sent = segment.sequence + 1
            return segment
        return None

    @property
    def ready(self) -> bool:
        """Whether `take` may have something."""
        return bool(self._again) or (
            bool(self._queued) and self._queued[0].end <= self.credit and len(self._flying) < MOST_AHEAD
        )

    def give_back(self, segment: Sealed) -> None:
        """Queue a segment in front again: it was not handed over."""
        self._again.appendleft(segment)

    def announce(self, sequence: int) -> None:
        """Queue the small notice that tells of a stored segment, if it goes as a blob."""
        for segment in self._flying:
            if segment.sequence == sequence and segment.as_blob:
                self._again.append(segment)

    def needs_blob(self, sequence: int) -> bool:
        """Whether this segment can only travel as a blob, and is still under way."""
        return any(segment.sequence == sequence and segment.as_blob for segment in self._flying)

    def handed_over(self, segment: Sealed, now: float) -> None:
        """Note that a notice of this segment has left."""
        segment.sent_at = now

    def acknowledge(
        self, next_expected: int, held: tuple[tuple[int, int], ...], credit: int, now: float
    ) -> list[Sealed]:
        """Let go of all segments below `next_expected` and return them.

        Raises RemoteMisuse if that was never sent.
        """
        if next_expected > self.sent:
            raise RemoteMisuse("an acknowledgement of what was never sent")
        self.credit = max(self.credit, credit)
        self._far_holds = held
        self._fruitless = min(self._fruitless, 1)  # the far side is heard: no reason to wait long
        released: list[Sealed] = []
        size = 0
        while self._flying and self._flying[0].sequence < next_expected:
            segment = self._flying.popleft()
            size += len(segment.notice)
            released.append(segment)
        if released:
            self.acknowledged = next_expected
            self._progress_at = now
            if self._fruitless and next_expected < self._recover_until:
                self._burst = min(2 * self._burst, _MOST_BURST)
            elif next_expected >= self._recover_until:
                self._burst = 1
            self._fruitless = 0
            if released[-1].sent_at < inf and not any(segment.tries for segment in released):
                self.path.round_trip(now - released[-1].sent_at, now)
            self.path.delivered(size, now)
            self.held_bytes -= size
            self._pool.give(size)
            if self.empty:
                self.path.idle()
        return released

    def overdue(self, now: float) -> list[Sealed]:
        """Queue again what should have been acknowledged by now, and return it.

        What the far side misses and has later ones of is lost. Of the others only the first goes again, since on a
        slow path nothing may be lost at all; as this bears fruit, twice as many each time.
        """
        if now < self.deadline():
            return []
        limit = now - self.path.patience
        waiting = {segment.sequence for segment in self._again}
        lost_below = self._far_holds[-1][0] if self._far_holds else 0
        late: list[Sealed] = []
        for segment in self._flying:
            if segment.sequence >= lost_below and len(late) >= self._burst:
                break
            if segment.sent_at <= limit and self._still_missed(segment) and segment.sequence not in waiting:
                late.append(segment)
        for segment in late:
            segment.tries += 1
        self.resent += len(late)
        self._again.extend(late)
        self._fruitless += 1
        self._progress_at = now
        self._recover_until = self.sent
        return late

    def deadline(self) -> float:
        """Return when `overdue` should be asked next."""
        if not self._flying or self._flying[0].sent_at == inf:
            return inf
        patience = min(self.path.patience * 2.0 ** max(0, min(self._fruitless - 1, 8)), self._options.resend_most)
        return max(self._flying[0].sent_at, self._progress_at) + patience

    def drop(self) -> None:
        """Let go of everything."""
        self._pool.give(self.held_bytes)
        self.held_bytes = 0
        for queue in (self._queued, self._flying, self._again):
            queue.clear()

    def _still_missed(self, segment: Sealed) -> bool:
        sequence = segment.sequence
        return sequence >= self.acknowledged and not any(first <= sequence < end for first, end in self._far_holds)


class ReaderWindow:
    """Segments as they come, handed on in order; how much the far side may send; what is missing for how long."""

    def __init__(self, *, credit: int, options: StreamOptions) -> None:
        self._options = options
        self._window = credit
        self.limit = credit
        self.next_expected = 0
        self.delivered = 0
        self.consumed = 0
        self._held: dict[int, bytes | memoryview] = {}
        self._held_bytes = 0
        self._known_sent = 0
        self._gap_since = inf

    @property
    def window(self) -> int:
        """Payload bytes that may be sent and not yet consumed."""
        return self._window

    @property
    def gap(self) -> bool:
        """Whether something was sent that has not arrived."""
        return self._gap_since < inf

    def accept(self, sequence: int, segment: bytes | memoryview, now: float) -> bool:
        """Keep a sealed segment until its turn; False if it is a repeat.

        Raises RemoteMisuse if it is more than was allowed.
        """
        if sequence < self.next_expected or sequence in self._held:
            return False
        size = max(0, len(segment) - SEAL_OVERHEAD)
        if sequence >= self.next_expected + MOST_AHEAD or self.delivered + self._held_bytes + size > self.limit:
            raise RemoteMisuse("the far side sent more than it was allowed")
        self._held[sequence] = segment
        self._held_bytes += size
        if sequence != self.next_expected:
            self.known_sent(sequence + 1, now)
        return True

    def pop(self) -> bytes | memoryview | None:
        """Return the segment whose turn it is, if it is here; `took` follows."""
        segment = self._held.pop(self.next_expected, None)
        if segment is not None:
            self._held_bytes -= max(0, len(segment) - SEAL_OVERHEAD)
        return segment

    def took(self, payload: int, now: float) -> None:
        """Note that the segment from `pop` was opened and carried `payload` bytes.

        Raises RemoteMisuse if that is more than was allowed.
        """
        self.next_expected += 1
        self.delivered += payload
        self._gap_since = now if self.next_expected < self._known_sent else inf
        if self.delivered > self.limit:
            raise RemoteMisuse("the far side sent more than it was allowed")

    def consume(self, count: int) -> None:
        """Note that `count` payload bytes have left for good, which lets the far side send as many more."""
        self.consumed += count
        self.limit = max(self.limit, self.consumed + self._window)

    def widen(self, wanted: int) -> None:
        """Open the window to what the far side could fill, within what this side affords; it never shrinks."""
        self._window = max(self._window, min(wanted, self._options.window_most))
        self.limit = max(self.limit, self.consumed + self._window)

    def may_come(self, sequence: int) -> None:
        """Check an announced sequence. Raises RemoteMisuse if it is further ahead than any may be."""
        if sequence >= self.next_expected + MOST_AHEAD:
            raise RemoteMisuse("the far side sent more than it was allowed")

    def known_sent(self, count: int, now: float) -> None:
        """Note that the far side has sent `count` segments."""
        self._known_sent = max(self._known_sent, count)
        if self._gap_since == inf and self.next_expected < self._known_sent:
            self._gap_since = now

    def missing(self, most: int) -> list[int]:
        """Return the first sequences that were sent and are not here."""
        found: list[int] = []
        for sequence in range(self.next_expected, self._known_sent):
            if len(found) == most:
                break
            if sequence not in self._held:
                found.append(sequence)
        return found

    def look_at(self, grace: float) -> float:
        """Return when a gap is old enough to look for blobs."""
        return self._gap_since + grace

    def holds(self, sequence: int) -> bool:
        """Whether this segment is here or was."""
        return sequence < self.next_expected or sequence in self._held

    def anything_after(self, sequence: int) -> bool:
        """Whether segments beyond `sequence` are here or announced."""
        return self._known_sent > sequence + 1 or any(held > sequence for held in self._held)

    def ranges(self) -> tuple[tuple[int, int], ...]:
        """Return the first few ranges of what arrived beyond a gap."""
        ranges: list[tuple[int, int]] = []
        for sequence in sorted(self._held):
            if ranges and ranges[-1][1] == sequence:
                ranges[-1] = (ranges[-1][0], sequence + 1)
            elif len(ranges) == MOST_RANGES:
                break
            else:
                ranges.append((sequence, sequence + 1))
        return tuple(ranges)

    def drop(self) -> None:
        """Let go of everything."""
        self._held.clear()
        self._held_bytes = 0
