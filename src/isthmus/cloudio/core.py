"""One side of a stream pair, decided without I/O: what to publish, what to put and get, what to hand on, and when.

Whoever drives it calls in with bytes and the time, performs what `next_notice` and `next_blob_work` return, reports
back, and calls `tick` at `deadline`. Observers are called in the middle of that, and may call back.
"""

from math import inf
from typing import Final

from isthmus.cloudio.blobs import BlobBook, BlobTask, BlobWork
from isthmus.cloudio.control import MOST_SIGNAL_BYTES, Status
from isthmus.cloudio.options import StreamOptions
from isthmus.cloudio.pool import Share
from isthmus.cloudio.terms import Carriage, Outgoing, Phase, StreamObserver, StreamStats
from isthmus.cloudio.window import ReaderWindow, Sealed, WriterWindow
from isthmus.contract.notices import PREFIX_BYTES, NoticeKind, pack
from isthmus.envelope.keys import SessionKeys
from isthmus.envelope.segments import (
    MAX_SEGMENTS,
    Opener,
    Sealer,
    SegmentType,
    blob_name,
    pack_final,
    peek_sequence,
    unpack_final,
)
from isthmus.errors import (
    AssociationAborted,
    IsthmusError,
    LocalMisuse,
    ProviderTrouble,
    RemoteMisuse,
    Retry,
    SealBroken,
)

_SEGMENTS_KEPT_BACK: Final = 1024  # room below MAX_SEGMENTS, so that FINAL and the last statuses can still be sealed
_LOOKS_AT_ONCE: Final = 8


