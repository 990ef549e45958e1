"""What is deleted is gone, also if it is still being put at that moment."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from isthmus.bridge.blobs.files import BlobTorn, GrowingBlob
from isthmus.bridge.blobs.shared import SharedBlobStore
from isthmus.bridge.blobs.store import Allowance, BlobStore
from isthmus.errors import BlobMissing
from isthmus.kit.tasks import Tasks
from isthmus.testing.clock import FakeClock

BODY = b"sealed" * 1000
DIGEST = hashlib.sha256(BODY).digest()
ROOM = Allowance(10**9, 1e6)


class LastBytes:
    """Holds each put back in its thread, when its blob has its name and nobody on the loop knows yet."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, puts: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._left = puts
        self._let = threading.Event()
        self.reached = asyncio.Event()
        keep = GrowingBlob.keep

        def kept(*arguments: Any) -> None:
            try:
                keep(*arguments)
            finally:
                self._loop.call_soon_threadsafe(self._reach)
                self._let.wait(20)

        monkeypatch.setattr(GrowingBlob, "keep", kept)

    def _reach(self) -> None:
        self._left -= 1
        if not self._left:
            self.reached.set()

    def let_go(self) -> None:
        self._let.set()


@pytest.fixture(params=[BlobStore, SharedBlobStore])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    made: BlobStore = request.param(tmp_path / "blobs", FakeClock(), live=ROOM, queued=ROOM)
    await made.open()
    return made


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    made = Tasks("test")
    yield made
    await made.close()


async def put(store: BlobStore) -> bool:
    async def whole() -> AsyncIterator[bytes]:
        yield BODY

    return await store.put("north", "live/name", whole(), len(BODY), DIGEST)


async def test_what_another_bridge_deleted_can_be_put_again_though_no_word_of_it_came(tmp_path: Path) -> None:
    one, other = (SharedBlobStore(tmp_path / "blobs", FakeClock(), live=ROOM, queued=ROOM) for _ in range(2))
    await one.open()
    await put(one)
    await other.delete("live/name")
    assert await put(one)
    size, _ = await other.read("live/name")
    assert size == len(BODY)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.suffix == ".blob"]


async def is_gone(store: BlobStore, folder: Path) -> bool:
    with pytest.raises(BlobMissing):
        await store.read("live/name")
    return store.used == 0 and not files(folder)


@pytest.mark.parametrize("puts", [1, 2])
async def test_a_blob_that_is_deleted_while_it_is_put_does_not_stay(
    store: BlobStore, tasks: Tasks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, puts: int
) -> None:
    last = LastBytes(monkeypatch, puts)
    putting = [tasks.spawn(put(store), name="put", awaited=True) for _ in range(puts)]
    await last.reached.wait()
    await store.delete("live/name")
    last.let_go()
    await asyncio.wait(putting)
    assert await is_gone(store, tmp_path / "blobs")


async def test_a_blob_whose_put_was_cancelled_too_late_is_counted_and_can_be_deleted(
    store: BlobStore, tasks: Tasks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = LastBytes(monkeypatch, 1)
    putting = tasks.spawn(put(store), name="put")
    await last.reached.wait()
    putting.cancel()
    last.let_go()
    await asyncio.wait([putting])
    assert store.used == len(BODY)
    await store.delete("live/name")
    assert await is_gone(store, tmp_path / "blobs")


async def test_a_name_that_was_deleted_while_it_was_put_is_free(
    store: BlobStore, tasks: Tasks, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = LastBytes(monkeypatch, 1)
    putting = tasks.spawn(put(store), name="put")
    await last.reached.wait()
    await store.delete("live/name")
    last.let_go()
    await asyncio.wait([putting])
    assert await put(store)
    size, _ = await store.read("live/name")
    assert size == len(BODY)


class Halting:
    """A body of which the first half comes at once, and the rest when the test says."""

    def __init__(self) -> None:
        self.half_way = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield BODY[: len(BODY) // 2]
        self.half_way.set()
        await self.go_on.wait()
        yield BODY[len(BODY) // 2 :]


async def _content(body: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in body])


@pytest.mark.parametrize("digest", [DIGEST, bytes(32)], ids=["the same blob", "another blob"])
async def test_who_reads_along_a_put_that_is_overtaken_has_the_rest_from_the_other(
    store: BlobStore, tasks: Tasks, digest: bytes
) -> None:
    slow = Halting()
    putting = tasks.spawn(
        store.put("north", "live/name", aiter(slow), len(BODY), digest), name="slow put", awaited=True
    )
    await slow.half_way.wait()
    _, following = await store.read("live/name", wait=1)
    reading = tasks.spawn(_content(following), name="read along", awaited=True)
    await asyncio.sleep(0)
    assert await put(store)
    if digest == DIGEST:
        async with asyncio.timeout(10):
            assert await reading == BODY  # though the slow one has not ended
    else:
        with pytest.raises(BlobTorn):
            await reading
    slow.go_on.set()
    await asyncio.wait([putting])
    assert store.used == len(BODY)
