"""A folder as blobstore."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.backends.blobstores.opening import opened

from isthmus.adapters.blobstore.folder import PROVIDER
from isthmus.errors import BlobExists, OperatorError, ProviderTrouble, Retry
from isthmus.ports.blobstore import Blobstore
from isthmus.ports.provider import Way
from isthmus.testing.blobstore_suite import BlobstoreSuite


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    path = tmp_path / "share" / "isthmus"
    await PROVIDER.set_up(path.as_uri(), {}, Way(), keep_days=3)
    return path


@pytest.fixture
async def store(folder: Path) -> AsyncIterator[Blobstore]:
    store = opened(PROVIDER, folder.as_uri(), {})
    yield store
    await store.close()


class TestFolder(BlobstoreSuite):
    @pytest.fixture
    async def store(self, folder: Path) -> AsyncIterator[Blobstore]:
        store = opened(PROVIDER, folder.as_uri(), {})
        yield store
        await store.close()


async def test_a_blob_and_each_folder_above_it_are_synced_before_it_is_said_to_be_there(
    folder: Path, store: Blobstore, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def fsync(handle: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{handle}").readlink()))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    await store.put("a/b/c", b"body")
    below = [path.removeprefix(f"{folder}") for path in synced]
    assert [path for path in below if not path.startswith("/.partial/")] == ["", "/a", "/a/b"]
    assert below[0].startswith("/.partial/")
    assert not list((folder / ".partial").iterdir())


async def test_two_machines_see_each_others_blobs_and_one_of_two_creators_wins(folder: Path) -> None:
    here, there = (opened(PROVIDER, folder.as_uri(), {}) for _ in range(2))
    outcomes = await asyncio.gather(here.put("a", b"1"), there.put("a", b"2"), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [BlobExists]
    assert await here.get("a") == await there.get("a")
    await here.close()
    await there.close()


async def test_a_folder_without_the_mark_is_neither_read_nor_written(tmp_path: Path) -> None:
    (tmp_path / "secret.blob").write_bytes(b"not yours")
    store = opened(PROVIDER, tmp_path.as_uri(), {})
    for call in (store.put("a", b"body"), store.get("secret"), store.delete("secret"), _all(store)):
        with pytest.raises(ProviderTrouble, match="not marked") as refused:
            await call
        assert refused.value.retry is Retry.LATER
    assert os.listdir(tmp_path) == ["secret.blob"]  # noqa: PTH208 - paths are not for async functions
    await store.close()


async def test_a_folder_that_holds_other_things_is_not_marked(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("chapter 1")
    with pytest.raises(OperatorError, match="holds other things"):
        await PROVIDER.set_up(tmp_path.as_uri(), {}, Way(), keep_days=3)


async def test_set_up_deletes_what_is_too_old_and_nothing_else(folder: Path, store: Blobstore) -> None:
    for name in ("old/a", "new/a"):
        await store.put(name, b"body")
    (folder / ".partial" / "left").write_bytes(b"half")
    for path, days in ((folder / "old" / "a.blob", 4), (folder / ".partial" / "left", 2)):
        then = path.stat().st_mtime - days * 86400
        os.utime(path, (then, then))
    said = await PROVIDER.set_up(folder.as_uri(), {}, Way(), keep_days=3)
    assert "deleted 2 files that were older than 3 days" in said
    assert [blob.name async for blob in store.list("")] == ["new/a"]


async def test_a_disk_that_is_full_is_for_later_and_leaves_nothing(
    folder: Path, store: Blobstore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "link", lambda *paths: full(folder))
    with pytest.raises(ProviderTrouble, match="is full") as refused:
        await store.put("a", b"body")
    assert refused.value.retry is Retry.LATER
    assert not list((folder / ".partial").iterdir())


async def test_a_file_system_without_hard_links_is_refused_for_good(
    store: Blobstore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacks(*paths: Path) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", lacks)
    with pytest.raises(ProviderTrouble, match="hard links") as refused:
        await store.put("a", b"body")
    assert refused.value.retry is Retry.NEVER


async def test_emptied_folders_go_and_files_are_the_groups_too(folder: Path, store: Blobstore) -> None:
    before = os.umask(0)
    try:
        await store.put("a/b/c", b"body")
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "a/b/c.blob").stat().st_mode) == 0o660
    await store.delete("a/b/c")
    assert not (folder / "a").exists()


@pytest.mark.parametrize(
    "url", ["file://server/share", "file:relative", "file:///a/../etc", "file:///", "file:///a?b=c"]
)
def test_what_is_no_folder_is_refused(url: str) -> None:
    with pytest.raises(OperatorError, match="not the URL of a folder"):
        PROVIDER.hosts(url)


async def _all(store: Blobstore) -> list[str]:
    return [blob.name async for blob in store.list("")]
