"""One WebSocket after its opening handshake (RFC 6455), for either end of the built-in signalling service.

Own code, because this is the data path: a frame is copied once on its way in (which also unmasks it) and not at all
on its way out, and no task or queue stands between two sockets.
"""

import asyncio
import secrets
from collections.abc import Callable
from enum import IntEnum
from typing import Final, cast

from isthmus.kit.buffers import with_room
from isthmus.kit.reasons import in_words

try:
    from websockets.speedups import apply_mask
except ImportError:  # pragma: no cover - a platform without the compiled part
    from websockets.utils import apply_mask

MAX_MESSAGE_BYTES: Final = 2 * 1024 * 1024
PING_SECONDS: Final = 20.0  # a Router that is gone is noticed after two of these at most
_READ_BYTES: Final = 64 * 1024  # a read is not worth its system call below this
_BUFFER_BYTES: Final = 1024 * 1024  # four notices of usual size in one read
_IDLE_BYTES: Final = 4 * 1024  # as long as little comes: a Bridge holds thousands of these
_GROWTH: Final = 8
_CLOSING_SECONDS: Final = 5.0
_MOST_CONTROL_BYTES: Final = 125  # RFC 6455 section 5.5
_WRITE_HIGH_BYTES: Final = 4 * 1024 * 1024  # more waiting than this and publishers wait too

Bytes = bytes | bytearray | memoryview


class Opcode(IntEnum):
    """Frame types (RFC 6455 section 5.2)."""

    CONTINUATION = 0
    BINARY = 2
    CLOSE = 8
    PING = 9
    PONG = 10


class CloseCode(IntEnum):
    """Why a WebSocket is closed (RFC 6455 section 7.4.1)."""

    NORMAL = 1000
    GOING_AWAY = 1001
    PROTOCOL_ERROR = 1002
    UNSUPPORTED = 1003
    POLICY = 1008
    TOO_BIG = 1009


