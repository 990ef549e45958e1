"""What a device's answer to a queued object means: a total function from status to action.

The status is that of a C-STORE-RSP (PS3.4 section B.2.3) or an N-ACTION-RSP (PS3.7 section 10.1.4). Only such an answer
ever counts against an object; an association that fails says nothing about what it carried.
"""

from enum import Enum
from typing import Final

from isthmus.dicom.status import PROCESSING_FAILURE, StatusClass, status_class

TRIES: Final = 5
"""After so many transient answers, spread over TRIED_SECONDS, an object is held."""
TRIED_SECONDS: Final = 3600.0
_AGAIN_SECONDS: Final = (120.0, 480.0, 1200.0, 1920.0)  # together a little over TRIED_SECONDS

_DUPLICATE: Final = 0x0111
_RESOURCE_LIMITATION: Final = 0x0213


class Action(Enum):
    """What becomes of the object."""

    DELIVERED = "delivered"
    DELIVERED_FLAGGED = "delivered, and flagged as a repeat"
    TRANSIENT = "again after a while"
    HELD = "held"


def action(status: int) -> Action:
    """Return what a status means. One that nobody knows holds the object: nothing says that it was stored."""
    if status == _DUPLICATE:
        return Action.DELIVERED_FLAGGED
    if status_class(status) in {StatusClass.SUCCESS, StatusClass.WARNING}:
        return Action.DELIVERED
    if 0xA700 <= status <= 0xA7FF or status in {PROCESSING_FAILURE, _RESOURCE_LIMITATION}:
        return Action.TRANSIENT
    return Action.HELD


def again_after(tries: int, first_failed: float, now: float) -> float | None:
    """Return in how many seconds an object is sent again after its transient answer number `tries`; None: it is held.

    `first_failed` is when the first of them came, on the clock of `now`.
    """
    if tries < TRIES:
        return _AGAIN_SECONDS[max(tries, 1) - 1]
    left = first_failed + TRIED_SECONDS - now
    return None if left <= 0 else left
