"""The spool: what is acknowledged is durable, bundles fill up, rotate and go."""

import asyncio
import hashlib
import os
import sqlite3
from pathlib import Path

import pytest
from tests.unit.router.queued.spool.home import ROUTE, Home, contents, count

from isthmus.contract.letters import ObjectKind
from isthmus.errors import LocalMisuse, SealBroken
from isthmus.kit.names import AETitle
from isthmus.router.queued.ledger import ingested
from isthmus.router.queued.ledger.records import BundleRow, ObjectRow
from isthmus.router.queued.spool import writing
from isthmus.router.queued.spool.bundles import Destination, NoRoom, Route, Spool
from isthmus.testing.network import until


async def bundles(spool: Spool) -> list[BundleRow]:
    return await spool.ledger.read(lambda connection: ingested.bundles_there(connection, after=0, most=1000))


async def objects(spool: Spool, bundle_id: int) -> list[ObjectRow]:
    return await spool.ledger.read(lambda connection: ingested.objects_of(connection, bundle_id))


async def test_an_object_is_stored_sealed_and_comes_back_as_it_was(home: Home) -> None:
    content = os.urandom(700_000)
    async with home.running() as spool:
        bundle = await spool.take(ROUTE)
        stored = await home.store(bundle, content)
        spool.give_back(bundle)
        await bundle.settled()
        await spool.close_idle()
        assert await contents(spool) == [content]
        (row,) = await objects(spool, stored.bundle_id)
    assert (row.digest, row.payload, row.kind) == (hashlib.sha256(content).digest(), len(content), ObjectKind.STORE)
    assert content[5000:5064] not in home.files()[0].read_bytes()


async def test_every_destination_of_the_route_gets_a_waiting_copy(home: Home) -> None:
    route = Route(ROUTE.calling, AETitle("GROUP"), (*ROUTE.destinations, Destination(AETitle("LOCAL"))), priority=3)
    async with home.running() as spool:
        bundle = await spool.take(route)
        await home.store(bundle, b"x" * 100)
        await spool.indexer.flush()
        rows = await spool.ledger.read(
            lambda connection: connection.execute(
                "SELECT destination, site, calling, kind, state, priority FROM copies ORDER BY copy_id"
            ).fetchall()
        )
    assert rows == [
        ("PACS", "south", "CT1", "store", "waiting", 3),
        ("LOCAL", None, "CT1", "store", "waiting", 3),
    ]


