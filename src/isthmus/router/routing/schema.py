"""The tables of router.db. A change is a new step at the end of STEPS; what is there never changes."""

from typing import Final

STEPS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE devices (
        device_id INTEGER PRIMARY KEY, title TEXT NOT NULL UNIQUE, network_title TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL, host TEXT NOT NULL, port INTEGER, from_addresses TEXT NOT NULL,
        disabled INTEGER NOT NULL, options TEXT NOT NULL);
    CREATE TABLE grants (
        grant_id INTEGER PRIMARY KEY AUTOINCREMENT,
        device_id INTEGER NOT NULL REFERENCES devices ON DELETE CASCADE,
        site TEXT NOT NULL, caller TEXT, services TEXT NOT NULL, until REAL, no_return INTEGER NOT NULL);
    CREATE TABLE returns (
        router_id TEXT NOT NULL, caller TEXT NOT NULL, title TEXT NOT NULL, services TEXT NOT NULL, until REAL NOT NULL,
        PRIMARY KEY (router_id, caller, title)) WITHOUT ROWID;
    CREATE TABLE accepted (
        site TEXT PRIMARY KEY, router_id TEXT NOT NULL UNIQUE, public_key BLOB NOT NULL, since REAL NOT NULL,
        accepted INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE reported (
        site TEXT PRIMARY KEY, router_id TEXT NOT NULL, public_key BLOB NOT NULL, statement TEXT) WITHOUT ROWID;
    CREATE TABLE verified (
        router_id TEXT PRIMARY KEY, site TEXT NOT NULL, counter INTEGER NOT NULL, statement BLOB, prekey BLOB
    ) WITHOUT ROWID;
    CREATE TABLE seen_titles (title TEXT PRIMARY KEY, router_id TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE aliases (shown_as TEXT PRIMARY KEY, title TEXT NOT NULL UNIQUE) WITHOUT ROWID;
    CREATE TABLE unknown_callers (
        title TEXT NOT NULL, address TEXT NOT NULL, called TEXT NOT NULL, count INTEGER NOT NULL,
        first REAL NOT NULL, last REAL NOT NULL, PRIMARY KEY (title, address, called)) WITHOUT ROWID;
    CREATE TABLE seen_offers (session_id BLOB PRIMARY KEY, not_after REAL NOT NULL) WITHOUT ROWID;
    CREATE TABLE published (name TEXT PRIMARY KEY, digest BLOB NOT NULL, at REAL NOT NULL,
        counter INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE audit (
        audit_id INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, event TEXT NOT NULL, actor TEXT NOT NULL,
        calling TEXT NOT NULL, called TEXT NOT NULL, site TEXT NOT NULL, services TEXT NOT NULL, outcome TEXT NOT NULL,
        bytes_out INTEGER NOT NULL, bytes_in INTEGER NOT NULL, seconds REAL NOT NULL, session TEXT NOT NULL);
    CREATE INDEX audit_by_time ON audit (time);
    CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
        BEGIN SELECT RAISE(ABORT, 'audit rows are not changed'); END;
    CREATE TRIGGER audit_is_kept BEFORE DELETE ON audit
        WHEN OLD.time >= CAST(strftime('%s', 'now') AS REAL) - 86400.0 * COALESCE(
            (SELECT CAST(value AS REAL) FROM settings WHERE name = 'audit_days'), 730)
        BEGIN SELECT RAISE(ABORT, 'audit rows are kept until they are old enough'); END;
    """,
    """
    CREATE TABLE mailboxes (router_id TEXT PRIMARY KEY, prefix TEXT NOT NULL UNIQUE) WITHOUT ROWID;
    """,
    """
    CREATE TABLE delivery (
        title TEXT NOT NULL, from_device INTEGER REFERENCES devices ON DELETE CASCADE, mode TEXT NOT NULL);
    CREATE UNIQUE INDEX delivery_once ON delivery (title, COALESCE(from_device, 0));
    CREATE TABLE groups (
        title TEXT NOT NULL, member TEXT NOT NULL, position INTEGER NOT NULL, PRIMARY KEY (title, member)
    ) WITHOUT ROWID;
    CREATE TABLE mirror (
        device_id INTEGER NOT NULL REFERENCES devices ON DELETE CASCADE, abstract TEXT NOT NULL,
        transfer TEXT NOT NULL, source TEXT NOT NULL, seen REAL NOT NULL,
        PRIMARY KEY (device_id, abstract, transfer, source)) WITHOUT ROWID;
    ALTER TABLE audit ADD COLUMN mode TEXT NOT NULL DEFAULT '';
    """,
    """
    CREATE TABLE egress (
        host TEXT NOT NULL, port INTEGER NOT NULL, typed INTEGER NOT NULL, since REAL NOT NULL,
        PRIMARY KEY (host, port)) WITHOUT ROWID;
    """,
)
