import asyncio
from collections.abc import AsyncIterator

import pytest

from isthmus.adapters.blobstore.memory import MemoryBlobstore
from isthmus.adapters.signalling.memory import MemorySignalling
from isthmus.cloudio.limit import LimitedBlobstore, LimitedSignalling
from isthmus.cloudio.retry import RetryingBlobstore, RetryingSignalling
from isthmus.cloudio.trace import Call, TracedBlobstore, TracedSignalling
from isthmus.errors import BlobExists, BlobMissing, ProviderTrouble, Retry
from isthmus.kit.tasks import Tasks
from isthmus.ports.blobstore import BlobInfo
from isthmus.testing.clock import FakeClock

LATER = ProviderTrouble("503", retry=Retry.LATER)
NOW = ProviderTrouble("lost connection", retry=Retry.NOW)
NEVER = ProviderTrouble("forbidden", retry=Retry.NEVER)


class Moody(MemoryBlobstore):
    """Raises its moods, one a call, before it works."""

    def __init__(self, *moods: ProviderTrouble) -> None:
        super().__init__()
        self.moods = list(moods)

    def _mood(self) -> None:
        if self.moods:
            raise self.moods.pop(0)

    async def put(self, name: str, body: bytes) -> None:
        self._mood()
        await super().put(name, body)

    async def get(self, name: str, *, wait: float = 0.0) -> bytes:
        self._mood()
        return await super().get(name, wait=wait)

    async def delete(self, *names: str) -> None:
        self._mood()
        await super().delete(*names)

    async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        first = True
        async for blob in super().list(prefix):
            yield blob
            if first:
                first = False
                self._mood()


class Pauses:
    def __init__(self) -> None:
        self.taken: list[float] = []

    async def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)


async def test_what_may_be_tried_later_is_tried_after_a_growing_pause() -> None:
    pauses = Pauses()
    store = RetryingBlobstore(Moody(LATER, LATER, LATER), tries=4, first=1.0, most=60.0, pause=pauses)
    await store.put("a", b"body")
    assert await store.get("a") == b"body"
    assert [0.5 * 2**n <= pause <= 1.0 * 2**n for n, pause in enumerate(pauses.taken)] == [True, True, True]


async def test_what_may_be_tried_now_is_tried_without_a_pause() -> None:
    pauses = Pauses()
    await RetryingBlobstore(Moody(NOW), pause=pauses).delete("a")
    assert pauses.taken == []


async def test_tries_are_counted() -> None:
    inner = Moody(*[LATER] * 10)
    with pytest.raises(ProviderTrouble):
        await RetryingBlobstore(inner, tries=4, pause=Pauses()).put("a", b"body")
    assert len(inner.moods) == 6


async def test_answers_and_refusals_for_good_are_not_tried_again() -> None:
    for trouble in (NEVER, BlobMissing("a"), BlobExists("a")):
        inner = Moody(trouble, LATER)
        with pytest.raises(type(trouble)):
            await RetryingBlobstore(inner, pause=Pauses()).get("a")
        assert len(inner.moods) == 1


async def test_a_listing_that_broke_off_is_shown_whole_or_not_at_all() -> None:
    inner = Moody()
    for name in ("a", "b", "c"):
        await inner.put(name, b"")
    inner.moods = [LATER]
    assert [blob.name async for blob in RetryingBlobstore(inner, pause=Pauses()).list("")] == ["a", "b", "c"]


async def test_publishing_is_tried_again() -> None:
    class MoodySignalling(MemorySignalling):
        def __init__(self) -> None:
            super().__init__()
            self.moods = [LATER, NOW]

        async def publish(self, to: str, notice: bytes) -> None:
            if self.moods:
                raise self.moods.pop(0)
            await super().publish(to, notice)

    service = RetryingSignalling(MoodySignalling(), pause=Pauses())
    notices = service.listen("box")
    await service.publish("box", b"notice")
    assert await notices.__anext__() == b"notice"


async def test_no_more_calls_are_under_way_than_the_limit() -> None:
    class Slow(MemoryBlobstore):
        under_way = 0
        most = 0

        async def put(self, name: str, body: bytes) -> None:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
            await asyncio.sleep(0)
            self.under_way -= 1

    inner = Slow()
    store = LimitedBlobstore(inner, at_once=3)
    await asyncio.gather(*(store.put(str(number), b"") for number in range(20)))
    assert inner.most == 3


async def test_a_call_that_is_cancelled_gives_its_turn_back() -> None:
    class Stuck(MemorySignalling):
        async def publish(self, to: str, notice: bytes) -> None:
            await asyncio.get_running_loop().create_future()

    service = LimitedSignalling(Stuck(), at_once=1)
    tasks = Tasks("test")
    for _ in range(3):
        stuck = tasks.spawn(service.publish("box", b""), name="stuck")
        await asyncio.sleep(0)
        stuck.cancel()
        await asyncio.wait([stuck])
    assert not service._turns.locked()


async def test_calls_are_told_with_size_time_and_trouble_but_without_content() -> None:
    clock = FakeClock()

    class Timed(Moody):
        async def get(self, name: str, *, wait: float = 0.0) -> bytes:
            clock.advance(2.5)
            return await super().get(name, wait=wait)

    calls: list[Call] = []
    inner = Timed()
    store = TracedBlobstore(inner, calls.append, clock=clock)
    await store.put("a", b"body")
    await store.get("a")
    inner.moods = [BlobMissing("a")]
    with pytest.raises(BlobMissing):
        await store.get("a")
    assert [blob.name async for blob in store.list("")] == ["a"]
    assert calls == [
        Call("put", 4, 0.0, ""),
        Call("get", 4, 2.5, ""),
        Call("get", 0, 2.5, "BlobMissing"),
        Call("list", 1, 0.0, ""),
    ]


async def test_notices_are_told_both_ways() -> None:
    calls: list[Call] = []
    service = TracedSignalling(MemorySignalling(), calls.append)
    service_notices = service._inner.listen("box")
    await service.publish("box", b"notice")
    assert await service_notices.__anext__() == b"notice"
    tasks = Tasks("test")
    heard = asyncio.Event()

    async def listen() -> None:
        async for _ in service.listen("other"):
            heard.set()

    tasks.spawn(listen(), name="listen")
    await asyncio.sleep(0)
    await service.publish("other", b"more")
    await heard.wait()
    await tasks.close()
    assert [(call.method, call.size) for call in calls] == [("publish", 6), ("publish", 4), ("listen", 4)]
