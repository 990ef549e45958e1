"""What comes from other sites, in the ledger: letters that were read, envelopes that are being fetched, receipts.

Functions for `Ledger.run` and `Ledger.read`. Each may be repeated: what is known already changes nothing.
"""

import sqlite3
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Final

from isthmus.contract.letters import Manifest, Receipt, ReceiptState
from isthmus.envelope.letters import FIRST_PREVIOUS
from isthmus.errors import IsthmusError
from isthmus.router.queued.ledger.ingested import is_done
from isthmus.router.queued.ledger.outgoing import mailbox, save_mailbox
from isthmus.router.queued.ledger.records import COMMENT_LABEL, DAMAGED, CopyState

NO_LETTER: Final = 0
"""In place of a letter's counter where that is not known any more: counters begin at 1."""


@dataclass(frozen=True, slots=True)
class Pulling:
    """An envelope of another site that is to be fetched. `manifest` is sealed for the ledger."""

    envelope_id: bytes
    router_id: str
    counter: int
    manifest: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Applied:
    """What a batch of receipts did.

    Attributes:
        foreign: receipts about what is not that Router's to say: forged, or very confused.
        done: numbers of bundles that nobody needs any more.
        damaged: envelopes of which the blobs do not verify there.
        received: envelopes whose blobs may have been put again after they were read.
    """

    foreign: list[bytes]
    done: list[int]
    damaged: list[bytes]
    received: list[bytes]


def position(connection: sqlite3.Connection, router_id: str, prefix: str) -> tuple[int, bytes]:
    """Return the counter of the next letter in a mailbox of ours, and the hash of the one before it."""
    box = mailbox(connection, router_id)
    return (box.next_in, box.hash_in) if box.prefix_in == prefix else (1, FIRST_PREVIOUS)


def advance(connection: sqlite3.Connection, router_id: str, prefix: str, counter: int, letter: bytes) -> bool:
    """Note that letter `counter`, with this hash, was read; False if it was read before."""
    box = mailbox(connection, router_id)
    if box.prefix_in != prefix:
        box = replace(box, prefix_in=prefix, next_in=1, hash_in=FIRST_PREVIOUS)
        connection.execute(  # they count in the mailbox before
            "DELETE FROM receipts_due WHERE router_id = ? AND letter IS NOT NULL", (router_id,)
        )
    if counter != box.next_in:
        return False
    save_mailbox(connection, replace(box, next_in=counter + 1, hash_in=letter))
    return True


def owe_receipt(connection: sqlite3.Connection, router_id: str, receipt: Receipt) -> None:
    """Have a receipt sent."""
    connection.execute(
        "INSERT INTO receipts_due (router_id, receipt) VALUES (?, ?)", (router_id, receipt.to_payload().decode())
    )


def owe_unreadable(connection: sqlite3.Connection, router_id: str, counter: int) -> None:
    """Have that Router told that a letter of its cannot be read; until then it is not acknowledged."""
    connection.execute("INSERT INTO receipts_due (router_id, receipt, letter) VALUES (?, '', ?)", (router_id, counter))


def begin(
    connection: sqlite3.Connection,
    router_id: str,
    manifest: Manifest,
    counter: int,
    *,
    protect: Callable[[str, bytes], bytes],
) -> str | None:
    """Note an envelope that is to be fetched. Returns None, or what is known of it: its state, or `foreign`."""
    row = connection.execute(
        "SELECT direction, router_id, state FROM envelopes WHERE envelope_id = ?", (manifest.envelope_id,)
    ).fetchone()
    if row is not None:
        return str(row[2]) if (row[0], row[1]) == ("in", router_id) else "foreign"
    sealed = protect(manifest_label(manifest.envelope_id), manifest.to_payload())
    connection.execute(
        "INSERT INTO envelopes (envelope_id, direction, bundle_id, router_id, destination, secret, blobs, uploaded,"
        " state, counter) VALUES (?, 'in', 0, ?, ?, ?, '', 0, 'pulling', ?)",
        (manifest.envelope_id, router_id, manifest.called, sealed, counter),
    )
    return None


def pulling(connection: sqlite3.Connection) -> list[tuple[bytes, str, int]]:
    """Return the envelopes that are not fetched yet in the order of their letters: id, Router, bytes of manifest."""
    return connection.execute(
        "SELECT envelope_id, router_id, LENGTH(secret) FROM envelopes WHERE state = 'pulling' AND direction = 'in'"
        " ORDER BY router_id, counter"
    ).fetchall()


