"""Deliveries in the ledger: which copy comes next for a device of ours, and what became of those that were sent.

A copy for a device of ours has no site. The functions that take a connection run inside `Ledger.run` or
`Ledger.read`, in one transaction each.
"""

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from isthmus.contract.letters import Receipt, ReceiptState
from isthmus.router.queued.ledger.records import CopyState

JOURNAL: Final = "deliveries.log"
"""Name of the journal of deliveries, beside the ledger: it is about this ledger's copies."""
MOST_AHEAD: Final = 7 * 86_400.0
"""Seconds: a next try that lies further ahead than this was set by a clock that has been put back since."""

BARRIER_OPEN: Final = (  # no value is ever put into the text of a statement here, only names and constants
    "(c.kind <> 'commit' OR NOT EXISTS (SELECT 1 FROM copies AS e WHERE e.destination = c.destination"
    " AND e.site IS c.site AND e.state IN ('waiting', 'posted', 'received') AND e.calling = c.calling"
    " AND e.copy_id < c.copy_id))"
)
"""Condition on `copies AS c`: a request for storage commitment goes only when all that its sender queued before it is
delivered, held or cancelled."""


@dataclass(frozen=True, slots=True)
class DueCopy:
    """A copy that may be delivered now, and where its object is.

    Attributes:
        bundle: name of the bundle that holds the object's record, `length` bytes from `position` on.
        far_router: the Router that sent it; None: a device of this site did.
        tries: transient answers so far; `first_failed` is when the first of them came.
        flagged: it was sent before, and what became of that is not known.
        envelope_id: of the envelope it came in, with its place there; None if it did not come in one.
        payload: bytes of the data set.
        since: when it began to wait (Unix seconds).
    """

    copy_id: int
    object_id: bytes = field(repr=False)
    bundle_id: int
    bundle: str
    far_router: str | None
    calling: str
    kind: str
    tries: int
    first_failed: float | None
    flagged: bool
    envelope_id: bytes | None = field(repr=False)
    envelope_index: int | None
    position: int
    length: int
    payload: int
    sop_class: str
    transfer_syntax: str
    since: float

    @property
    def pair(self) -> tuple[str, str]:
        """Its abstract syntax and its transfer syntax."""
        return self.sop_class, self.transfer_syntax


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a copy that was sent, or could not be.

    Attributes:
        state: DELIVERED, HELD, or WAITING for one that is tried again at `next_try` (Unix seconds).
        status: the device's answer; None if there was none.
        comment: the device's own words, `sealed` for the ledger; they may name a patient.
        reason: why it is held or waits, in our words.
        flagged: the device may have it twice.
    """

    copy: DueCopy
    state: CopyState
    at: float
    status: int | None = None
    comment: str = field(default="", repr=False)
    sealed: bytes | None = field(default=None, repr=False)
    reason: str = ""
    tries: int = 0
    first_failed: float | None = None
    next_try: float = 0.0
    flagged: bool = False


@dataclass(frozen=True, slots=True)
class DestinationState:
    """Whether a device takes queued objects, as far as the last attempt says. `since`: Unix seconds."""

    title: str
    down: bool
    since: float
    next_probe: float
    failures: int
    reason: str


_WAITING: Final = (
    "SELECT c.copy_id, c.object_id, c.bundle_id, b.name, b.far_router, c.calling, c.kind, c.tries, c.first_failed,"
    " c.flagged, c.envelope_id, c.envelope_index, o.position, o.length, o.payload, o.sop_class, o.transfer_syntax,"
    " c.since"
    " FROM copies AS c JOIN objects AS o ON o.object_id = c.object_id JOIN bundles AS b ON b.bundle_id = c.bundle_id"
    " WHERE c.site IS NULL AND c.state = 'waiting'"
)
_COPIES: Final = _WAITING + " AND c.destination = ?"
_COPY: Final = _WAITING + " AND c.copy_id = ?"
_DUE: Final = _COPIES + " AND (c.next_try <= ? OR c.next_try > ?) AND " + BARRIER_OPEN
_ORDER: Final = " ORDER BY c.priority DESC, c.copy_id LIMIT ?"


def waiting_titles(connection: sqlite3.Connection) -> list[str]:
    """Return the network titles of devices of ours that something waits for."""
    rows = connection.execute("SELECT DISTINCT destination FROM copies WHERE site IS NULL AND state = 'waiting'")
    return [row[0] for row in rows]


def due(
    connection: sqlite3.Connection,
    destination: str,
    now: float,
    *,
    calling: str | None = None,
    but: Collection[str] = (),
    taken: Collection[int] = (),
    most: int,
) -> list[DueCopy]:
    """Return up to `most` copies that may be delivered to `destination` now: by priority, then the oldest first.

    `calling`: only of this sender. `but`: of none of these. `taken`: copies that are under way already.
    """
    sql, values = _DUE, [destination, now, now + MOST_AHEAD]
    if calling is not None:
        sql, values = sql + " AND c.calling = ?", [*values, calling]
    if but:
        sql, values = sql + f" AND c.calling NOT IN ({', '.join('?' * len(but))})", [*values, *but]
    rows = connection.execute(sql + _ORDER, [*values, most + len(taken)])
    return [_copy(row) for row in rows if row[0] not in taken][:most]


def next_try(connection: sqlite3.Connection, destination: str, now: float) -> float | None:
    """Return when the next copy of `destination` that waits for its next try may be sent (Unix seconds)."""
    (first,) = connection.execute(
        "SELECT MIN(next_try) FROM copies WHERE destination = ? AND site IS NULL AND state = 'waiting'"
        " AND next_try > ? AND next_try <= ?",
        (destination, now, now + MOST_AHEAD),
    ).fetchone()
    return None if first is None else float(first)


def waiting_copies(connection: sqlite3.Connection, copy_ids: Iterable[int]) -> list[DueCopy]:
    """Return those of these copies that wait for a device of ours."""
    rows = (connection.execute(_COPY, (copy_id,)).fetchone() for copy_id in copy_ids)
    return [_copy(row) for row in rows if row is not None]


def save(
    connection: sqlite3.Connection, outcomes: Iterable[Outcome], in_doubt: Iterable[int] = ()
) -> list[tuple[int, str]]:
    """Write what became of copies, and flag those `in_doubt`, which their device may have.

    What came in an envelope is due a receipt. Returns the bundles (number, name) of which every copy is done.
    """
    bundles = set()
    for outcome in outcomes:
        copy = outcome.copy
        changed = connection.execute(
            "UPDATE copies SET state = ?1, status = ?2, comment = ?3, reason = ?4, tries = ?5, first_failed = ?6,"
            " next_try = ?7, flagged = ?8, since = CASE WHEN state = ?1 THEN since ELSE ?9 END"
            " WHERE copy_id = ?10 AND (state = 'waiting' OR ?1 = 'delivered')",
            (
                outcome.state.value,
                outcome.status,
                outcome.sealed,
                outcome.reason,
                outcome.tries,
                outcome.first_failed,
                outcome.next_try,
                outcome.flagged,
                outcome.at,
                copy.copy_id,
            ),
        ).rowcount
        if changed and outcome.state is not CopyState.WAITING:
            bundles.add(copy.bundle_id)
            _receipt_due(connection, outcome)
    connection.executemany(
        "UPDATE copies SET flagged = 1 WHERE copy_id = ? AND state = 'waiting'", [(copy_id,) for copy_id in in_doubt]
    )
    return _finished(connection, sorted(bundles))


def held(copy: DueCopy, now: float, reason: str) -> Outcome:
    """Return that a copy waits for a person, for a reason of ours."""
    return Outcome(
        copy,
        CopyState.HELD,
        now,
        reason=reason,
        tries=copy.tries,
        first_failed=copy.first_failed,
        flagged=copy.flagged,
    )


def hold_expired(
    connection: sqlite3.Connection, destination: str, before: float, now: float, reason: str, *, most: int
) -> list[Outcome]:
    """Hold up to `most` copies that have waited for `destination` since before `before`; return them."""
    rows = connection.execute(_COPIES + " AND c.since < ? LIMIT ?", (destination, before, most)).fetchall()
    copies = [_copy(row) for row in rows]
    outcomes = [held(copy, now, reason) for copy in copies]
    save(connection, outcomes)
    return outcomes


def how_many_wait(connection: sqlite3.Connection, destination: str) -> int:
    """Return how many copies wait for a device of ours."""
    (count,) = connection.execute(
        "SELECT COUNT(*) FROM copies WHERE destination = ? AND site IS NULL AND state = 'waiting'", (destination,)
    ).fetchone()
    return int(count)


def destinations(connection: sqlite3.Connection) -> list[DestinationState]:
    """Return what is known of each destination."""
    rows = connection.execute("SELECT title, down, since, next_probe, failures, reason FROM destinations")
    return [DestinationState(row[0], bool(row[1]), *row[2:]) for row in rows]


def save_destination(connection: sqlite3.Connection, state: DestinationState) -> None:
    """Remember whether a device takes queued objects."""
    connection.execute(
        "REPLACE INTO destinations (title, down, since, next_probe, failures, reason) VALUES (?, ?, ?, ?, ?, ?)",
        (state.title, state.down, state.since, state.next_probe, state.failures, state.reason),
    )


def _copy(row: Sequence[Any]) -> DueCopy:
    values = list(row)
    values[9] = bool(values[9])
    return DueCopy(*values)


def _receipt_due(connection: sqlite3.Connection, outcome: Outcome) -> None:
    far_router = outcome.copy.far_router
    envelope_id, index = connection.execute(  # while it was sent, a newer envelope may have asked for it
        "SELECT envelope_id, envelope_index FROM copies WHERE copy_id = ?", (outcome.copy.copy_id,)
    ).fetchone()
    if envelope_id is None or far_router is None:
        return
    receipt = Receipt(
        envelope_id=envelope_id,
        index=index,
        state=ReceiptState.DELIVERED if outcome.state is CopyState.DELIVERED else ReceiptState.HELD,
        status=outcome.status,
        at=outcome.at,
        flagged=outcome.flagged,
    )
    connection.execute(
        "INSERT INTO receipts_due (router_id, receipt, comment) VALUES (?, ?, ?)",
        (far_router, receipt.to_payload().decode(), outcome.sealed),
    )


def _finished(connection: sqlite3.Connection, bundles: Sequence[int]) -> list[tuple[int, str]]:
    found = []
    for bundle_id in bundles:
        found += connection.execute(
            "SELECT bundle_id, name FROM bundles WHERE bundle_id = ? AND closed AND NOT gone AND NOT EXISTS"
            " (SELECT 1 FROM copies WHERE bundle_id = ? AND state IN ('waiting', 'posted', 'received', 'held'))",
            (bundle_id, bundle_id),
        ).fetchall()
    return found
