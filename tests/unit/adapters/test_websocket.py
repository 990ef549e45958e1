"""Frames of RFC 6455, between the two ends without a socket, however the bytes are cut."""

import asyncio
import secrets
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.uri import parse_uri

from isthmus.adapters.signalling import websocket
from isthmus.adapters.signalling.websocket import MAX_MESSAGE_BYTES, PING_SECONDS, CloseCode, WebSocket
from isthmus.testing import depth

SIZES = [0, 1, 125, 126, 127, 65535, 65536, 262_144, MAX_MESSAGE_BYTES]


class Wire:
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        self.written = bytearray()
        self.aborted = self.closed = False

    def writelines(self, parts: list[bytes]) -> None:
        self.written += b"".join(parts)

    def get_write_buffer_size(self) -> int:
        return len(self.written)

    def set_write_buffer_limits(self, high: int) -> None: ...

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborted = True


class End:
    """One end and what it heard."""

    def __init__(self, *, masks: bool) -> None:
        self.messages: list[bytes] = []
        self.lost: list[str] = []
        self.wire = Wire()
        self.socket = WebSocket(masks=masks, on_message=self.messages.append, on_lost=self.lost.append)
        self.socket.connection_made(cast("asyncio.Transport", self.wire))

    def feed(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            room = self.socket.get_buffer(-1)
            count = min(len(room), len(view))
            room[:count] = view[:count]
            self.socket.buffer_updated(count)
            view = view[count:]

    def close_code(self) -> int:
        """The code of the close frame that was written last."""
        frame = bytes(self.wire.written)
        assert frame[0] == 0x88
        return int.from_bytes(frame[2:4], "big")


@pytest.fixture
async def ends() -> tuple[End, End]:
    return End(masks=True), End(masks=False)


@pytest.mark.parametrize("size", SIZES)
async def test_a_message_of_any_size_arrives_both_ways(ends: tuple[End, End], size: int) -> None:
    body = secrets.token_bytes(size)
    for sender, receiver in (ends, ends[::-1]):
        sender.socket.send(body[: size // 3], memoryview(body)[size // 3 :])
        receiver.feed(bytes(sender.wire.written))
        assert receiver.messages == [body]


@settings(max_examples=depth.count(push=100, nightly=5000), deadline=None)
@given(st.lists(st.binary(max_size=300), max_size=20), st.lists(st.integers(1, 400), max_size=50), st.booleans())
def test_messages_arrive_however_the_bytes_are_cut(messages: list[bytes], cuts: list[int], up: bool) -> None:
    async def run() -> None:
        sender, receiver = End(masks=up), End(masks=not up)
        for message in messages:
            sender.socket.send(message)
        data = bytes(sender.wire.written)
        for cut in cuts:
            receiver.feed(data[:cut])
            data = data[cut:]
        receiver.feed(data)
        assert receiver.messages == messages

    asyncio.run(run())


@settings(max_examples=depth.count(push=200, nightly=20_000), deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_noise_never_raises_and_never_becomes_endless_memory(noise: bytes, masks: bool) -> None:
    async def run() -> None:
        end = End(masks=masks)
        end.feed(noise)
        assert len(end.socket._buffer) <= 2 * MAX_MESSAGE_BYTES

    asyncio.run(run())


async def test_another_implementation_understands_what_we_send(ends: tuple[End, End]) -> None:
    bridge = ends[1]
    other = ClientProtocol(parse_uri("ws://bridge/"), state=State.OPEN, max_size=None)
    for size in SIZES:
        bridge.socket.send(bytes(size))
    bridge.socket.ping()
    other.receive_data(bytes(bridge.wire.written))
    frames = [cast("Frame", event) for event in other.events_received()]
    assert [len(frame.data) for frame in frames if frame.opcode is Opcode.BINARY] == SIZES
    assert frames[-1].opcode is Opcode.PING


async def test_we_understand_what_another_implementation_sends(ends: tuple[End, End]) -> None:
    bridge = ends[1]
    other = ClientProtocol(parse_uri("ws://bridge/"), state=State.OPEN, max_size=None)
    other.send_binary(b"whole")
    other.send_binary(b"in ", fin=False)
    other.send_continuation(b"three ", fin=False)
    other.send_ping(b"meanwhile")
    other.send_continuation(b"parts", fin=True)
    other.send_close(1000, "done")
    bridge.feed(b"".join(other.data_to_send()))
    assert bridge.messages == [b"whole", b"in three parts"]
    other.receive_data(bytes(bridge.wire.written))
    kinds = [cast("Frame", event).opcode for event in other.events_received()]
    assert kinds == [Opcode.PONG, Opcode.CLOSE]
    assert bridge.wire.closed


def masked(first: int, length: int, body: bytes = b"") -> bytes:
    if length < 126:
        return bytes((first, 0x80 | length)) + bytes(4) + body
    return bytes((first, 0xFF)) + length.to_bytes(8, "big") + bytes(4) + body


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (b"\x82\x01x", CloseCode.PROTOCOL_ERROR),  # not masked
        (masked(0xC2, 1, b"x"), CloseCode.PROTOCOL_ERROR),  # compressed
        (masked(0x81, 1, b"x"), CloseCode.UNSUPPORTED),  # text
        (masked(0x83, 1, b"x"), CloseCode.UNSUPPORTED),  # an opcode that nobody has
        (masked(0x09, 1, b"x"), CloseCode.PROTOCOL_ERROR),  # a ping in fragments
        (masked(0x80, 1, b"x"), CloseCode.PROTOCOL_ERROR),  # continues nothing
        (masked(0x02, 1, b"x") + masked(0x82, 1, b"x"), CloseCode.PROTOCOL_ERROR),  # a message inside another
        (masked(0x82, MAX_MESSAGE_BYTES + 1), CloseCode.TOO_BIG),
        (masked(0x82, 2**63), CloseCode.TOO_BIG),
    ],
)
async def test_what_is_no_good_frame_closes_with_its_code(ends: tuple[End, End], bad: bytes, code: CloseCode) -> None:
    bridge = ends[1]
    bridge.feed(bad)
    assert bridge.close_code() == code
    assert bridge.wire.closed
    assert bridge.messages == []


async def test_fragments_together_are_as_limited_as_a_whole(ends: tuple[End, End]) -> None:
    bridge, part = ends[1], bytes(1 << 20)
    bridge.feed(masked(0x02, len(part), part) + masked(0x00, len(part), part) + masked(0x00, 1, b"x"))
    assert bridge.close_code() == CloseCode.TOO_BIG


async def test_nothing_is_sent_or_heard_after_closing(ends: tuple[End, End]) -> None:
    router, bridge = ends
    router.socket.send(b"late")
    bridge.socket.close(CloseCode.GOING_AWAY, "stops")
    written = bytes(bridge.wire.written)
    bridge.socket.send(b"more")
    bridge.socket.close(CloseCode.NORMAL, "again")
    bridge.feed(bytes(router.wire.written))
    assert bytes(bridge.wire.written) == written
    assert bridge.messages == []
    bridge.socket.connection_lost(None)
    assert bridge.lost == ["stops"]


async def test_a_silent_end_is_asked_and_then_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    timers: list[tuple[float, Callable[[], None]]] = []

    class Handle:
        def cancel(self) -> None: ...

    def call_later(delay: float, action: Callable[[], None]) -> Any:
        timers.append((delay, action))
        return Handle()

    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", call_later, raising=False)
    end = End(masks=False)
    delay, check = timers.pop()
    assert delay == PING_SECONDS
    check()
    assert bytes(end.wire.written) == b"\x89\x00"
    end.feed(masked(0x8A, 0))
    timers.pop()[1]()
    aborted = [end.wire.aborted]
    timers.pop()[1]()
    aborted.append(end.wire.aborted)
    assert aborted == [False, True]
    end.socket.connection_lost(None)
    assert end.lost == ["silent for 20 s"]


async def test_writers_wait_while_the_way_out_is_full(ends: tuple[End, End]) -> None:
    socket = ends[0].socket
    socket.pause_writing()
    assert socket.is_full
    socket.resume_writing()
    await socket.writable()
    socket.pause_writing()
    socket.connection_lost(ConnectionResetError())
    await socket.writable()
    assert ends[0].lost == ["the connection was closed"]


async def test_a_connection_holds_little_memory_until_much_comes_and_again_when_little_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    checks: list[Callable[[], None]] = []

    class Handle:
        def cancel(self) -> None: ...

    def call_later(_delay: float, action: Callable[[], None]) -> Any:
        checks.append(action)
        return Handle()

    monkeypatch.setattr(asyncio.get_running_loop(), "call_later", call_later, raising=False)
    end = End(masks=True)
    few = len(end.socket.get_buffer(-1))
    assert few <= 4096
    message = secrets.token_bytes(MAX_MESSAGE_BYTES)
    for _ in range(3):
        end.feed(b"".join(map(bytes, websocket.frame(websocket.Opcode.BINARY, (message,), masks=False))))
    assert end.messages == [message] * 3
    assert len(end.socket.get_buffer(-1)) >= 1024 * 1024
    checks[-1]()  # much came since the connection began
    assert len(end.socket.get_buffer(-1)) >= 1024 * 1024
    end.feed(b"\x8a\x00")
    checks[-1]()
    assert len(end.socket.get_buffer(-1)) == few
    end.feed(b"".join(map(bytes, websocket.frame(websocket.Opcode.BINARY, (message,), masks=False))))
    assert end.messages == [message] * 4
