"""What was found damaged in the spool, in the ledger: held here, and told to the site that it came from."""

import sqlite3
from collections.abc import Sequence
from typing import Final

from isthmus.contract.letters import Receipt, ReceiptState
from isthmus.router.queued.ledger.incoming import owe_receipt
from isthmus.router.queued.ledger.records import DAMAGED, CopyState

_CAME: Final = (
    "SELECT b.far_router, c.envelope_id, c.envelope_index FROM copies AS c JOIN bundles AS b USING (bundle_id)"
    " WHERE c.site IS NULL AND c.state = 'waiting' AND c.envelope_id IS NOT NULL AND b.far_router IS NOT NULL AND "
)
_HOLD: Final = "UPDATE copies AS c SET state = ?, reason = ? WHERE state IN (?, ?) AND "
_OBJECT: Final = "c.object_id = ?"
_BUNDLE: Final = "c.bundle_id = ?"


def hold_damaged(connection: sqlite3.Connection, object_ids: Sequence[bytes], *, now: float) -> int:
    """Hold every copy of these objects that has not left yet; return how many there were."""
    return sum(_hold(connection, _OBJECT, object_id, now) for object_id in object_ids)


def hold_damaged_bundle(connection: sqlite3.Connection, bundle_id: int, *, now: float) -> int:
    """Hold every copy in this bundle that has not left yet; return how many there were."""
    return _hold(connection, _BUNDLE, bundle_id, now)


def _hold(connection: sqlite3.Connection, which: str, value: object, now: float) -> int:
    for far_router, envelope_id, index in connection.execute(_CAME + which, (value,)).fetchall():
        receipt = Receipt(envelope_id=envelope_id, index=index, state=ReceiptState.HELD, comment=DAMAGED, at=now)
        owe_receipt(connection, far_router, receipt)
    states = (CopyState.WAITING, CopyState.POSTED)
    return connection.execute(_HOLD + which, (CopyState.HELD, DAMAGED, *states, value)).rowcount