def pulled(connection: sqlite3.Connection, envelope_id: bytes) -> Pulling | None:
    """Return an envelope if it is not fetched yet."""
    row = connection.execute(
        "SELECT envelope_id, router_id, counter, secret FROM envelopes WHERE envelope_id = ? AND state = 'pulling'"
        " AND direction = 'in'",
        (envelope_id,),
    ).fetchone()
    return None if row is None else Pulling(*row)


def finish(connection: sqlite3.Connection, envelope_id: bytes, bundle_id: int, state: str) -> bool:
    """Note that an envelope is fetched, or will not be; its manifest is needed no more. False if that was known."""
    return bool(
        connection.execute(
            "UPDATE envelopes SET state = ?, bundle_id = ?, secret = NULL WHERE envelope_id = ? AND state = 'pulling'",
            (state, bundle_id, envelope_id),
        ).rowcount
    )


def known_objects(connection: sqlite3.Connection, router_id: str, manifest: Manifest) -> dict[bytes, tuple[int, bool]]:
    """Return which objects of a manifest are in a bundle already: its number, and whether they are gone or damaged.

    Raises ForeignObject if one of them came from elsewhere: nobody finds an object id by chance.
    """
    known: dict[bytes, tuple[int, bool]] = {}
    for item in manifest.objects:
        row = connection.execute(
            "SELECT o.bundle_id, b.gone OR EXISTS (SELECT 1 FROM copies AS c WHERE c.object_id = o.object_id"
            " AND c.state = 'held' AND c.reason = ?), b.direction, b.far_router, o.digest FROM objects AS o"
            " JOIN bundles AS b ON b.bundle_id = o.bundle_id WHERE o.object_id = ?",
            (DAMAGED, item.object_id),
        ).fetchone()
        if row is None:
            continue
        if (row[2], row[3], row[4]) != ("in", router_id, item.digest):
            raise ForeignObject("an envelope names an object that is not its sender's, or another under the same id")
        known[item.object_id] = (row[0], bool(row[1]))
    return known


class ForeignObject(IsthmusError):
    """An envelope names an object of another sender, or another object under an id that it used before."""


def add_copies_of_known(
    connection: sqlite3.Connection,
    manifest: Manifest,
    known: dict[bytes, tuple[int, bool]],
    *,
    now: float,
    flagged: Collection[bytes] = (),
) -> None:
    """Have objects that are here delivered, for this envelope: one that is held or cancelled waits again.

    `flagged`: those that may be with the device already. For `Spool.add_known`: a lost ledger would forget it.
    """
    for index, item in enumerate(manifest.objects):
        if item.object_id not in known:
            continue
        bundle_id, again = known[item.object_id][0], item.object_id in flagged
        changed = connection.execute(
            "UPDATE copies SET envelope_id = ?1, envelope_index = ?2, state = CASE state WHEN 'waiting' THEN state"
            " ELSE 'waiting' END, since = ?3, next_try = 0, tries = 0, first_failed = NULL, reason = '',"
            " flagged = flagged OR ?6 OR state = 'delivered'"
            " WHERE object_id = ?4 AND destination = ?5 AND site IS NULL",
            (manifest.envelope_id, index, now, item.object_id, manifest.called, again),
        ).rowcount
        if not changed:
            connection.execute(
                "INSERT INTO copies (object_id, bundle_id, study_id, destination, site, calling, kind, state, since,"
                " envelope_id, envelope_index, flagged) SELECT object_id, bundle_id, study_id, ?, NULL, ?, kind,"
                " 'waiting', ?, ?, ?, ? FROM objects WHERE object_id = ? AND bundle_id = ?",
                (
                    manifest.called,
                    manifest.calling,
                    now,
                    manifest.envelope_id,
                    index,
                    again,
                    item.object_id,
                    bundle_id,
                ),
            )


def forget_objects(connection: sqlite3.Connection, object_ids: list[bytes]) -> None:
    """Forget objects whose bytes are gone, with their copies: they come again."""
    for object_id in object_ids:
        connection.execute("DELETE FROM copies WHERE object_id = ?", (object_id,))
        connection.execute("DELETE FROM objects WHERE object_id = ?", (object_id,))


# -- receipts that came


