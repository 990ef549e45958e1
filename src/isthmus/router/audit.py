"""The audit of a Router: who reached what, when and how it ended, and every change an operator made.

Rows hold titles, sites, service names, counts and outcomes; never a UID of an instance, never dataset content.
Associations are written in batches off the event loop, so that the data path waits for no disk.
"""

import asyncio
import contextlib
import dataclasses
import sqlite3
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

import structlog

from isthmus.kit.clock import Clock
from isthmus.kit.tasks import Tasks
from isthmus.router.routing.records import DAY
from isthmus.router.routing.store import Store

_log = structlog.get_logger()

_BATCH_SECONDS: Final = 1.0  # what a power cut can take from the audit of associations; changes are written at once
_MOST_WAITING: Final = 100_000  # rows, some 50 MB: a disk that hangs for hours must not take the memory with it
_MOST_TEXT: Final = 200


class AuditEvent(StrEnum):
    """What an audit row is about."""

    OPENED = "opened"
    REFUSED = "refused"
    ENDED = "ended"
    CHANGED = "changed"
    LOOKED = "looked"
    ALERT = "alert"


@dataclass(frozen=True, slots=True)
class AuditRow:
    """One row. `at` in Unix seconds, `session` the hexadecimal session id, if there is one.

    `mode` is how an association's objects go on: "live" or "queued"; empty in other rows.
    """

    at: float
    what: AuditEvent
    actor: str = ""
    calling: str = ""
    called: str = ""
    site: str = ""
    services: str = ""
    outcome: str = ""
    bytes_out: int = 0
    bytes_in: int = 0
    seconds: float = 0.0
    session: str = ""
    mode: str = ""


class Parties(Protocol):
    """Who talks to whom; `far_site` is None within one site."""

    @property
    def calling(self) -> str:
        """The calling network title."""
        ...

    @property
    def called(self) -> str:
        """The called network title."""
        ...

    @property
    def far_site(self) -> str | None:
        """The other site."""
        ...


class Relayed(Protocol):
    """What the audit asks of a live association."""

    @property
    def session_id(self) -> bytes:
        """Its id."""
        ...

    @property
    def parties(self) -> Parties | None:
        """Who talks; None if that was never known."""
        ...

    @property
    def started(self) -> float:
        """When it began, in Unix seconds."""
        ...

    @property
    def services(self) -> Sequence[str]:
        """Names of the services it uses."""
        ...

    @property
    def mode(self) -> str:
        """How what it carries goes on."""
        ...

    @property
    def bytes_out(self) -> int:
        """Bytes to the far side."""
        ...

    @property
    def bytes_in(self) -> int:
        """Bytes from the far side."""
        ...


class Audit:
    """Append-only: the database itself refuses to change a row, or to delete one before its time."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._waiting: list[AuditRow] = []
        self._lost = 0
        self._wake = asyncio.Event()

    # -- what happened

    def opened(self, session: Relayed) -> None:
        """An association was accepted by the far device and is relayed from now on."""
        self._note(self._of_session(AuditEvent.OPENED, session, ""))

    def association(self, session: Relayed, *, outcome: str) -> None:
        """An association is over."""
        self._note(self._of_session(AuditEvent.ENDED, session, outcome))

    def refused(self, *, calling: str, called: str, outcome: str, site: str = "", session_id: bytes = b"") -> None:
        """An association was refused: `outcome` says why, in the words of the refusal."""
        self._note(
            AuditRow(
                self._clock.now(),
                AuditEvent.REFUSED,
                calling=calling,
                called=called,
                site=site,
                outcome=outcome,
                session=session_id.hex(),
            )
        )

    def changed(self, operation: str, detail: str, *, actor: str = "operator", site: str = "") -> None:
        """An operator changed something; durable when this returns."""
        now = self._clock.now()
        self._note(AuditRow(now, AuditEvent.CHANGED, actor=actor, site=site, services=operation, outcome=detail))
        self.flush()

    def looked(self, operation: str, detail: str, *, actor: str = "operator") -> None:
        """An operator looked at what is known of studies; `detail` names none of it. Durable when this returns."""
        self._note(AuditRow(self._clock.now(), AuditEvent.LOOKED, actor=actor, services=operation, outcome=detail))
        self.flush()

    def alert(self, site: str, text: str) -> None:
        """Something came that should not have: it is logged too, since somebody should look."""
        _log.error("alert", site=site, text=text)
        self._note(AuditRow(self._clock.now(), AuditEvent.ALERT, site=site, outcome=text))

    # -- writing and reading

    def flush(self) -> None:
        """Write what waits; durable when this returns. Any thread may call.

        Raises sqlite3.Error if it cannot be written; then it goes on waiting.
        """
        rows, self._waiting = self._waiting, []
        if self._lost:
            _log.error("audit rows were lost while the disk was too slow", count=self._lost)
            self._lost = 0
        try:
            if rows:
                self._insert(rows)
        except sqlite3.Error:
            self._waiting[:0] = rows  # a disk that is full now may have room later
            raise

    def rows(self, limit: int = 100) -> list[AuditRow]:
        """Return the newest rows, the newest first."""
        self.flush()
        with self._store.transaction() as connection:
            found = connection.execute(
                "SELECT time, event, actor, calling, called, site, services, outcome, bytes_out, bytes_in, seconds,"
                " session, mode FROM audit ORDER BY audit_id DESC LIMIT ?",
                (limit,),
            ).fetchall()
        return [AuditRow(row[0], AuditEvent(row[1]), *row[2:]) for row in found]

    def prune(self) -> int:
        """Delete the rows that are older than the settings keep them; return how many."""
        oldest = self._clock.now() - self._store.settings().audit_days * DAY
        with self._store.transaction() as connection:
            return connection.execute("DELETE FROM audit WHERE time < ?", (oldest,)).rowcount

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write in batches in the background while the block runs, and the rest at its end."""
        tasks = Tasks("audit")
        tasks.spawn(self._write_batches(), name="write batches")
        try:
            yield
        finally:
            await tasks.close()
            self.flush()

    async def _write_batches(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(_BATCH_SECONDS)
            self._wake.clear()
            try:
                await asyncio.to_thread(self.flush)
            except sqlite3.Error as error:
                _log.error("the audit cannot be written", error=str(error))

    def _note(self, row: AuditRow) -> None:
        if len(self._waiting) >= _MOST_WAITING:
            self._lost += 1
            return
        self._waiting.append(row)
        self._wake.set()

    def _insert(self, rows: Iterable[AuditRow]) -> None:
        with self._store.transaction() as connection:
            connection.executemany(
                "INSERT INTO audit (time, event, actor, calling, called, site, services, outcome, bytes_out, bytes_in,"
                " seconds, session, mode) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [tuple(_tidy(value) for value in dataclasses.astuple(row)) for row in rows],
            )

    def _of_session(self, event: AuditEvent, session: Relayed, outcome: str) -> AuditRow:
        now, parties = self._clock.now(), session.parties
        return AuditRow(
            now,
            event,
            calling=parties.calling if parties else "",
            called=parties.called if parties else "",
            site=(parties.far_site or "") if parties else "",
            services=" ".join(session.services),
            outcome=outcome,
            bytes_out=session.bytes_out,
            bytes_in=session.bytes_in,
            seconds=max(0.0, round(now - session.started, 3)),
            session=session.session_id.hex(),
            mode=session.mode,
        )


def _tidy(value: object) -> object:
    """Return text without what a device may have put into a title to upset a terminal, and not without end."""
    if isinstance(value, str):
        return "".join(character if character.isprintable() else "?" for character in value[:_MOST_TEXT])
    return value
