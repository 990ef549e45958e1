"""What two Routers write to each other about queued objects; sealed, so that no one between them reads any of it.

JSON like the documents of `isthmus.contract.documents`: unknown fields are ignored, a field that must be understood
gets a new letter kind instead. The bytes around it are in docs/protocol/queued.md.
"""

from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field, model_validator

from isthmus.contract.documents import Base64, Instant, Payload
from isthmus.contract.rest import BUILT_IN_PROVIDER, ProviderName

ENVELOPE_ID_BYTES: Final = 16
OBJECT_ID_BYTES: Final = 16
MOST_UNREADABLE: Final = 1000
MAX_ENVELOPE_BYTES: Final = 2**44  # more than the segments of one object can hold


def _of_length(length: int) -> AfterValidator:
    def check(value: bytes) -> bytes:
        if len(value) != length:
            raise ValueError(f"{length} bytes are meant")
        return value

    return AfterValidator(check)


Id = Annotated[Base64, _of_length(16)]
Secret = Annotated[Base64, _of_length(32)]
Digest = Annotated[Base64, _of_length(32)]
Title = Annotated[str, Field(pattern=r"^[ -\[\]-~]{1,16}$")]
"""An AE title: printable ASCII without backslash (PS3.5 section 6.2)."""
Count = Annotated[int, Field(ge=0, le=MAX_ENVELOPE_BYTES)]


class LetterKind(StrEnum):
    """What a letter is about, and in which version."""

    ENVELOPE = "isthmus/envelope/v1"  # body: Manifest
    RECEIPTS = "isthmus/receipts/v1"  # body: Receipts


class ObjectKind(StrEnum):
    """Which request an object is."""

    STORE = "store"  # C-STORE
    COMMIT = "commit"  # N-ACTION of storage commitment (PS3.4 annex J)


class ManifestObject(Payload):
    """One object of an envelope: where its record lies and how it opens.

    Attributes:
        object_id: 16 bytes, as in the record.
        secret: what opens the record.
        offset: of the record's first byte, in the blobs put together.
        length: of the record, in bytes.
        digest: SHA-256 of the data set.
        kind: which request it is.
    """

    object_id: Id
    secret: Secret = Field(repr=False)
    offset: Count
    length: Annotated[Count, Field(gt=0)]
    digest: Digest
    kind: ObjectKind


class Manifest(Payload):
    """What an envelope holds, and how its blobs are found.

    Objects stand in the order of their records, which do not overlap and lie within `size`. A gap between two is
    nothing to the receiver, who got no secret for it.

    Attributes:
        envelope_id: 16 random bytes.
        calling: network AE title of the device that sent the objects.
        called: network AE title of the device that is to get them.
        sent: when it was put together.
        size: bytes of all blobs together.
        blobs: the size of each, in order.
        name_key: HMAC key of the blobs' names.
        provider: name of the pair of cloud services whose blobstore has the blobs.
        shared: whether another Router may have got a secret of these objects, too: who has one could seal other content
            under it, and only the digest says which is meant.
        objects: in the order of their records.
    """

    envelope_id: Id
    calling: Title
    called: Title
    sent: Instant
    size: Count
    blobs: list[Annotated[Count, Field(gt=0)]]
    name_key: Secret = Field(repr=False)
    provider: ProviderName = BUILT_IN_PROVIDER
    shared: bool = True
    objects: list[ManifestObject]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if sum(self.blobs) != self.size:
            raise ValueError("the blobs are not as long as the envelope")
        ends = [0, *(item.offset + item.length for item in self.objects)]
        starts = [*(item.offset for item in self.objects), self.size]
        if any(start < end for end, start in zip(ends, starts, strict=True)):
            raise ValueError("records overlap or lie outside the envelope")
        if any(first == second for first, second in pairwise(sorted(item.object_id for item in self.objects))):
            raise ValueError("an object stands in the envelope twice")
        return self


class ReceiptState(StrEnum):
    """What became of an object, or of a whole envelope, at the receiver's."""

    RECEIVED = "received"  # verified and on the receiver's disk
    DELIVERED = "delivered"  # the device took it
    HELD = "held"  # waits for a person there
    UNREADABLE = "unreadable"  # its blobs do not verify: to be put anew as another envelope


class Receipt(Payload):
    """What became of one object, or of a whole envelope.

    Attributes:
        envelope_id: of the envelope's manifest.
        index: which of its objects, from 0, or None for all of it (received, unreadable).
        state: what became of it.
        status: DIMSE status of the device, if it answered.
        comment: the device's own Error Comment (PS3.7 annex C).
        at: when.
        flagged: whether the device said that it had the object already, or took it with a warning.
    """

    envelope_id: Id
    index: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    state: ReceiptState
    status: Annotated[int, Field(ge=0, le=0xFFFF)] | None = None
    comment: str = Field(default="", repr=False)
    at: Instant
    flagged: bool = False


class Receipts(Payload):
    """What the receiver of envelopes tells their sender.

    Attributes:
        receipts: in the order in which they came about.
        unreadable: counters of letters that verified and lay where they belong, but are sealed to a prekey that is
            gone; at most MOST_UNREADABLE. Which envelope one was about, only its sender knows.
    """

    receipts: list[Receipt] = Field(default_factory=list)
    unreadable: list[Annotated[int, Field(gt=0, lt=10**12)]] = Field(default_factory=list, max_length=MOST_UNREADABLE)
