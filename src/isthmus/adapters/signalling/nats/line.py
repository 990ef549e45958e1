"""One connection to a NATS server: its lines of text, and the bytes that some of them announce.

Own code, because this is the data path: a notice is copied once on its way in and not at all on its way out, no task
or queue stands between the socket and whoever takes it.
"""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

from isthmus.adapters.signalling.nats.framing import WebSocketFraming
from isthmus.adapters.signalling.websocket import Bytes
from isthmus.errors import ProviderTrouble, RemoteMisuse, Retry
from isthmus.kit.buffers import with_room
from isthmus.kit.reasons import in_words

PING_SECONDS: Final = 20.0  # a server that is gone is noticed after two of these; proxies forget a line after 60 s
MOST_PAYLOAD_BYTES: Final = 8 * 1024 * 1024
_MOST_LINE_BYTES: Final = 64 * 1024  # a cluster lists its servers in one
_READ_BYTES: Final = 64 * 1024  # a read is not worth its system call below this
_BUFFER_BYTES: Final = 1024 * 1024
_WRITE_HIGH_BYTES: Final = 4 * 1024 * 1024  # more waiting than this and publishers wait too
_END: Final = b"\r\n"


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server says of itself first.

    Attributes:
        max_payload: the largest notice that it takes.
        nonce: what is to be signed; empty if it wants no signature.
        asks_who: whether it lets in only those whom it knows.
        wants_tls: whether it goes on with TLS only.
        has_tls: whether it can.
    """

    max_payload: int
    nonce: bytes
    asks_who: bool
    wants_tls: bool
    has_tls: bool

    @classmethod
    def parse(cls, text: bytes) -> "ServerInfo":
        """Return what an INFO line says. Raises RemoteMisuse."""
        try:
            said = json.loads(text)
            most, nonce = said["max_payload"], said.get("nonce", "")
            if not isinstance(most, int) or most < 1:
                raise RemoteMisuse("a NATS server that takes no notices")
            asks, wants = bool(said.get("auth_required")), bool(said.get("tls_required"))
            return cls(most, str(nonce).encode(), asks, wants, wants or bool(said.get("tls_available")))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RemoteMisuse("no NATS server answers there") from error


class Line(asyncio.BufferedProtocol):
    """A connection. It is made with a transport, whose protocol this becomes: `take_over`."""

    def __init__(
        self,
        *,
        framing: WebSocketFraming | None,
        on_notice: Callable[[int, bytes], None],
        on_error: Callable[[str], None],
        on_lost: Callable[["Line", str], None],
    ) -> None:
        """Prepare one.

        Args:
            framing: how the stream is carried, if not as it is.
            on_notice: called with the number of the subscription and each notice.
            on_error: called with what the server complains of.
            on_lost: called once, with the reason, when the connection is gone.
        """
        self.info: ServerInfo | None = None
        self._framing = framing
        self._on_notice = on_notice
        self._on_error = on_error
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray(_BUFFER_BYTES)
        self._start = self._end = 0
        self._announced: tuple[int, int] | None = None  # the subscription and the size of what comes next
        self._greeted: asyncio.Future[ServerInfo] = asyncio.get_running_loop().create_future()
        self._pongs: deque[asyncio.Future[None]] = deque()
        self._said = ""  # what the server complained of last: often why it hangs up
        self._ending = ""
        self._heard = True
        self._lost = False
        self._writable = asyncio.Event()
        self._writable.set()
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        state = "lost" if self._lost else f"ending: {self._ending}" if self._ending else "open"
        return f"<Line {state}>"

    def take_over(self, transport: asyncio.Transport, early: bytes = b"") -> None:
        """Become the protocol of `transport`, of which `early` was read already, and start reading."""
        self._transport = transport
        transport.set_write_buffer_limits(high=_WRITE_HIGH_BYTES)
        transport.set_protocol(self)
        if self._framing is not None and not self._framing.is_open:
            transport.write(self._framing.request)
        if early:
            self.get_buffer(len(early))[: len(early)] = early
            self.buffer_updated(len(early))
        transport.resume_reading()
        self._arm()

    def take_tls(self, transport: asyncio.Transport) -> None:
        """Go on over the same connection inside TLS."""
        self._transport = transport
        transport.set_write_buffer_limits(high=_WRITE_HIGH_BYTES)

    @property
    def is_open(self) -> bool:
        """Whether notices can be sent."""
        return self._transport is not None and not self._ending

    @property
    def is_full(self) -> bool:
        """Whether so much waits to be sent that a sender should wait too."""
        return not self._writable.is_set()

    @property
    def transport(self) -> asyncio.Transport:
        """What carries it. Raises ProviderTrouble if it is gone."""
        if self._transport is None:
            raise self._gone()
        return self._transport

    async def writable(self) -> None:
        """Wait until there is room again, or the connection is gone."""
        await self._writable.wait()

    async def greeting(self) -> ServerInfo:
        """Return what the server says first. Raises ProviderTrouble if it says nothing of the kind."""
        return await asyncio.shield(self._greeted)

    async def introduce(self, words: Mapping[str, Any]) -> None:
        """Say who we are. Raises ProviderTrouble if the server will not have us."""
        self._write(b"CONNECT " + json.dumps(words).encode() + _END)
        await self.settle()

    async def settle(self) -> None:
        """Return when the server did all that it was told before. Raises ProviderTrouble if the connection is gone."""
        if not self.is_open:
            raise self._gone()
        pong = asyncio.get_running_loop().create_future()
        self._pongs.append(pong)
        self._write(b"PING\r\n")
        await pong

    def publish(self, head: bytes, notice: Bytes) -> None:
        """Send a notice; `head` is the verb and the subject. It is dropped if the connection is ending."""
        self._write(b"%b%d\r\n" % (head, len(notice)), notice, _END)

    def subscribe(self, subject: bytes, number: int) -> None:
        """Have the notices of a subject delivered under a number."""
        self._write(b"SUB %b %d\r\n" % (subject, number))

    def unsubscribe(self, number: int) -> None:
        """Have no more delivered under a number."""
        self._write(b"UNSUB %d\r\n" % number)

    def close(self) -> None:
        """Send what waits and end the connection."""
        self._ending = self._ending or "closed"
        if self._transport is not None:
            self._transport.close()

    def abort(self, reason: str = "aborted") -> None:
        """End the connection now; what waits is lost."""
        self._ending = self._ending or reason
        if self._transport is not None:
            self._transport.abort()

    # called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, when a loop made the transport for this protocol."""
        self.take_over(cast("asyncio.Transport", transport))  # uvloop's are no subclass of it

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell everybody who waits, once."""
        if self._lost:
            return
        self._lost = True
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        self._ending = self._ending or self._said or (in_words(exc) if exc is not None else "closed by the server")
        self._writable.set()
        self._fail(self._gone())
        self._on_lost(self, self._ending)

    def eof_received(self) -> bool:
        """Have the transport closed."""
        return False

    def pause_writing(self) -> None:
        """Note that the way out is full."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Note that there is room again."""
        self._writable.set()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Return where to read to."""
        if len(self._buffer) - self._end < _READ_BYTES:
            self._make_room(len(self._buffer))
        return memoryview(self._buffer)[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        """Take out every whole line and notice."""
        self._heard = True
        framing = self._framing
        try:
            if framing is None:
                self._end += nbytes
            else:
                self._end = framing.unwrap(self._buffer, self._end, self._end + nbytes)
                if framing.answers:
                    self._answer(framing)
            while not self._ending and (self._take_line() if self._announced is None else self._take_notice()):
                pass
            if framing is not None and framing.is_over:
                self.abort(self._said or "closed by the server")
        except RemoteMisuse as error:
            self.abort(str(error))

    # inside

    def _take_line(self) -> bool:
        buffer, start = self._buffer, self._start
        end = buffer.find(_END, start, self._end)
        if end < 0:
            if self._end - start > _MOST_LINE_BYTES:
                raise RemoteMisuse("no NATS server answers there")
            self._compact()
            return False
        line = bytes(buffer[start:end])
        self._start = end + 2
        if line.startswith(b"MSG "):
            self._announced = _announced(line)
            return True
        self._compact()
        verb, _, rest = line.partition(b" ")
        self._take_verb(verb.upper(), rest.strip())
        return True

    def _take_verb(self, verb: bytes, rest: bytes) -> None:
        if verb == b"PING":
            self._write(b"PONG\r\n")
        elif verb == b"PONG":
            if self._pongs and not (pong := self._pongs.popleft()).done():
                pong.set_result(None)
        elif verb == b"INFO":
            self.info = ServerInfo.parse(rest)
            if not self._greeted.done():
                self._greeted.set_result(self.info)
        elif verb == b"-ERR":
            self._said = rest.decode("utf-8", "replace").strip("' ")[:200]
            self._on_error(self._said)
        elif verb != b"+OK":
            raise RemoteMisuse("no NATS server answers there")

    def _take_notice(self) -> bool:
        assert self._announced is not None
        number, size = self._announced
        start = self._start
        end = start + size
        if self._end < end + 2:
            if len(self._buffer) - start < size + 2 + _READ_BYTES:
                self._make_room(size + 2 + _READ_BYTES)
            return False
        notice = bytes(memoryview(self._buffer)[start:end])
        if self._buffer[end : end + 2] != _END:
            raise RemoteMisuse("a notice of another length than was said")
        self._announced = None
        self._start = end + 2
        self._compact()
        self._on_notice(number, notice)
        return True

    def _compact(self) -> None:
        if self._start == self._end:
            self._start = self._end = 0

    def _make_room(self, capacity: int) -> None:
        self._buffer = with_room(self._buffer, self._start, self._end, capacity)
        self._start, self._end = 0, self._end - self._start

    def _answer(self, framing: WebSocketFraming) -> None:
        if self._transport is not None:
            self._transport.writelines(framing.answers)
        framing.answers.clear()

    def _write(self, *parts: Bytes) -> None:
        if self._transport is None or self._ending:
            return
        self._transport.writelines(parts if self._framing is None else self._framing.wrap(parts))

    def _fail(self, trouble: ProviderTrouble) -> None:
        if not self._greeted.done():
            self._greeted.set_exception(trouble)
            self._greeted.exception()  # whoever waits is told; if nobody does, that is no fault
        while self._pongs:
            if not (pong := self._pongs.popleft()).done():
                pong.set_exception(trouble)
                pong.exception()

    def _gone(self) -> ProviderTrouble:
        return ProviderTrouble(self._ending or "the connection was closed", retry=Retry.LATER)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(PING_SECONDS, self._check_life)

    def _check_life(self) -> None:
        if not self._heard:
            self.abort(f"silent for {PING_SECONDS:.0f} s")
            return
        self._heard = False
        if self.info is not None:
            self._pongs.append(asyncio.get_running_loop().create_future())
            self._write(b"PING\r\n")
        self._arm()


def _announced(line: bytes) -> tuple[int, int]:
    """Return subscription and size of `MSG subject number [reply] size`. Raises RemoteMisuse."""
    words = line.split()
    if len(words) in {4, 5} and words[2].isdigit() and words[-1].isdigit() and len(words[-1]) < 10:
        size = int(words[-1])
        if size <= MOST_PAYLOAD_BYTES:
            return int(words[2]), size
    raise RemoteMisuse("a notice that is too long, or not announced as NATS does")
