"""Objects from one site to another, and word of them back."""

import asyncio
from typing import Any

import pytest
from tests.unit.router.queued.post.sites import Site, learn

from isthmus.adapters.blobstore.memory import MemoryBlobstore
from isthmus.contract.letters import ObjectKind, ReceiptState
from isthmus.router.queued.ledger import acts
from isthmus.router.queued.spool.recovery import verify
from isthmus.router.queued.trouble import NoRoom
from isthmus.testing.network import until


def images(count: int, size: int = 300_000) -> list[bytes]:
    return [bytes((number % 256,)) * size + number.to_bytes(4, "big") for number in range(count)]


async def test_objects_reach_the_other_site_as_they_are_and_their_bundle_goes(north: Site, south: Site) -> None:
    async with north.running(), south.running():
        await north.store_objects(*images(10), to=south)
        await south.until_all("waiting", 10, ours=True)
        await north.until_all("received", 10)
        assert sorted(await south.deliver()) == images(10)
        await north.until_all("delivered", 10)
        await north.until("SELECT 1 FROM bundles WHERE gone")
        await until(lambda: not list((north.folder / "spool").iterdir()))  # once the ledger says so, not before
        assert set(south.came) == {"PACS"}
        assert (north.alerts, south.alerts) == ([], [])


async def test_nothing_is_left_in_the_cloud_but_the_last_letters(
    north: Site, south: Site, cloud: tuple[object, MemoryBlobstore]
) -> None:
    async with north.running(), south.running():
        for number in range(5):
            await north.store_objects(*images(3 + number), to=south)
        await south.until_all("waiting", 25, ours=True)
        await south.deliver()
        await north.until_all("delivered", 25)
        await south.until("SELECT 1 WHERE (SELECT acked_out FROM mailboxes) >= 0")
        names = [blob.name async for blob in cloud[1].list("")]
        assert all(name.count("/") == 2 for name in names)  # letters, and no blob
        assert len(names) <= 12


async def test_a_site_that_is_away_gets_everything_when_it_comes_and_the_sender_may_be_off(
    north: Site, south: Site
) -> None:
    async with north.running():
        await north.store_objects(*images(4), to=south)
        await north.until_all("posted", 4)
    async with south.running():
        await south.until_all("waiting", 4, ours=True)
        assert sorted(await south.deliver()) == images(4)
        await south.until("SELECT 1 WHERE (SELECT COUNT(*) FROM receipts_due) = 0")
    async with north.running():
        await north.until_all("delivered", 4)


async def test_a_lost_doorbell_only_costs_time(north: Site, south: Site) -> None:
    south.hears = north.hears = False
    async with north.running(), south.running():
        await north.store_objects(*images(2), to=south)
        await north.until_all("posted", 2)
        south.post.connected()
        await south.until_all("waiting", 2, ours=True)
        await south.until("SELECT 1 FROM letters WHERE NOT EXISTS (SELECT 1 FROM receipts_due)")
        north.post.connected()
        await north.until_all("received", 2)


async def test_two_devices_of_one_site_get_a_copy_each_of_objects_that_are_kept_once(north: Site, south: Site) -> None:
    async with north.running(), south.running():
        await north.store_objects(*images(3), to=south, titles=("PACS", "AI"))
        await south.until_all("waiting", 6, ours=True)
        assert await south.rows("SELECT COUNT(*) FROM objects") == [(3,)]
        assert sorted(await south.deliver()) == sorted(images(3) * 2)
        await north.until_all("delivered", 6)
        assert list((south.folder / "spool").iterdir()) == []


async def test_what_is_damaged_at_the_far_site_is_held_here_and_replaced_when_a_person_says_so(
    north: Site, south: Site
) -> None:
    async with north.running(), south.running():
        await north.store_objects(*images(2), to=south)
        await south.until_all("waiting", 2, ours=True)
        await north.until_all("received", 2)
        ((bundle_id, name, position),) = await south.rows(
            "SELECT b.bundle_id, b.name, MAX(o.position) FROM objects AS o JOIN bundles AS b USING (bundle_id)"
        )
        with (south.folder / "spool" / name).open("r+b") as file:
            file.seek(position + 200)
            file.write(b"damage")
        assert await verify(south.spool, bundle_id) == 1
        south.post.receipts_due()
        await north.until("SELECT 1 FROM copies WHERE state = 'held'")
        assert len(await south.deliver()) == 1
        await north.until("SELECT 1 FROM copies WHERE state = 'delivered'")
        await north.ledger.run(lambda connection: acts.retry(connection, None, None, north.clock.now()))
        north.post.outbox.wake()
        await south.until("SELECT 1 FROM copies WHERE site IS NULL AND state = 'waiting'")
        assert (await south.deliver())[0] in images(2)
        await north.until_all("delivered", 2)


