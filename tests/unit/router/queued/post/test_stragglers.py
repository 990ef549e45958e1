"""Stragglers: what is left behind by the others is made twice, and nothing else is."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from isthmus.errors import ProviderTrouble, Retry
from isthmus.kit.tasks import Tasks
from isthmus.router.queued.post.stragglers import Stragglers
from isthmus.testing.clock import FakeClock

USUAL = 0.004  # seconds of a call that is not slow: also on the loop's clock, which waits for them


class Store:
    """Calls whose end the test says; the first may be left hanging."""

    def __init__(self) -> None:
        self.calls: list[asyncio.Future[str]] = []
        self.begun = asyncio.Event()
        self.cancelled = 0

    async def call(self) -> str:
        end: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.calls.append(end)
        self.begun.set()
        try:
            return await end
        except asyncio.CancelledError:
            self.cancelled += 1
            raise

    async def another(self, count: int) -> None:
        """Return when so many calls were begun."""
        async with asyncio.timeout(10):
            while len(self.calls) < count:
                self.begun.clear()
                await self.begun.wait()


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    tasks = Tasks("test")
    yield tasks
    await tasks.close()


async def known(clock: FakeClock, tasks: Tasks, *, quiet: bool, usual: float = USUAL) -> Stragglers:
    """Return stragglers that know how long a call takes."""
    stragglers = Stragglers(clock, tasks, lambda: quiet)

    async def call() -> None:
        clock.advance(usual)

    for _ in range(4):
        await stragglers.call(call)
    clock.advance(1)  # nothing new came for so long
    return stragglers


async def test_who_is_left_behind_is_called_again_and_the_first_to_end_counts(tasks: Tasks) -> None:
    stragglers = await known(FakeClock(), tasks, quiet=True)
    store = Store()
    result = tasks.spawn(stragglers.call(store.call), name="call")
    await store.another(2)
    store.calls[1].set_result("second")
    assert await result == "second"
    assert store.cancelled == 1


async def test_the_first_may_still_win(tasks: Tasks) -> None:
    stragglers = await known(FakeClock(), tasks, quiet=True)
    store = Store()
    result = tasks.spawn(stragglers.call(store.call), name="call")
    await store.another(2)
    store.calls[0].set_result("first")
    assert await result == "first"
    assert (len(store.calls), store.cancelled) == (2, 1)


@pytest.mark.parametrize("fails_first", [0, 1])
async def test_trouble_of_one_is_none_while_the_other_goes_on(tasks: Tasks, fails_first: int) -> None:
    stragglers = await known(FakeClock(), tasks, quiet=True)
    store = Store()
    result = tasks.spawn(stragglers.call(store.call), name="call", awaited=True)
    await store.another(2)
    store.calls[fails_first].set_exception(ProviderTrouble("no", retry=Retry.LATER))
    await asyncio.sleep(0)
    store.calls[1 - fails_first].set_result("other")
    assert await result == "other"


async def test_if_both_fail_that_is_told(tasks: Tasks) -> None:
    stragglers = await known(FakeClock(), tasks, quiet=True)
    store = Store()
    result = tasks.spawn(stragglers.call(store.call), name="call", awaited=True)
    await store.another(2)
    for call in store.calls:
        call.set_exception(ProviderTrouble("no", retry=Retry.LATER))
    with pytest.raises(ProviderTrouble):
        await result


async def test_who_gives_up_ends_both(tasks: Tasks) -> None:
    stragglers = await known(FakeClock(), tasks, quiet=True)
    store = Store()
    result = tasks.spawn(stragglers.call(store.call), name="call")
    await store.another(2)
    result.cancel()
    await asyncio.wait([result])
    assert store.cancelled == 2
    assert not len(tasks)


@pytest.mark.parametrize(
    ("quiet", "usual", "more"),
    [
        pytest.param(False, USUAL, False, id="others are under way"),
        pytest.param(True, 4.0, False, id="slow line"),
        pytest.param(True, USUAL, True, id="more comes"),
    ],
)
async def test_nobody_is_called_again(tasks: Tasks, quiet: bool, usual: float, more: bool) -> None:
    clock = FakeClock()
    stragglers = await known(clock, tasks, quiet=quiet, usual=usual)
    store = Store()
    result = tasks.spawn(stragglers.call(store.call), name="call")
    await store.another(1)
    clock.advance(60)
    if more:
        stragglers.more()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(USUAL * 10):
            await asyncio.shield(result)
    store.calls[0].set_result("first")
    assert await result == "first"
    assert len(store.calls) == 1


async def test_nobody_is_called_again_before_it_is_known_how_long_a_call_takes(tasks: Tasks) -> None:
    store = Store()
    result = tasks.spawn(Stragglers(FakeClock(), tasks, lambda: True).call(store.call), name="call")
    await store.another(1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(USUAL * 10):
            await asyncio.shield(result)
    assert len(store.calls) == 1
    store.calls[0].set_result("only")
    assert await result == "only"
