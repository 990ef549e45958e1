"""The studies in the ledger: noted when an object comes, found by keyed hashes, erased when they are done with."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog

from isthmus.envelope.records import ObjectMeta
from isthmus.kit.clock import Clock
from isthmus.router.queued.ledger.database import Ledger
from isthmus.router.queued.studies import StudyFields, StudyReader, StudySealer
from isthmus.router.queued.trouble import NoRoom, SpoolFailed
from isthmus.router.routing.records import DAY

_log = structlog.get_logger()

KEPT_SECONDS: Final = 7 * DAY
"""How long after its last delivery a study can still be looked up."""
ENVELOPES_KEPT_SECONDS: Final = 90 * DAY
"""How long the row of an envelope is kept at least: so late its receipts may come, or its letter once more."""

_SAME_SECONDS: Final = 2.0  # the time of a study's newest object is kept no more exactly: it is written less often
_EVERY_SECONDS: Final = 60.0
_BREATH_SECONDS: Final = 0.05


class StudyBook:
    """Notes the study of each object that enters the ledger; the hook of spool and inbox."""

    def __init__(self, sealer: StudySealer) -> None:
        self._sealer = sealer
        self._reader = StudyReader()

    def look(self, meta: ObjectMeta, head: bytes) -> StudyFields | None:
        """Return what the beginning of a data set says of its study; None of a request for storage commitment."""
        if meta.kind != "store":
            return None
        return self._reader.read(head, meta.transfer_syntax)

    def note(self, connection: sqlite3.Connection, looked: object, now: float) -> int | None:
        """Return the `study_id` of what `look` returned, inside the transaction in which the object gets its row."""
        return record_study(connection, self._sealer, looked, now) if isinstance(looked, StudyFields) else None


def record_study(connection: sqlite3.Connection, sealer: StudySealer, fields: StudyFields, now: float) -> int:
    """Return the `study_id` of the study, which is noted if it is new; call it inside the object's own transaction.

    `now` in Unix seconds. A study that was about to be erased is kept on: more of it has come.
    """
    mac = sealer.mac(fields.study_uid)
    found = connection.execute("SELECT study_id FROM studies WHERE study_mac = ?", (mac,)).fetchone()
    if found is not None:
        connection.execute(
            "UPDATE studies SET last = ?1, erase_after = NULL"
            " WHERE study_id = ?2 AND (last < ?1 - ?3 OR erase_after IS NOT NULL)",
            (now, found[0], _SAME_SECONDS),
        )
        return int(found[0])
    study_id = connection.execute(
        "INSERT INTO studies (study_mac, sealed, first, last) VALUES (?, ?, ?, ?)",
        (mac, sealer.seal(fields), now, now),
    ).lastrowid
    assert study_id is not None
    connection.executemany(
        "INSERT OR IGNORE INTO study_tokens (token, study_id) VALUES (?, ?)",
        [(token, study_id) for token in sealer.tokens(fields)],
    )
    return study_id


def find(connection: sqlite3.Connection, tokens: Sequence[bytes], *, most: int) -> list[int]:
    """Return the studies that have all of these tokens, the newest first."""
    if not tokens:
        return []
    same = " INTERSECT ".join(["SELECT study_id FROM study_tokens WHERE token = ?"] * len(tokens))
    rows = connection.execute(
        f"SELECT study_id FROM studies WHERE study_id IN ({same}) ORDER BY last DESC LIMIT ?",  # noqa: S608 - no values
        (*tokens, most),
    )
    return [row[0] for row in rows]


def by_mac(connection: sqlite3.Connection, prefix: str) -> list[int]:
    """Return the studies, two at the most, whose mac in hexadecimal starts with `prefix`."""
    low, high = prefix.ljust(64, "0"), prefix.ljust(64, "f")
    rows = connection.execute(
        "SELECT study_id FROM studies WHERE study_mac BETWEEN ? AND ? LIMIT 2",
        (bytes.fromhex(low), bytes.fromhex(high)),
    )
    return [row[0] for row in rows]


def settle(connection: sqlite3.Connection, now: float, *, most: int) -> int:
    """Give a date of erasure to up to `most` studies of which no copy is under way any more; return to how many."""
    return connection.execute(
        "UPDATE studies SET erase_after = ? WHERE study_id IN"
        " (SELECT study_id FROM studies AS s WHERE erase_after IS NULL AND NOT EXISTS (SELECT 1 FROM copies"
        " WHERE copies.study_id = s.study_id AND state NOT IN ('delivered', 'cancelled')) LIMIT ?)",
        (now + KEPT_SECONDS, most),
    ).rowcount


def erase(connection: sqlite3.Connection, now: float, *, most: int) -> int:
    """Erase up to `most` studies whose time has come, with what they were found by; return how many were looked at.

    A study of which a copy is under way again (a person had one sent once more) is kept.
    """
    due = connection.execute("SELECT study_id FROM studies WHERE erase_after <= ? LIMIT ?", (now, most)).fetchall()
    for (study_id,) in due:
        under_way = connection.execute(
            "SELECT 1 FROM copies WHERE study_id = ? AND state NOT IN ('delivered', 'cancelled') LIMIT 1",
            (study_id,),
        ).fetchone()
        if under_way is not None:
            connection.execute("UPDATE studies SET erase_after = NULL WHERE study_id = ?", (study_id,))
            continue
        connection.execute("UPDATE studies SET sealed = zeroblob(LENGTH(sealed)) WHERE study_id = ?", (study_id,))
        connection.execute("DELETE FROM study_tokens WHERE study_id = ?", (study_id,))
        connection.execute("DELETE FROM studies WHERE study_id = ?", (study_id,))
        connection.execute(
            "UPDATE objects SET study_id = NULL WHERE object_id IN (SELECT object_id FROM copies WHERE study_id = ?)",
            (study_id,),
        )
        connection.execute("UPDATE copies SET study_id = NULL WHERE study_id = ?", (study_id,))
    return len(due)


def forget(connection: sqlite3.Connection, before: float, *, most: int) -> int:
    """Delete the rows of up to `most` bundles whose files are gone and whose last copy was done before `before`.

    The newest bundle keeps its row, so that its number is not given to another.
    """
    old = connection.execute(
        "SELECT bundle_id FROM bundles WHERE gone = 1 AND opened < ?1"
        " AND bundle_id < (SELECT MAX(bundle_id) FROM bundles) AND NOT EXISTS (SELECT 1 FROM copies"
        " WHERE copies.bundle_id = bundles.bundle_id AND (state NOT IN ('delivered', 'cancelled') OR since >= ?1))"
        " LIMIT ?2",
        (before, most),
    ).fetchall()
    for row in old:
        connection.execute("DELETE FROM copies WHERE bundle_id = ?", row)
        connection.execute("DELETE FROM objects WHERE bundle_id = ?", row)
        connection.execute("DELETE FROM bundles WHERE bundle_id = ?", row)
    return len(old)


def forget_envelopes(connection: sqlite3.Connection, now: float, *, most: int) -> int:
    """Delete the rows of up to `most` envelopes that are over, old enough, and of which nothing is here any more.

    One that came in gets its time when it is first seen here to be over. Returns how many rows were deleted.
    """
    connection.execute(
        "UPDATE envelopes SET posted = ? WHERE posted IS NULL AND direction = 'in' AND state <> 'pulling'", (now,)
    )
    return connection.execute(
        "DELETE FROM envelopes WHERE envelope_id IN (SELECT envelope_id FROM envelopes AS e WHERE posted < ?"
        " AND state NOT IN ('pulling', 'uploading')"
        " AND NOT EXISTS (SELECT 1 FROM bundles AS b WHERE b.bundle_id = e.bundle_id)"
        " AND NOT EXISTS (SELECT 1 FROM copies AS c WHERE c.envelope_id = e.envelope_id) LIMIT ?)",
        (now - ENVELOPES_KEPT_SECONDS, most),
    ).rowcount


async def keep_erasing(ledger: Ledger, clock: Clock, pause: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
    """Erase what is done with and old enough, for ever: a little at a time, so that nobody waits for it."""
    while True:
        try:
            await _erase_all(ledger, clock.now(), pause)
        except (NoRoom, SpoolFailed) as error:
            _log.warning("studies that are done with could not be erased yet", error=str(error))
        await pause(_EVERY_SECONDS)


async def _erase_all(ledger: Ledger, now: float, pause: Callable[[float], Awaitable[None]]) -> None:
    await ledger.run(lambda connection: settle(connection, now, most=500))
    while await ledger.run(lambda connection: forget(connection, now - KEPT_SECONDS, most=4)):
        await pause(_BREATH_SECONDS)
    while await ledger.run(lambda connection: erase(connection, now, most=20)):
        await pause(_BREATH_SECONDS)
    while await ledger.run(lambda connection: forget_envelopes(connection, now, most=500)):
        await pause(_BREATH_SECONDS)