@pytest.mark.parametrize("together", [True, False], ids=["both fetched at once", "one after the other"])
async def test_a_lost_ledger_at_the_far_site_forgets_no_device_of_a_group(
    north: Site, south: Site, together: bool
) -> None:
    async with north.running(), south.running():
        if together:
            await north.store_objects(*images(3), to=south, titles=("PACS", "AI"))
        else:
            await north.store_objects(*images(3), to=south)
            await south.until_all("waiting", 3, ours=True)
            await north.ledger.run(_also_for_ai)
            north.post.outbox.wake()
        await south.until_all("waiting", 6, ours=True)
        await north.until_all("received", 6)
        assert len(list((south.folder / "spool").iterdir())) == 1
    for path in south.folder.glob("ledger.db*"):
        path.unlink()
    async with south.running():
        await south.until_all("waiting", 6, ours=True)
        assert sorted(await south.deliver()) == sorted(images(3) * 2)
        assert list((south.folder / "spool").iterdir()) == []


def _also_for_ai(connection: Any) -> None:
    connection.execute(
        "INSERT INTO copies (object_id, bundle_id, destination, site, calling, kind, state, since)"
        " SELECT object_id, bundle_id, 'AI', site, calling, kind, 'waiting', since FROM copies"
    )


async def test_what_is_not_granted_is_held_and_not_fetched(north: Site, south: Site) -> None:
    south.administration.device_add("PRIVATE@192.0.2.11:104")
    async with north.running(), south.running():
        await north.store_objects(*images(2), to=south, titles=("PRIVATE",))
        await north.until_all("held", 2)
        assert await south.states() == []
        assert "not granted" in (await north.rows("SELECT reason FROM copies"))[0][0]
        await south.until_alert("not granted")


async def test_what_the_device_refuses_is_held_here_too_with_its_status_and_comment(north: Site, south: Site) -> None:
    async with north.running(), south.running():
        await north.store_objects(*images(1), to=south)
        await south.until_all("waiting", 1, ours=True)
        await south.deliver(state=ReceiptState.HELD, status=0xA900)
        await north.until_all("held", 1)
        ((status, comment),) = await north.rows("SELECT status, comment FROM copies")
        assert (status, north.spool.open_local("comment", comment)) == (0xA900, b"why")
        assert len(list((north.folder / "spool").iterdir())) == 1


async def test_what_is_sent_again_after_it_was_held_there_is_not_fetched_again(
    north: Site, south: Site, cloud: tuple[object, MemoryBlobstore]
) -> None:
    async with north.running(), south.running():
        await north.store_objects(*images(2), to=south)
        await south.until_all("waiting", 2, ours=True)
        await south.deliver(state=ReceiptState.HELD, status=0xA900)
        await north.until_all("held", 2)
        bundles = await south.rows("SELECT COUNT(*) FROM bundles")
        await north.ledger.run(
            lambda c: c.execute("UPDATE copies SET state = 'waiting', envelope_id = NULL, envelope_index = NULL")
        )
        north.post.outbox.wake()
        await south.until_all("waiting", 2, ours=True)
        await south.deliver()
        await north.until_all("delivered", 2)
        assert await south.rows("SELECT COUNT(*) FROM bundles") == bundles


async def test_a_copy_that_is_cancelled_before_it_left_does_not_leave(north: Site, south: Site) -> None:
    async with north.running():
        learned = north.directory.verified
        north.directory.verified = {}  # nobody to write to yet
        await north.store_objects(*images(3), to=south)
        await north.until("SELECT 1 FROM bundles WHERE closed")
        ((first,), *_) = await north.rows("SELECT copy_id FROM copies ORDER BY copy_id")
        await north.ledger.run(lambda c: c.execute("UPDATE copies SET state = 'cancelled' WHERE copy_id = ?", (first,)))
        north.directory.verified = learned
        north.post.outbox.wake()
        await north.until("SELECT 1 FROM copies WHERE state = 'posted'")
        assert await north.states() == ["cancelled", "posted", "posted"]
    async with south.running():
        await south.until_all("waiting", 2, ours=True)
        assert sorted(await south.deliver()) == images(3)[1:]


