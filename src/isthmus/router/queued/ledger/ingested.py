"""Bundles and objects as they enter the ledger, and as they leave it. Functions for `Ledger.run` and `Ledger.read`."""

import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import astuple
from typing import Any, Final

from isthmus.contract.letters import ObjectKind
from isthmus.router.queued.ledger.records import (
    DAMAGED,
    FINAL_STATES,
    BundleRow,
    CopyState,
    Direction,
    NewCopy,
    ObjectRow,
)

_BUNDLE: Final = (
    "SELECT bundle_id, name, direction, calling, called, far_router, size, objects, opened, closed, gone FROM bundles"
)
_OBJECT: Final = (
    "SELECT object_id, bundle_id, position, length, digest, kind, calling, called, association, sop_class,"
    " transfer_syntax, instance_mac, study_id, received, payload FROM objects"
)


def put_bundle(connection: sqlite3.Connection, bundle: BundleRow) -> None:
    """Add a bundle, or bring `size`, `objects` and `closed` of a known one up to date."""
    connection.execute(
        "INSERT INTO bundles VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (bundle_id) DO UPDATE SET"
        " size = excluded.size, objects = excluded.objects, closed = excluded.closed",
        astuple(bundle),
    )


def add_object(connection: sqlite3.Connection, row: ObjectRow, copies: Iterable[NewCopy]) -> bool:
    """Add an object and its copies; return False, and add nothing, if the object is there already."""
    cursor = connection.execute(
        "INSERT OR IGNORE INTO objects VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", astuple(row)
    )
    if cursor.rowcount != 1:
        return False
    connection.executemany(
        "INSERT INTO copies (object_id, bundle_id, destination, site, calling, kind, since, study_id, state, reason,"
        " envelope_id, envelope_index, flagged, priority) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [astuple(copy) for copy in copies],
    )
    return True


def bundle(connection: sqlite3.Connection, bundle_id: int) -> BundleRow | None:
    """Return a bundle, or None if there is none of that id."""
    row = connection.execute(f"{_BUNDLE} WHERE bundle_id = ?", (bundle_id,)).fetchone()
    return None if row is None else _bundle(row)


def bundle_named(connection: sqlite3.Connection, name: str) -> BundleRow | None:
    """Return the bundle whose file has this name."""
    row = connection.execute(f"{_BUNDLE} WHERE name = ?", (name,)).fetchone()
    return None if row is None else _bundle(row)


def bundles_there(connection: sqlite3.Connection, *, after: int, most: int) -> list[BundleRow]:
    """Return up to `most` bundles that are not gone, in the order of their ids, from the one after `after` on."""
    rows = connection.execute(
        f"{_BUNDLE} WHERE gone = 0 AND bundle_id > ? ORDER BY bundle_id LIMIT ?", (after, most)
    ).fetchall()
    return [_bundle(row) for row in rows]


def objects_of(connection: sqlite3.Connection, bundle_id: int) -> list[ObjectRow]:
    """Return the objects of a bundle, in the order of their records."""
    rows = connection.execute(f"{_OBJECT} WHERE bundle_id = ? ORDER BY position", (bundle_id,)).fetchall()
    return [_object(row) for row in rows]


def highest_bundle(connection: sqlite3.Connection) -> int:
    """Return the highest bundle id of all, gone ones too; 0 if there is none."""
    return int(connection.execute("SELECT COALESCE(MAX(bundle_id), 0) FROM bundles").fetchone()[0])


def is_done(connection: sqlite3.Connection, bundle_id: int) -> bool:
    """Return whether nobody needs this bundle any more: nothing is added to it, and all its copies are over."""
    open_copies = connection.execute(
        "SELECT 1 FROM copies WHERE bundle_id = ? AND state NOT IN (?, ?) LIMIT 1", (bundle_id, *FINAL_STATES)
    ).fetchone()
    row = connection.execute("SELECT closed FROM bundles WHERE bundle_id = ?", (bundle_id,)).fetchone()
    return open_copies is None and row is not None and bool(row[0])


def mark_gone(connection: sqlite3.Connection, bundle_id: int) -> None:
    """Remember that the bundle's file is no more. Its rows may be erased from now on, and not before."""
    connection.execute("UPDATE bundles SET gone = 1, closed = 1 WHERE bundle_id = ?", (bundle_id,))


def hold_damaged(connection: sqlite3.Connection, object_ids: Sequence[bytes]) -> int:
    """Hold every copy of these objects that has not left yet; return how many there were."""
    return sum(
        connection.execute(
            "UPDATE copies SET state = ?, reason = ? WHERE object_id = ? AND state IN (?, ?)",
            (CopyState.HELD, DAMAGED, object_id, CopyState.WAITING, CopyState.POSTED),
        ).rowcount
        for object_id in object_ids
    )


def hold_damaged_bundle(connection: sqlite3.Connection, bundle_id: int) -> int:
    """Hold every copy in this bundle that has not left yet; return how many there were."""
    return connection.execute(
        "UPDATE copies SET state = ?, reason = ? WHERE bundle_id = ? AND state IN (?, ?)",
        (CopyState.HELD, DAMAGED, bundle_id, CopyState.WAITING, CopyState.POSTED),
    ).rowcount


def _bundle(row: tuple[Any, ...]) -> BundleRow:
    fields = [*row[:2], Direction(row[2]), *row[3:9], bool(row[9]), bool(row[10])]
    return BundleRow(*fields)


def _object(row: tuple[Any, ...]) -> ObjectRow:
    fields = [*row[:5], ObjectKind(row[5]), *row[6:]]
    return ObjectRow(*fields)
