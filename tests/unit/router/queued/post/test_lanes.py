"""Lanes: so many calls at once, fewer after trouble, in order of rank, within a bound on memory."""

import asyncio

import pytest

from isthmus.errors import ProviderTrouble, Retry
from isthmus.router.queued.post.lanes import LEAST, MOST, Lanes
from isthmus.testing.clock import FakeClock


async def carry(lanes: Lanes, calls: int) -> int:
    """Make calls that all want a lane at once; return how many had one at the same time."""
    inside = most = 0

    async def call() -> None:
        nonlocal inside, most
        async with lanes.lane((0, 0, 0), 1_000_000):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(call() for _ in range(calls)))
    return most


async def test_no_more_calls_are_under_way_than_there_are_lanes() -> None:
    lanes = Lanes(FakeClock())
    assert lanes.limit == MOST
    assert await carry(lanes, 3 * MOST) == MOST


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


async def test_lanes_come_back_one_by_one_when_the_trouble_is_over() -> None:
    lanes = Lanes(FakeClock())
    with pytest.raises(ProviderTrouble):
        async with lanes.lane((0, 0, 0), 1):
            raise ProviderTrouble("503", retry=Retry.LATER)
    found = [lanes.limit]
    while lanes.limit < MOST:
        assert await carry(lanes, lanes.limit) <= found[-1]
        found.append(lanes.limit)
    assert found == list(range(MOST // 2, MOST + 1))


async def test_a_window_of_calls_tells_how_long_more_would_take() -> None:
    clock = FakeClock()
    lanes = Lanes(clock)
    assert lanes.seconds_for(1) is None
    turn = asyncio.Event()

    async def call() -> None:
        async with lanes.lane((0, 0, 0), 1_000_000):
            await turn.wait()

    calls = asyncio.gather(*(call() for _ in range(MOST)))
    await asyncio.sleep(0)
    clock.advance(2.0)
    turn.set()
    await calls
    assert lanes.seconds_for(MOST * 1_000_000) == pytest.approx(2.0)


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
