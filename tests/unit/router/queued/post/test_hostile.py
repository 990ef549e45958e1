"""What another site may sign and send: it can stop its own post, and nobody else's."""

import asyncio
import dataclasses
import sqlite3
from functools import partial
from pathlib import Path

import pytest
from tests.unit.router.queued.post.sites import Site, introduce

from isthmus.adapters.blobstore.memory import MemoryBlobstore
from isthmus.adapters.signalling.memory import MemorySignalling
from isthmus.contract.letters import MOST_UNREADABLE, Receipts, ReceiptState
from isthmus.envelope.identity import RouterId
from isthmus.router.queued.ledger import incoming, outgoing
from isthmus.router.queued.post import office

Cloud = tuple[MemorySignalling, MemoryBlobstore]


@pytest.fixture
def east(tmp_path: Path, cloud: Cloud, north: Site, south: Site) -> Site:
    site = Site(tmp_path / "east", "east", *cloud)
    introduce(north, south, site)
    site.device("ARCHIVE", for_site="north")
    return site


def spoil_prekey(site: Site, of: Site) -> None:
    """Have `site` believe that `of` signed a prekey that is none."""
    router_id = RouterId(of.keys.router_id)
    held = site.directory.verified[router_id]
    assert held.prekey is not None
    spoiled = held.prekey.model_copy(update={"public_key": b"x" * 32})
    site.directory.verified[router_id] = dataclasses.replace(held, prekey=spoiled)


async def test_a_site_whose_prekey_is_unusable_stops_nobody_elses_objects_and_is_told_of(
    north: Site, south: Site, east: Site
) -> None:
    async with north.running():
        puts = 0
        put = north.blobstore.put

        async def counted(name: str, body: bytes) -> None:
            nonlocal puts
            puts += 1
            await put(name, body)

        north.blobstore.put = counted  # type: ignore[method-assign]
        spoil_prekey(north, east)
        await north.store_objects(b"1" * 1000, to=east, titles=("ARCHIVE",))
        await north.until_alert("nothing can be sealed for site east")
        await north.store_objects(b"2" * 1000, to=south)
        await north.until("SELECT 1 FROM copies WHERE site = 'south' AND state = 'posted'")
        await north.post.letters_again()
        assert await north.rows("SELECT state FROM copies WHERE site = 'east'") == [("waiting",)]
        assert puts <= 2  # the blob and the letter for south: nothing is uploaded that nobody can be told of
        assert not north.run.done()


async def test_a_letter_that_cannot_be_sealed_anew_for_one_site_keeps_no_receipts_from_the_others(
    north: Site, south: Site, east: Site
) -> None:
    async with north.running(), south.running():
        await north.store_objects(b"1" * 1000, to=south)
        await south.until_all("waiting", 1, ours=True)
        await south.until("SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM receipts_due)")
        east_id = east.keys.router_id

        def write(connection: sqlite3.Connection) -> None:  # a letter in a mailbox that is no more, damaged here
            connection.execute(
                "INSERT INTO letters (router_id, counter, name, raw, put, kind, body)"
                " VALUES (?, 1, 'q/none', x'00', 0, 'isthmus/receipts/v1', x'00')",
                (east_id,),
            )
            connection.execute(
                "INSERT INTO receipts_due (receipt_id, router_id, receipt, letter) VALUES (-1, ?, '', 7)", (east_id,)
            )

        await south.ledger.run(write)
        await south.deliver(state=ReceiptState.DELIVERED)
        await north.until_all("delivered", 1)
        await south.post.letters.put_again(east.keys.router_id)
        await south.until_alert("nothing can be sealed for site east")
        assert not south.run.done()


