"""What became of objects, remembered: in a journal before the next object can arrive, in the ledger soon after.

The journal is written without waiting for the disk: it outlives this process, and that is what it is for. However
the process ends, at most one object of each association has an answer that nobody remembers, and that one is known.
After a power cut the ledger alone counts; it is some commits behind, never more than MOST_BEHIND objects.
"""

import asyncio
import base64
import contextlib
import json
import os
import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import structlog

from isthmus.router.queued.ledger import deliveries
from isthmus.router.queued.ledger.database import Ledger
from isthmus.router.queued.ledger.deliveries import DueCopy, Outcome
from isthmus.router.queued.ledger.records import CopyState
from isthmus.router.queued.trouble import NoRoom, SpoolFailed, from_os

_log = structlog.get_logger()

MOST_BEHIND: Final = 200
"""Objects that the ledger may be behind; whoever has more to record waits."""
GATHER_SECONDS: Final = 0.25
"""For which what ended waits for more to share its commit: the journal has it."""
AGAIN_SECONDS: Final = 5.0
_ROTATE_BYTES: Final = 1 << 20

Recorded = Callable[[Sequence[Outcome], Sequence[tuple[int, str]]], None]
"""Told what is in the ledger now, and which bundles (number, name) nobody needs any more."""


class Journal:
    """A file of lines in JSON: an object is being sent (`start`), or what came of it (`end`)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._handle: int | None = None
        self._size = 0
        self._under_way: dict[int, bytes] = {}  # lines of the copies that are being sent: started, and without an end

    def read(self) -> tuple[dict[int, dict[str, Any]], dict[int, dict[str, Any]]]:
        """Return the last end of each copy, and the starts of copies that were started since or never ended."""
        ends: dict[int, dict[str, Any]] = {}
        started: dict[int, dict[str, Any]] = {}
        try:
            lines = self._path.read_bytes().split(b"\n")[:-1]  # the last line is empty, or was not written to its end
        except FileNotFoundError:
            return ends, started
        except OSError as error:
            raise from_os(error, "reading the journal of deliveries") from error
        for line in lines:
            try:
                row = json.loads(line)
                copy_id = int(row["copy"])
            except (ValueError, KeyError, TypeError):
                continue  # torn by a power cut: the ledger counts
            if "state" in row:
                ends[copy_id] = row
                started.pop(copy_id, None)
            else:
                started[copy_id] = row
        return ends, started

    def start(self, copy: DueCopy) -> None:
        """Note that a copy is being sent. Raises NoRoom or SpoolFailed."""
        line = _line(_identity(copy))
        self._append(line)
        self._under_way[copy.copy_id] = line

    def end(self, outcome: Outcome) -> None:
        """Note what became of it. Raises NoRoom or SpoolFailed."""
        self._under_way.pop(outcome.copy.copy_id, None)
        sealed = None if outcome.sealed is None else base64.b64encode(outcome.sealed).decode()
        self._append(
            _line(
                {
                    **_identity(outcome.copy),
                    "state": outcome.state.value,
                    "at": outcome.at,
                    "status": outcome.status,
                    "sealed": sealed,
                    "reason": outcome.reason,
                    "tries": outcome.tries,
                    "first_failed": outcome.first_failed,
                    "next_try": outcome.next_try,
                    "flagged": outcome.flagged,
                }
            )
        )

    def shorten(self) -> None:
        """Begin anew with what is being sent: all ends are in the ledger. Does nothing while the file is small."""
        if self._size < _ROTATE_BYTES:
            return
        scratch = self._path.with_suffix(".new")
        try:
            scratch.write_bytes(b"".join(self._under_way.values()))
            self.close()
            scratch.replace(self._path)
        except OSError as error:  # it stays as long as it is
            _log.warning("the journal of deliveries could not be shortened", error=error.strerror)

    def clear(self) -> None:
        """Forget all: the ledger has it. Raises NoRoom or SpoolFailed."""
        self.close()
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            raise from_os(error, "clearing the journal of deliveries") from error

    def close(self) -> None:
        """Let go of the file."""
        handle, self._handle = self._handle, None
        self._size = 0
        if handle is not None:
            os.close(handle)

    def _append(self, line: bytes) -> None:
        try:
            if self._handle is None:
                self._handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
                self._size = os.fstat(self._handle).st_size
            if os.write(self._handle, line) != len(line):
                raise NoRoom("the journal of deliveries could not be written to its end")
        except OSError as error:
            raise from_os(error, "writing the journal of deliveries") from error
        self._size += len(line)


class Recorder:
    """Brings the journal's ends into the ledger, many in one commit."""

    def __init__(self, ledger: Ledger, journal: Journal, recorded: Recorded) -> None:
        self._ledger = ledger
        self._journal = journal
        self._recorded = recorded
        self._waiting: list[Outcome] = []
        self._writing: list[Outcome] = []
        self._some = asyncio.Event()
        self._many = asyncio.Event()
        self._fewer = asyncio.Event()
        self._fewer.set()

    async def replay(self) -> None:
        """Bring into the ledger what the last process left in the journal. Raises NoRoom or SpoolFailed."""
        ends, started = self._journal.read()

        def save(connection: sqlite3.Connection) -> list[tuple[int, str]]:
            outcomes, in_doubt = [], []
            for copy in deliveries.waiting_copies(connection, ends.keys() | started.keys()):
                end, start = ends.get(copy.copy_id), started.get(copy.copy_id)
                if end is not None and _is_of(end, copy) and end["at"] >= copy.since:
                    outcomes.append(_outcome(copy, end))
                elif end is not None and _has_object(end, copy) and end["state"] == CopyState.DELIVERED:
                    in_doubt.append(copy.copy_id)  # it was asked for again since
                if start is not None and _has_object(start, copy):
                    in_doubt.append(copy.copy_id)
            return deliveries.save(connection, outcomes, in_doubt)

        if ends or started:
            finished = await self._ledger.run(save)
            _log.info("deliveries of the last run recorded", ended=len(ends), in_doubt=len(started))
            self._recorded([], finished)
        self._journal.clear()

    def starting(self, copy: DueCopy) -> None:
        """Note that all of a copy's object is about to be with its device. Raises NoRoom or SpoolFailed."""
        self._journal.start(copy)

    def ended(self, outcome: Outcome) -> None:
        """Note what became of a copy; the ledger follows."""
        try:
            self._journal.end(outcome)
        except (NoRoom, SpoolFailed) as trouble:
            _log.error("the journal of deliveries cannot be written", reason=str(trouble))
        self._waiting.append(outcome)
        self._some.set()
        if len(self._waiting) >= MOST_BEHIND // 2:
            self._many.set()
        self._count()

    async def room(self) -> None:
        """Wait while the ledger is too far behind."""
        await self._fewer.wait()

    def behind(self) -> set[int]:
        """Return the copies of which something is known that is not in the ledger yet."""
        return {outcome.copy.copy_id for outcome in (*self._waiting, *self._writing)}

    async def run(self) -> None:
        """Write for ever. What cannot be written is tried again; nothing is forgotten meanwhile."""
        while True:
            await self._some.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GATHER_SECONDS):
                    await self._many.wait()
            try:
                await self.flush()
            except (NoRoom, SpoolFailed) as trouble:
                _log.error("what became of objects waits for the ledger", reason=str(trouble), count=len(self._waiting))
                await asyncio.sleep(AGAIN_SECONDS)

    async def flush(self) -> None:
        """Write what waits. Raises NoRoom or SpoolFailed; then it goes on waiting."""
        self._some.clear()
        self._many.clear()
        outcomes, self._waiting = self._waiting, []
        self._writing = outcomes
        try:
            finished = await self._ledger.run(lambda connection: deliveries.save(connection, outcomes))
        except BaseException:
            self._waiting[:0] = outcomes
            self._some.set()
            raise
        finally:
            self._writing = []
            self._count()
        if not self._waiting:
            self._journal.shorten()
        self._recorded(outcomes, finished)

    def _count(self) -> None:
        if len(self._waiting) + len(self._writing) >= MOST_BEHIND:
            self._fewer.clear()
        else:
            self._fewer.set()


def _identity(copy: DueCopy) -> dict[str, Any]:
    """Return what names a copy, whatever ledger it is in: a number alone may be another copy's in another ledger."""
    envelope = None if copy.envelope_id is None else copy.envelope_id.hex()
    return {"copy": copy.copy_id, "object": copy.object_id.hex(), "envelope": envelope}


def _is_of(row: dict[str, Any], copy: DueCopy) -> bool:
    return _identity(copy).items() <= row.items()


def _has_object(row: dict[str, Any], copy: DueCopy) -> bool:
    return row.get("object") == copy.object_id.hex()


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row).encode() + b"\n"


def _outcome(copy: DueCopy, row: dict[str, Any]) -> Outcome:
    return Outcome(
        copy,
        CopyState(row["state"]),
        row["at"],
        status=row["status"],
        sealed=None if row["sealed"] is None else base64.b64decode(row["sealed"]),
        reason=row["reason"],
        tries=row["tries"],
        first_failed=row["first_failed"],
        next_try=row["next_try"],
        flagged=row["flagged"],
    )
