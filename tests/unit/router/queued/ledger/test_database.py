"""The ledger: what a call returned is durable, a call that fails undoes only itself, and one commit serves many."""

import asyncio
import contextlib
import shutil
import sqlite3
import tempfile
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


def seen_after_a_crash(ledger: Ledger) -> list[str]:
    """Return the titles in a copy of the files as they are now: nobody else may open the ledger itself."""
    with tempfile.TemporaryDirectory() as folder:
        for path in ledger.path.parent.glob("ledger.db*"):
            shutil.copy(path, folder)
        with contextlib.closing(sqlite3.connect(Path(folder) / ledger.path.name)) as connection:
            return titles(connection)


async def test_what_a_call_wrote_is_in_the_file_when_it_returns(ledger: Ledger) -> None:
    await ledger.run(lambda connection: insert(connection, "PACS"))
    assert seen_after_a_crash(ledger) == ["PACS"]


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
    assert len(seen_after_a_crash(ledger)) == 50


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
    assert seen_after_a_crash(ledger) == ["A", "B"]


async def test_a_row_that_is_there_already_is_the_callers_error(ledger: Ledger) -> None:
    await ledger.run(lambda connection: insert(connection, "A"))
    with pytest.raises(sqlite3.IntegrityError):
        await ledger.run(lambda connection: insert(connection, "A"))


async def test_nobody_else_can_open_the_ledger_while_it_is_in_use(ledger: Ledger) -> None:
    await ledger.run(lambda connection: insert(connection, "PACS"))
    with contextlib.closing(sqlite3.connect(ledger.path, timeout=0)) as other, pytest.raises(sqlite3.OperationalError):
        titles(other)


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
    assert seen_after_a_crash(ledger) == ["BEFORE", "LATER"]
    assert broken == []
    await ledger.close()


async def test_a_commit_that_fails_is_everybodys_failure_and_the_next_one_works(tmp_path: Path) -> None:
    broken: list[sqlite3.Error] = []
    ledger = Ledger.open(tmp_path / "ledger.db", on_broken=broken.append)
    allowed = False

    def judge(action: int, operation: str | None, *_: object) -> int:
        ends = action == sqlite3.SQLITE_TRANSACTION and operation == "COMMIT"
        return sqlite3.SQLITE_DENY if ends and not allowed else sqlite3.SQLITE_OK

    ledger._connection.set_authorizer(judge)
    results = await asyncio.gather(
        *(ledger.run(lambda connection, t=t: insert(connection, t)) for t in "AB"),  # type: ignore[misc]  # binds t
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [SpoolFailed, SpoolFailed]
    allowed = True
    await ledger.run(lambda connection: insert(connection, "C"))
    assert seen_after_a_crash(ledger) == ["C"]
    assert broken
    await ledger.close()


async def test_what_waits_at_closing_is_still_done(tmp_path: Path) -> None:
    ledger = Ledger.open(tmp_path / "ledger.db")
    waiting = asyncio.gather(*(ledger.run(lambda connection, n=n: insert(connection, str(n))) for n in range(9)))  # type: ignore[misc]  # binds n
    await asyncio.gather(waiting, ledger.close())
    assert len(seen_after_a_crash(ledger)) == 9
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

    assert await ledger.read(pragmas) == ("wal", 2)
