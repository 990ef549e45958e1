"""Connections that share one line: limited once they lose packets to each other, and only as long as that helps."""

import asyncio
import socket
import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from isthmus.kit import platform
from isthmus.kit.line import FREE_SECONDS, LARGE_BYTES, LOOK_SECONDS, Line, Lines, Share
from isthmus.testing.clock import FakeClock

RATE = 60e6


class Watched:
    """A share that is told of one look after the other."""

    def __init__(self) -> None:
        self.share, self.now = Share(), 0.0

    def look(self, rate: float = RATE, lost: float = 0.0, busy: int = 6) -> None:
        self.now += LOOK_SECONDS
        sent = int(rate * LOOK_SECONDS)
        self.share.note(self.now, LOOK_SECONDS, acked=sent, sent=sent, again=int(sent * lost), busy=busy)

    def looks(self, times: int, rate: float = RATE, lost: float = 0.0, busy: int = 6) -> None:
        for _ in range(times):
            self.look(rate, lost, busy)


def test_nobody_is_limited_while_hardly_anything_is_lost() -> None:
    watched = Watched()
    watched.looks(100, lost=0.01)
    assert watched.share.limit is None
    assert watched.share.each() is None


def test_connections_that_lose_packets_to_each_other_get_a_part_of_what_all_carry_and_a_little_more() -> None:
    watched = Watched()
    watched.looks(5)
    watched.look(lost=0.1)
    each = watched.share.each()
    assert each is not None
    assert RATE / 6 < each < RATE / 6 * 1.2


def test_few_connections_are_not_limited() -> None:
    watched = Watched()
    watched.looks(20, lost=0.2, busy=3)
    assert watched.share.each() is None


def test_what_is_lost_right_after_the_limit_was_set_does_not_count_against_it() -> None:
    watched = Watched()
    watched.look(lost=0.1)
    limit = watched.share.limit
    watched.looks(3, lost=0.3)
    assert watched.share.limit == limit


def test_a_limit_that_was_set_too_soon_grows_quickly_until_something_is_lost_and_then_slowly() -> None:
    watched = Watched()
    watched.look(rate=RATE / 3, lost=0.1)
    watched.looks(3)
    looks = 0
    while (watched.share.limit or RATE) < RATE:
        watched.look(rate=watched.share.limit or 0)
        looks += 1
    assert looks <= 8
    watched.look(lost=0.1)
    watched.looks(3)
    before = watched.share.limit or 0
    watched.look(rate=before)
    assert before < (watched.share.limit or 0) < before * 1.05


def test_a_limit_that_is_not_used_does_not_grow() -> None:
    watched = Watched()
    watched.look(lost=0.1)
    limit = watched.share.limit
    watched.looks(100, rate=RATE / 2)
    assert watched.share.limit == limit


def test_a_line_that_loses_packets_whatever_is_sent_is_left_alone_for_a_minute() -> None:
    watched = Watched()
    watched.look(lost=0.1)
    looks = 0
    while watched.share.limit is not None:
        watched.look(rate=watched.share.limit, lost=0.1)
        looks += 1
        assert looks < 50
    until = watched.now + FREE_SECONDS
    while watched.now + LOOK_SECONDS < until - 1e-6:
        watched.look(lost=0.1)
        assert watched.share.limit is None
    watched.looks(2, lost=0.1)
    assert watched.share.limit is not None


def test_a_slow_line_is_judged_when_enough_was_sent() -> None:
    watched = Watched()
    watched.look(rate=RATE / 100, lost=0.5)  # 60 kB: a few packets
    assert watched.share.limit is None
    watched.looks(4, rate=RATE / 100, lost=0.5)
    assert watched.share.limit is not None


def test_after_a_rest_the_limit_stays_and_applies_when_there_are_many_again() -> None:
    watched = Watched()
    watched.looks(3, lost=0.1)
    limit = watched.share.limit
    watched.share.rested()
    assert watched.share.limit == limit
    assert watched.share.each() is None
    watched.look()
    assert watched.share.each() is not None


