"""Bundles and objects as they enter the ledger, and as they leave it. Functions for `Ledger.run` and `Ledger.read`."""

import sqlite3
from collections.abc import Sequence
from dataclasses import fields
from itertools import chain
from typing import Any, Final

from isthmus.contract.letters import ObjectKind
from isthmus.router.queued.ledger.records import (
    FINAL_STATES,
    BundleRow,
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


_INTO_OBJECTS: Final = "INSERT OR IGNORE INTO objects VALUES "
_INTO_COPIES: Final = (
    "INSERT INTO copies (object_id, bundle_id, destination, site, calling, kind, since, study_id, state, reason,"
    " envelope_id, envelope_index, flagged, priority) VALUES "
)
_COMPLETE: Final = int.from_bytes(b"ISTH", "big")
_TOGETHER: Final = 100
_MOST_VALUES: Final = 30_000  # SQLite takes 32,766 in a statement


def is_complete(connection: sqlite3.Connection) -> bool:
    """Return whether the bundles were all put in once: if not, this ledger is new, or takes the place of a lost one."""
    return bool(connection.execute("PRAGMA application_id").fetchone()[0] == _COMPLETE)


def mark_complete(connection: sqlite3.Connection) -> None:
    """Remember that all bundles are in."""
    connection.execute(f"PRAGMA application_id = {_COMPLETE}")


def put_bundle(connection: sqlite3.Connection, bundle: BundleRow) -> None:
    """Add a bundle, or bring `size`, `objects` and `closed` of a known one up to date."""
    connection.execute(
        "INSERT INTO bundles VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (bundle_id) DO UPDATE SET"
        " size = excluded.size, objects = excluded.objects, closed = excluded.closed",
        _values(bundle),
    )


def add_objects(connection: sqlite3.Connection, objects: Sequence[tuple[ObjectRow, Sequence[NewCopy]]]) -> None:
    """Add objects and their copies; of an object that is there already nothing is added.

    Many rows a statement: between two of them Python may give way to another thread for as long as that likes.
    """
    for start in range(0, len(objects), _TOGETHER):
        some = objects[start : start + _TOGETHER]
        added = _insert(connection, _INTO_OBJECTS, [_values(row) for row, _ in some])
        if added == len(some):
            _insert(connection, _INTO_COPIES, [_values(copy) for _, copies in some for copy in copies])
            continue
        known = _with_copies(connection, [row.object_id for row, _ in some])
        rest = [_values(copy) for row, copies in some if row.object_id not in known for copy in copies]
        _insert(connection, _INTO_COPIES, rest)


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


def bundle_ids(connection: sqlite3.Connection) -> dict[str, int]:
    """Return the id of each bundle that is not gone, by its name."""
    return dict(connection.execute("SELECT name, bundle_id FROM bundles WHERE gone = 0"))


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


def _values(row: BundleRow | ObjectRow | NewCopy) -> tuple[Any, ...]:
    return tuple(getattr(row, field.name) for field in fields(row))


def _insert(connection: sqlite3.Connection, into: str, rows: list[tuple[Any, ...]]) -> int:
    """Insert rows and return how many were."""
    if not rows:
        return 0
    most = _MOST_VALUES // len(rows[0])
    inserted = 0
    for start in range(0, len(rows), most):
        some = rows[start : start + most]
        values = ", ".join(["(" + ", ".join("?" * len(some[0])) + ")"] * len(some))
        inserted += connection.execute(into + values, list(chain.from_iterable(some))).rowcount
    return inserted


def _with_copies(connection: sqlite3.Connection, object_ids: list[bytes]) -> set[bytes]:
    marks = ", ".join("?" * len(object_ids))
    sql = f"SELECT DISTINCT object_id FROM copies WHERE object_id IN ({marks})"  # noqa: S608 - marks are question marks
    rows = connection.execute(sql, object_ids)
    return {row[0] for row in rows}


def _bundle(row: tuple[Any, ...]) -> BundleRow:
    values = [*row[:2], Direction(row[2]), *row[3:9], bool(row[9]), bool(row[10])]
    return BundleRow(*values)


def _object(row: tuple[Any, ...]) -> ObjectRow:
    values = [*row[:5], ObjectKind(row[5]), *row[6:]]
    return ObjectRow(*values)
