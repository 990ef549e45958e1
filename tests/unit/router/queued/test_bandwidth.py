"""The cap on the line, with a clock turned by hand."""

import asyncio
import heapq
import random
from collections.abc import Callable

import pytest

from isthmus.errors import OperatorError
from isthmus.kit.tasks import Tasks
from isthmus.ports.pacing import Urgency
from isthmus.router.queued.bandwidth import (
    Bandwidth,
    Pacer,
    cap_at,
    parse_minute,
    parse_rate,
)
from isthmus.router.routing.records import CapRule, Direction
from isthmus.testing.clock import FakeClock

RATE = 6_250_000  # 50 Mbit/s


class Timers:
    """`call_later` of a clock that a test turns."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self._heap: list[tuple[float, int, list[Callable[[], None]]]] = []
        self._count = 0

    def __call__(self, seconds: float, call: Callable[[], None]) -> "_Cancel":
        self._count += 1
        calls = [call]
        heapq.heappush(self._heap, (self.clock.monotonic() + seconds, self._count, calls))
        return _Cancel(calls)

    async def run_until(self, end: float) -> None:
        """Let everything happen that is due before `end`, each thing at its time."""
        await _settle()
        while self._heap and self._heap[0][0] <= end:
            at, _, calls = heapq.heappop(self._heap)
            self.clock.advance(max(0.0, at - self.clock.monotonic()))
            for call in calls:
                call()
            await _settle()
        self.clock.advance(max(0.0, end - self.clock.monotonic()))


class _Cancel:
    def __init__(self, calls: list[Callable[[], None]]) -> None:
        self._calls = calls

    def cancel(self) -> None:
        self._calls.clear()


async def _settle() -> None:
    for _ in range(6):
        await asyncio.sleep(0)


def _pacer(rate: int | None) -> tuple[Pacer, Timers]:
    timers = Timers(FakeClock())
    pacer = Pacer(timers.clock, timers)
    pacer.set_rate(rate)
    return pacer, timers


class Sender:
    """Sends without end, and notes what went when."""

    def __init__(self, pacer: Pacer, timers: Timers, urgency: Urgency, size: Callable[[], int]) -> None:
        self.sent: list[tuple[float, int]] = []
        self._pacer, self._timers, self._urgency, self._size = pacer, timers, urgency, size

    async def run(self) -> None:
        while True:
            size = self._size()
            await self._pacer.take(size, self._urgency)
            self.sent.append((self._timers.clock.monotonic(), size))

    def between(self, start: float, end: float) -> int:
        return sum(size for at, size in self.sent if start <= at < end)


async def test_any_ten_seconds_carry_the_cap_within_five_per_cent() -> None:
    pacer, timers = _pacer(RATE)
    chance = random.Random(5)
    senders = [
        Sender(pacer, timers, Urgency.QUEUED, lambda: pacer.slice_bytes),
        Sender(pacer, timers, Urgency.QUEUED, lambda: chance.randrange(1, pacer.slice_bytes)),
        Sender(pacer, timers, Urgency.LIVE, lambda: chance.choice((245_800, 20_000))),
    ]
    tasks = Tasks("senders")
    for sender in senders:
        tasks.spawn(sender.run(), name="send")
    await timers.run_until(30.0)
    await tasks.close()
    for start in range(20):
        carried = sum(sender.between(start, start + 10.0) for sender in senders)
        assert 0.95 * 10 * RATE <= carried <= 1.05 * 10 * RATE, (start, carried / RATE)


async def test_what_is_queued_waits_for_what_is_live() -> None:
    pacer, timers = _pacer(RATE)
    queued = Sender(pacer, timers, Urgency.QUEUED, lambda: pacer.slice_bytes)
    live = Sender(pacer, timers, Urgency.LIVE, lambda: 245_800)
    tasks = Tasks("senders")
    tasks.spawn(queued.run(), name="queued")
    await timers.run_until(5.0)
    spawned = [tasks.spawn(live.run(), name="live"), tasks.spawn(live.run(), name="live")]
    await timers.run_until(10.0)
    for task in spawned:
        task.cancel()
    await timers.run_until(15.0)
    await tasks.close()
    assert live.between(5.1, 10.0) > 0.95 * 4.9 * RATE
    assert queued.between(5.1, 10.0) < 0.05 * 4.9 * RATE
    assert queued.between(10.1, 15.0) > 0.95 * 4.9 * RATE


async def test_without_a_cap_nobody_waits_and_nothing_is_counted() -> None:
    pacer, _ = _pacer(None)
    for _ in range(1000):
        assert pacer.take_at_once(10**9, Urgency.QUEUED)
    assert pacer.is_free
    assert pacer.count(10**9) == 0.0


async def test_lifting_the_cap_lets_everybody_go() -> None:
    pacer, timers = _pacer(16_000)
    tasks = Tasks("senders")
    pacer.count(16_000_000)
    waiting = [tasks.spawn(pacer.take(4096, urgency), name="send") for urgency in Urgency]
    await timers.run_until(1.0)
    assert not any(task.done() for task in waiting)
    pacer.set_rate(None)
    await asyncio.gather(*waiting)


async def test_a_higher_cap_is_not_kept_waiting_by_the_time_that_the_lower_one_needed() -> None:
    pacer, timers = _pacer(16_000)
    tasks = Tasks("senders")
    pacer.count(160_000)
    waiting = tasks.spawn(pacer.take(4096, Urgency.LIVE), name="send")
    await timers.run_until(1.0)
    pacer.set_rate(RATE)
    await timers.run_until(10.5)
    assert waiting.done()


async def test_who_gives_up_waiting_leaves_no_debt() -> None:
    pacer, timers = _pacer(RATE)
    pacer.count(RATE)
    tasks = Tasks("senders")
    gone = tasks.spawn(pacer.take(10**12, Urgency.LIVE), name="gives up")
    await timers.run_until(0.1)
    gone.cancel()
    patient = tasks.spawn(pacer.take(1, Urgency.QUEUED), name="waits")
    await timers.run_until(1.2)
    assert patient.done()


def test_a_rule_for_some_hours_goes_before_one_for_all_day() -> None:
    rules = [
        CapRule(Direction.UP, 1_000_000),
        CapRule(Direction.UP, 200_000, 7 * 60, 19 * 60),
        CapRule(Direction.DOWN, 300_000, 22 * 60, 6 * 60),
    ]
    assert cap_at(rules, Direction.UP, 7 * 60) == 200_000
    assert cap_at(rules, Direction.UP, 19 * 60) == 1_000_000
    assert cap_at(rules, Direction.DOWN, 23 * 60) == 300_000
    assert cap_at(rules, Direction.DOWN, 5 * 60) == 300_000
    assert cap_at(rules, Direction.DOWN, 12 * 60) is None


async def test_a_changed_rule_holds_when_it_is_applied() -> None:
    rules: list[CapRule] = []
    bandwidth = Bandwidth(FakeClock(), lambda: rules)
    bandwidth.apply()
    assert bandwidth.up.rate is None
    rules.append(CapRule(Direction.UP, RATE))
    bandwidth.apply()
    assert [bandwidth.up.rate, bandwidth.down.rate] == [RATE, None]
    rules.clear()
    bandwidth.apply()
    assert bandwidth.up.is_free


@pytest.mark.parametrize(
    ("text", "rate"),
    [("50Mbit/s", 6_250_000), ("6MB/s", 6_000_000), ("800 kbit/s", 100_000), ("1.5Gbit/s", 187_500_000)],
)
def test_rates_are_read_in_bits_and_bytes(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["50", "fast", "50 MHz", "-1Mbit/s", "1kbit/s", ""])
def test_what_is_no_rate_or_too_little_is_refused(text: str) -> None:
    with pytest.raises(OperatorError):
        parse_rate(text)


def test_times_of_day_are_minutes() -> None:
    assert (parse_minute("07:00"), parse_minute("19:30"), parse_minute("24:00")) == (420, 1170, 0)
    for text in ("25:00", "7", "07:60", "24:01"):
        with pytest.raises(OperatorError):
            parse_minute(text)
