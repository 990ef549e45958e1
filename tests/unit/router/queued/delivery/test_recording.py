"""What a start makes of the journal of deliveries that the last run left."""

import sqlite3
from pathlib import Path

import pytest
from tests.unit.router.queued.delivery.bench import Bench

from isthmus.router.queued.delivery import lane
from isthmus.router.queued.ledger import acts
from isthmus.router.queued.ledger.records import CopyState


@pytest.fixture(autouse=True)
def _no_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "LINGER_SECONDS", 0.0)


def ledger_files(folder: Path) -> list[bytes]:
    """Return what the ledger has on the disk."""
    return [path.read_bytes() for path in sorted(folder.glob("ledger.db*"))]


async def delivered(bench: Bench, count: int = 3) -> None:
    """Deliver objects, and stop; the journal of it stays."""
    await bench.queue(count)
    async with bench.dispatcher.running():
        await bench.all_are(CopyState.DELIVERED)
    bench.archive.got.clear()
    bench.home.clock.advance(60)


async def test_a_journal_of_a_ledger_that_was_lost_says_nothing_of_other_copies(bench: Bench) -> None:
    await delivered(bench)

    def lose(connection: sqlite3.Connection) -> None:
        for table in ("copies", "objects", "bundles"):
            connection.execute(f"DELETE FROM {table}")
        connection.execute("DELETE FROM sqlite_sequence")

    await bench.ledger.run(lose)
    numbers = await bench.queue(3)
    assert await bench.rows("copy_id") == [1, 2, 3]
    async with bench.again().running():
        await bench.all_are(CopyState.DELIVERED)
    assert bench.archive.got == numbers


async def test_a_held_copy_that_a_person_tried_again_waits_after_a_restart(bench: Bench) -> None:
    bench.archive.answer = lambda _: 0xC000
    await bench.queue(1)
    async with bench.dispatcher.running():
        await bench.all_are(CopyState.HELD)
    bench.home.clock.advance(60)
    now = bench.home.clock.now()
    await bench.ledger.run(lambda connection: acts.retry(connection, None, None, now))
    bench.archive.answer = lambda _: 0
    async with bench.again().running():
        await bench.all_are(CopyState.DELIVERED)
    assert len(bench.archive.got) == 2
    assert await bench.rows("flagged") == [0]


@pytest.mark.parametrize("change", ["envelope_id = zeroblob(16)", "since = since + 60"])
async def test_a_copy_that_its_sender_asked_for_again_is_delivered_again_after_a_restart(
    bench: Bench, change: str
) -> None:
    await delivered(bench, 1)
    await bench.ledger.run(lambda connection: connection.execute(f"UPDATE copies SET state = 'waiting', {change}"))
    async with bench.again().running():
        await bench.all_are(CopyState.DELIVERED)
    assert len(bench.archive.got) == 1


async def test_the_number_of_a_copy_is_never_used_again(bench: Bench) -> None:
    await bench.queue(3)
    await bench.ledger.run(lambda connection: connection.execute("DELETE FROM copies"))
    await bench.queue(1)
    assert await bench.rows("copy_id") == [4]


async def test_a_receipt_is_for_the_envelope_that_asked_last(bench: Bench) -> None:
    await bench.queue(1)

    async def before() -> None:
        await bench.ledger.run(
            lambda connection: connection.execute("UPDATE copies SET envelope_id = ?, envelope_index = 5", (b"n" * 16,))
        )

    bench.archive.before = before
    async with bench.dispatcher.running():
        await bench.all_are(CopyState.DELIVERED)
    assert [(receipt.envelope_id, receipt.index) for receipt in await bench.receipts()] == [(b"n" * 16, 5)]


async def test_the_words_of_a_device_are_sealed_in_the_receipt_that_is_due(bench: Bench, tmp_path: Path) -> None:
    bench.archive.answer = lambda _: (0xC000, "DOE^JANE is unknown")
    await bench.queue(1)
    async with bench.dispatcher.running():
        await bench.all_are(CopyState.HELD)
    assert all(b"DOE^JANE" not in content for content in ledger_files(tmp_path))
    (receipt,) = await bench.receipts()
    assert receipt.comment == "DOE^JANE is unknown"
