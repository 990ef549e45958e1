"""The studies in the ledger: noted when an object comes, found by keyed hashes, erased when they are done with."""

import sqlite3
from typing import Final

from isthmus.router.queued.studies import StudyFields, StudySealer
from isthmus.router.routing.records import DAY

KEPT_SECONDS: Final = 7 * DAY
"""How long after its last delivery a study can still be looked up."""


def record_study(connection: sqlite3.Connection, sealer: StudySealer, fields: StudyFields, now: float) -> int:
    """Return the `study_id` of the study, which is noted if it is new; call it inside the object's own transaction.

    `now` in Unix seconds. A study that was about to be erased is kept on: more of it has come.
    """
    mac = sealer.mac(fields.study_uid)
    found = connection.execute("SELECT study_id FROM studies WHERE study_mac = ?", (mac,)).fetchone()
    if found is not None:
        connection.execute("UPDATE studies SET last = ?, erase_after = NULL WHERE study_id = ?", (now, found[0]))
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