class StreamCore:
    """The decisions of one side. `now` is monotonic seconds throughout."""

    def __init__(
        self,
        *,
        session_id: bytes,
        keys: SessionKeys,
        carriage: Carriage,
        pool: Share,
        first_credit_out: int,
        first_credit_in: int,
        observer: StreamObserver,
        options: StreamOptions,
        now: float,
    ) -> None:
        self._session_id = session_id
        self._data_prefix = pack(NoticeKind.DATA, session_id)
        self._control_prefix = pack(NoticeKind.CONTROL, session_id)
        self._keys = keys
        self._sealer, self._control_sealer = Sealer(keys.data_out), Sealer(keys.control_out)
        self._opener, self._control_opener = Opener(keys.data_in), Opener(keys.control_in)
        self._carriage = carriage
        self._options = options
        self._observer = observer
        self._pool = pool
        self.writer = WriterWindow(credit=first_credit_out, pool=pool, options=options)
        self.reader = ReaderWindow(credit=first_credit_in, options=options)
        self.blobs = BlobBook(options)
        self.phase = Phase.OPEN
        self.stats = StreamStats()
        self._pending = bytearray()
        self._pending_at = inf
        self._stopped = False
        self._final_sequence: int | None = None
        self._far_final: int | None = None
        self._far: Status | None = None
        self._far_control = -1
        self._signal, self._signal_number, self._signal_seen = b"", 0, 0
        self._urgent = False
        self._ack_at = inf
        self._unacked_in = 0
        self._told_limit = first_credit_in
        self._repeat_at = now + options.status_idle
        self._heard_at = now
        self._delivering = False
        self._quiet_until = -inf
        self._troubles = 0
        self._told_done = False
        self._done_published = False
        self._active_until = now + options.status_idle

    # The owner's side

    def write(self, data: bytes | bytearray | memoryview, now: float, *, flush: bool) -> bool:
        """Take all of `data`; False asks to stop until `on_writable`. Raises LocalMisuse after `finish`."""
        if self._final_sequence is not None:
            raise LocalMisuse("write after finish")
        if self.phase is not Phase.OPEN:
            return False
        view = memoryview(data)
        size, start, length = self._carriage.segment_bytes, 0, len(view)
        if self._pending:
            start = min(size - len(self._pending), length)
            self._pending += view[:start]
            if len(self._pending) >= size or (flush and start == length):
                self._seal_pending()
        while length - start >= size:
            self._seal(SegmentType.DATA, view[start : start + size])
            start += size
        if start < length:
            if flush:
                self._seal(SegmentType.DATA, view[start:])
            else:
                self._pending += view[start:]
        if self._pending and self._pending_at == inf:
            self._pending_at = now if self.writer.empty else now + self._options.idle_tick
        self._active(now)
        self._stopped = not self.writer.has_room()
        if self._stopped and self.writer.starved:  # all else that may be short comes back with a status
            self._pool.wait(self, self._tell_writable)
        return not self._stopped and self.phase is Phase.OPEN

    def finish(self, now: float) -> None:
        """End this side's direction. Raises LocalMisuse the second time."""
        if self._final_sequence is not None:
            raise LocalMisuse("finished twice")
        if self.phase is Phase.OPEN:
            self._seal_pending()
            self._final_sequence = self._sealer.sequence
            self._seal(SegmentType.FINAL, pack_final(self.stats.bytes_out, self._final_sequence))
            self._active(now)

    def consumed(self, count: int, now: float) -> None:
        """Give credit for payload that has left. Raises LocalMisuse for more than was handed on."""
        if self.reader.consumed + count > self.reader.delivered:
            raise LocalMisuse("more was consumed than arrived")
        self.reader.consume(count)
        self._active(now)
        if self.reader.limit - self._told_limit >= self.reader.window // 2:
            self._urgent = True
        else:
            self._ack_at = min(self._ack_at, now + self._options.ack_delay)

    def signal(self, payload: bytes) -> None:
        """Say something beside the stream, ahead of it: the latest wins. Raises LocalMisuse if it is too long."""
        if len(payload) > MOST_SIGNAL_BYTES:
            raise LocalMisuse("a signal is short")
        self._signal, self._signal_number = payload, self._signal_number + 1
        self._urgent = True

    @property
    def signal_seen(self) -> bool:
        """Whether the far side has seen the last signal."""
        return self._signal_number == 0 or (self._far is not None and self._far.signal_seen == self._signal_number)

    @property
    def done(self) -> bool:
        """Whether both directions are complete and acknowledged, as far as this side knows."""
        return self._far_final is not None and self._final_sequence is not None and self.writer.empty

    def close(self) -> None:
        """Stop. What is left in the store is `blobs.leftovers()`."""
        if self.phase is Phase.OPEN:
            self._end(Phase.CLOSED)

    # The cloud's side

    def receive(self, notice: bytes | memoryview, now: float) -> None:
        """Take a notice of this session. The caller does not change its bytes afterwards."""
        if self.phase is not Phase.OPEN:
            return
        view = memoryview(notice)
        if len(view) < PREFIX_BYTES:
            return
        try:
            match view[0]:
                case NoticeKind.DATA:
                    self._receive_segment(view[PREFIX_BYTES:], now)
                case NoticeKind.CONTROL:
                    self._receive_status(view[PREFIX_BYTES:], now)
                case NoticeKind.DATA_BLOB:
                    self._receive_announcement(view[PREFIX_BYTES:])
                case NoticeKind.GONE:
                    self._receive_gone()
                case _:
                    pass  # of a newer version
        except (SealBroken, RemoteMisuse) as error:
            self._break(error)

    def next_notice(self, now: float) -> Outgoing | None:
        """Return what to publish now; `published` or `publish_failed` follows."""
        if self.phase is not Phase.OPEN or now < self._quiet_until:
            return None
        if self._urgent or now >= self._ack_at or now >= self._repeat_at:
            if self._control_sealer.sequence == MAX_SEGMENTS:
                self._break(AssociationAborted("a stream has used up its sequence numbers"))
                return None
            return Outgoing(self._seal_status(now), None)
        while (segment := self.writer.take()) is not None:
            if not segment.as_blob:
                return Outgoing(segment.notice, segment, self._asks(segment))
            if self.blobs.stored(segment.sequence):
                body = segment.sequence.to_bytes(8, "big")
                notice = pack(NoticeKind.DATA_BLOB, self._session_id, body)
                return Outgoing(notice, segment, self._asks(segment))
            self._put_blob(segment, healing=False)
        return None

    def _asks(self, segment: Sealed) -> bool:
        """Whether this segment was sealed before it was full: a message ends there."""
        return len(segment.notice) < self._carriage.segment_bytes

    def published(self, outgoing: Outgoing, now: float) -> None:
        """Note that a notice was handed over."""
        self._troubles = 0
        if outgoing.segment is not None:
            self.writer.handed_over(outgoing.segment, now)
        elif self._told_done:
            self._done_published = True
            if self._far is not None and self._far.done:
                self._end(Phase.COMPLETE)

    def publish_failed(self, outgoing: Outgoing, error: ProviderTrouble, now: float) -> None:
        """Note that a notice was not handed over: it goes again, after a while."""
        if error.retry is Retry.NEVER:
            self._break(error)
            return
        options = self._options
        self._quiet_until = now + min(options.backoff_first * 2 ** min(self._troubles, 8), options.backoff_most)
        self._troubles += 1
        if outgoing.segment is None:
            self._urgent = True
        else:
            self.writer.give_back(outgoing.segment)

    def next_blob_work(self, now: float) -> BlobWork | None:
        """Return a call on the blobstore to make now; `blob_done`, `blob_got` or `blob_failed` follows."""
        return self.blobs.take(now) if self.phase is Phase.OPEN else None

    def blob_done(self, work: BlobWork) -> None:
        """Note that a blob was put or deleted."""
        if self.phase is Phase.OPEN and self.blobs.done(work) and work.task is BlobTask.PUT:
            self.writer.announce(work.sequence)

    def blob_got(self, work: BlobWork, body: bytes, now: float) -> None:
        """Take a blob that was looked for."""
        if self.phase is Phase.OPEN:
            self.blobs.done(work)
            try:
                self._receive_segment(memoryview(body), now, expected=work.sequence)
            except (SealBroken, RemoteMisuse) as error:
                self._break(error)

    def blob_failed(self, work: BlobWork, error: ProviderTrouble, now: float) -> None:
        """Note that a call on the blobstore failed; it is made again if there is a point."""
        if self.phase is not Phase.OPEN:
            return
        if error.retry is not Retry.NEVER:
            self.blobs.failed(work, now)
            return
        self.blobs.give_up(work)
        if work.task is BlobTask.PUT and self.writer.needs_blob(work.sequence):
            self._break(error)

    # Time

    def tick(self, now: float) -> None:
        """Do what time alone makes due."""
        if self.phase is not Phase.OPEN:
            return
        if now >= self._pending_at:
            self._seal_pending()
        for segment in self.writer.overdue(now) if now >= self._quiet_until else ():
            if segment.tries >= 2 and not segment.as_blob:
                self._put_blob(segment, healing=True)
        self.stats.resent = self.writer.resent
        if now >= self.reader.look_at(self._grace):
            for sequence in self.reader.missing(_LOOKS_AT_ONCE):
                self._get_blob(sequence)
        if now - self._heard_at < self._options.silence_limit:
            return
        if self.done:
            self._end(Phase.COMPLETE)  # only its last word is missing
        else:
            self._break(AssociationAborted(f"nothing heard from the far Router for {self._options.silence_limit:g} s"))

    def has_work(self, now: float) -> bool:
        """Whether a driver that waits for `deadline` should rather go on at once."""
        return self.phase is not Phase.OPEN or (
            now >= self._quiet_until and (self._urgent or self.writer.ready or now >= self._pending_at)
        )

    def deadline(self, now: float) -> float:
        """Return when there may be something to do, apart from the blobs, which have a deadline of their own."""
        if self.phase is not Phase.OPEN:
            return inf
        publishing = min(self._ack_at, self._repeat_at, self.writer.deadline())
        if self._urgent or self.writer.ready:
            publishing = now
        look = self.reader.look_at(self._grace)
        if look <= now:
            look = now + self._options.gap_grace
        return min(
            max(publishing, self._quiet_until),
            self._pending_at,
            look,
            self._heard_at + self._options.silence_limit,
        )

    @property
    def _grace(self) -> float:
        return self._options.gap_grace + 2 * (self.writer.path.smoothed or 0.0)

    # Inside: out

    def _seal_pending(self) -> None:
        self._pending_at = inf
        if self._pending:
            pending, self._pending = self._pending, bytearray()
            self._seal(SegmentType.DATA, pending)

    def _seal(self, kind: SegmentType, payload: bytes | bytearray | memoryview) -> None:
        sequence = self._sealer.sequence
        if sequence >= MAX_SEGMENTS - _SEGMENTS_KEPT_BACK and kind is SegmentType.DATA:
            self._break(AssociationAborted("a stream has used up its sequence numbers"))
            return
        notice = self._sealer.seal(kind, payload, prefix=self._data_prefix)
        if kind is SegmentType.DATA:
            self.stats.bytes_out += len(payload)
        as_blob = len(notice) > self._carriage.notice_bytes
        self.writer.add(Sealed(sequence, notice, self.stats.bytes_out, as_blob))

    def _put_blob(self, segment: Sealed, *, healing: bool) -> None:
        name = blob_name(self._keys.data_out, segment.sequence)
        self.blobs.put(segment.sequence, name, memoryview(segment.notice)[PREFIX_BYTES:], healing=healing)

    def _get_blob(self, sequence: int) -> None:
        if not self.blobs.wanted(sequence):
            self.blobs.get(sequence, blob_name(self._keys.data_in, sequence))

    def _seal_status(self, now: float) -> bytes:
        self._told_done = done = self.done
        self._urgent = False
        self._ack_at = inf
        self._unacked_in = 0
        self._told_limit = self.reader.limit
        self._repeat_at = inf
        self._plan_repeat(now)
        status = Status(
            next_expected=self.reader.next_expected,
            sent=self.writer.sent,
            limit=self.reader.limit,
            want=self.writer.path.window,
            signal_number=self._signal_number,
            signal_seen=self._signal_seen,
            done=done,
            held=self.reader.ranges(),
            signal=self._signal,
        )
        return self._control_sealer.seal(SegmentType.CONTROL, status.pack(), prefix=self._control_prefix)

    def _active(self, now: float) -> None:
        """Something was written, came or went: statuses go faster for a while, in case that the next is lost."""
        self._active_until = now + self._options.status_idle
        self._repeat_at = min(self._repeat_at, now + self._options.status_restless)

    def _plan_repeat(self, now: float) -> None:
        restless = now < self._active_until or not self.writer.empty or self.reader.gap or not self.signal_seen
        wait = self._options.status_restless if restless else self._options.status_idle
        if self.done:
            wait = self._options.resend_floor
        self._repeat_at = min(self._repeat_at, now + wait)

    def _tell_writable(self) -> None:
        if not self._stopped or self.phase is not Phase.OPEN:
            return
        if self.writer.has_half():
            self._stopped = False
            self._pool.leave(self)
            self._observer.on_writable()
        elif self.writer.starved:
            self._pool.wait(self, self._tell_writable)

    # Inside: in

    def _receive_segment(self, segment: memoryview, now: float, *, expected: int | None = None) -> None:
        sequence = peek_sequence(segment)
        if expected is not None and sequence != expected:
            raise SealBroken("a blob is not the segment that its name promises")
        if self._far_final is not None and sequence > self._far_final:
            raise RemoteMisuse("there is data after FINAL")
        fresh = self.reader.accept(sequence, segment, now)
        self.blobs.arrived(sequence)
        if fresh:
            self._deliver(now)
        else:
            self._ack_at = min(self._ack_at, now + self._options.ack_delay)  # it is sent again: our word was lost

    def _deliver(self, now: float) -> None:
        if self._delivering:
            return  # called back from an observer: the loop below goes on
        self._delivering = True
        healing = self.reader.gap
        try:
            while self.phase is Phase.OPEN and (sealed := self.reader.pop()) is not None:
                self._hand_on(sealed, now)
        finally:
            self._delivering = False
        if healing or self._unacked_in >= self.reader.window // 2:
            self._urgent = True
        else:
            self._ack_at = min(self._ack_at, now + self._options.ack_delay)

    def _hand_on(self, sealed: bytes | memoryview, now: float) -> None:
        segment = self._opener.open(sealed)
        self._heard_at = now
        self._active(now)
        if segment.type is SegmentType.FINAL:
            if unpack_final(segment.payload) != (self.stats.bytes_in, segment.sequence):
                raise RemoteMisuse("FINAL does not count what arrived")
            if self.reader.anything_after(segment.sequence):
                raise RemoteMisuse("there is data after FINAL")
            self.reader.took(0, now)
            self._far_final = segment.sequence
            self._urgent = True
            self._observer.on_final()
            return
        size = len(segment.payload)
        self.reader.took(size, now)
        self.stats.bytes_in += size
        self._unacked_in += size
        if size:
            self._observer.on_data(segment.payload)

    def _receive_status(self, segment: memoryview, now: float) -> None:
        sequence = peek_sequence(segment)
        if sequence <= self._far_control:
            return
        status = Status.unpack(self._control_opener.open(segment).payload)
        self._far_control, self._far, self._heard_at = sequence, status, now
        released = self.writer.acknowledge(status.next_expected, status.held, status.limit, now)
        if released:
            self.stats.rtt = self.writer.path.smoothed
            if not self.blobs.empty:
                for sealed in released:
                    self.blobs.released(sealed.sequence)
        if self._far_final is not None and status.sent > self._far_final + 1:
            raise RemoteMisuse("there is data after FINAL")
        self.reader.known_sent(status.sent, now)
        self.reader.widen(status.want)
        if self.done and not self._told_done:
            self._urgent = True
        elif status.done and self._done_published:
            self._end(Phase.COMPLETE)
            return
        self._plan_repeat(now)
        if status.signal_number > self._signal_seen:
            self._signal_seen = status.signal_number
            self._urgent = True
            self._observer.on_signal(status.signal)
        self._tell_writable()

    def _receive_announcement(self, body: memoryview) -> None:
        sequence = int.from_bytes(body, "big")
        if len(body) != 8 or sequence >= MAX_SEGMENTS:
            raise RemoteMisuse("an announcement of a blob makes no sense")
        if self.reader.holds(sequence):
            return
        self.reader.may_come(sequence)
        self._get_blob(sequence)
        self.blobs.hurry(sequence)

    def _receive_gone(self) -> None:
        if self.done:
            self._end(Phase.COMPLETE)
        else:
            self._break(AssociationAborted("the far Router knows this session no more"))

    def _break(self, error: IsthmusError) -> None:
        if self.phase is Phase.OPEN:
            self._end(Phase.BROKEN)
            self._observer.on_broken(error)

    def _end(self, phase: Phase) -> None:
        self.phase = phase
        self._pool.leave(self)
        self.writer.drop()
        self.reader.drop()
        self._pending = bytearray()
