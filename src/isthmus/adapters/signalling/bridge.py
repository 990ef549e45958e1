"""`bridge:` carries notices over a WebSocket to the Bridge's hub, which hands them on to the other Router's.

Built for bulk: what is published goes to the socket at once, and what arrives waits in one list, not in tasks.
"""

import asyncio
import functools
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final

import aiohttp
import structlog

from isthmus.adapters.bridge_http import BridgeConnection
from isthmus.adapters.signalling.websocket import MAX_MESSAGE_BYTES, CloseCode, WebSocket
from isthmus.errors import IsthmusError, ProviderTrouble, Retry
from isthmus.kit import backoff
from isthmus.kit.complaint import Complaint
from isthmus.kit.tasks import Tasks
from isthmus.ports.pacing import Urgency
from isthmus.ports.signalling import SignallingTraits

_log = structlog.get_logger()
_PATH: Final = "/signalling"
_MOST_NOTICE_BYTES: Final = MAX_MESSAGE_BYTES - 256  # room for the mailbox in front
_INBOX_HIGH_BYTES: Final = 16 * 1024 * 1024  # more waiting than this and nothing is read until the listener caught up
_INBOX_LOW_BYTES: Final = 4 * 1024 * 1024
_FIRST_DELAY: Final = 0.2  # a Bridge restarts in a second, and associations wait for it
_MOST_DELAY: Final = 5.0  # a live session is given up after 25 s
_WRITE_SECONDS: Final = 10.0
_MAILBOX_BYTES: Final = 64
_BULK_BYTES: Final = 8 * 1024  # with a cap on the line, notices below this are counted and do not wait
_SHORTEST_REST: Final = 0.01


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
        self._socket: WebSocket | None = None
        self._settled = asyncio.Event()  # not set while a connection is being made
        self._lost = asyncio.Event()
        self._inbox: deque[bytes] = deque()
        self._inbox_bytes = 0
        self._arrival: asyncio.Future[None] | None = None
        self._paused = False
        self._resting = False
        self._closed = False
        self._sink: Callable[[bytes], None] | None = None

    def __repr__(self) -> str:
        return f"<BridgeSignalling {self._socket!r}, {len(self._inbox)} notices to take>"

    @property
    def is_connected(self) -> bool:
        """Whether the way to the Bridge is open now."""
        return self._socket is not None and self._socket.is_open

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
        socket = self._socket
        if socket is None:
            socket = await self._connected()
        socket.send(_mailbox(to), notice)
        if socket.is_full:
            try:
                async with asyncio.timeout(_WRITE_SECONDS):
                    await socket.writable()
            except TimeoutError as error:
                raise ProviderTrouble("the Bridge takes no notices", retry=Retry.LATER) from error

    def publish_at_once(self, to: str, notice: bytes) -> bool:
        """Send a notice to a Router if the way is open and has room. Raises ProviderTrouble if it is too long."""
        if len(notice) > _MOST_NOTICE_BYTES:
            raise ProviderTrouble(f"a notice has at most {_MOST_NOTICE_BYTES} bytes", retry=Retry.NEVER)
        socket = self._socket
        if socket is None or socket.is_full:
            return False
        up = self._bridge.up
        if up is not None and not up.is_free:
            if len(notice) < _BULK_BYTES:
                up.count(len(notice))
            elif not up.take_at_once(len(notice), Urgency.LIVE):
                return False
        socket.send(_mailbox(to), notice)
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
        if self._socket is not None:
            self._socket.close(CloseCode.GOING_AWAY, "the Router stops")
            await self._lost.wait()
        await self._tasks.close()
        self._settled.set()
        self._wake()

    def _start(self) -> None:
        if self._closed:
            raise ProviderTrouble("this signalling service was closed", retry=Retry.NEVER)
        if not len(self._tasks):
            self._tasks.spawn(self._keep_connected(), name="keeping connected")

    async def _connected(self) -> WebSocket:
        self._start()
        await self._settled.wait()
        if self._socket is None:
            raise ProviderTrouble("the Bridge's signalling service is out of reach", retry=Retry.LATER)
        return self._socket

    async def _keep_connected(self) -> None:
        delays = backoff.delays(_FIRST_DELAY, _MOST_DELAY)
        while True:
            self._settled.clear()
            try:
                response, socket = await self._connect()
            except IsthmusError as error:
                if self._complaint.is_news(str(error), asyncio.get_running_loop().time()):
                    _log.warning("signalling not connected", error=str(error), hint=error.hint)
                self._settled.set()
                await asyncio.sleep(next(delays))
                continue
            self._settled.set()
            if self._complaint.over():
                _log.info("signalling connected again")
            if self.on_connected is not None:
                self.on_connected()
            delays = backoff.delays(_FIRST_DELAY, _MOST_DELAY)
            try:
                await self._lost.wait()
            finally:
                self._socket = None
                socket.abort()
                response.close()
            await asyncio.sleep(next(delays))

    async def _connect(self) -> tuple[aiohttp.ClientResponse, WebSocket]:
        response, transport = await self._bridge.upgrade(_PATH)
        self._lost.clear()
        self._paused = False
        socket = WebSocket(masks=True, on_message=self._received, on_lost=self._on_lost)
        socket.take_over(transport)
        socket.ping()  # the hub delivers from our first frame on
        self._socket = socket
        return response, socket

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
        if self._inbox_bytes > _INBOX_HIGH_BYTES and not self._paused and self._socket is not None:
            self._paused = True
            self._socket.pause_reading()
        self._wake()

    def _resume(self) -> None:
        self._paused = False
        if self._socket is not None and not self._resting:
            self._socket.resume_reading()

    def _rest(self, seconds: float) -> None:
        """Read nothing for a while: the line has a cap, and TCP makes the Bridge wait."""
        if seconds < _SHORTEST_REST or self._resting or self._socket is None:
            return
        self._resting = True
        self._socket.pause_reading()
        asyncio.get_running_loop().call_later(seconds, self._rested)

    def _rested(self) -> None:
        self._resting = False
        if self._socket is not None and not self._paused:
            self._socket.resume_reading()

    def _wake(self) -> None:
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    def _on_lost(self, reason: str) -> None:
        self._socket = None
        self._lost.set()
        if self._closed:
            return
        if self._complaint.is_news(f"lost: {reason}", asyncio.get_running_loop().time()):
            _log.warning("signalling connection lost", reason=reason)
        if self.on_lost is not None:
            self.on_lost()


@functools.lru_cache(maxsize=4096)
def _mailbox(to: str) -> bytes:
    name = to.encode("ascii")
    if not 0 < len(name) <= _MAILBOX_BYTES:
        raise ProviderTrouble("a mailbox has a name of 1 to 64 characters", retry=Retry.NEVER)
    return bytes((len(name),)) + name
