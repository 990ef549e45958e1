"""What every blobstore must do. For those who write one: subclass, give the store, done.

    class TestMyStore(BlobstoreSuite):
        @pytest.fixture
        async def store(self) -> AsyncIterator[Blobstore]:
            store = MyStore(...)
            yield store
            await store.close()

Needs pytest and pytest-asyncio with `asyncio_mode = auto`. The store may be shared and need not be empty: names are
random. Everything that a test puts, it deletes, if it gets that far. Where the keys are such that nothing may be
listed, say `lists = False` in the class: then each listing must be refused for good. Where a server cannot tell which
of several simultaneous creators was first, say `decides_races = False`: then one of them must be there whole.
"""
# ruff: noqa: D102 - the names of tests are sentences, which a docstring would only repeat

import asyncio
import secrets
import time
from typing import ClassVar, Final

import pytest

from isthmus.errors import BlobExists, BlobMissing, ProviderTrouble, Retry
from isthmus.kit.tasks import Tasks
from isthmus.ports.blobstore import BlobInfo, Blobstore

_MIB: Final = 1024 * 1024
_CREATORS: Final = 8
_LARGEST_TRIED: Final = 64 * _MIB  # a store that takes more is not asked to refuse
_LOOK_SECONDS: Final = 0.05
_CLOCKS_APART: Final = 3600.0  # a store in another room has another clock