def apply_receipts(
    connection: sqlite3.Connection,
    router_id: str,
    receipts: list[Receipt],
    *,
    protect: Callable[[str, bytes], bytes],
) -> Applied:
    """Write down what the Router of the destination says became of our copies. Only it may say so."""
    applied = Applied([], [], [], [])
    touched: set[int] = set()
    for receipt in receipts:
        row = connection.execute(
            "SELECT router_id, bundle_id, state, uploaded FROM envelopes WHERE envelope_id = ? AND direction = 'out'",
            (receipt.envelope_id,),
        ).fetchone()
        if row is None or row[0] != router_id or row[2] == "uploading":
            applied.foreign.append(receipt.envelope_id)
            continue
        if receipt.index is not None:
            _single(connection, receipt, protect)
        elif row[2] == "posted" and _whole(connection, receipt, row[1]):
            applied.damaged.append(receipt.envelope_id)
        elif row[3] > 0:
            applied.received.append(receipt.envelope_id)
        touched.add(row[1])
    for bundle_id in sorted(touched):
        if is_done(connection, bundle_id):
            applied.done.append(bundle_id)
            connection.execute(
                "UPDATE envelopes SET state = 'done' WHERE bundle_id = ? AND direction = 'out'", (bundle_id,)
            )
    return applied


def done_bundles(connection: sqlite3.Connection) -> list[int]:
    """Return the bundles that went to other sites and that nobody needs any more. For the start."""
    rows = connection.execute(
        "SELECT DISTINCT b.bundle_id FROM bundles AS b JOIN envelopes AS e ON e.bundle_id = b.bundle_id"
        " WHERE b.closed AND NOT b.gone AND e.direction = 'out' AND NOT EXISTS (SELECT 1 FROM copies AS c"
        " WHERE c.bundle_id = b.bundle_id AND c.state NOT IN ('delivered', 'cancelled'))"
    )
    return [row[0] for row in rows]


def _whole(connection: sqlite3.Connection, receipt: Receipt, bundle_id: int) -> bool:
    """Apply a receipt about a whole envelope that was posted; return whether its blobs do not verify there."""
    envelope_id, at = receipt.envelope_id, receipt.at
    if receipt.state is ReceiptState.UNREADABLE:
        connection.execute("UPDATE envelopes SET state = 'unreadable' WHERE envelope_id = ?", (envelope_id,))
        (times,) = connection.execute(
            "SELECT COUNT(*) FROM envelopes WHERE bundle_id = ? AND state = 'unreadable'", (bundle_id,)
        ).fetchone()
        state, reason = (CopyState.WAITING, "") if times < MOST_UNREADABLE else (CopyState.HELD, UNREADABLE_THERE)
        connection.execute(
            "UPDATE copies SET state = ?, reason = ?, since = ?, envelope_id = NULL, envelope_index = NULL"
            " WHERE envelope_id = ? AND state = 'posted'",
            (state.value, reason, at, envelope_id),
        )
        return True
    state, reason = (
        (CopyState.HELD, receipt.comment[:_MOST_REASON])
        if receipt.state is ReceiptState.HELD
        else (CopyState.RECEIVED, "")
    )
    connection.execute("UPDATE envelopes SET state = 'received' WHERE envelope_id = ?", (envelope_id,))
    connection.execute(
        "UPDATE copies SET state = ?, reason = ?, since = ? WHERE envelope_id = ? AND state = 'posted'",
        (state.value, reason, at, envelope_id),
    )
    return False


def _single(connection: sqlite3.Connection, receipt: Receipt, protect: Callable[[str, bytes], bytes]) -> None:
    row = connection.execute(
        "SELECT copy_id FROM copies WHERE envelope_id = ? AND envelope_index = ?", (receipt.envelope_id, receipt.index)
    ).fetchone()
    if row is None or receipt.state not in _STATES:
        return
    state = _STATES[receipt.state]
    comment = protect(COMMENT_LABEL, receipt.comment.encode()) if receipt.comment else None
    connection.execute(
        "UPDATE copies SET state = ?, status = ?, comment = ?, flagged = flagged OR ?, since = ?, reason = ?"
        " WHERE copy_id = ? AND INSTR(?, state)",
        (
            state.value,
            receipt.status,
            comment,
            receipt.flagged,
            receipt.at,
            HELD_THERE if state is CopyState.HELD else "",
            row[0],
            _BEFORE[state],
        ),
    )


_STATES: Final = {
    ReceiptState.RECEIVED: CopyState.RECEIVED,
    ReceiptState.DELIVERED: CopyState.DELIVERED,
    ReceiptState.HELD: CopyState.HELD,
}
_BEFORE: Final = {  # what each may follow: receipts come in order, but people act in between
    CopyState.RECEIVED: "posted held",
    CopyState.HELD: "posted received held",
    CopyState.DELIVERED: "posted received held cancelled",
}
UNREADABLE_THERE: Final = "does not verify at the far site"
MOST_UNREADABLE: Final = 3  # attempts to bring a bundle over before a person must look
_MOST_REASON: Final = 200
HELD_THERE: Final = "held at the far site"


def manifest_label(envelope_id: bytes) -> str:
    """Return the label under which an envelope's manifest is sealed for the ledger."""
    return f"manifest/{envelope_id.hex()}"
