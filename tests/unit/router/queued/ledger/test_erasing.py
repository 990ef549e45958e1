"""What is known of envelopes is erased when nothing of them is here and nobody asks any more."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from isthmus.router.queued.ledger.database import Ledger
from isthmus.router.queued.ledger.studies import ENVELOPES_KEPT_SECONDS, forget_envelopes, keep_erasing
from isthmus.testing.clock import FakeClock

DAY = 86_400.0
NOW = 1_800_000_000.0


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    ledger = Ledger.open(tmp_path / "ledger.db")
    yield ledger
    await ledger.close()


async def do(ledger: Ledger, sql: str, *values: object) -> None:
    await ledger.run(lambda connection: connection.execute(sql, values) and None)


async def put(
    ledger: Ledger, name: bytes, state: str, *, posted: float | None, bundle_id: int = 0, direction: str = "out"
) -> None:
    """Add an envelope's row."""
    sql = (
        "INSERT INTO envelopes (envelope_id, direction, bundle_id, router_id, destination, blobs, uploaded, state,"
        " posted) VALUES (?, ?, ?, 'r', 'PACS', '', 0, ?, ?)"
    )
    await do(ledger, sql, name, direction, bundle_id, state, posted)


async def left(ledger: Ledger) -> set[bytes]:
    """Return the ids of the envelopes that are known."""
    return await ledger.read(lambda c: {row[0] for row in c.execute("SELECT envelope_id FROM envelopes")})


async def forget(ledger: Ledger, now: float, *, most: int = 100) -> int:
    return await ledger.run(lambda connection: forget_envelopes(connection, now, most=most))


async def test_what_was_sent_long_ago_and_is_over_is_forgotten_and_nothing_else(ledger: Ledger) -> None:
    await do(ledger, "INSERT INTO bundles VALUES (7, 'b', 'out', 'CT1', 'PACS', NULL, 1, 1, 0, 1, 1)")
    await do(
        ledger,
        "INSERT INTO copies (object_id, bundle_id, destination, calling, kind, state, since, envelope_id)"
        " VALUES (x'01', 8, 'PACS', 'CT1', 'store', 'held', 0, ?)",
        b"kept2",
    )
    old, young = NOW - ENVELOPES_KEPT_SECONDS - 1, NOW - ENVELOPES_KEPT_SECONDS + DAY
    for state in ("posted", "received", "unreadable", "done"):
        await put(ledger, b"over " + state.encode(), state, posted=old, bundle_id=1)
    await put(ledger, b"kept1", "done", posted=old, bundle_id=7)  # its bundle is still known
    await put(ledger, b"kept2", "done", posted=old, bundle_id=8)  # a copy that came or went in it is
    await put(ledger, b"kept3", "done", posted=young, bundle_id=1)
    await put(ledger, b"kept4", "uploading", posted=None, bundle_id=1)
    assert await forget(ledger, NOW, most=3) == 3
    assert await forget(ledger, NOW, most=3) == 1
    assert await left(ledger) == {b"kept1", b"kept2", b"kept3", b"kept4"}


async def test_an_envelope_that_came_in_is_kept_as_long_from_when_it_is_over(ledger: Ledger) -> None:
    for name, state in ((b"held", "held"), (b"received", "received"), (b"pulling", "pulling")):
        await put(ledger, name, state, posted=None, direction="in")
    assert await forget(ledger, NOW) == 0
    assert await forget(ledger, NOW + ENVELOPES_KEPT_SECONDS) == 0
    assert await forget(ledger, NOW + ENVELOPES_KEPT_SECONDS + 1) == 2
    assert await left(ledger) == {b"pulling"}


class _AllIsDone(Exception):
    pass


async def test_it_is_done_by_itself(ledger: Ledger) -> None:
    clock = FakeClock()
    await put(ledger, b"over", "done", posted=clock.now() - ENVELOPES_KEPT_SECONDS - 1)

    async def pause(seconds: float) -> None:
        if seconds > 1:  # until the next time
            raise _AllIsDone

    with pytest.raises(_AllIsDone):
        await keep_erasing(ledger, clock, pause)
    assert await left(ledger) == set()
