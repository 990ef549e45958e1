"""The ledger: what a call returned is durable, a call that fails undoes only itself, and one commit serves many."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from isthmus.errors import OperatorError
from isthmus.router.queued.ledger.database import Ledger
from isthmus.router.queued.trouble import NoRoom, SpoolFailed


@pytest.fixture
async def ledger(tmp_path: Path) -> AsyncIterator[Ledger]:
    ledger = Ledger.open(tmp_path / "ledger.db")
    yield ledger
    await ledger.close()


def insert(connection: sqlite3.Connection, title: str) -> None:
    connection.execute("INSERT INTO destinations VALUES (?, 0, 0, 0, 0, '')", (title,))


def titles(connection: sqlite3.Connection) -> list[str]:
    return [row[0] for row in connection.execute("SELECT title FROM destinations ORDER BY title")]


def seen_from_outside(ledger: Ledger) -> list[str]:
    with sqlite3.connect(f"{ledger.path.as_uri()}?mode=ro", uri=True) as connection:
        found = titles(connection)
    connection.close()
    return found


async def test_what_a_call_wrote_is_in_the_file_when_it_returns(ledger: Ledger) -> None:
    await ledger.run(lambda connection: insert(connection, "PACS"))
    assert seen_from_outside(ledger) == ["PACS"]


async def test_calls_that_wait_together_share_one_commit(ledger: Ledger) -> None:
    statements: list[str] = []
    await ledger.run(lambda connection: connection.set_trace_callback(statements.append))
    gate = asyncio.Event()
    loop = asyncio.get_running_loop()
    statements.clear()

    def slow(connection: sqlite3.Connection) -> None:
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(30)

    first = ledger.run(slow)
    rest = [ledger.run(lambda connection, n=n: insert(connection, f"PACS{n}")) for n in range(50)]  # type: ignore[misc]  # a default argument binds n
    waiting = asyncio.gather(first, *rest)
    loop.call_soon(gate.set)
    await waiting
    assert statements.count("COMMIT") == 1
    assert len(seen_from_outside(ledger)) == 50


async def test_a_call_that_fails_undoes_only_what_it_did_itself(ledger: Ledger) -> None:
    def fails(connection: sqlite3.Connection) -> None:
        insert(connection, "LOST")
        raise ValueError("no")

    results = await asyncio.gather(
        ledger.run(lambda connection: insert(connection, "A")),
        ledger.run(fails),
        ledger.run(lambda connection: insert(connection, "B")),
        return_exceptions=True,
    )
    assert isinstance(results[1], ValueError)
    assert seen_from_outside(ledger) == ["A", "B"]


async def test_a_row_that_is_there_already_is_the_callers_error(ledger: Ledger) -> None:
    await ledger.run(lambda connection: insert(connection, "A"))
    with pytest.raises(sqlite3.IntegrityError):
        await ledger.run(lambda connection: insert(connection, "A"))


async def test_a_full_disk_is_said_and_the_ledger_stays_usable(tmp_path: Path) -> None:
    broken: list[sqlite3.Error] = []
    ledger = Ledger.open(tmp_path / "ledger.db", on_broken=broken.append)

    def limit(connection: sqlite3.Connection, pages: int) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    await ledger.run(lambda connection: insert(connection, "BEFORE"))
    pages = await ledger.read(lambda connection: connection.execute("PRAGMA page_count").fetchone()[0])
    await ledger.run(lambda connection: limit(connection, pages))
    with pytest.raises(NoRoom):
        await ledger.run(lambda connection: insert(connection, "X" * 1_000_000))
    assert await ledger.read(titles) == ["BEFORE"]
    await ledger.run(lambda connection: limit(connection, 1_000_000))
    await ledger.run(lambda connection: insert(connection, "LATER"))
    assert seen_from_outside(ledger) == ["BEFORE", "LATER"]
    assert broken == []
    await ledger.close()


async def test_a_commit_that_fails_is_everybodys_failure_and_the_next_one_works(tmp_path: Path) -> None:
    broken: list[sqlite3.Error] = []
    ledger = Ledger.open(tmp_path / "ledger.db", on_broken=broken.append)
    await ledger.run(lambda connection: connection.execute("PRAGMA busy_timeout = 0") and None)
    other = sqlite3.connect(ledger.path, isolation_level=None)
    other.execute("BEGIN")
    other.execute("SELECT * FROM destinations").fetchall()  # a reader from outside: nobody can commit meanwhile
    results = await asyncio.gather(
        *(ledger.run(lambda connection, t=t: insert(connection, t)) for t in "AB"),  # type: ignore[misc]  # binds t
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [SpoolFailed, SpoolFailed]
    other.execute("COMMIT")
    other.close()
    await ledger.run(lambda connection: insert(connection, "C"))
    assert seen_from_outside(ledger) == ["C"]
    assert broken
    await ledger.close()


async def test_what_waits_at_closing_is_still_done(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger.db")
    waiting = asyncio.gather(*(ledger.run(lambda connection, n=n: insert(connection, str(n))) for n in range(9)))  # type: ignore[misc]  # binds n
    await asyncio.gather(waiting, ledger.close())
    assert len(seen_from_outside(ledger)) == 9
    with pytest.raises(SpoolFailed, match="closed"):
        await ledger.run(titles)


def test_a_damaged_ledger_is_refused_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "ledger.db").write_bytes(b"this was a database" * 1000)
    with pytest.raises(OperatorError) as refusal:
        Ledger.open(tmp_path / "ledger.db")
    assert "damaged" in str(refusal.value)
    assert "bundles" in refusal.value.hint


async def test_a_page_that_was_overwritten_is_found_at_opening(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger.db")
    for number in range(200):
        await ledger.run(lambda connection, n=number: insert(connection, f"PACS{n}"))  # type: ignore[misc]  # binds n
    await ledger.close()
    content = bytearray(ledger.path.read_bytes())
    page = int.from_bytes(content[16:18], "big")
    content[page : len(content)] = b"\xff" * (len(content) - page)
    ledger.path.write_bytes(content)
    with pytest.raises(OperatorError, match="damaged"):
        Ledger.open(ledger.path)


def test_a_ledger_of_a_newer_release_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "ledger.db") as connection:
        connection.execute("PRAGMA user_version = 1000")
    connection.close()
    with pytest.raises(OperatorError, match="newer release"):
        Ledger.open(tmp_path / "ledger.db")


async def test_a_commit_survives_a_power_cut(ledger: Ledger) -> None:
    def pragmas(connection: sqlite3.Connection) -> tuple[str, int]:
        return (
            connection.execute("PRAGMA journal_mode").fetchone()[0],
            connection.execute("PRAGMA synchronous").fetchone()[0],
        )

    assert await ledger.read(pragmas) == ("persist", 3)
