"""A stream of bytes inside a WebSocket (RFC 6455), seen from the end that opened it.

Frames mean nothing here and may be of any length, as NATS sends them: what is in them is one stream, and it is taken
out of each read in place, without waiting for the end of a frame.
"""

import base64
import hashlib
from typing import Final

from isthmus.adapters.signalling.websocket import Bytes, Opcode, frame
from isthmus.errors import RemoteMisuse

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_MOST_HEAD_BYTES: Final = 16 * 1024
_MOST_CONTROL_BYTES: Final = 125  # RFC 6455 section 5.5


class WebSocketFraming:
    """Wraps what is sent, unwraps what was received, the opening handshake first."""

    def __init__(self, host: str, path: str, key: bytes) -> None:
        """Prepare to ask `host` (as in the Host field) for `path`; `key` is 16 random bytes."""
        self.is_open = False
        self.is_over = False
        self.answers: list[bytes] = []
        self._key = base64.b64encode(key)
        self._request = (
            f"GET {path or '/'} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {self._key.decode()}\r\n\r\n"
        ).encode("ascii")
        self._head = bytearray()  # of the answer, then of a frame
        self._left = 0  # bytes of the frame that are still to come
        self._control: Opcode | None = None
        self._body = bytearray()  # of a control frame

    @property
    def request(self) -> bytes:
        """What is sent first."""
        return self._request

    def wrap(self, parts: tuple[Bytes, ...]) -> list[Bytes]:
        """Return what to send, so that the parts arrive as the next bytes of the stream."""
        return frame(Opcode.BINARY, parts, masks=True)

    def unwrap(self, buffer: bytearray, start: int, end: int) -> int:
        """Leave only the stream's bytes of buffer[start:end], moved to `start`; return where they end now.

        What has to be sent in return is added to `answers`. Raises RemoteMisuse if this is no WebSocket.
        """
        at = start if self.is_open else self._take_head(buffer, start, end)
        into = start
        while at < end and not self.is_over:
            if not self._left:
                at = self._take_frame_head(buffer, at, end)
                continue
            size = min(self._left, end - at)
            if self._control is not None:
                self._body += buffer[at : at + size]
            elif into != at:
                buffer[into : into + size] = buffer[at : at + size]
                into += size
            else:
                into += size
            at += size
            self._left -= size
            if not self._left:
                self._end_frame()
        return into

    def _take_head(self, buffer: bytearray, start: int, end: int) -> int:
        """Take the answer to the request, or a part of it; return where the frames begin."""
        before = len(self._head)
        self._head += buffer[start:end]
        found = self._head.find(b"\r\n\r\n", max(before - 3, 0))
        if found < 0:
            if len(self._head) > _MOST_HEAD_BYTES:
                raise RemoteMisuse("no WebSocket answers there")
            return end
        status, *fields = bytes(self._head[:found]).split(b"\r\n")
        said = {name.strip().lower(): value.strip() for name, _, value in (field.partition(b":") for field in fields)}
        words = status.split(b" ", 2)
        if not status.startswith(b"HTTP/1.1 ") or len(words) < 2:
            raise RemoteMisuse("no WebSocket answers there")
        if words[1] != b"101":
            raise RemoteMisuse(f"it was asked for a WebSocket and answered {words[1][:3].decode('ascii', 'replace')}")
        accept = base64.b64encode(hashlib.sha1(self._key + _GUID, usedforsecurity=False).digest())
        if said.get(b"sec-websocket-accept") != accept:
            raise RemoteMisuse("what answers there speaks no WebSocket")
        self.is_open = True
        self._head.clear()
        return start + found + 4 - before

    def _take_frame_head(self, buffer: bytearray, at: int, end: int) -> int:
        head = self._head
        while at < end:
            head.append(buffer[at])
            at += 1
            if len(head) < 2:
                continue
            short = head[1] & 0x7F
            size = {126: 2, 127: 8}.get(short, 0)
            if len(head) < 2 + size:
                continue
            self._left = int.from_bytes(head[2:], "big") if size else short
            self._begin_frame(head[0], masked=bool(head[1] & 0x80))
            head.clear()
            break
        return at

    def _begin_frame(self, first: int, *, masked: bool) -> None:
        opcode = first & 0x0F
        if masked or first & 0x70:
            raise RemoteMisuse("a WebSocket frame that nobody agreed on")
        if opcode in {Opcode.BINARY, Opcode.CONTINUATION}:
            self._control = None
            return
        if opcode not in {Opcode.CLOSE, Opcode.PING, Opcode.PONG} or self._left > _MOST_CONTROL_BYTES:
            raise RemoteMisuse("only binary WebSocket frames are taken")
        self._control = Opcode(opcode)
        if not self._left:
            self._end_frame()

    def _end_frame(self) -> None:
        if self._control is Opcode.PING:
            self.answers.append(b"".join(frame(Opcode.PONG, (bytes(self._body),), masks=True)))
        elif self._control is Opcode.CLOSE:
            self.is_over = True
        self._body.clear()
        self._control = None