async def test_nothing_is_acknowledged_before_file_and_folder_are_synced(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    real_sync, real_folder = os.fdatasync, os.fsync

    def sync(handle: int) -> None:
        real_sync(handle)
        order.append("file")

    def folder(handle: int) -> None:
        real_folder(handle)
        order.append("folder")

    async with home.running() as spool:
        monkeypatch.setattr(os, "fdatasync", sync)
        monkeypatch.setattr(os, "fsync", folder)
        bundle = await spool.take(ROUTE)
        for number in range(3):
            await home.store(bundle, b"x" * 1000, number)
            order.append("acknowledged")
    assert order[:7] == ["file", "folder", "acknowledged", "file", "acknowledged", "file", "acknowledged"]


async def test_an_acknowledged_object_is_whole_in_the_file_at_that_moment(home: Home, tmp_path: Path) -> None:
    async with home.running() as spool:
        bundle = await spool.take(ROUTE)
        for number in range(5):
            await home.store(bundle, bytes([number]) * 300_000, number)
            later = home.cut_power(tmp_path / f"cut{number}")
            async with later.running() as other:
                assert [content[0] for content in await contents(other)] == list(range(number + 1))


async def test_a_bundle_closes_when_it_is_full_and_the_next_object_begins_another(home: Home) -> None:
    async with home.running() as spool:
        bundle = await spool.take(ROUTE)
        for number in range(5):
            await home.store(bundle, b"x" * (writing.BUNDLE_BYTES // 2), number)
        spool.give_back(bundle)
        await bundle.settled()
        await spool.close_idle()
        rows = await bundles(spool)
    assert [row.objects for row in rows] == [2, 2, 1]
    assert home.ready == [row.bundle_id for row in rows]
    assert all(row.closed for row in rows)


async def test_a_bundle_closes_after_so_many_small_objects(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "MOST_OBJECTS", 3)
    async with home.running() as spool:
        bundle = await spool.take(ROUTE)
        for number in range(7):
            await home.store(bundle, b"x", number)
        await spool.indexer.flush()
        assert [row.objects for row in await bundles(spool)] == [3, 3, 1]


async def test_while_somebody_waits_each_object_closes_its_bundle(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "GATHER_BYTES", 0)
    monkeypatch.setattr(writing, "FLOW_SECONDS", 0.0)
    async with home.running() as spool:
        spool.wanted = lambda route: route == ROUTE
        bundle = await spool.take(ROUTE)
        for number in range(3):
            await home.store(bundle, b"x", number)
        await spool.indexer.flush()
        assert len(home.ready) == 3


async def test_in_a_flow_only_the_first_bundle_closes_early_and_the_others_when_they_are_full_or_old(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "GATHER_BYTES", 0)
    monkeypatch.setattr(writing, "BUNDLE_BYTES", 3_000)
    monkeypatch.setattr(writing, "FLOW_SECONDS", 3600.0)
    monkeypatch.setattr(writing, "FLOW_GATHER_SECONDS", 3600.0)
    async with home.running() as spool:
        spool.wanted = lambda route: route == ROUTE
        bundle = await spool.take(ROUTE)
        for number in range(4):
            await home.store(bundle, b"x" * 1_000, number)
        await spool.indexer.flush()
        assert [(row.objects, row.closed) for row in await bundles(spool)] == [(1, True), (2, True), (1, False)]
        bundle.leave()
        monkeypatch.setattr(writing, "FLOW_GATHER_SECONDS", 0.0)
        bundle = await spool.take(ROUTE)
        await home.store(bundle, b"x", 4)
        await until(lambda: len(home.ready) == 4)


async def test_a_bundle_that_holds_little_waits_a_moment_for_more_though_somebody_waits(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "GATHER_SECONDS", 3600.0)
    async with home.running() as spool:
        spool.wanted = lambda route: route == ROUTE
        bundle = await spool.take(ROUTE)
        for number in range(3):
            await home.store(bundle, b"x", number)
        await spool.indexer.flush()
        assert home.ready == []
        assert [row.objects for row in await bundles(spool)] == [3]


async def test_after_that_moment_it_closes_without_another_object(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "GATHER_SECONDS", 0.0)
    async with home.running() as spool:
        spool.wanted = lambda route: route == ROUTE
        bundle = await spool.take(ROUTE)
        await home.store(bundle, b"x")
        while not home.ready:
            await spool.indexer.flush()
        assert [row.closed for row in await bundles(spool)] == [True]


async def test_who_wants_the_open_bundles_gets_them_behind_the_object_that_is_being_written(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "GATHER_BYTES", 0)
    async with home.running() as spool:
        bundle = await spool.take(ROUTE)
        await home.store(bundle, b"first")
        writer = bundle.begin(home.meta(1))
        writer.write(b"second")
        spool.want(lambda route: route.called == "OTHER")
        spool.want(lambda route: route == ROUTE)
        await bundle.settled()
        await spool.indexer.flush()
        assert home.ready == []
        await writer.finish()
        await bundle.settled()
        await spool.indexer.flush()
        assert len(home.ready) == 1
        assert [row.objects for row in await bundles(spool)] == [2]


async def test_the_next_association_of_the_route_goes_on_in_the_same_bundle(home: Home) -> None:
    async with home.running() as spool:
        first = await spool.take(ROUTE)
        one = await home.store(first, b"x")
        spool.give_back(first)
        await first.settled()
        await asyncio.sleep(0)  # the worker hands the file to the loop
        second = await spool.take(ROUTE)
        two = await home.store(second, b"y", 1)
        assert one.bundle_id == two.bundle_id
        other = await spool.take(Route(ROUTE.calling, AETitle("OTHER"), ROUTE.destinations))
        assert (await home.store(other, b"z", 2)).bundle_id != one.bundle_id


async def test_an_abandoned_object_leaves_nothing(home: Home) -> None:
    async with home.running() as spool:
        bundle = await spool.take(ROUTE)
        writer = bundle.begin(home.meta())
        writer.write(b"x" * 600_000)
        writer.abandon()
        kept = await home.store(bundle, b"kept")
        writer = bundle.begin(home.meta())
        writer.write(b"x" * 600_000)
        spool.give_back(bundle)
        await bundle.settled()
        await spool.close_idle()
        assert await contents(spool) == [b"kept"]
        assert home.files()[0].stat().st_size == kept.position + kept.length == spool.room.used


async def test_an_association_without_an_object_leaves_no_file(home: Home) -> None:
    async with home.running() as spool:
        bundle = await spool.take(ROUTE)
        bundle.begin(home.meta()).abandon()
        spool.give_back(bundle)
        await bundle.settled()
        assert home.files() == []
        assert spool.room.used == 0


async def test_a_cancelled_wait_does_not_take_the_object_back(home: Home) -> None:
    async with home.running() as spool:
        bundle = await spool.take(ROUTE)
        writer = bundle.begin(home.meta())
        writer.write(b"x" * 1000)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await writer.finish()
        await bundle.settled()
        await spool.indexer.flush()
        assert await contents(spool) == [b"x" * 1000]


async def test_a_fast_sender_is_told_to_stop_and_to_go_on(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "HIGH_WATER", 600_000)
    monkeypatch.setattr(writing, "LOW_WATER", 300_000)
    async with home.running() as spool:
        bundle = await spool.take(ROUTE)
        writable = asyncio.Event()
        bundle.on_writable = writable.set
        writer = bundle.begin(home.meta())
        answers = [writer.write(b"x" * 300_000) for _ in range(10)]  # the worker has no turn on this loop
        assert answers[-1] is False or bundle.pending_bytes <= 600_000
        if not answers[-1]:
            await asyncio.wait_for(writable.wait(), 30)
        stored = await writer.finish()
        assert stored.payload == 3_000_000
        assert bundle.pending_bytes == 0


async def test_two_objects_at_once_in_one_bundle_are_a_bug(home: Home) -> None:
    async with home.running() as spool:
        bundle = await spool.take(ROUTE)
        writer = bundle.begin(home.meta())
        with pytest.raises(LocalMisuse):
            bundle.begin(home.meta())
        writer.abandon()
        with pytest.raises(LocalMisuse):
            writer.write(b"x")


async def test_a_full_spool_takes_nothing_more_until_there_is_room(home: Home) -> None:
    async with home.running(quota=1_000_000) as spool:
        bundle = await spool.take(ROUTE)
        stored = await home.store(bundle, b"x" * 400_000)
        with pytest.raises(NoRoom):
            await home.store(bundle, b"x" * 2_000_000, 1)
        spool.room.limit(quota=None, floor=0)
        await home.store(bundle, b"y" * 2_000_000, 2)
        await spool.indexer.flush()
        assert [len(content) for content in await contents(spool)] == [400_000, 2_000_000]
        spool.room.limit(quota=stored.length, floor=0)
        with pytest.raises(NoRoom):
            await spool.take(ROUTE)


async def test_a_bundle_goes_when_all_its_copies_are_over_and_not_before(home: Home) -> None:
    def over(connection: sqlite3.Connection, most: int) -> None:
        connection.execute(
            "UPDATE copies SET state = 'delivered' WHERE copy_id IN (SELECT copy_id FROM copies LIMIT ?)", (most,)
        )

    async with home.running() as spool:
        bundle = await spool.take(ROUTE)
        stored = await home.store(bundle, b"x")
        await home.store(bundle, b"y", 1)
        await spool.indexer.flush()
        await spool.ledger.run(lambda connection: over(connection, 2))
        assert not await spool.release(stored.bundle_id)  # it is still open
        await home.store(bundle, b"z", 2)
        spool.give_back(bundle)
        await bundle.settled()
        await spool.close_idle()
        assert not await spool.release(stored.bundle_id)
        assert len(home.files()) == 1
        await spool.ledger.run(lambda connection: over(connection, 3))
        assert await spool.release(stored.bundle_id)
        assert home.files() == []
        assert spool.room.used == 0
        assert await spool.release(stored.bundle_id)


async def test_what_is_kept_in_the_ledger_opens_under_its_own_label_only(home: Home) -> None:
    async with home.running() as spool:
        sealed = spool.seal_local("comment", b"Refused: out of resources")
        assert b"Refused" not in sealed
        assert spool.open_local("comment", sealed) == b"Refused: out of resources"
        with pytest.raises(SealBroken):
            spool.open_local("study", sealed)


async def test_objects_without_rows_are_no_more_than_a_bound(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    async with home.running() as spool:
        monkeypatch.setattr("isthmus.router.queued.spool.bundles.MOST_BEHIND", 2)

        async def full(_: object) -> None:
            raise NoRoom("no room for the ledger")

        with monkeypatch.context() as patch:
            patch.setattr(spool.ledger, "run", full)
            bundle = await spool.take(ROUTE)
            for number in range(3):
                await home.store(bundle, b"x", number)
            with pytest.raises(NoRoom):
                await spool.take(ROUTE)
        await spool.indexer.flush()
        assert await count(spool.ledger, "copies") == 3
        spool.give_back(await spool.take(ROUTE))


async def test_giving_rows_twice_changes_nothing(home: Home) -> None:
    async with home.running() as spool:
        bundle = await spool.take(ROUTE)
        stored = await home.store(bundle, b"x")
        await spool.indexer.flush()
        await spool.ledger.run(lambda connection: spool.add_objects(connection, "CT1", [stored], [[]]))
        assert (await count(spool.ledger, "objects"), await count(spool.ledger, "copies")) == (1, 1)


class Studies:
    """A study hook that takes the first byte of the data set for the study."""

    def look(self, meta: object, head: bytes) -> object | None:
        if head == b"raise":
            raise ValueError("not a data set")
        return head[:1]

    def note(self, connection: sqlite3.Connection, looked: object, now: float) -> int | None:
        assert isinstance(looked, bytes)
        return looked[0]


async def test_each_object_gets_its_study_and_one_that_cannot_be_read_gets_none(home: Home) -> None:
    async with home.running() as spool:
        spool.indexer.study = Studies()
        bundle = await spool.take(ROUTE)
        for number, content in enumerate((b"\x05", b"raise", b"\x07")):
            await home.store(bundle, content, number)
        await spool.indexer.flush()
        rows = await spool.ledger.read(
            lambda connection: connection.execute(
                "SELECT o.study_id, c.study_id FROM copies AS c JOIN objects AS o ON o.object_id = c.object_id"
                " ORDER BY o.position"
            ).fetchall()
        )
        assert rows == [(5, 5), (None, None), (7, 7)]


async def test_a_wanted_bundle_closes_as_soon_as_it_has_enough_though_it_was_wanted_only_once(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "GATHER_SECONDS", 3600.0)
    monkeypatch.setattr(writing, "GATHER_BYTES", 3_000)
    answers = [True]
    async with home.running() as spool:
        spool.wanted = lambda _: bool(answers) and answers.pop()  # as the outbox answers: it wants one, until it comes
        bundle = await spool.take(ROUTE)
        for number in range(5):
            await home.store(bundle, b"x" * 1_000, number)
        await spool.indexer.flush()
        assert [(row.objects, row.closed) for row in await bundles(spool)] == [(3, True), (2, False)]
