"""The queue as people look at it: for each study and destination how much is delivered, where the rest is, and why.

Reads the ledger only. Every function takes a connection and is for `Ledger.read`; none takes longer than some ten
milliseconds with a hundred thousand objects, since all of them go along indexes and stop at `most` studies.
"""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from isthmus.router.queued.ledger.records import CopyState

OPEN: Final = (CopyState.WAITING, CopyState.POSTED, CopyState.RECEIVED, CopyState.HELD)
_RATE_SECONDS: Final = 600.0  # how far back deliveries say how fast it goes
_RATE_COPIES: Final = 200
_LEAST_FOR_RATE: Final = 3
_TOGETHER: Final = 500  # studies in one query
_LINES: Final = (
    "SELECT g.study_id, g.destination, g.state, g.count, g.first, c.calling, c.site, c.reason, c.status, c.since,"
    " c.next_try, c.priority FROM (SELECT study_id, destination, state, COUNT(*) AS count, MIN(copy_id) AS first"
    " FROM copies WHERE study_id {} GROUP BY study_id, destination, state) AS g"
    " JOIN copies AS c ON c.copy_id = g.first ORDER BY g.destination, g.state"
)


@dataclass(frozen=True, slots=True)
class Oldest:
    """The copy that has been longest in its state: for what is said of all that are with it there."""

    calling: str
    site: str | None
    reason: str
    status: int | None
    since: float
    next_try: float
    priority: int


@dataclass(slots=True)
class Line:
    """One study on its way to one destination.

    Attributes:
        study_id: None: the objects whose study could not be read, all together.
        destination: network title.
        counts: copies in each state.
        oldest: of each state.
        first: number of the first copy: what is older goes first.
        expected: when the last of it is delivered, if it goes on as lately (Unix seconds); None: nobody can say.
    """

    study_id: int | None
    destination: str
    counts: dict[CopyState, int] = field(default_factory=dict)
    oldest: dict[CopyState, Oldest] = field(default_factory=dict)
    first: int = 0
    expected: float | None = None

    @property
    def total(self) -> int:
        """Copies that are to be delivered or were."""
        return sum(count for state, count in self.counts.items() if state is not CopyState.CANCELLED)

    @property
    def left(self) -> int:
        """Copies that are under way without anybody having to do something."""
        return self.total - self.counts.get(CopyState.DELIVERED, 0) - self.counts.get(CopyState.HELD, 0)

    @property
    def any(self) -> Oldest:
        """The copy that says most: one that is held, else one that waits, and so on."""
        order = (CopyState.HELD, *OPEN[:3], CopyState.DELIVERED, CopyState.CANCELLED)
        return next(self.oldest[state] for state in order if state in self.oldest)


@dataclass(frozen=True, slots=True)
class StudyRow:
    """A study's own row; `sealed` is for StudySealer.open."""

    study_id: int
    study_mac: bytes
    sealed: bytes = field(repr=False)
    first: float
    last: float
    erase_after: float | None


@dataclass(frozen=True, slots=True)
class Held:
    """Copies that are held for the same reason. `comment`: a device's own words, sealed under the spool's secret."""

    destination: str
    reason: str
    status: int | None
    comment: bytes | None = field(repr=False)
    count: int
    since: float


@dataclass(frozen=True, slots=True)
class Outage:
    """A device of ours that does not take objects now."""

    since: float
    next_probe: float
    reason: str


def active(connection: sqlite3.Connection, *, most: int) -> list[int]:
    """Return the studies of which something is under way or held, the newest first."""
    rows = connection.execute(
        "SELECT study_id FROM studies WHERE erase_after IS NULL ORDER BY last DESC LIMIT ?", (most,)
    )
    return [row[0] for row in rows]


def recent(connection: sqlite3.Connection, *, most: int) -> list[int]:
    """Return all studies that are not erased yet, the newest first."""
    return [row[0] for row in connection.execute("SELECT study_id FROM studies ORDER BY last DESC LIMIT ?", (most,))]


def how_many(connection: sqlite3.Connection, *, done: bool) -> int:
    """Return how many studies there are, those that are `done` counted or not."""
    sql = "SELECT COUNT(*) FROM studies" if done else "SELECT COUNT(*) FROM studies WHERE erase_after IS NULL"
    return int(connection.execute(sql).fetchone()[0])


