"""The values that the ledger's rows are made of."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from isthmus.contract.letters import ObjectKind

COMMENT_LABEL: Final = "comment"
"""Under which a device's own words are sealed for the ledger."""
DAMAGED: Final = "damaged in the spool"
"""Why a copy is held whose object no longer verifies."""


class CopyState(StrEnum):
    """Where one copy of an object, on its way to one destination, is."""

    WAITING = "waiting"  # here, and nothing of it has left
    POSTED = "posted"  # its letter is put; the far site has not answered
    RECEIVED = "received"  # durable at the far site, not yet with the device
    DELIVERED = "delivered"  # the device has it, or said that it needs it no more
    HELD = "held"  # waits for a person
    CANCELLED = "cancelled"  # a person gave it up


FINAL_STATES: Final = (CopyState.DELIVERED, CopyState.CANCELLED)
"""After these nothing of a copy is needed any more."""


class Direction(StrEnum):
    """Which way a bundle's objects go."""

    OUT = "out"  # from a device of ours
    IN = "in"  # from another site, to a device of ours


@dataclass(frozen=True, slots=True)
class BundleRow:
    """A bundle as the ledger knows it.

    Attributes:
        bundle_id: never used again.
        name: of its file in the spool.
        far_router: RouterId of the sender (`in` only).
        size: bytes of the file that are durable and indexed, its header included.
        opened: seconds since the epoch.
        closed: nothing more will be written to it.
        gone: its file is no more.
    """

    bundle_id: int
    name: str
    direction: Direction
    calling: str
    called: str
    far_router: str | None
    size: int
    objects: int
    opened: float
    closed: bool
    gone: bool


@dataclass(frozen=True, slots=True)
class ObjectRow:
    """An object in a bundle.

    Attributes:
        position: where its record starts in the bundle's file, in bytes.
        length: of its record, in bytes.
        digest: SHA-256 of the data set.
        instance_mac: `instance_mac` of its SOP Instance UID: only to see that one came twice.
        payload: bytes of the data set.
    """

    object_id: bytes
    bundle_id: int
    position: int
    length: int
    digest: bytes
    kind: ObjectKind
    calling: str
    called: str
    association: bytes
    sop_class: str
    transfer_syntax: str
    instance_mac: bytes
    study_id: int | None
    received: float
    payload: int


@dataclass(frozen=True, slots=True)
class NewCopy:
    """A copy to be put into the ledger.

    Attributes:
        destination: network title.
        site: whose device that is; None for one of ours.
        envelope_id: the envelope it came in, or goes in, once that is known; `envelope_index` is its place there.
        flagged: it may be with its device already.
        priority: more goes first.
    """

    object_id: bytes
    bundle_id: int
    destination: str
    site: str | None
    calling: str
    kind: ObjectKind
    since: float
    study_id: int | None = None
    state: CopyState = CopyState.WAITING
    reason: str = ""
    envelope_id: bytes | None = None
    envelope_index: int | None = None
    flagged: bool = False
    priority: int = 0