class BlobstoreSuite:
    """Tests of the promises in `isthmus.ports.blobstore`."""

    lists: ClassVar[bool] = True
    decides_races: ClassVar[bool] = True

    async def test_a_blob_comes_back_as_it_was_put(self, store: Blobstore) -> None:
        name = _name()
        await store.put(name, b"segment")
        assert await store.get(name) == b"segment"
        await store.delete(name)

    @pytest.mark.parametrize("size", [0, 1, 1023, 64 * 1024 + 1, 256 * 1024, _MIB, 8 * _MIB])
    async def test_a_blob_of_any_size_comes_back_whole(self, store: Blobstore, size: int) -> None:
        name, body = _name(), secrets.token_bytes(size)
        await store.put(name, body)
        assert await store.get(name) == body
        await store.delete(name)

    async def test_putting_the_same_bytes_again_is_harmless(self, store: Blobstore) -> None:
        name = _name()
        await store.put(name, b"same")
        await store.put(name, b"same")
        assert await store.get(name) == b"same"
        await store.delete(name)

    @pytest.mark.parametrize("other", [b"other bytes", b"", b"first bytez"])
    async def test_putting_other_bytes_raises_and_changes_nothing(self, store: Blobstore, other: bytes) -> None:
        name = _name()
        await store.put(name, b"first bytes")
        with pytest.raises(BlobExists) as refused:
            await store.put(name, other)
        assert refused.value.retry is Retry.NEVER
        assert await store.get(name) == b"first bytes"
        await store.delete(name)

    async def test_a_missing_blob_is_an_answer(self, store: Blobstore) -> None:
        with pytest.raises(BlobMissing):
            await store.get(_name())

    async def test_deleting_a_missing_blob_is_harmless(self, store: Blobstore) -> None:
        await store.delete(_name())

    async def test_many_blobs_are_deleted_at_once_whether_they_are_there_or_not(self, store: Blobstore) -> None:
        names = [_name() for _ in range(5)]
        for name in names[1:]:
            await store.put(name, b"body")
        await store.delete(*names[:4])
        await store.delete()
        for name in names[:4]:
            with pytest.raises(BlobMissing):
                await store.get(name)
        assert await store.get(names[4]) == b"body"
        await store.delete(names[4])

    async def test_waiting_for_a_blob_that_is_there_changes_nothing(self, store: Blobstore) -> None:
        name = _name()
        await store.put(name, b"body")
        assert await store.get(name, wait=5) == b"body"
        await store.delete(name)

    async def test_a_deleted_blob_is_gone_and_its_name_is_free(self, store: Blobstore) -> None:
        name = _name()
        await store.put(name, b"first")
        await store.delete(name)
        with pytest.raises(BlobMissing):
            await store.get(name)
        await store.put(name, b"second")
        assert await store.get(name) == b"second"
        await store.delete(name)

    async def test_list_shows_what_starts_with_the_prefix_and_nothing_else(self, store: Blobstore) -> None:
        prefix, other = _name(), _name()
        names = {f"{prefix}/a": b"1", f"{prefix}/b": b"22", f"{prefix}/deep/c": b"333"}
        await store.put(f"{other}/a", b"not this one")
        for name, body in names.items():
            await store.put(name, body)
        before = time.time()
        if await self._may_list(store):
            found = await _listed_whole(store, f"{prefix}/", len(names))
            assert {blob.name: blob.size for blob in found} == {name: len(body) for name, body in names.items()}
            assert all(abs(blob.modified - before) < _CLOCKS_APART for blob in found)
        await store.delete(*names, f"{other}/a")

    async def test_a_prefix_may_end_within_a_part_of_a_name(self, store: Blobstore) -> None:
        start = _name()
        names = {f"{start}/ab", f"{start}/abc/d", f"{start}/b", f"{start}0/ab"}
        for name in names:
            await store.put(name, b"body")
        if await self._may_list(store):
            for prefix in (start, f"{start}/", f"{start}/a", f"{start}/ab", f"{start}/abc/d"):
                wanted = {name for name in names if name.startswith(prefix)}
                assert {blob.name for blob in await _listed_whole(store, prefix, len(wanted))} == wanted
        await store.delete(*names)

    async def test_list_of_a_prefix_that_nothing_has_is_empty(self, store: Blobstore) -> None:
        if await self._may_list(store):
            assert await _listed(store, f"{_name()}/") == []

    async def test_the_longest_and_the_oddest_names_are_taken(self, store: Blobstore) -> None:
        start = _name()
        for name in (f"{start}/{'x' * (511 - len(start))}", f"{start}/-_-/0/A-z_9"):
            await store.put(name, b"named")
            assert await store.get(name) == b"named"
            await store.delete(name)

    async def test_of_many_who_create_one_name_at_once_one_wins(self, store: Blobstore) -> None:
        name = _name()
        bodies = [secrets.token_bytes(32 * 1024) for _ in range(_CREATORS)]
        outcomes = await asyncio.gather(*(store.put(name, body) for body in bodies), return_exceptions=True)
        winners = [body for body, outcome in zip(bodies, outcomes, strict=True) if outcome is None]
        assert all(outcome is None or isinstance(outcome, ProviderTrouble) for outcome in outcomes)
        if self.decides_races:
            assert len(winners) == 1
            assert all(outcome is None or isinstance(outcome, BlobExists) for outcome in outcomes)
        assert await store.get(name) in (winners if self.decides_races else bodies)
        await store.delete(name)

    async def test_many_who_create_one_name_with_equal_bytes_all_succeed(self, store: Blobstore) -> None:
        name = _name()
        await asyncio.gather(*(store.put(name, b"equal") for _ in range(_CREATORS)))
        assert await store.get(name) == b"equal"
        await store.delete(name)

    async def test_a_cancelled_put_leaves_a_whole_blob_or_none(self, store: Blobstore) -> None:
        tasks = Tasks("suite")
        body = secrets.token_bytes(8 * _MIB)
        for turns in (0, 1, 2, 5, 20, 100):
            name = _name()
            put = tasks.spawn(store.put(name, body), name="put")
            for _ in range(turns):
                await asyncio.sleep(0)
            put.cancel()
            await asyncio.wait([put])
            try:
                assert await store.get(name) == body
            except BlobMissing:
                await store.put(name, body)
                assert await store.get(name) == body
            await store.delete(name)

    async def test_a_blob_that_is_too_large_is_refused_for_good(self, store: Blobstore) -> None:
        if store.traits.max_blob_bytes > _LARGEST_TRIED:
            pytest.skip("this store takes more than is tried here")
        name = _name()
        with pytest.raises(ProviderTrouble) as refused:
            await store.put(name, bytes(store.traits.max_blob_bytes + 1))
        assert refused.value.retry is Retry.NEVER
        with pytest.raises(BlobMissing):
            await store.get(name)

    async def test_what_is_no_name_reaches_nothing(self, store: Blobstore) -> None:
        name = _name()
        await store.put(f"{name}/in/a", b"body")
        for wrong in (
            "",
            "/",
            f"/{name}/in/a",
            f"{name}/in/a/",
            f"{name}/in/../in/a",
            f"{name}//in/a",
            f"{name}/./in/a",
        ):
            with pytest.raises(ProviderTrouble):
                await store.get(wrong)
            with pytest.raises(ProviderTrouble):
                await store.put(wrong, b"other")
        assert await store.get(f"{name}/in/a") == b"body"
        await store.delete(f"{name}/in/a")

    async def _may_list(self, store: Blobstore) -> bool:
        if not self.lists:
            with pytest.raises(ProviderTrouble) as refused:
                await _listed(store, f"{_name()}/")
            assert refused.value.retry is Retry.NEVER
        return self.lists


def _name() -> str:
    return f"suite-{secrets.token_hex(12)}"


async def _listed_whole(store: Blobstore, prefix: str, number: int) -> list[BlobInfo]:
    """Return what is listed once it is so many blobs."""
    async with asyncio.timeout(store.traits.list_lag + 5):
        while len(found := await _listed(store, prefix)) < number:  # noqa: ASYNC110 - a store tells nobody
            await asyncio.sleep(_LOOK_SECONDS)
    return found


async def _listed(store: Blobstore, prefix: str) -> list[BlobInfo]:
    return [blob async for blob in store.list(prefix)]
