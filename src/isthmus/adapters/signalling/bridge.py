"""`bridge:` carries notices over a WebSocket to the Bridge's hub, which hands them on to the other Router's.

Built for bulk: what is published goes to the socket at once, and what arrives waits in one list, not in tasks. Where
the network lets no WebSocket through, the same is done by requests (`polling`), until one gets through again.
"""

import asyncio
import functools
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final

import aiohttp
import structlog

from isthmus.adapters.bridge_http import BridgeConnection
from isthmus.adapters.signalling.doubt import Doubt
from isthmus.adapters.signalling.polling import Polling
from isthmus.adapters.signalling.websocket import MAX_MESSAGE_BYTES, CloseCode, WebSocket
from isthmus.errors import IsthmusError, Problem, ProviderTrouble, Retry
from isthmus.kit import backoff
from isthmus.kit.complaint import Complaint
from isthmus.kit.tasks import Tasks
from isthmus.ports.pacing import Urgency
from isthmus.ports.signalling import SignallingTraits

_log = structlog.get_logger()
_PATH: Final = "/signalling"
_NOTICES: Final = "/notices"
_NO_UPGRADE: Final = 426  # what the Bridge answers to an upgrade that lost its headers on the way
_MOST_NOTICE_BYTES: Final = MAX_MESSAGE_BYTES - 256  # room for the mailbox in front
_INBOX_HIGH_BYTES: Final = 16 * 1024 * 1024  # more waiting than this and nothing is read until the listener caught up
_INBOX_LOW_BYTES: Final = 4 * 1024 * 1024
_FIRST_DELAY: Final = 0.2  # a Bridge restarts in a second, and associations wait for it
_MOST_DELAY: Final = 5.0  # a live session is given up after 25 s
_WRITE_SECONDS: Final = 10.0
_MAILBOX_BYTES: Final = 64
_BULK_BYTES: Final = 8 * 1024  # with a cap on the line, notices below this are counted and do not wait
_SHORTEST_REST: Final = 0.01
_UPGRADE_SECONDS: Final = 6.0  # a proxy that swallows upgrades answers nothing at all
_HEARD_SECONDS: Final = 5.0  # the answer to our first Ping
_AGAIN_FIRST: Final = 10.0  # an outage may have been taken for a proxy's doing
_AGAIN_MOST: Final = 600.0


@dataclass(slots=True, eq=False)
class _Way:
    """A way to the hub that is open, until `lost` is set."""

    lane: WebSocket | Polling
    response: aiohttp.ClientResponse | None = None
    lost: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self) -> None:
        """Let go of a WebSocket."""
        if isinstance(self.lane, WebSocket):
            self.lane.abort()
        if self.response is not None:
            self.response.close()


