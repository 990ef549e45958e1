"""The tables of ledger.db. A change is a new step at the end of STEPS; what is there never changes.

The words of `state`, `direction` and `kind` are those of `ledger/records.py`. Times are seconds since the epoch.
"""

from typing import Final

STEPS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE bundles (
        bundle_id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, direction TEXT NOT NULL, calling TEXT NOT NULL,
        called TEXT NOT NULL, far_router TEXT, size INTEGER NOT NULL, objects INTEGER NOT NULL, opened REAL NOT NULL,
        closed INTEGER NOT NULL, gone INTEGER NOT NULL DEFAULT 0);
    CREATE INDEX bundles_there ON bundles (gone, bundle_id);
    CREATE TABLE objects (
        object_id BLOB PRIMARY KEY, bundle_id INTEGER NOT NULL, position INTEGER NOT NULL, length INTEGER NOT NULL,
        digest BLOB NOT NULL, kind TEXT NOT NULL, calling TEXT NOT NULL, called TEXT NOT NULL,
        association BLOB NOT NULL, sop_class TEXT NOT NULL, transfer_syntax TEXT NOT NULL, instance_mac BLOB NOT NULL,
        study_id INTEGER, received REAL NOT NULL, payload INTEGER NOT NULL) WITHOUT ROWID;
    CREATE INDEX objects_by_place ON objects (bundle_id, position);
    CREATE INDEX objects_by_instance ON objects (instance_mac);
    CREATE TABLE copies (
        copy_id INTEGER PRIMARY KEY AUTOINCREMENT, object_id BLOB NOT NULL, bundle_id INTEGER NOT NULL,
        study_id INTEGER,
        destination TEXT NOT NULL, site TEXT, calling TEXT NOT NULL, kind TEXT NOT NULL, state TEXT NOT NULL,
        status INTEGER, comment BLOB, reason TEXT NOT NULL DEFAULT '', tries INTEGER NOT NULL DEFAULT 0,
        first_failed REAL, next_try REAL NOT NULL DEFAULT 0, since REAL NOT NULL, priority INTEGER NOT NULL DEFAULT 0,
        flagged INTEGER NOT NULL DEFAULT 0, envelope_id BLOB, envelope_index INTEGER);
    CREATE INDEX copies_in_turn ON copies (destination, site, state, priority DESC, copy_id);
    CREATE INDEX copies_by_study ON copies (study_id, destination, state);
    CREATE INDEX copies_by_bundle ON copies (bundle_id, state);
    CREATE INDEX copies_by_envelope ON copies (envelope_id, envelope_index);
    CREATE INDEX copies_by_object ON copies (object_id);
    CREATE TABLE envelopes (
        envelope_id BLOB PRIMARY KEY, direction TEXT NOT NULL, bundle_id INTEGER NOT NULL, router_id TEXT NOT NULL,
        destination TEXT NOT NULL, secret BLOB, blobs TEXT NOT NULL, uploaded INTEGER NOT NULL, state TEXT NOT NULL,
        counter INTEGER, posted REAL) WITHOUT ROWID;
    CREATE INDEX envelopes_by_state ON envelopes (state);
    CREATE INDEX envelopes_by_bundle ON envelopes (bundle_id);
    CREATE TABLE mailboxes (
        router_id TEXT PRIMARY KEY, prefix_in TEXT, next_in INTEGER NOT NULL, hash_in BLOB NOT NULL,
        next_out INTEGER NOT NULL, hash_out BLOB NOT NULL, acked_out INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE letters (
        router_id TEXT NOT NULL, counter INTEGER NOT NULL, name TEXT NOT NULL, raw BLOB NOT NULL, put INTEGER NOT NULL,
        PRIMARY KEY (router_id, counter));
    CREATE TABLE receipts_due (
        receipt_id INTEGER PRIMARY KEY, router_id TEXT NOT NULL, receipt TEXT NOT NULL, comment BLOB);
    CREATE INDEX receipts_due_by_router ON receipts_due (router_id, receipt_id);
    CREATE TABLE studies (
        study_id INTEGER PRIMARY KEY, study_mac BLOB NOT NULL UNIQUE, sealed BLOB, first REAL NOT NULL,
        last REAL NOT NULL, erase_after REAL);
    CREATE TABLE study_tokens (
        token BLOB NOT NULL, study_id INTEGER NOT NULL, PRIMARY KEY (token, study_id)) WITHOUT ROWID;
    CREATE TABLE destinations (
        title TEXT PRIMARY KEY, down INTEGER NOT NULL, since REAL NOT NULL, next_probe REAL NOT NULL,
        failures INTEGER NOT NULL, reason TEXT NOT NULL) WITHOUT ROWID;
    """,
    """
    ALTER TABLE mailboxes ADD COLUMN prefix_out TEXT;
    ALTER TABLE letters ADD COLUMN kind TEXT NOT NULL DEFAULT '';
    ALTER TABLE letters ADD COLUMN body BLOB NOT NULL DEFAULT x'';
    ALTER TABLE letters ADD COLUMN posted REAL NOT NULL DEFAULT 0;
    ALTER TABLE letters ADD COLUMN empty INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE receipts_due ADD COLUMN letter INTEGER;
    ALTER TABLE envelopes ADD COLUMN base INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX envelopes_by_letter ON envelopes (router_id, direction, counter);
    CREATE INDEX copies_to_send ON copies (site, priority DESC, bundle_id)
        WHERE state = 'waiting' AND site IS NOT NULL AND envelope_id IS NULL;
    """,
    """
    CREATE INDEX studies_by_end ON studies (erase_after, last);
    CREATE INDEX studies_by_last ON studies (last);
    """,
    """
    CREATE INDEX envelopes_by_time ON envelopes (posted);
    """,
    """
    ALTER TABLE envelopes ADD COLUMN provider TEXT NOT NULL DEFAULT 'bridge';
    """,
)