@given(st.lists(st.tuples(st.floats(1e7, 1e9), st.floats(0, 1), st.integers(0, 20)), max_size=200))
def test_a_limit_is_never_below_four_fifths_of_what_went_without_it(seen: list[tuple[float, float, int]]) -> None:
    watched = Watched()
    unlimited = 0.0
    for number, (rate, lost, busy) in enumerate(seen):
        was_free = watched.share.limit is None
        watched.look(rate, lost, busy)
        if watched.share.limit is None:
            assert watched.share.each() is None
            continue
        if was_free:
            recent = [rate for rate, _, _ in seen[max(0, number - 9) : number + 1]]
            unlimited = sum(recent) / len(recent)
        assert watched.share.limit >= unlimited * 0.79


class WireSocket:
    """What the system tells of a socket, and what it is told."""

    def __init__(self) -> None:
        self.acked = self.sent = self.again = self.unsent = 0
        self.limits: list[int] = []

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert (level, option) == (socket.IPPROTO_TCP, socket.TCP_INFO)
        told = struct.pack("=24xI92xQ16xI52xQQ", 0, self.acked, self.unsent, self.sent, self.again)
        assert len(told) == size
        return told

    def setsockopt(self, _level: int, _option: int, value: bytes) -> None:
        self.limits.append(int.from_bytes(value, "little"))

    def carried(self, size: int, *, lost: float) -> None:
        self.acked += size
        self.sent += size
        self.again += int(size * lost)


class WireTransport(asyncio.Transport):
    """A connection that says what a test wants it to say."""

    def __init__(self) -> None:
        super().__init__()
        self.sock, self.closing = WireSocket(), False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.sock if name == "socket" else default

    def is_closing(self) -> bool:
        return self.closing


class Loop:
    """Calls what was to be called later when a test says so."""

    def __init__(self, monkeypatch: Any) -> None:
        self.due: list[Any] = []
        monkeypatch.setattr(asyncio, "get_running_loop", lambda: self)

    def call_later(self, _seconds: float, call: Any) -> "Loop":
        self.due.append(call)
        return self

    def cancel(self) -> None:
        self.due.clear()

    def turn(self) -> None:
        due, self.due = self.due, []
        for call in due:
            call()


def test_all_connections_of_a_line_are_told_their_part_and_let_go_when_they_are_done(monkeypatch: Any) -> None:
    clock, loop = FakeClock(), Loop(monkeypatch)
    line = Line(clock)
    wires = [WireTransport() for _ in range(6)]
    for wire in wires:
        line.carry(wire, LARGE_BYTES)
        wire.sock.unsent = 1
    for _ in range(3):
        for wire in wires:
            wire.sock.carried(1_000_000, lost=0.1)
        clock.advance(LOOK_SECONDS)
        loop.turn()
    for wire in wires:
        assert 10e6 < wire.sock.limits[-1] < 12e6
        wire.sock.unsent = 0
    clock.advance(LOOK_SECONDS)
    loop.turn()
    assert not loop.due
    assert {wire.sock.limits[-1] for wire in wires} == {2**64 - 1}


def test_a_small_body_and_a_connection_that_is_gone_do_not_count(monkeypatch: Any) -> None:
    loop = Loop(monkeypatch)
    line = Line(FakeClock())
    gone = WireTransport()
    gone.closing = True
    line.carry(gone, LARGE_BYTES)
    line.carry(WireTransport(), LARGE_BYTES - 1)
    line.carry(None, LARGE_BYTES)
    assert not loop.due


def test_a_line_that_is_closed_looks_no_more(monkeypatch: Any) -> None:
    loop = Loop(monkeypatch)
    lines = Lines(FakeClock())
    lines.to("north").carry(WireTransport(), LARGE_BYTES)
    assert lines.to("north") is lines.to("north") is not lines.to("south")
    lines.close()
    assert not loop.due


async def test_the_system_says_what_a_connection_sent_and_keeps_to_a_limit() -> None:
    served: asyncio.Queue[bytes] = asyncio.Queue()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.put_nowait(await reader.readexactly(100_000))
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        sock = writer.get_extra_info("socket")
        platform.limit_sending(sock, 5_000_000)
        assert sock.getsockopt(socket.SOL_SOCKET, 47) == 5_000_000
        platform.limit_sending(sock, None)
        assert sock.getsockopt(socket.SOL_SOCKET, 47) == -1
        writer.write(bytes(100_000))
        await served.get()
        await reader.read()
        sent = platform.sent_over(sock)
        writer.close()
    assert sent is not None
    assert sent.sent >= 100_000
    assert sent.acked >= 100_000
    assert sent.again == 0
