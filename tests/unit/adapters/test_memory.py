import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from isthmus.adapters.blobstore.memory import MemoryBlobstore
from isthmus.adapters.signalling.memory import MemorySignalling
from isthmus.cloudio.limit import LimitedBlobstore, LimitedSignalling
from isthmus.cloudio.retry import RetryingBlobstore, RetryingSignalling
from isthmus.cloudio.trace import TracedBlobstore, TracedSignalling
from isthmus.errors import ProviderTrouble, Retry
from isthmus.kit.tasks import Tasks
from isthmus.ports.blobstore import Blobstore
from isthmus.ports.signalling import Signalling
from isthmus.testing.blobstore_suite import BlobstoreSuite
from isthmus.testing.signalling_suite import SignallingSuite
from isthmus.testing.weather import Weather, WeatherBlobstore, WeatherSignalling


def ignore(_call: object) -> None:
    pass


STORES: dict[str, Callable[[], Blobstore]] = {
    "memory": MemoryBlobstore,
    "retrying": lambda: RetryingBlobstore(MemoryBlobstore()),
    "limited": lambda: LimitedBlobstore(MemoryBlobstore(), at_once=2),
    "traced": lambda: TracedBlobstore(MemoryBlobstore(), ignore),
    "fair weather": lambda: WeatherBlobstore(MemoryBlobstore(), Weather()),
}

SERVICES: dict[str, Callable[[], Signalling]] = {
    "memory": MemorySignalling,
    "retrying": lambda: RetryingSignalling(MemorySignalling()),
    "limited": lambda: LimitedSignalling(MemorySignalling(), at_once=2),
    "traced": lambda: TracedSignalling(MemorySignalling(), ignore),
    "bad weather": lambda: WeatherSignalling(MemorySignalling(), Weather(drop=0.2, repeat=0.3, reorder=0.3), seed=1),
}


class TestBlobstores(BlobstoreSuite):
    @pytest.fixture(params=STORES)
    async def store(self, request: pytest.FixtureRequest) -> AsyncIterator[Blobstore]:
        store = STORES[request.param]()
        yield store
        await store.close()


class TestSignalling(SignallingSuite):
    @pytest.fixture(params=SERVICES)
    async def signalling(self, request: pytest.FixtureRequest) -> AsyncIterator[Signalling]:
        service = SERVICES[request.param]()
        yield service
        await service.close()


async def test_a_full_store_says_later() -> None:
    store = MemoryBlobstore(limit=10)
    await store.put("a", bytes(8))
    with pytest.raises(ProviderTrouble) as full:
        await store.put("b", bytes(8))
    assert full.value.retry is Retry.LATER
    await store.delete("a")
    await store.put("b", bytes(8))


async def test_publishing_waits_while_the_listener_does_not_keep_up() -> None:
    service = MemorySignalling()
    notices = service.listen("box")
    tasks = Tasks("test")

    async def flood() -> None:
        for _ in range(32):
            await service.publish("box", bytes(512 * 1024))

    flooding = tasks.spawn(flood(), name="flood")
    count = 0
    async for _ in notices:
        count += 1
        assert service._mailboxes["box"].size <= 5 * 1024 * 1024
        if count == 8:
            assert not flooding.done()
        if count == 32:
            break
    await flooding
    await tasks.close()


async def test_publishing_to_a_closed_service_is_refused_for_good() -> None:
    service = MemorySignalling()
    await service.close()
    with pytest.raises(ProviderTrouble) as refused:
        await service.publish("box", b"notice")
    assert refused.value.retry is Retry.NEVER


async def test_who_waits_for_room_is_let_go_when_the_service_is_closed_though_its_listener_takes_nothing() -> None:
    service, tasks = MemorySignalling(), Tasks("test")
    notices = service.listen("here")
    async with asyncio.timeout(20):
        await service.publish("here", b"first")
        assert await anext(notices) == b"first"  # and no more from here on
        for _ in range(4):
            await service.publish("here", bytes(1024 * 1024))
        waiting = tasks.spawn(service.publish("here", b"late"), name="publish", awaited=True)
        await asyncio.sleep(0)
        assert not waiting.done()
        await service.close()
        with pytest.raises(ProviderTrouble, match="closed"):
            await waiting
    await tasks.close()
