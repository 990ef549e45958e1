"""The suites for those who write a provider demand what the ports promise, and nothing beyond it."""

import itertools
from collections.abc import AsyncIterator

import pytest

from isthmus.adapters.signalling.memory import MemorySignalling
from isthmus.kit.tasks import Tasks
from isthmus.ports.signalling import Signalling
from isthmus.testing.signalling_suite import SignallingSuite
from isthmus.testing.weather import Weather, WeatherSignalling

SEEDS = itertools.count()


class TestSignallingInBadWeather(SignallingSuite):
    """A service that loses, repeats and reorders as it may passes."""

    @pytest.fixture
    async def signalling(self) -> AsyncIterator[Signalling]:
        weather = Weather(drop=0.15, repeat=0.3, reorder=0.3)
        service = WeatherSignalling(MemorySignalling(max_notice_bytes=64 * 1024), weather, seed=next(SEEDS))
        yield service
        await service.close()


class Careless(MemorySignalling):
    """Takes mailboxes whose names differ in case only for one, as file systems and some queues do."""

    async def publish(self, to: str, notice: bytes) -> None:
        for name in [name for name in self._mailboxes if name.lower() == to.lower()]:
            await super().publish(name, notice)


async def test_a_service_that_takes_two_mailboxes_for_one_is_found_out() -> None:

    suite, tasks = SignallingSuite(), Tasks("test")
    with pytest.raises(AssertionError):
        await suite.test_listeners_of_different_mailboxes_do_not_see_each_others(Careless(), tasks)
    await tasks.close()
