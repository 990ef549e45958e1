"""What a gibibyte of live bulk costs where each request is paid for: counted, in time that does not pass."""

import asyncio
import contextlib
import random
import selectors
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from isthmus.adapters.blobstore.memory import MemoryBlobstore
from isthmus.adapters.signalling.azure.rhythm import Rhythm
from isthmus.cloudio.options import MIB
from isthmus.cloudio.pool import Pool
from isthmus.cloudio.stream import Cloud, Duplex
from isthmus.envelope.keys import SessionKeys
from isthmus.kit.tasks import Tasks
from isthmus.ports.signalling import SignallingTraits
from isthmus.testing.recorder import Recorder

TRANSFER = 256 * MIB
A_GIB = 1024 * MIB // TRANSFER
MOST_A_GIB = 2_500
SESSION = bytes(range(16))
FIRST_CREDIT = 16 * MIB  # what a Router gives over such a pair
CHUNK = 64 * 1024
ALWAYS_PASSES = 1e-6


class TimelessSelector(selectors.DefaultSelector):
    """Waits for nothing: time jumps instead."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "everybody waits for ever"
        if timeout > 0:
            self.now += timeout + ALWAYS_PASSES  # or rounding would have the time stand still
        return []


class TimelessLoop(asyncio.SelectorEventLoop):
    """A loop whose time passes only while nobody has anything to do."""

    def __init__(self) -> None:
        self._timeless = TimelessSelector()
        super().__init__(self._timeless)

    def time(self) -> float:
        return self._timeless.now


class LoopClock:
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


class Line:
    """Carries so many bytes a second, one thing after the other."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._turn = asyncio.Lock()

    async def carry(self, size: int) -> None:
        async with self._turn:
            await asyncio.sleep(size / self._speed)


class PaidStore(MemoryBlobstore):
    """A blobstore beyond a line up and a line down, which counts what is billed."""

    def __init__(self, speed: float, bill: Counter[str]) -> None:
        super().__init__()
        self._up, self._down, self._bill = Line(speed), Line(speed), bill

    async def put(self, name: str, body: bytes) -> None:
        self._bill["put"] += 1
        await self._up.carry(len(body))
        await super().put(name, body)

    async def get(self, name: str, *, wait: float = 0.0) -> bytes:
        self._bill["get"] += 1
        body = await super().get(name)
        await self._down.carry(len(body))
        return body

    async def delete(self, *names: str) -> None:
        self._bill["delete"] += 1
        await super().delete(*names)


class PaidQueues:
    """A service of queues that counts what is billed; how one learns what came is up to those below."""

    most_at_once = 10
    notice_seconds = 0.03

    def __init__(self, bill: Counter[str]) -> None:
        self.traits = SignallingTraits(max_notice_bytes=48_000, cheap_bulk=False, retention=60.0, billed=True)
        self.bill = bill
        self.waiting: defaultdict[str, deque[bytes]] = defaultdict(deque)
        self.came = asyncio.Event()

    async def publish(self, to: str, notice: bytes) -> None:
        self.bill["publish"] += 1
        await asyncio.sleep(self.notice_seconds)
        self.waiting[to].append(notice)
        self.came.set()
        self.came.clear()

    def take(self, at: str) -> list[bytes]:
        self.bill["receive"] += 1
        queue = self.waiting[at]
        return [queue.popleft() for _ in range(min(len(queue), self.most_at_once))]

    def expect(self) -> None:
        """Somebody asked something: it is seen as soon as anything else."""

    def listen(self, at: str) -> AsyncIterator[bytes]:
        raise NotImplementedError

    async def close(self) -> None:
        """Nothing is open."""


class LongPolled(PaidQueues):
    """As SQS: a look waits up to 20 s for something to come, and what came is deleted by the ten."""

    async def listen(self, at: str) -> AsyncIterator[bytes]:
        came = 0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(20):
                    while not self.waiting[at]:
                        await self.came.wait()
            for notice in self.take(at):
                came += 1
                self.bill["delete notices"] = self.bill["delete notices"] + (came % self.most_at_once == 1)
                yield notice
            await asyncio.sleep(self.notice_seconds)


class Losing(LongPolled):
    """Loses one notice in ten."""

    def __init__(self, bill: Counter[str]) -> None:
        super().__init__(bill)
        self.chance = random.Random(1)

    async def publish(self, to: str, notice: bytes) -> None:
        if self.chance.random() < 0.1:
            self.bill["lost"] += 1
        else:
            await super().publish(to, notice)