class BridgeSignalling:
    """The built-in signalling service, seen from one Router: it listens at its own Router ID and at nothing else."""

    def __init__(self, bridge: BridgeConnection) -> None:
        """Use the Bridge that `bridge` knows; the connection is made at first use, and made again when it is lost.

        `on_connected` is called each time: what the Bridge said in between was not heard. `on_lost` is called when
        the connection is gone, and not by `close`.
        """
        self.on_connected: Callable[[], None] | None = None
        self.on_lost: Callable[[], None] | None = None
        self._complaint = Complaint()
        self.traits = SignallingTraits(max_notice_bytes=_MOST_NOTICE_BYTES, cheap_bulk=True, retention=0.0)
        self._bridge = bridge
        self._tasks = Tasks("bridge signalling")
        self._lane: WebSocket | Polling | None = None
        self._way: _Way | None = None
        self._doubt = Doubt()
        self._settled = asyncio.Event()  # not set while a connection is being made
        self._inbox: deque[bytes] = deque()
        self._inbox_bytes = 0
        self._arrival: asyncio.Future[None] | None = None
        self._paused = False
        self._resting = False
        self._closed = False
        self._sink: Callable[[bytes], None] | None = None

    def __repr__(self) -> str:
        return f"<BridgeSignalling {self._lane!r}, {len(self._inbox)} notices to take>"

    @property
    def is_connected(self) -> bool:
        """Whether the way to the Bridge is open now."""
        return self._lane is not None and self._lane.is_open

    @property
    def by_polling(self) -> bool:
        """Whether notices go by requests, since no WebSocket gets through."""
        return isinstance(self._lane, Polling)

    async def publish(self, to: str, notice: bytes) -> None:
        """Send a notice to a Router. Raises ProviderTrouble if the Bridge is out of reach or the notice too long."""
        if len(notice) > _MOST_NOTICE_BYTES:
            raise ProviderTrouble(f"a notice has at most {_MOST_NOTICE_BYTES} bytes", retry=Retry.NEVER)
        up = self._bridge.up
        if up is not None and not up.is_free:
            if len(notice) < _BULK_BYTES:
                up.count(len(notice))
            else:
                await up.take(len(notice), Urgency.LIVE)
        lane = self._lane
        if lane is None:
            lane = await self._connected()
        lane.send(_mailbox(to), notice)
        if lane.is_full:
            try:
                async with asyncio.timeout(_WRITE_SECONDS):
                    await lane.writable()
            except TimeoutError as error:
                raise ProviderTrouble("the Bridge takes no notices", retry=Retry.LATER) from error

    def publish_at_once(self, to: str, notice: bytes) -> bool:
        """Send a notice to a Router if the way is open and has room. Raises ProviderTrouble if it is too long."""
        if len(notice) > _MOST_NOTICE_BYTES:
            raise ProviderTrouble(f"a notice has at most {_MOST_NOTICE_BYTES} bytes", retry=Retry.NEVER)
        lane = self._lane
        if lane is None or lane.is_full:
            return False
        up = self._bridge.up
        if up is not None and not up.is_free:
            if len(notice) < _BULK_BYTES:
                up.count(len(notice))
            elif not up.take_at_once(len(notice), Urgency.LIVE):
                return False
        lane.send(_mailbox(to), notice)
        return True

    def attach(self, at: str, sink: Callable[[bytes], None]) -> None:
        """Give each notice for this Router to `sink`. Raises ProviderTrouble if asked for another mailbox."""
        self._demand_own(at)
        self._sink = sink
        while self._inbox:
            sink(self._inbox.popleft())
        self._inbox_bytes = 0
        self._start()

    async def listen(self, at: str) -> AsyncIterator[bytes]:
        """Yield the notices for this Router. Raises ProviderTrouble if asked for another mailbox."""
        self._demand_own(at)
        self._start()
        while not self._closed:
            while self._inbox:
                notice = self._inbox.popleft()
                self._inbox_bytes -= len(notice)
                if self._paused and self._inbox_bytes < _INBOX_LOW_BYTES:
                    self._resume()
                yield notice
            if not self._closed:
                if self._arrival is None or self._arrival.done():
                    self._arrival = asyncio.get_running_loop().create_future()
                await asyncio.shield(self._arrival)

    async def close(self) -> None:
        """End every listener and the connection."""
        self._closed = True
        way = self._way
        if way is not None and isinstance(way.lane, WebSocket):
            way.lane.close(CloseCode.GOING_AWAY, "the Router stops")
            await way.lost.wait()
        elif way is not None and isinstance(way.lane, Polling):
            await way.lane.leave()
        await self._tasks.close()
        if self._way is not None:
            self._way.end()  # a WebSocket that took over while the polls ended: the task that would hold it is gone
        self._settled.set()
        self._wake()

    def _start(self) -> None:
        if self._closed:
            raise ProviderTrouble("this signalling service was closed", retry=Retry.NEVER)
        if not len(self._tasks):
            self._tasks.spawn(self._keep_connected(), name="keeping connected")

    async def _connected(self) -> WebSocket | Polling:
        self._start()
        await self._settled.wait()
        if self._lane is None:
            raise ProviderTrouble("the Bridge's signalling service is out of reach", retry=Retry.LATER)
        return self._lane

    async def _keep_connected(self) -> None:
        delays = backoff.delays(_FIRST_DELAY, _MOST_DELAY)
        while True:
            self._settled.clear()
            try:
                way = await self._open()
            except IsthmusError as error:
                if self._complaint.is_news(str(error), asyncio.get_running_loop().time()):
                    _log.warning("signalling not connected", error=str(error), hint=error.hint)
                self._settled.set()
                await asyncio.sleep(next(delays))
                continue
            self._use(way)
            self._settled.set()
            if self._complaint.over():
                _log.info("signalling connected again")
            if self.on_connected is not None:
                self.on_connected()
            delays = backoff.delays(_FIRST_DELAY, _MOST_DELAY)
            if isinstance(way.lane, Polling):
                way = await self._poll(way)
            if isinstance(way.lane, WebSocket):
                await self._live(way)
            await asyncio.sleep(next(delays))

    async def _live(self, way: _Way) -> None:
        """Return when a WebSocket is lost."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            if await self._is_heard(way):
                await way.lost.wait()
            elif not way.lost.is_set():
                self._doubt.refused()
                self._on_lost(way, "the WebSocket is open, and nothing comes through")
        finally:
            self._lane = self._way = None
            way.end()
        self._doubt.lived(loop.time() - began)

    async def _poll(self, way: _Way) -> _Way:
        """Return the WebSocket that gets through again and took over, or `way` when that is lost."""
        waits = backoff.delays(_AGAIN_FIRST, _AGAIN_MOST)
        try:
            while not await _set_within(way.lost, next(waits)):
                try:
                    better = await self._open_socket()
                except IsthmusError as error:
                    _log.debug("still no WebSocket", error=str(error))
                    continue
                is_heard = False
                try:
                    is_heard = await self._is_heard(better)
                finally:
                    if not is_heard:
                        better.end()
                if not is_heard:
                    continue
                self._doubt.clear()
                self._use(better)
                _log.info("a WebSocket reaches the Bridge again: no more long polls")
                return better
        finally:
            if self._way is way:
                self._lane = self._way = None
            assert isinstance(way.lane, Polling)
            await way.lane.leave()
        return way

    @staticmethod
    async def _is_heard(way: _Way) -> bool:
        """Return whether the first Ping was answered: a proxy may open a WebSocket and let nothing pass."""
        assert isinstance(way.lane, WebSocket)
        return not await _set_within(way.lost, _HEARD_SECONDS) and way.lane.is_heard

    async def _open(self) -> _Way:
        while not self._doubt.enough:
            try:
                return await self._open_socket()
            except IsthmusError as error:
                if not await self._is_stopped(error):
                    raise
            self._doubt.refused()
            await asyncio.sleep(_FIRST_DELAY)
        polling = await self._open_polling()
        if self._complaint.is_news("polling", asyncio.get_running_loop().time()):
            _log.warning(
                "no WebSocket reaches the Bridge: notices go by long poll, which is slower",
                hint="isthmus router check URL tells what stands in between",
            )
        return polling

    async def _is_stopped(self, error: IsthmusError) -> bool:
        """Return whether it was something on the way that stopped an upgrade, which failed like this."""
        if isinstance(error, Problem) and error.status != _NO_UPGRADE:
            return False  # the Bridge saw the upgrade, and refused it itself
        try:
            await self._bridge.request("POST", _NOTICES, b"")
        except IsthmusError:
            return False  # nor anything else
        return True

    async def _open_socket(self) -> _Way:
        try:
            async with asyncio.timeout(_UPGRADE_SECONDS):
                response, transport = await self._bridge.upgrade(_PATH)
        except TimeoutError as error:
            raise ProviderTrouble("the upgrade to a WebSocket is not answered", retry=Retry.LATER) from error
        socket = WebSocket(masks=True, on_message=self._received, on_lost=lambda reason: self._on_lost(way, reason))
        way = _Way(socket, response)
        socket.take_over(transport)
        socket.ping()  # the hub delivers from our first frame on
        return way

    async def _open_polling(self) -> _Way:
        polling = Polling(
            self._bridge,
            on_message=self._received,
            on_lost=lambda reason: self._on_lost(way, reason),
            on_gap=self._on_gap,
        )
        way = _Way(polling)
        await polling.open()
        return way

    def _use(self, way: _Way) -> None:
        if not way.lost.is_set():
            self._way, self._lane = way, way.lane
        self._paused = False

    def _demand_own(self, at: str) -> None:
        if at != self._bridge.own_id:
            raise ProviderTrouble("a Router listens at its own mailbox only", retry=Retry.NEVER)

    def _received(self, notice: bytes) -> None:
        down = self._bridge.down
        if down is not None and not down.is_free:
            self._rest(down.count(len(notice)))
        if self._sink is not None:
            self._sink(notice)
            return
        self._inbox.append(notice)
        self._inbox_bytes += len(notice)
        if self._inbox_bytes > _INBOX_HIGH_BYTES and not self._paused and self._lane is not None:
            self._paused = True
            self._lane.pause_reading()
        self._wake()

    def _resume(self) -> None:
        self._paused = False
        if self._lane is not None and not self._resting:
            self._lane.resume_reading()

    def _rest(self, seconds: float) -> None:
        """Read nothing for a while: the line has a cap, and TCP makes the Bridge wait."""
        if seconds < _SHORTEST_REST or self._resting or self._lane is None:
            return
        self._resting = True
        self._lane.pause_reading()
        asyncio.get_running_loop().call_later(seconds, self._rested)

    def _rested(self) -> None:
        self._resting = False
        if self._lane is not None and not self._paused:
            self._lane.resume_reading()

    def _wake(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    def _on_lost(self, way: _Way, reason: str) -> None:
        way.lost.set()
        if self._way is not way:
            return  # it was only tried, or had been replaced
        self._lane = None
        if self._closed:
            return
        if self._complaint.is_news(f"lost: {reason}", asyncio.get_running_loop().time()):
            _log.warning("signalling connection lost", reason=reason)
        if self.on_lost is not None:
            self.on_lost()

    def _on_gap(self) -> None:
        """Another Bridge answers, or the same one after a restart."""
        if self.on_connected is not None:
            self.on_connected()


async def _set_within(event: asyncio.Event, seconds: float) -> bool:
    """Return whether an event is set, at the latest in so many seconds."""
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False


@functools.lru_cache(maxsize=4096)
def _mailbox(to: str) -> bytes:
    name = to.encode("ascii")
    if not 0 < len(name) <= _MAILBOX_BYTES:
        raise ProviderTrouble("a mailbox has a name of 1 to 64 characters", retry=Retry.NEVER)
    return bytes((len(name),)) + name