async def test_a_part_of_the_post_that_fails_is_started_again(
    north: Site, south: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(office, "AGAIN_SECONDS", 0.01)
    async with north.running(), south.running():
        failed = asyncio.Event()

        async def fails() -> None:
            failed.set()
            raise ValueError("a fault of ours")

        turn = north.post.outbox._turn
        monkeypatch.setattr(north.post.outbox, "_turn", fails)
        north.post.outbox.wake()
        await failed.wait()
        monkeypatch.setattr(north.post.outbox, "_turn", turn)
        await north.store_objects(b"1" * 1000, to=south)
        await south.until_all("waiting", 1, ours=True)


async def say_unreadable(site: Site, to: Site, *counters: int) -> None:
    """Have `site` claim in its next letter that it cannot read these letters."""

    def write(connection: sqlite3.Connection) -> None:
        for counter in counters:
            incoming.owe_unreadable(connection, to.keys.router_id, counter)

    await site.ledger.run(write)
    site.post.receipts_due()


async def read_nothing(site: Site, of: Site) -> None:
    """Have `site` know its mailbox for the letters of another site, and acknowledge none of them."""
    prefix = site.directory.mailboxes.pop(of.keys.router_id)
    await site.ledger.run(
        lambda c: outgoing.save_mailbox(
            c, dataclasses.replace(outgoing.mailbox(c, of.keys.router_id), prefix_in=prefix)
        )
    )


async def test_a_site_that_names_letters_as_unreadable_again_and_again_multiplies_none(
    north: Site, south: Site, cloud: Cloud
) -> None:
    async with north.running(), south.running():
        await read_nothing(south, north)
        await north.store_objects(b"1" * 1000, to=south)
        await north.until_all("posted", 1)
        for turn in range(1, 6):
            await say_unreadable(south, north, *([*range(1, 20)] * 5))
            await north.until("SELECT 1 FROM mailboxes WHERE next_in > ?", turn)
        ((kept, next_out),) = await north.rows("SELECT (SELECT COUNT(*) FROM letters), next_out FROM mailboxes")
        assert next_out > 5  # it did seal anew
        assert kept <= 2  # what it had to say, and an acknowledgement


async def test_unreadable_counters_of_a_mailbox_that_was_left_touch_no_letter_in_the_new_one(
    north: Site, south: Site
) -> None:
    async with north.running(), south.running():
        await read_nothing(south, north)
        await south.ledger.run(lambda c: c.execute("UPDATE mailboxes SET prefix_in = ?", ("f" * 32,)))
        await north.store_objects(b"1" * 1000, to=south)
        await north.until_all("posted", 1)
        await say_unreadable(south, north, 1)
        await north.until("SELECT 1 FROM mailboxes WHERE next_in > 1")
        assert await north.rows("SELECT MIN(counter) FROM letters") == [(1,)]


def test_a_letter_that_names_more_unreadable_ones_than_there_may_be_is_not_understood() -> None:
    Receipts(unreadable=list(range(1, MOST_UNREADABLE + 1)))
    with pytest.raises(ValueError, match="at most"):
        Receipts(unreadable=list(range(1, MOST_UNREADABLE + 2)))


async def test_a_site_is_told_that_another_has_the_same_secrets(north: Site, south: Site, east: Site) -> None:
    async with north.running():
        await north.store_objects(b"1" * 1000, to=south)
        await north.store_for([(south, "PACS"), (east, "ARCHIVE")], b"2" * 1000)
        await north.until("SELECT 1 WHERE (SELECT COUNT(*) FROM envelopes WHERE state = 'posted') = 3")
        rows = await north.rows("SELECT envelope_id FROM envelopes ORDER BY bundle_id")
        shared = [await north.ledger.read(partial(outgoing.is_shared, envelope_id=row[0])) for row in rows]
    assert shared == [False, True, True]


async def test_a_router_is_told_that_the_one_before_it_has_the_same_secrets(north: Site, south: Site) -> None:
    async with north.running():
        await north.store_objects(b"1" * 1000, to=south)
        await north.until("SELECT 1 FROM envelopes WHERE state = 'posted'")
        ((first,),) = await north.rows("SELECT envelope_id FROM envelopes")

        def move(connection: sqlite3.Connection) -> None:  # as after the site came back with another identity
            connection.execute(
                "INSERT INTO envelopes (envelope_id, direction, bundle_id, router_id, destination, blobs, uploaded,"
                " state) SELECT x'07', direction, bundle_id, 'another', destination, blobs, 0, 'uploading'"
                " FROM envelopes"
            )

        await north.ledger.run(move)
        for envelope_id in (first, b"\x07"):
            assert await north.ledger.read(partial(outgoing.is_shared, envelope_id=envelope_id))