async def test_a_request_for_commitment_waits_for_what_was_stored_before_it(north: Site, south: Site) -> None:
    south.administration.grant_add("PACS", site="north", services=["commitment"])
    async with north.running(), south.running():
        await north.store_objects(*images(2), to=south)
        await north.store_objects(b"uids", to=south, kind=ObjectKind.COMMIT)
        await south.until_all("waiting", 2, ours=True)
        await north.until("SELECT 1 WHERE (SELECT COUNT(*) FROM copies WHERE state = 'received') = 2")
        assert (await north.states())[2] == "waiting"
        await south.deliver()
        await south.until("SELECT 1 FROM copies WHERE kind = 'commit'")
        assert await south.deliver() == [b"uids"]
        await north.until_all("delivered", 3)


async def test_a_full_inbox_stops_pulling_and_goes_on_when_there_is_room(north: Site, south: Site) -> None:
    south.quota = 1000
    async with north.running(), south.running():
        await north.store_objects(*images(1), to=south)
        await south.until_alert("wait in the cloud")
        assert await south.states() == []
    south.quota = None
    async with south.running():
        await south.until_all("waiting", 1, ours=True)


async def test_without_a_fresh_prekey_it_waits_here_and_a_person_is_told(north: Site, south: Site) -> None:
    north.clock.offset = 40 * 86_400.0
    async with north.running():
        learn_statement = north.directory.mailbox_of
        north.directory.mailbox_of = lambda router_id: south.directory.mailboxes[north.keys.router_id]  # type: ignore[method-assign]
        await north.store_objects(*images(1), to=south)
        await north.until_alert("has not renewed its key")
        assert await north.states() == ["waiting"]
        north.directory.mailbox_of = learn_statement  # type: ignore[method-assign]
        north.clock.offset = 0.0
        learn(north, south)
        north.post.outbox.wake()
        await north.until_all("posted", 1)


@pytest.mark.parametrize("size", [0, 1, 1_000_000, 9_000_000])
async def test_objects_of_every_size_arrive(north: Site, south: Site, size: int) -> None:
    async with north.running(), south.running():
        await north.store_objects(b"x" * size, to=south)
        await south.until_all("waiting", 1, ours=True)
        assert await south.deliver() == [b"x" * size]


async def test_a_site_that_is_there_but_says_nothing_gets_it_again_and_a_person_is_told(
    north: Site, south: Site, cloud: tuple[object, MemoryBlobstore]
) -> None:
    async with north.running():
        await north.store_objects(*images(2), to=south)
        await north.until_all("posted", 2)
        names = {blob.name async for blob in cloud[1].list("")}
        for name in names:
            await cloud[1].delete(name)
        await north.post.outbox.watch()
        assert north.alerts == []
        north.clock.offset = 700.0
        await north.post.outbox.watch()
        await north.until_alert("has not confirmed")
        assert {blob.name async for blob in cloud[1].list("")} == names
    async with south.running():
        await south.until_all("waiting", 2, ours=True)


async def test_what_goes_to_a_site_that_is_removed_meanwhile_waits_and_blocks_nobody(
    north: Site, south: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with north.running():
        put, gate = north.blobstore.put, asyncio.Event()

        async def slowly(name: str, body: bytes) -> None:
            await gate.wait()
            await put(name, body)

        monkeypatch.setattr(north.blobstore, "put", slowly)
        await north.store_objects(*images(1), to=south)
        await north.until("SELECT 1 FROM envelopes WHERE state = 'uploading'")
        learned, north.directory.verified = north.directory.verified, {}
        gate.set()
        await north.until("SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM envelopes)")
        assert await north.states() == ["waiting"]
        north.directory.verified = learned
        north.post.outbox.wake()
        await north.until_all("posted", 1)


async def test_the_post_goes_on_after_the_ledger_had_no_room(north: Site, south: Site) -> None:
    async with north.running(), south.running():
        run = north.ledger.run

        asked = asyncio.Event()

        async def full(_work: object) -> None:
            asked.set()
            raise NoRoom("no room for the ledger")

        north.ledger.run = full  # type: ignore[method-assign,assignment]
        north.post.outbox.wake()
        north.post.receipts_due()
        south.post.outbox.wake()
        await asked.wait()
        north.ledger.run = run  # type: ignore[method-assign]
        await north.store_objects(*images(1), to=south)
        await south.until_all("waiting", 1, ours=True)