def study_rows(connection: sqlite3.Connection, study_ids: Sequence[int]) -> dict[int, StudyRow]:
    """Return the rows of these studies, as far as there are any."""
    found = {}
    for study_id in study_ids:
        row = connection.execute(
            "SELECT study_id, study_mac, sealed, first, last, erase_after FROM studies WHERE study_id = ?", (study_id,)
        ).fetchone()
        if row is not None:
            found[study_id] = StudyRow(*row)
    return found


def lines(connection: sqlite3.Connection, study_ids: Sequence[int | None], now: float) -> list[Line]:
    """Return a line for each destination of each of these studies, in their order. `now` in Unix seconds."""
    found = _lines_of(connection, study_ids)
    _estimate(connection, found, now)
    return found


def held(connection: sqlite3.Connection, study_id: int | None, *, most: int) -> list[Held]:
    """Return why copies of a study are held: a row for each reason, status and device's comment."""
    rows = connection.execute(
        "SELECT destination, reason, status, comment, 1, since FROM copies WHERE study_id IS ? AND state = 'held'",
        (study_id,),
    )
    together: dict[tuple[Any, ...], Held] = {}
    for row in rows:
        one = Held(*row)
        key = (one.destination, one.reason, one.status)
        known = together.get(key)
        if known is None and len(together) == most:
            continue
        count, since = (known.count, known.since) if known else (0, one.since)
        together[key] = Held(
            *key, comment=one.comment if known is None else known.comment, count=count + 1, since=min(since, one.since)
        )
    return list(together.values())


def repeats(connection: sqlite3.Connection, study_id: int | None) -> dict[str, int]:
    """Return for each destination how many delivered objects it may have got twice, or said that it had already."""
    rows = connection.execute(
        "SELECT destination, COUNT(*) FROM copies WHERE study_id IS ? AND state = 'delivered' AND flagged"
        " GROUP BY destination",
        (study_id,),
    )
    return dict(rows.fetchall())


def outages(connection: sqlite3.Connection) -> dict[str, Outage]:
    """Return the devices of ours that do not take objects now, by network title."""
    rows = connection.execute("SELECT title, since, next_probe, reason FROM destinations WHERE down")
    return {row[0]: Outage(*row[1:]) for row in rows}


def _lines_of(connection: sqlite3.Connection, study_ids: Sequence[int | None]) -> list[Line]:
    """Return the lines of studies, many to a query: a query for each would take longer than what it finds."""
    found: dict[int | None, dict[str, Line]] = {study_id: {} for study_id in study_ids}
    known = [study_id for study_id in found if study_id is not None]
    asked = [(_marks(some), some) for some in (known[at : at + _TOGETHER] for at in range(0, len(known), _TOGETHER))]
    if None in found:
        asked.append(("IS NULL", []))
    for which, values in asked:
        for study_id, title, state_name, count, first, *oldest in connection.execute(_LINES.format(which), values):
            state = CopyState(state_name)
            line = found[study_id].setdefault(title, Line(study_id, title, first=first))
            line.counts[state] = count
            line.first = min(line.first, first)
            line.oldest[state] = Oldest(*oldest)
    return [line for by_title in found.values() for line in by_title.values()]


def _marks(values: Sequence[object]) -> str:
    return f"IN ({', '.join('?' * len(values))})"


def _estimate(connection: sqlite3.Connection, found: Sequence[Line], now: float) -> None:
    rates: dict[tuple[str, str | None], float] = {}
    ahead: dict[tuple[str, str | None], int] = {}
    for line in sorted(found, key=lambda line: (-line.any.priority, line.first)):
        if not line.left:
            continue
        way = (line.destination, line.any.site)
        if way not in rates:
            rates[way] = _rate(connection, *way, now)
        ahead[way] = ahead.get(way, 0) + line.left
        if rates[way]:
            line.expected = now + ahead[way] / rates[way]


def _rate(connection: sqlite3.Connection, destination: str, site: str | None, now: float) -> float:
    """Return how many copies a second have been delivered there lately; 0 if too few were to say."""
    rows = connection.execute(
        "SELECT since FROM copies WHERE destination = ? AND site IS ? AND state = 'delivered'"
        " ORDER BY priority, copy_id DESC LIMIT ?",
        (destination, site, _RATE_COPIES),
    )
    times = [float(row[0]) for row in rows if now - _RATE_SECONDS <= row[0] <= now]
    if len(times) < _LEAST_FOR_RATE:
        return 0.0
    return len(times) / max(now - min(times), 1.0)
