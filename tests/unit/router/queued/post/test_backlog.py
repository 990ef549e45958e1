"""How much of one site may be on its way here, in memory and in the ledger; and that no envelope is left behind."""

import asyncio

import pytest
from tests.unit.router.queued.post.sites import Site

from isthmus.errors import BlobExists
from isthmus.router.queued.post import backlog, downloads, inbox, outbox
from isthmus.router.queued.post.backlog import Backlog
from isthmus.router.queued.trouble import NoRoom

PULLING = "SELECT COUNT(*) FROM envelopes WHERE state = 'pulling'"


def names(count: int) -> list[bytes]:
    return [bytes((number,)) * 16 for number in range(count)]


def test_only_so_many_envelopes_and_bytes_of_manifests_are_worked_on_at_a_time() -> None:
    waiting, size = Backlog(), backlog.MOST_HELD_BYTES // 2
    for name in names(5):
        waiting.add(name, size)
    assert [waiting.next(), waiting.next(), waiting.next()] == [*names(2), None]
    waiting.over(names(1)[0])
    assert names(1)[0] not in waiting
    assert (waiting.next(), waiting.next()) == (names(3)[2], None)


def test_a_manifest_that_is_larger_than_all_that_may_be_held_is_let_in_alone() -> None:
    waiting = Backlog()
    for name in names(2):
        waiting.add(name, backlog.MOST_HELD_BYTES + 1)
    assert (waiting.next(), waiting.next()) == (names(1)[0], None)
    waiting.over(names(1)[0])
    assert waiting.next() == names(2)[1]


def test_a_site_is_read_on_only_while_its_manifests_have_room(monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, seen = Backlog(), []
    for name in names(16):
        seen.append(waiting.full)
        waiting.add(name, 4 * 1024 * 1024)
    assert [*seen, waiting.full] == [*[False] * 16, True]
    first = waiting.next()
    assert first == names(1)[0]
    waiting.over(first)
    assert [waiting.full] == [False]
    monkeypatch.setattr(backlog, "MOST_WAITING", 15)
    assert [waiting.full] == [True]


async def test_a_mailbox_is_not_read_on_while_too_much_of_its_site_waits_and_all_of_it_comes_in_the_end(
    north: Site, south: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "MOST_WAITING", 3)
    monkeypatch.setattr(backlog, "MOST_HELD", 1)
    monkeypatch.setattr(inbox, "LOOK_SECONDS", 0.05)
    south.quota = 1000
    async with north.running():
        for number in range(10):
            await north.store_objects(bytes((number,)) * 5000, to=south)
        await north.until_all("posted", 10)
        async with south.running():
            await south.until(f"SELECT 1 WHERE ({PULLING}) >= 3")
            await south.until_alert("wait in the cloud")
            for _ in range(3):
                south.post.connected()
                await south.post.inbox.go_on()
            assert await south.rows(PULLING) == [(3,)]
            assert len(south.post.downloads._pulls) == 1
        south.quota = None
        async with south.running():
            await south.until_all("waiting", 10, ours=True)
            await north.until_all("received", 10)


async def test_an_envelope_that_is_given_up_while_the_ledger_has_no_room_is_given_up_later(
    north: Site, south: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "_FULL_SECONDS", 0.01)
    async with north.running(), south.running():
        give_up, failed = south.post.downloads._give_up, asyncio.Event()

        async def full_at_first(*values: object) -> None:
            if not failed.is_set():
                failed.set()
                raise NoRoom("no room for the ledger")
            await give_up(*values)  # type: ignore[arg-type]

        async def damaged(*_: object) -> bool:
            raise downloads._Damaged("a blob does not verify")

        monkeypatch.setattr(south.post.downloads, "_give_up", full_at_first)
        monkeypatch.setattr(south.post.downloads, "_attempt", damaged)
        await north.store_objects(b"1" * 1000, to=south)
        await failed.wait()
        await south.until("SELECT 1 FROM envelopes WHERE state = 'unreadable'")


async def test_an_envelope_whose_task_failed_is_fetched_when_the_post_is_looked_after(
    north: Site, south: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with north.running(), south.running():
        attempt, failed = south.post.downloads._attempt, asyncio.Event()

        async def fails(*_: object) -> bool:
            failed.set()
            raise ValueError("a fault of ours")

        monkeypatch.setattr(south.post.downloads, "_attempt", fails)
        await north.store_objects(b"1" * 1000, to=south)
        await failed.wait()
        monkeypatch.setattr(south.post.downloads, "_attempt", attempt)
        assert await south.rows(PULLING) == [(1,)]
        await south.post.inbox.go_on()
        await south.until_all("waiting", 1, ours=True)


async def test_an_envelope_that_cannot_be_dropped_for_want_of_room_is_dropped_later(
    north: Site, south: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_MOST_WAIT", 0.01)
    async with north.running():
        drop, failed, put = north.post.outbox._drop, asyncio.Event(), north.blobstore.put

        async def full_at_first(*values: object) -> None:
            if not failed.is_set():
                failed.set()
                raise NoRoom("no room for the ledger")
            await drop(*values)  # type: ignore[arg-type]

        async def taken_at_first(name: str, body: bytes) -> None:
            if not failed.is_set():
                raise BlobExists(name)
            await put(name, body)

        monkeypatch.setattr(north.post.outbox, "_drop", full_at_first)
        monkeypatch.setattr(north.blobstore, "put", taken_at_first)
        await north.store_objects(b"1" * 1000, to=south)
        await north.until_all("posted", 1)


async def test_an_envelope_whose_task_failed_is_sent_when_the_post_is_looked_after(
    north: Site, south: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with north.running():
        upload, failed = north.post.outbox._upload, asyncio.Event()

        async def fails(*_: object, **__: object) -> None:
            failed.set()
            raise ValueError("a fault of ours")

        monkeypatch.setattr(north.post.outbox, "_upload", fails)
        await north.store_objects(b"1" * 1000, to=south)
        await failed.wait()
        monkeypatch.setattr(north.post.outbox, "_upload", upload)
        await north.post.outbox.watch()
        north.post.outbox.wake()
        await north.until_all("posted", 1)
