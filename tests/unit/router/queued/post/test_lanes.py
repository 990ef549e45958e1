"""Lanes: as many calls as make it faster, in order of rank, within a bound on memory."""

import asyncio

import pytest

from isthmus.errors import ProviderTrouble, Retry
from isthmus.router.queued.post.lanes import LEAST, MOST, Lanes
from isthmus.testing.clock import FakeClock


class Link:
    """A store behind a link: a call takes a round trip, and the link carries so many bytes a second in all."""

    def __init__(self, lanes: Lanes, clock: FakeClock, *, round_trip: float, rate: float) -> None:
        self.lanes, self.clock = lanes, clock
        self.round_trip, self.rate = round_trip, rate
        self.inside = self.most_inside = 0

    async def carry(self, blobs: int, size: int) -> None:
        """Carry blobs, as many at once as there are lanes; the clock goes on for all of them together."""
        left = blobs
        while left:
            together = min(self.lanes.limit, left)
            started = [asyncio.Event() for _ in range(together)]
            go = asyncio.Event()
            calls = [asyncio.ensure_future(self._one(size, event, go)) for event in started]  # noqa: TID251 - no owner here
            extra = asyncio.ensure_future(self._one(0, asyncio.Event(), go))  # noqa: TID251 - somebody always waits
            for event in started:
                await event.wait()
            self.clock.advance(max(self.round_trip, together * size / self.rate))
            go.set()
            await asyncio.gather(*calls, extra)
            left -= together

    async def _one(self, size: int, started: asyncio.Event, go: asyncio.Event) -> None:
        async with self.lanes.lane((0, 0, 0), size):
            self.inside += 1
            self.most_inside = max(self.most_inside, self.inside)
            started.set()
            await go.wait()
            self.inside -= 1


async def test_a_long_link_gets_more_lanes_and_never_more_than_there_may_be() -> None:
    clock = FakeClock()
    lanes = Lanes(clock)
    link = Link(lanes, clock, round_trip=0.4, rate=1e9)
    await link.carry(400, 1_000_000)
    assert lanes.limit >= MOST - 2
    assert link.most_inside <= MOST


async def test_a_link_that_one_lane_fills_gets_few() -> None:
    clock = FakeClock()
    lanes = Lanes(clock)
    await Link(lanes, clock, round_trip=0.001, rate=1e6).carry(300, 1_000_000)
    assert lanes.limit <= 9


async def test_trouble_halves_the_lanes_once_for_calls_that_fail_together() -> None:
    lanes = Lanes(FakeClock())
    before = lanes.limit

    async def fail() -> None:
        async with lanes.lane((0, 0, 0), 1):
            await asyncio.sleep(0)
            raise ProviderTrouble("503", retry=Retry.LATER)

    await asyncio.gather(*(fail() for _ in range(before)), return_exceptions=True)
    assert lanes.limit == max(LEAST, before // 2)
    assert lanes.idle


async def test_the_next_free_lane_goes_to_the_smallest_rank() -> None:
    lanes = Lanes(FakeClock(), least=1, most=1)
    order: list[int] = []
    go = asyncio.Event()

    async def call(rank: int) -> None:
        async with lanes.lane((rank, 0, 0), 1):
            order.append(rank)
            await go.wait()

    async with asyncio.TaskGroup() as group:
        for rank in (9, 5, 1, 3):
            group.create_task(call(rank))
            await asyncio.sleep(0)
        go.set()
    assert order == [9, 1, 3, 5]


async def test_calls_hold_no_more_memory_than_they_may_and_a_large_one_is_let_in_alone() -> None:
    lanes = Lanes(FakeClock(), most_bytes=10)
    inside: list[int] = []
    seen: list[int] = []

    async def call(size: int) -> None:
        async with lanes.lane((0, 0, 0), size):
            inside.append(size)
            seen.append(sum(inside))
            await asyncio.sleep(0)
            inside.remove(size)

    await asyncio.gather(*(call(size) for size in (4, 4, 4, 30, 4, 2)))
    assert all(total <= 10 or total == 30 for total in seen)
    assert len(seen) == 6


async def test_whoever_is_cancelled_while_waiting_or_inside_leaves_his_lane() -> None:
    lanes = Lanes(FakeClock(), least=1, most=1)
    forever = asyncio.Event()

    async def call() -> None:
        async with lanes.lane((0, 0, 0), 1):
            await forever.wait()

    async with asyncio.TaskGroup() as group:
        first, second, third = (group.create_task(call()) for _ in range(3))
        await asyncio.sleep(0)
        second.cancel()
        first.cancel()
        await asyncio.wait([first, second])
        await asyncio.sleep(0)
        assert "1 of 1 busy" in repr(lanes)
        third.cancel()
    assert "0 of 1 busy" in repr(lanes)


async def test_an_error_of_the_caller_gives_the_lane_back() -> None:
    lanes = Lanes(FakeClock(), least=1, most=1)
    with pytest.raises(ValueError, match="mine"):
        async with lanes.lane((0, 0, 0), 1):
            raise ValueError("mine")
    assert lanes.idle
