"""NATS' stream inside WebSocket frames, in any slices, and what a server must not send."""

import base64
import hashlib
import random

import pytest

from isthmus.adapters.signalling.nats.framing import WebSocketFraming
from isthmus.adapters.signalling.nats.line import ServerInfo, _announced
from isthmus.adapters.signalling.websocket import Opcode, frame
from isthmus.errors import RemoteMisuse
from isthmus.testing.depth import count

KEY = bytes(16)
ACCEPT = base64.b64encode(hashlib.sha1(base64.b64encode(KEY) + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
ANSWER = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: " + ACCEPT + b"\r\n\r\n"


def fed(framing: WebSocketFraming, received: bytes, cuts: list[int]) -> bytes:
    """Return the stream, when `received` comes in slices that end at `cuts`."""
    stream = bytearray()
    start = 0
    for cut in [*cuts, len(received)]:
        buffer = bytearray(b"before") + received[start:cut] + bytearray(b"after")
        end = framing.unwrap(buffer, 6, 6 + cut - start)
        assert buffer[:6] == b"before"
        assert buffer.endswith(b"after")
        stream += buffer[6:end]
        start = cut
    return bytes(stream)


def sent(opcode: Opcode, payload: bytes) -> bytes:
    return b"".join(frame(opcode, (payload,), masks=False))


@pytest.mark.parametrize("seed", range(count(push=40, nightly=2000)))
def test_the_stream_is_the_same_however_it_is_cut(seed: int) -> None:
    chance = random.Random(seed)
    parts = [chance.randbytes(chance.choice([0, 1, 125, 126, 300, 65535, 65536, 200_000])) for _ in range(6)]
    received = ANSWER
    for part in parts:
        received += sent(Opcode.BINARY, part)
        if chance.random() < 0.5:
            received += sent(Opcode.PING, b"life?")
    cuts = sorted(chance.sample(range(1, len(received)), chance.choice([0, 1, 10, 100])))
    framing = WebSocketFraming("h:1", "/", KEY)
    assert fed(framing, received, cuts) == b"".join(parts)
    assert len(framing.answers) == received.count(b"life?")
    assert not framing.is_over


def test_every_byte_may_come_alone() -> None:
    received = ANSWER + sent(Opcode.BINARY, b"INFO {}\r\n") + sent(Opcode.PING, b"") + sent(Opcode.CLOSE, b"\x03\xe8")
    framing = WebSocketFraming("h:1", "/nats", KEY)
    assert framing.request.startswith(b"GET /nats HTTP/1.1\r\nHost: h:1\r\n")
    assert fed(framing, received, list(range(1, len(received)))) == b"INFO {}\r\n"
    assert framing.is_over
    assert len(framing.answers) == 1


def test_nothing_counts_after_the_other_end_closed() -> None:
    framing = WebSocketFraming("h:1", "/", KEY)
    assert fed(framing, ANSWER + sent(Opcode.CLOSE, b"") + sent(Opcode.BINARY, b"late"), []) == b""


@pytest.mark.parametrize(
    "received",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
        ANSWER.replace(ACCEPT, b"AAAA"),
        b"x" * 20_000,
        ANSWER + b"\x81\x01x",  # text
        ANSWER + b"\xc2\x01x",  # an extension that nobody agreed on
        ANSWER + b"\x82\x81\0\0\0\0x",  # masked, as a server never sends
        ANSWER + b"\x89\x7e\x01\x00",  # a ping of 256 bytes
    ],
)
def test_what_is_no_websocket_is_refused(received: bytes) -> None:
    with pytest.raises(RemoteMisuse):
        fed(WebSocketFraming("h:1", "/", KEY), received, [])


@pytest.mark.parametrize(
    "line", [b"MSG a 1", b"MSG a b 3", b"MSG a 1 -3", b"MSG a 1 9999999", b"MSG a 1 r s 3", b"MSG a 1 x"]
)
def test_a_notice_that_is_not_announced_as_nats_does_is_refused(line: bytes) -> None:
    with pytest.raises(RemoteMisuse):
        _announced(line)


def test_a_notice_is_announced_with_or_without_a_way_back() -> None:
    assert _announced(b"MSG isthmus.a 7 12") == (7, 12)
    assert _announced(b"MSG isthmus.a 7 _INBOX.x 12") == (7, 12)


@pytest.mark.parametrize("text", [b"", b"[]", b"7", b"{}", b'{"max_payload": "big"}', b'{"max_payload": 0}', b"\xff"])
def test_a_server_that_says_nothing_sensible_of_itself_is_none(text: bytes) -> None:
    with pytest.raises(RemoteMisuse):
        ServerInfo.parse(text)
