"""The ledger's file: SQLite on one thread, where all that waits at the same time shares one commit.

Write-ahead log and synchronous FULL: a commit survives a power cut, for one fdatasync. Releases of SQLite before 3.51.3
can damage such a log when two connections use it at the same time; so this one locks the file for itself, as long as
it is open, and there is no second.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self, TypeVar

import structlog

from isthmus.errors import OperatorError
from isthmus.router.queued.ledger.schema import STEPS
from isthmus.router.queued.trouble import NoRoom, SpoolFailed

MOST_TOGETHER: Final = 256  # calls in one commit; the first of them waits for the last
_CACHE_KIBIBYTES: Final = 16 * 1024
_LOST: Final = "put back the newest backup of it, or move it away: it is then made again from the spool's bundles"

_log = structlog.get_logger()

T = TypeVar("T")


@dataclass(slots=True)
class _Call:
    work: Callable[[sqlite3.Connection], Any]
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    writes: bool = True
    result: Any = None
    error: Exception | None = None


class Ledger:
    """What a Router must know of queued objects after a power cut. All SQL runs on one thread of its own.

    `run` and `read` are called on an event loop; everything else about them is safe from anywhere.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection, on_broken: Callable[[sqlite3.Error], None]) -> None:
        self.path: Final = path
        self._connection = connection
        self._on_broken = on_broken
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._serve, name="ledger", daemon=True)
        self._thread.start()

    @classmethod
    def open(cls, path: Path, *, on_broken: Callable[[sqlite3.Error], None] | None = None) -> Self:
        """Open or create the ledger.

        `on_broken` is told on the ledger's thread of each commit that failed for another reason than a full disk;
        default: it is logged. Raises OperatorError if the file is damaged or was written by a newer release.
        """
        path.touch(mode=0o600)
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA temp_store = MEMORY")  # of what a savepoint may have to put back
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIBIBYTES}")
            if (found := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(found)
            _upgrade(connection, path)
        except sqlite3.OperationalError as error:
            connection.close()
            raise OperatorError(f"{path} cannot be opened: {error}", hint="look at its disk and its owner") from error
        except sqlite3.DatabaseError as error:
            connection.close()
            raise OperatorError(f"{path} is damaged: {error}", hint=_LOST) from error
        except BaseException:
            connection.close()
            raise
        return cls(path, connection, on_broken or _say_broken)

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on the ledger's thread and return what it returned, once that is durable.

        It shares a transaction with whatever else waits, inside a savepoint: if it raises, only what it did itself is
        undone, and the error comes out here. It must not commit. Cancelling does not undo it. Raises NoRoom if the
        disk is full and SpoolFailed if the commit failed otherwise; nothing of the work is kept then.
        """
        return await self._ask(work, writes=True)

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work`, which changes nothing, and return what it returned. What it saw is durable by then."""
        return await self._ask(work, writes=False)

    async def _ask(self, work: Callable[[sqlite3.Connection], T], *, writes: bool) -> T:
        if self._closed:
            raise SpoolFailed("the ledger is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()
        self._calls.put(_Call(work, loop, future, writes))
        return await future

    async def close(self) -> None:
        """Finish what waits and let go of the file."""
        if self._closed:
            return
        self._closed = True
        self._calls.put(None)
        await asyncio.to_thread(self._thread.join)
        self._connection.close()

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            batch = [call]
            last = False
            if call.writes:
                last = self._perform(call, batch)
            else:
                self._look(call)
            _answer(batch)
            if last:
                return

    def _perform(self, call: _Call, batch: list[_Call]) -> bool:
        """Run `call` and what else waits, adding that to `batch`; return whether the ledger is to close."""
        last = False
        try:
            self._connection.execute("BEGIN")
            self._run(call)
            while len(batch) < MOST_TOGETHER:
                try:
                    more = self._calls.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    last = True
                    break
                batch.append(more)
                self._run(more)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._fail(batch, error)
        return last

    def _look(self, call: _Call) -> None:
        """Run one call that changes nothing."""
        try:
            call.result = call.work(self._connection)
        except Exception as error:  # noqa: BLE001 - it is the caller's, who gets it
            call.error = _translate(error)

    def _run(self, call: _Call) -> None:
        """Run one call, in its savepoint if it writes. Raises sqlite3.Error if the whole transaction is lost."""
        if not call.writes:
            self._look(call)
            return
        self._connection.execute("SAVEPOINT one")
        try:
            call.result = call.work(self._connection)
        except Exception as error:  # noqa: BLE001 - it is the caller's, who gets it
            call.error = _translate(error)
            if not self._connection.in_transaction:  # SQLite ends it by itself when the disk is full
                raise (error if isinstance(error, sqlite3.Error) else sqlite3.OperationalError("rolled back")) from None
            self._connection.execute("ROLLBACK TO one")
        self._connection.execute("RELEASE one")

    def _fail(self, batch: list[_Call], error: sqlite3.Error) -> None:
        translated = _translate(error)
        for call in batch:
            call.error = translated
        if self._connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):  # what cannot be rolled back now is, when the file is next locked
                self._connection.execute("ROLLBACK")
        if not isinstance(translated, NoRoom):
            self._on_broken(error)


def _answer(batch: list[_Call]) -> None:
    """Hand out the results, with one wake-up for each loop that waits."""
    loops: dict[asyncio.AbstractEventLoop, list[_Call]] = {}
    for call in batch:
        loops.setdefault(call.loop, []).append(call)
    for loop, calls in loops.items():
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_resolve, calls)


def _resolve(calls: list[_Call]) -> None:
    for call in calls:
        if call.future.done():  # cancelled
            continue
        if call.error is not None:
            call.future.set_exception(call.error)
        else:
            call.future.set_result(call.result)


def _translate(error: Exception) -> Exception:
    """Return what the caller sees of an error: those of the storage by the spool's names, all others as they are."""
    if not isinstance(error, sqlite3.Error) or isinstance(error, sqlite3.ProgrammingError | sqlite3.IntegrityError):
        return error
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_IOERR) & 0xFF  # the primary code
    if code == sqlite3.SQLITE_FULL:
        return NoRoom("no room for the ledger", hint="make room on the disk that holds the data folder")
    if code == sqlite3.SQLITE_ERROR:  # SQL that is wrong: a bug here
        return error
    return SpoolFailed(f"the ledger did not keep what it was given: {error}", hint="look at the disk that holds it")


def _say_broken(error: sqlite3.Error) -> None:
    _log.error("the ledger could not be written", error=str(error))


def _upgrade(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > len(STEPS):
        raise OperatorError(f"{path} was written by a newer release", hint="install that release again")
    for number in range(version, len(STEPS)):
        connection.executescript(f"BEGIN IMMEDIATE; {STEPS[number]} PRAGMA user_version = {number + 1}; COMMIT;")