class Free(LongPolled):
    """Costs nothing, and so is spared nothing."""

    def __init__(self, bill: Counter[str]) -> None:
        super().__init__(bill)
        self.traits = replace(self.traits, billed=False)


class LookedInto(PaidQueues):
    """As Azure's queues: a look finds what is there, and a rhythm says when to look."""

    most_at_once = 32

    def __init__(self, bill: Counter[str]) -> None:
        super().__init__(bill)
        self.rhythms: dict[str, Rhythm] = {}

    def expect(self) -> None:
        for rhythm in self.rhythms.values():
            rhythm.stir(asyncio.get_running_loop().time())

    async def listen(self, at: str) -> AsyncIterator[bytes]:
        clock = asyncio.get_running_loop().time
        rhythm = self.rhythms[at] = Rhythm(clock())
        while True:
            while (left := rhythm.next_look() - clock()) > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(left):
                        await self.came.wait()
            await asyncio.sleep(self.notice_seconds)
            found = self.take(at)
            rhythm.looked(clock(), found=bool(found))
            for notice in found:
                yield notice


class Device(Recorder):
    """Takes what comes, and lets more come when that has left over a line."""

    stream: Duplex

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def on_data(self, payload: bytes) -> None:
        self.size += len(payload)
        self.stream.consumed(len(payload))
        self.told.set()


async def transfer(kind: type[PaidQueues], speed: float, size: int) -> Counter[str]:
    """Send that much one way, by a device as fast as the line; return what was billed."""
    bill: Counter[str] = Counter()
    service = kind(bill)
    cloud = Cloud(service, PaidStore(speed, bill), service.expect)
    devices, tasks = (Device(), Device()), Tasks("transfer")
    sides = [
        Duplex(
            session_id=SESSION,
            keys=SessionKeys.derive(bytes(32), initiator=index == 0),
            cloud=cloud,
            to=f"site{1 - index}",
            pool=Pool(),
            clock=LoopClock(),
            first_credit_out=FIRST_CREDIT,
            first_credit_in=FIRST_CREDIT,
            observer=devices[index],
        )
        for index in (0, 1)
    ]

    async def listen(index: int) -> None:
        async for notice in cloud.signalling.listen(f"site{index}"):
            sides[index].receive(notice)

    for index, side in enumerate(sides):
        devices[index].stream = side
        tasks.spawn(listen(index), name="listen")
    runs = [tasks.spawn(side.run(), name="run") for side in sides]
    for _ in range(size // CHUNK):
        before = devices[0].writable
        if not sides[0].write(bytes(CHUNK), flush=False):
            while devices[0].writable == before:
                devices[0].told.clear()
                await devices[0].told.wait()
        await asyncio.sleep(CHUNK / speed)
    for side in sides:
        side.finish()
    await asyncio.gather(*runs)
    await tasks.close()
    assert devices[1].size == size
    return bill


@pytest.mark.parametrize("kind", [LongPolled, LookedInto])
@pytest.mark.parametrize("megabits", [10, 20, 30, 50, 100, 300, 1000])
@pytest.mark.parametrize("notice_seconds", [0.03, 0.1])
def test_a_gibibyte_of_live_bulk_costs_at_most_2500_requests(
    kind: type[PaidQueues], megabits: int, notice_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PaidQueues, "notice_seconds", notice_seconds)
    with asyncio.Runner(loop_factory=TimelessLoop) as runner:
        bill = runner.run(transfer(kind, megabits * 125_000, TRANSFER))
    assert sum(bill.values()) * A_GIB <= MOST_A_GIB, bill


def test_a_service_that_is_not_paid_by_the_request_is_used_as_before() -> None:
    bill: Counter[str] = Counter()
    with asyncio.Runner(loop_factory=TimelessLoop) as runner:
        bill = runner.run(transfer(Free, 12_500_000, 4 * MIB))
    assert bill["put"] > 4


def test_a_stream_still_heals_with_the_numbers_for_services_that_are_paid() -> None:
    with asyncio.Runner(loop_factory=TimelessLoop) as runner:
        bill = runner.run(transfer(Losing, 12_500_000, TRANSFER // 2))
        assert runner.get_loop().time() < 60
    assert bill["lost"] > 5