class _Malformed(Exception):
    """Received bytes that no WebSocket sends; carries the close code that answers them."""

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class WebSocket(asyncio.BufferedProtocol):
    """An open WebSocket that carries binary messages of at most MAX_MESSAGE_BYTES.

    Takes over a transport whose handshake is done: `WebSocket(...).take_over(transport)`.
    """

    def __init__(
        self,
        *,
        masks: bool,
        on_message: Callable[[bytes], None],
        on_lost: Callable[[str], None],
        on_life: Callable[[], None] | None = None,
    ) -> None:
        """Prepare one end.

        Args:
            masks: True for the end that opened the connection, which masks what it sends; the other end never does.
            on_message: called with each whole message.
            on_lost: called once, with the reason, when the connection is gone.
            on_life: called with each frame of any kind that arrives.
        """
        self._masks = masks
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_life = on_life
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray(_IDLE_BYTES)
        self._start = self._end = 0
        self._most_read = 0  # bytes of the longest read since it was last asked whether little comes
        self._wants_more = self._wants_less = False
        self._fragments: list[bytes] = []
        self._heard = True
        self._closing = ""
        self._writable = asyncio.Event()
        self._writable.set()
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        state = "closed" if self._transport is None else f"closing: {self._closing}" if self._closing else "open"
        return f"<WebSocket {state}, {self.waiting} bytes to send>"

    def take_over(self, transport: asyncio.Transport) -> None:
        """Become the protocol of `transport`, which must be paused for reading, and start reading."""
        self.connection_made(transport)
        transport.set_protocol(self)
        transport.resume_reading()

    @property
    def waiting(self) -> int:
        """Bytes that are still to be sent."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    @property
    def is_open(self) -> bool:
        """Whether messages can be sent."""
        return self._transport is not None and not self._closing

    @property
    def is_heard(self) -> bool:
        """Whether anything came from the other end since it was last asked for a sign of life."""
        return self._heard

    @property
    def is_full(self) -> bool:
        """Whether so much waits to be sent that a sender should wait too."""
        return not self._writable.is_set()

    async def writable(self) -> None:
        """Wait until there is room again, or the connection is gone."""
        await self._writable.wait()

    def send(self, *parts: Bytes) -> None:
        """Send one binary message, the parts one after the other; dropped if the connection is closing.

        The parts must not be changed afterwards.
        """
        self._send(Opcode.BINARY, parts)

    def ping(self) -> None:
        """Ask the other end for a sign of life."""
        self._heard = False
        self._send(Opcode.PING, ())

    def pause_reading(self) -> None:
        """Let the other end wait."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Go on reading."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def close(self, code: CloseCode, reason: str) -> None:
        """Say why, send what waits, and end the connection, by force if that takes too long."""
        if not self.is_open or self._transport is None:
            return
        self._send(Opcode.CLOSE, (code.to_bytes(2, "big") + reason.encode()[:100],))
        self._closing = reason or code.name
        self._transport.close()
        self._arm(_CLOSING_SECONDS, self.abort)

    def abort(self) -> None:
        """End the connection now; what waits is lost."""
        if self._transport is not None:
            self._closing = self._closing or "aborted"
            self._transport.abort()

    # called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to keep the connection alive."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass of it
        self._transport.set_write_buffer_limits(high=_WRITE_HIGH_BYTES)
        self._arm(PING_SECONDS, self._check_life)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell the owner, once."""
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        self._writable.set()
        self._on_lost(self._closing or (in_words(exc) if exc is not None else "closed by the other side"))

    def pause_writing(self) -> None:
        """Note that the way out is full."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """Note that there is room again."""
        self._writable.set()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Return where to read to: more room where the last read took all there was, little while little comes."""
        if self._wants_more:
            self._make_room(min(_GROWTH * len(self._buffer), _BUFFER_BYTES))
        elif self._wants_less and not self._end:
            self._buffer = bytearray(_IDLE_BYTES)
        elif len(self._buffer) - self._end < _READ_BYTES:
            self._make_room(len(self._buffer))
        self._wants_more = self._wants_less = False
        return memoryview(self._buffer)[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        """Take out every whole frame."""
        self._end += nbytes
        self._heard = True
        self._most_read = max(self._most_read, nbytes)
        self._wants_more = self._end == len(self._buffer) < _BUFFER_BYTES
        try:
            while not self._closing and self._take_frame():
                pass
        except _Malformed as error:
            self.close(error.code, str(error))

    def _make_room(self, capacity: int) -> None:
        self._buffer = with_room(self._buffer, self._start, self._end, capacity)
        self._start, self._end = 0, self._end - self._start

    def _take_frame(self) -> bool:
        buffer, start, available = self._buffer, self._start, self._end - self._start
        if available < 2:
            return False
        first, second = buffer[start], buffer[start + 1]
        length, header = second & 0x7F, 2
        if length > _MOST_CONTROL_BYTES:
            size = 2 if length == 126 else 8
            header = 2 + size
            if available < header:
                return False
            length = int.from_bytes(buffer[start + 2 : start + header], "big")
        if length > MAX_MESSAGE_BYTES:
            raise _Malformed(CloseCode.TOO_BIG, f"a message has at most {MAX_MESSAGE_BYTES} bytes")
        if bool(second & 0x80) is self._masks:
            raise _Malformed(CloseCode.PROTOCOL_ERROR, "only the end that opened the connection masks")
        if not self._masks:
            header += 4
        end = start + header + length
        if self._end < end:
            if header + length + _READ_BYTES > len(self._buffer):
                self._make_room(header + length + _READ_BYTES)
            return False
        body = memoryview(buffer)[start + header : end]
        payload = bytes(body) if self._masks else apply_mask(body, buffer[start + header - 4 : start + header])
        self._start = end
        if end == self._end:
            self._start = self._end = 0
        self._take_payload(first, payload)
        return True

    def _take_payload(self, first: int, payload: bytes) -> None:
        if self._on_life is not None:
            self._on_life()
        final, opcode = bool(first & 0x80), first & 0x0F
        if first & 0x70:
            raise _Malformed(CloseCode.PROTOCOL_ERROR, "no extension was agreed on")
        if opcode == Opcode.BINARY and final and not self._fragments:
            self._on_message(payload)
        elif opcode in {Opcode.BINARY, Opcode.CONTINUATION}:
            self._take_fragment(opcode, payload, final=final)
        elif not final or len(payload) > _MOST_CONTROL_BYTES:
            raise _Malformed(CloseCode.PROTOCOL_ERROR, "a control frame is short and whole")
        elif opcode == Opcode.PING:
            self._send(Opcode.PONG, (payload,))
        elif opcode == Opcode.CLOSE:
            self.close(CloseCode.NORMAL, payload[2:].decode("utf-8", "replace") or "closed by the other side")
        elif opcode != Opcode.PONG:
            raise _Malformed(CloseCode.UNSUPPORTED, "only binary messages are taken")

    def _take_fragment(self, opcode: int, payload: bytes, *, final: bool) -> None:
        if (opcode == Opcode.CONTINUATION) is not bool(self._fragments):
            raise _Malformed(CloseCode.PROTOCOL_ERROR, "fragments out of order")
        self._fragments.append(payload)
        if sum(map(len, self._fragments)) > MAX_MESSAGE_BYTES:
            raise _Malformed(CloseCode.TOO_BIG, f"a message has at most {MAX_MESSAGE_BYTES} bytes")
        if final:
            whole, self._fragments = b"".join(self._fragments), []
            self._on_message(whole)

    def _send(self, opcode: Opcode, parts: tuple[Bytes, ...]) -> None:
        if self._transport is None or self._closing:
            return
        self._transport.writelines(frame(opcode, parts, masks=self._masks))

    def _arm(self, delay: float, action: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(delay, action)

    def _check_life(self) -> None:
        if not self._heard:
            self._closing = f"silent for {PING_SECONDS:.0f} s"
            self.abort()
            return
        self._wants_less = self._most_read < _IDLE_BYTES < len(self._buffer)
        self._most_read = 0
        self.ping()
        self._arm(PING_SECONDS, self._check_life)


def _mask_parts(parts: tuple[Bytes, ...], mask: bytes) -> list[bytes]:
    masked, at = [], 0
    for part in parts:
        turn = at % 4
        masked.append(apply_mask(part, mask[turn:] + mask[:turn]))
        at += len(part)
    return masked


def frame(opcode: Opcode, parts: tuple[Bytes, ...], *, masks: bool) -> list[Bytes]:
    """Return the bytes of one final frame, whose payload is the parts one after the other (RFC 6455 section 5.2)."""
    length = sum(map(len, parts))
    flag = 0x80 if masks else 0
    if length <= _MOST_CONTROL_BYTES:
        header = bytes((0x80 | opcode, flag | length))
    elif length < 1 << 16:
        header = bytes((0x80 | opcode, flag | 126)) + length.to_bytes(2, "big")
    else:
        header = bytes((0x80 | opcode, flag | 127)) + length.to_bytes(8, "big")
    if not masks:
        return [header, *parts]
    mask = secrets.token_bytes(4)
    first, *others = _mask_parts(parts, mask) or (b"",)
    # the first part is small, an address: one TLS record less if it goes with the header
    return [b"".join((header, mask, first)), *others]
