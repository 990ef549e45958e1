"""A stream pair over a pair of providers: performs what `StreamCore` decides, with one task."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Final

import structlog

from isthmus.cloudio.blobs import BlobTask, BlobWork
from isthmus.cloudio.core import StreamCore
from isthmus.cloudio.options import StreamOptions
from isthmus.cloudio.pool import Pool
from isthmus.cloudio.terms import Carriage, Outgoing, Phase, StreamObserver, StreamStats
from isthmus.envelope.keys import SessionKeys
from isthmus.errors import BlobMissing, ProviderTrouble
from isthmus.kit.clock import Clock
from isthmus.kit.tasks import Tasks
from isthmus.ports.blobstore import Blobstore
from isthmus.ports.signalling import PromptSignalling, Signalling

_log = structlog.get_logger()

_LAST_WORDS_SECONDS: Final = 1.0
_CLEANING_SECONDS: Final = 5.0
_WATCH_SECONDS: Final = 0.25  # how often the time is looked at while a publish takes its own
_TIMER_SLACK: Final = 0.001  # a timer this close to what is wanted is not worth moving

DuplexObserver = StreamObserver

__all__ = ["Cloud", "Duplex", "DuplexObserver", "Pool", "StreamOptions", "StreamStats"]


def _nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class Cloud:
    """The pair of providers that a session uses; `expect` is called when an answer is to come soon."""

    signalling: Signalling
    blobstore: Blobstore
    expect: Callable[[], None] = _nothing


class Duplex:
    """Both directions of one session, as one side sees them.

    `write` and `receive` are synchronous and quick; `run` is the one task, and must run for anything to be sent. It is
    for the owner to route the notices of the session to `receive`. Segments that are too large for a notice are put
    and got by a few more tasks, which live while there are any and end with `run`.
    """

    def __init__(
        self,
        *,
        session_id: bytes,
        keys: SessionKeys,
        cloud: Cloud,
        to: str,
        pool: Pool,
        clock: Clock,
        first_credit_out: int,
        first_credit_in: int,
        observer: DuplexObserver,
        options: StreamOptions = StreamOptions(),  # noqa: B008 - frozen
    ) -> None:
        self._cloud = cloud
        self._to = to
        self._clock = clock
        if cloud.signalling.traits.billed:
            options = options.sparing()
        self._options = options
        carriage = Carriage.of(cloud.signalling.traits, cloud.blobstore.traits, options, first_credit_out)
        self._core = StreamCore(
            session_id=session_id,
            keys=keys,
            carriage=carriage,
            pool=pool.share(to),
            first_credit_out=first_credit_out,
            first_credit_in=first_credit_in,
            observer=observer,
            options=options,
            now=clock.monotonic(),
        )
        self._prompt = cloud.signalling if isinstance(cloud.signalling, PromptSignalling) else None
        self._carried: Outgoing | None = None  # could not leave at once
        self._lanes = Tasks("stream")
        self._scope: asyncio.Timeout | None = None
        self._sleep: asyncio.Future[None] | None = None
        self._publishing = False
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = inf
        self._closing_at = inf
        self._fault: BaseException | None = None

    def __repr__(self) -> str:
        return f"<Duplex to {self._to}: {self._core.phase.value}>"

    @property
    def stats(self) -> StreamStats:
        """What it has carried so far."""
        return self._core.stats

    @property
    def complete(self) -> bool:
        """Whether both directions ended properly and both sides know."""
        return self._core.phase is Phase.COMPLETE

    @property
    def signal_seen(self) -> bool:
        """Whether the far side has seen the last signal given here."""
        return self._core.signal_seen

    def write(self, data: bytes | bytearray | memoryview, *, flush: bool) -> bool:
        """Take all of `data`, which may change afterwards. False: write no more until `on_writable`.

        `flush` seals at once; else a segment that is not full waits a moment for more. Raises LocalMisuse after
        `finish`.
        """
        room = self._core.write(data, self._clock.monotonic(), flush=flush)
        self._changed()
        return room

    def finish(self) -> None:
        """End the outgoing direction; what was written still goes. Raises LocalMisuse the second time."""
        self._core.finish(self._clock.monotonic())
        self._changed()

    def consumed(self, count: int) -> None:
        """Let the far side send as many more payload bytes: these have left for good."""
        self._core.consumed(count, self._clock.monotonic())
        self._changed()

    def signal(self, payload: bytes) -> None:
        """Say something (at most 64 bytes) ahead of all data. The latest wins, repeated until the far side saw it."""
        self._core.signal(payload)
        self._changed()

    def receive(self, notice: bytes | memoryview) -> None:
        """Take a DATA, DATA_BLOB, CONTROL or GONE notice of this session, whose bytes do not change afterwards."""
        self._core.receive(notice, self._clock.monotonic())
        self._changed()

    def close(self, *, linger: float = 0.0) -> None:
        """Stop, at once or when the far side has seen the last signal, but `linger` seconds from now at the latest."""
        if linger > 0 and self._core.phase is Phase.OPEN and not self._core.signal_seen:
            self._closing_at = self._clock.monotonic() + linger
        else:
            self._closing_at = -inf
        self._changed()

    async def run(self) -> None:
        """Carry the stream until both directions are done and acknowledged, it broke, or `close` was called.

        Nothing is left when this returns: no task, no blob of this side, no memory of the pool. A fault of ours is
        raised here, wherever it showed.
        """
        try:
            async with asyncio.timeout(None) as self._scope:
                await self._pump()
        except TimeoutError:
            if self._scope is None or not self._scope.expired():
                raise  # a provider's own, and a bug of its adapter
        finally:
            self._scope = None
            await self._clean()

    async def _pump(self) -> None:
        core, clock, signalling = self._core, self._clock, self._cloud.signalling
        while not self._over():
            if self._fault is not None:
                raise self._fault
            now = clock.monotonic()
            core.tick(now)
            if core.blobs.deadline() <= now:
                self._open_lanes()
            outgoing, self._carried = self._carried or core.next_notice(now), None
            if outgoing is None:
                await self._wait()
                continue
            if self._timer is None:
                self._set_timer(_WATCH_SECONDS)
            self._publishing = True
            try:
                await signalling.publish(self._to, outgoing.notice)
            except ProviderTrouble as trouble:
                core.publish_failed(outgoing, trouble, clock.monotonic())
            else:
                core.published(outgoing, clock.monotonic())
                if outgoing.asks:
                    self._cloud.expect()
            finally:
                self._publishing = False

    def _over(self) -> bool:
        if self._core.phase is not Phase.OPEN:
            return True
        if self._closing_at == inf:
            return False
        return self._core.signal_seen or self._clock.monotonic() >= self._closing_at

    async def _wait(self) -> None:
        """Sleep until there is something to do."""
        now = self._clock.monotonic()
        if self._over() or self._fault is not None or self._core.has_work(now):
            return
        self._arm(now)
        self._sleep = asyncio.get_running_loop().create_future()
        try:
            await self._sleep
        finally:
            self._sleep = None

    def _changed(self) -> None:
        """See to it that `run` acts on what has just happened."""
        if self._scope is None:
            return
        if self._over():
            if self._publishing and self._scope.when() is None:
                self._scope.reschedule(asyncio.get_running_loop().time())
            self._wake()
        elif self._sleep is not None:
            now = self._clock.monotonic()
            if self._core.has_work(now) and not self._publish_at_once(now):
                self._wake()
            else:
                self._arm(now)

    def _publish_at_once(self, now: float) -> bool:
        """Publish all that there is while `run` sleeps, without a turn of the loop; False if `run` has to do it."""
        if self._prompt is None or self._sleep is None or self._sleep.done():
            return False
        core = self._core
        core.tick(now)
        while (outgoing := self._carried or core.next_notice(now)) is not None:
            self._carried = None
            try:
                if not self._prompt.publish_at_once(self._to, outgoing.notice):
                    self._carried = outgoing
                    return False
            except ProviderTrouble as trouble:
                core.publish_failed(outgoing, trouble, now)
                return False
            core.published(outgoing, now)
        return not self._over()

    def _wake(self) -> None:
        if self._sleep is not None and not self._sleep.done():
            self._sleep.set_result(None)

    def _arm(self, now: float) -> None:
        """Have the timer go off at the next deadline or before."""
        wanted = min(self._core.deadline(now), self._closing_at)
        if len(self._lanes) < self._options.blob_lanes:
            wanted = min(wanted, self._core.blobs.deadline())
        if wanted < self._timer_at - _TIMER_SLACK:
            self._set_timer(wanted - now)

    def _set_timer(self, delay: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        delay = max(0.0, delay)
        self._timer = asyncio.get_running_loop().call_later(delay, self._on_timer)
        self._timer_at = self._clock.monotonic() + delay

    def _on_timer(self) -> None:
        self._timer, self._timer_at = None, inf
        now = self._clock.monotonic()
        try:
            self._core.tick(now)
            if self._core.blobs.deadline() <= now:
                self._open_lanes()
            self._wake()
            self._changed()
        except Exception as fault:  # noqa: BLE001 - `run` raises it: nobody hears of it in a callback of the loop
            self._fault = fault
            self._wake()
        if self._publishing and self._timer is None:
            self._set_timer(_WATCH_SECONDS)

    def _open_lanes(self) -> None:
        while len(self._lanes) < self._options.blob_lanes:
            work = self._core.next_blob_work(self._clock.monotonic())
            if work is None:
                return
            self._lanes.spawn(self._lane(work), name="blobs")

    async def _lane(self, work: BlobWork | None) -> None:
        """Do blob work as long as there is any."""
        store, core, clock = self._cloud.blobstore, self._core, self._clock
        while work is not None:
            try:
                match work.task:
                    case BlobTask.PUT:
                        await store.put(work.name, bytes(work.body or b""))
                        core.blob_done(work)
                    case BlobTask.GET:
                        core.blob_got(work, await store.get(work.name), clock.monotonic())
                    case BlobTask.DELETE:
                        await store.delete(work.name)
                        core.blob_done(work)
            except ProviderTrouble as trouble:
                core.blob_failed(work, trouble, clock.monotonic())
            self._changed()
            work = core.next_blob_work(clock.monotonic())

    async def _clean(self) -> None:
        """Say a last word, end the lanes, delete what this side left in the store."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_at = None, inf
        await self._lanes.close()
        if self._core.phase is Phase.OPEN:
            await self._say_last_words()
        self._core.close()
        names = self._core.blobs.leftovers()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_CLEANING_SECONDS):
                while names:
                    await self._delete(names[-1])
                    names.pop()
        if names:
            _log.warning("blobs left to the sweeper", count=len(names))

    async def _say_last_words(self) -> None:
        outgoing = self._carried or self._core.next_notice(self._clock.monotonic())
        if self._core.signal_seen or outgoing is None:
            return
        with contextlib.suppress(ProviderTrouble, TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_SECONDS):
                await self._cloud.signalling.publish(self._to, outgoing.notice)

    async def _delete(self, name: str) -> None:
        with contextlib.suppress(BlobMissing):
            try:
                await self._cloud.blobstore.delete(name)
            except ProviderTrouble as trouble:
                _log.info("a leftover blob stays", error=str(trouble))
