"""What a person does to the copies of a study: send it first, hold, release, try again, cancel.

Functions for `Ledger.run`. A copy is acted on only where that still means something: what is on its way to another
site is that site's to stop, and is counted as `late`. Who sent us a copy is told what becomes of it by a receipt.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from isthmus.contract.letters import Receipt, ReceiptState
from isthmus.router.queued.ledger.records import CopyState

BY_HAND: Final = "held by hand"
"""Why a copy is held that a person holds; no other is released by `release`."""

_HELD_THERE: Final = "a person holds it there"
_CANCELLED_THERE: Final = "a person gave it up there"
_FIRST: Final = 100  # above what any route asks for by itself


@dataclass(slots=True)
class Acted:
    """What came of it.

    Attributes:
        count: copies that were acted on.
        late: copies that are on their way to another site already.
        bundles: which may be done now.
        titles: devices of ours for which something waits again, or in another order.
        away: whether something waits again, or in another order, for other sites, or a receipt is due to them.
    """

    count: int = 0
    late: int = 0
    bundles: set[int] = field(default_factory=set)
    titles: set[str] = field(default_factory=set)
    away: bool = False


@dataclass(frozen=True, slots=True)
class _Copy:
    copy_id: int
    bundle_id: int
    destination: str
    site: str | None
    state: CopyState
    envelope_id: bytes | None
    envelope_index: int | None
    far_router: str | None

    @property
    def is_leaving(self) -> bool:
        """Whether it stands in a manifest that is, or will be, with another site."""
        on_its_way = self.state in {CopyState.POSTED, CopyState.RECEIVED}
        return self.site is not None and (
            on_its_way or (self.state is CopyState.WAITING and self.envelope_index is not None)
        )


def first(connection: sqlite3.Connection, study_id: int | None, destination: str | None, now: float) -> Acted:
    """Let a study go before all others; one that was put first later goes before it."""
    del now
    copies = _copies(connection, study_id, destination, (CopyState.WAITING,))
    row = connection.execute("SELECT MAX(priority) FROM copies WHERE state = 'waiting'").fetchone()
    priority = max(_FIRST, (row[0] or 0) + 1)
    return _act(
        connection, copies, "UPDATE copies SET priority = ? WHERE copy_id = ? AND state = 'waiting'", (priority,)
    )


def retry(connection: sqlite3.Connection, study_id: int | None, destination: str | None, now: float) -> Acted:
    """Send again what is held for whatever reason, and at once what waits for its next try; tries count anew."""
    copies = _copies(connection, study_id, destination, (CopyState.HELD, CopyState.WAITING))
    acted = _act(
        connection,
        [copy for copy in copies if copy.state is CopyState.HELD],
        # one that another site holds goes again from here, in another envelope: that site takes it as one that it has
        "UPDATE copies SET state = 'waiting', since = ?, tries = 0, first_failed = NULL, next_try = 0, reason = '',"
        " envelope_id = CASE WHEN site IS NULL THEN envelope_id END,"
        " envelope_index = CASE WHEN site IS NULL THEN envelope_index END WHERE copy_id = ? AND state = 'held'",
        (now,),
    )
    acted.away |= _tell(connection, copies, ReceiptState.RECEIVED, "", now, only=CopyState.HELD)
    waiting = [copy for copy in copies if copy.state is CopyState.WAITING and copy.site is None]
    for copy in waiting:
        changed = connection.execute(
            "UPDATE copies SET next_try = 0 WHERE copy_id = ? AND state = 'waiting' AND next_try > ?",
            (copy.copy_id, now),
        ).rowcount
        acted.count += changed
    acted.titles |= {copy.destination for copy in waiting}
    return acted


def send_anew(connection: sqlite3.Connection, study_id: int | None, destination: str | None, now: float) -> Acted:
    """Do as `retry`, and send once more what another site has or should fetch: its Router lost it."""
    acted = retry(connection, study_id, destination, now)
    for copy in _copies(connection, study_id, destination, (CopyState.POSTED, CopyState.RECEIVED)):
        changed = connection.execute(
            "UPDATE copies SET state = 'waiting', since = ?, envelope_id = NULL, envelope_index = NULL, reason = '',"
            " flagged = 1 WHERE copy_id = ? AND site IS NOT NULL AND state IN ('posted', 'received')",
            (now, copy.copy_id),
        ).rowcount
        acted.count += changed
        acted.away |= bool(changed)
    return acted


def hold(connection: sqlite3.Connection, study_id: int | None, destination: str | None, now: float) -> Acted:
    """Keep back what has not left, until `release`."""
    copies = _copies(connection, study_id, destination, (CopyState.WAITING, CopyState.POSTED, CopyState.RECEIVED))
    acted = _act(
        connection,
        copies,
        "UPDATE copies SET state = 'held', reason = ?, since = ? WHERE copy_id = ? AND state = 'waiting'",
        (BY_HAND, now),
    )
    acted.away |= _tell(connection, copies, ReceiptState.HELD, _HELD_THERE, now, only=CopyState.WAITING)
    return acted


def release(connection: sqlite3.Connection, study_id: int | None, destination: str | None, now: float) -> Acted:
    """Let go on what was held by hand."""
    copies = _copies(connection, study_id, destination, (CopyState.HELD,), reason=BY_HAND)
    acted = _act(
        connection,
        copies,
        "UPDATE copies SET state = 'waiting', reason = '', since = ?, next_try = 0"
        " WHERE copy_id = ? AND state = 'held'",
        (now,),
    )
    acted.away |= _tell(connection, copies, ReceiptState.RECEIVED, "", now, only=CopyState.HELD)
    return acted


def cancel(connection: sqlite3.Connection, study_id: int | None, destination: str | None, now: float) -> Acted:
    """Give up what waits here or is held: it is never delivered, and its bytes go with its bundle."""
    copies = _copies(
        connection,
        study_id,
        destination,
        (CopyState.WAITING, CopyState.HELD, CopyState.POSTED, CopyState.RECEIVED),
    )
    acted = _act(
        connection,
        copies,
        "UPDATE copies SET state = 'cancelled', since = ? WHERE copy_id = ? AND state IN ('waiting', 'held')",
        (now,),
    )
    acted.away |= _tell(connection, copies, ReceiptState.HELD, _CANCELLED_THERE, now, only=None)
    return acted


def _copies(
    connection: sqlite3.Connection,
    study_id: int | None,
    destination: str | None,
    states: tuple[CopyState, ...],
    *,
    reason: str | None = None,
) -> list[_Copy]:
    found = []
    for state in states:
        rows = connection.execute(
            "SELECT c.copy_id, c.bundle_id, c.destination, c.site, c.envelope_id, c.envelope_index, b.far_router"
            " FROM copies AS c JOIN bundles AS b ON b.bundle_id = c.bundle_id"
            " WHERE c.study_id IS ?1 AND c.state = ?2 AND (?3 IS NULL OR c.destination = ?3)"
            " AND (?4 IS NULL OR c.reason = ?4)",
            (study_id, state.value, destination, reason),
        )
        found += [_Copy(row[0], row[1], row[2], row[3], state, row[4], row[5], row[6]) for row in rows]
    return found


def _act(connection: sqlite3.Connection, copies: Iterable[_Copy], sql: str, values: tuple[Any, ...]) -> Acted:
    acted = Acted()
    for copy in copies:
        if copy.is_leaving:
            acted.late += 1
            continue
        changed = connection.execute(sql, (*values, copy.copy_id)).rowcount
        acted.count += changed
        if changed:
            acted.bundles.add(copy.bundle_id)
            if copy.site is None:
                acted.titles.add(copy.destination)
            else:
                acted.away = True
    return acted


def _tell(
    connection: sqlite3.Connection,
    copies: Iterable[_Copy],
    state: ReceiptState,
    comment: str,
    now: float,
    *,
    only: CopyState | None,
) -> bool:
    """Owe the sender of what came in an envelope a receipt about it; return whether there is one to tell."""
    told = False
    for copy in copies:
        if copy.site is not None or copy.far_router is None or copy.envelope_id is None:
            continue
        if only is not None and copy.state is not only:
            continue
        receipt = Receipt(envelope_id=copy.envelope_id, index=copy.envelope_index, state=state, comment=comment, at=now)
        connection.execute(
            "INSERT INTO receipts_due (router_id, receipt) VALUES (?, ?)",
            (copy.far_router, receipt.to_payload().decode()),
        )
        told = True
    return told
