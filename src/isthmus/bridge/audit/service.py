"""The audit of sessions, written behind: no session waits for it, and a crash loses at most the last moments of it."""

import asyncio
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Final

import structlog
from sqlalchemy import case, func, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError

from isthmus.bridge.audit.models import SessionRow
from isthmus.bridge.database import Database, to_micros, to_seconds
from isthmus.errors import ProviderTrouble

_log = structlog.get_logger()
_BATCH_SECONDS: Final = 0.5
_RETRY_SECONDS: Final = 5.0
_MOST_WAITING: Final = 100_000  # rows kept in memory while the database takes none


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One session: who, when (Unix seconds), how it ended, payload bytes as seen by the initiator, cloud pair."""

    session_id: bytes
    from_site: str
    to_site: str
    calling: str
    called: str
    started: float
    ended: float | None
    outcome: str
    bytes_out: int
    bytes_in: int
    provider: str = ""


class Audit:
    """Session rows: recorded at once in memory, on disk a moment later."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: dict[bytes, AuditEntry] = {}
        self._something = asyncio.Event()

    def record(self, entry: AuditEntry) -> None:
        """Keep the newest state of a session."""
        if len(self._waiting) >= _MOST_WAITING and entry.session_id not in self._waiting:
            _log.error("audit row dropped", waiting=len(self._waiting))
            return
        self._waiting[entry.session_id] = entry
        self._something.set()

    async def run(self) -> None:
        """Write what was recorded, in batches, until cancelled."""
        while True:
            await self._something.wait()
            await asyncio.sleep(_BATCH_SECONDS)
            try:
                await self.flush()
            except (SQLAlchemyError, ProviderTrouble) as error:
                _log.error("audit not written", error=repr(error))
                await asyncio.sleep(_RETRY_SECONDS)

    async def flush(self) -> None:
        """Write everything recorded so far."""
        self._something.clear()
        batch, self._waiting = self._waiting, {}
        if not batch:
            return
        try:
            async with self._database.transaction() as session:
                insert = (postgresql if self._database.is_shared else sqlite).insert(SessionRow)
                await session.execute(_or_update(insert, shared=self._database.is_shared), _ordered(batch.values()))
        except BaseException:
            self._waiting = batch | self._waiting
            self._something.set()
            raise

    async def newest(self, limit: int) -> list[AuditEntry]:
        """Return the newest sessions, those not yet on disk included."""
        await self.flush()
        async with self._database.transaction() as session:
            rows = await session.scalars(select(SessionRow).order_by(SessionRow.started.desc()).limit(limit))
            return [_entry(row) for row in rows]


def _ordered(entries: Iterable[AuditEntry]) -> list[dict[str, Any]]:
    """Return the rows as they are written: by id, so that two Bridges never wait for each other."""
    return [
        {
            **asdict(entry),
            "started": to_micros(entry.started),
            "ended": None if entry.ended is None else to_micros(entry.ended),
        }
        for entry in sorted(entries, key=lambda entry: entry.session_id)
    ]


def _or_update(insert: postgresql.Insert | sqlite.Insert, *, shared: bool) -> postgresql.Insert | sqlite.Insert:
    """Return what joins a row with the one that is there: its first end stays, and counts never shrink.

    With several Bridges one may say that a session began after another has said that it is over; and that it was lost,
    while another still hears of it.
    """
    new = insert.excluded
    open_ended = SessionRow.ended.is_(None) | ((SessionRow.outcome == "lost") & new.ended.is_not(None))
    larger = func.greatest if shared else func.max
    return insert.on_conflict_do_update(
        index_elements=[SessionRow.session_id],
        set_={
            "outcome": case((open_ended, new.outcome), else_=SessionRow.outcome),
            "ended": case((open_ended, new.ended), else_=SessionRow.ended),
            "bytes_out": larger(SessionRow.bytes_out, new.bytes_out),
            "bytes_in": larger(SessionRow.bytes_in, new.bytes_in),
        },
    )


def _entry(row: SessionRow) -> AuditEntry:
    return AuditEntry(
        session_id=row.session_id,
        from_site=row.from_site,
        to_site=row.to_site,
        calling=row.calling,
        called=row.called,
        started=to_seconds(row.started),
        ended=None if row.ended is None else to_seconds(row.ended),
        outcome=row.outcome,
        bytes_out=row.bytes_out,
        bytes_in=row.bytes_in,
        provider=row.provider,
    )
