"""Documents that a Router signs and other sites verify; the Bridge only keeps and hands them on.

A document travels as the exact bytes that were signed. Unknown fields are ignored, so that newer sites can say more;
a field that must be understood gets a new `kind` instead.
"""

import base64
import itertools
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, WithJsonSchema, model_validator

MOST_PAIRS: Final = 400_000
"""Pairs of abstract and transfer syntax in one statement: some two hundred devices that take whatever there is."""


def _to_bytes(value: object) -> bytes:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str):
        raise ValueError("base64url text is meant")
    return base64.urlsafe_b64decode(value.encode("ascii") + b"=" * (-len(value) % 4))


Base64 = Annotated[
    bytes,
    PlainValidator(_to_bytes),
    PlainSerializer(lambda value: base64.urlsafe_b64encode(value).decode().rstrip("="), return_type=str),
    WithJsonSchema({"type": "string", "format": "base64url"}),
]

Instant = Annotated[float, Field(ge=0, le=2**38, allow_inf_nan=False)]
"""Unix seconds, or what a clock can at least be set to: what is none would spoil every comparison it takes part in."""

MailboxPrefix = Annotated[str, Field(pattern="^[0-9a-f]{40}$")]
"""40 random hex digits, which become part of blob names: what is none never gets as far."""


class DocumentKind(StrEnum):
    """What a signed document says."""

    PREKEY = "isthmus/prekey/v1"
    TITLES = "isthmus/titles/v1"
    STATEMENT = "isthmus/statement/v1"


class SignedDocument(BaseModel):
    """The bytes that were signed, who signed them and the signature: Ed25519 over kind, NUL, payload."""

    model_config = ConfigDict(frozen=True)

    kind: DocumentKind
    router_id: str
    payload: Base64
    signature: Base64


class Payload(BaseModel):
    """What is signed or sealed as JSON."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    @classmethod
    def parse(cls, payload: bytes) -> Self:
        """Return the document in verified payload bytes. Raises ValueError (pydantic's) if it is not one."""
        return cls.model_validate_json(payload)

    def to_payload(self) -> bytes:
        """Return the bytes to sign."""
        return self.model_dump_json(exclude_none=True).encode()


class Prekey(Payload):
    """A key that others seal session keys to: good for sealing until `not_after` (Unix seconds)."""

    prekey_id: Base64
    kem: str
    public_key: Base64
    not_after: Instant


class Titles(Payload):
    """All network AE titles that a site claims; the Bridge refuses one that another site has."""

    counter: int
    titles: list[str]


Taken = tuple[list[str], list[str]]
"""Abstract syntaxes, and transfer syntaxes in each of which each of them is taken."""


def grouped(pairs: Iterable[tuple[str, str]]) -> list[Taken]:
    """Return the same pairs of abstract and transfer syntax, put together: what devices take is thousands of pairs."""
    transfers: dict[str, set[str]] = {}
    for abstract, transfer in pairs:
        transfers.setdefault(abstract, set()).add(transfer)
    abstracts: dict[tuple[str, ...], list[str]] = {}
    for abstract in sorted(transfers):
        abstracts.setdefault(tuple(sorted(transfers[abstract])), []).append(abstract)
    return [(together, list(some)) for some, together in abstracts.items()]


class GrantedDevice(Payload):
    """A device that the stated site may reach, and for what.

    Attributes:
        title: its network AE title.
        name: what people call it.
        services: names of `isthmus.dicom.services.Service`.
        callers: calling network titles that may use it, or None for every device of the site.
        until: Unix seconds at which the grant ends, or None.
        modes: delivery modes that the owner allows.
        takes: what it takes, as far as known.
        online: False if the owner knows it to be switched off or disabled now.
    """

    title: str
    name: str = ""
    services: list[str]
    callers: list[str] | None = None
    until: Instant | None = None
    modes: list[str] = ["live"]
    takes: list[Taken] = []
    online: bool = True

    @property
    def syntaxes(self) -> list[tuple[str, str]]:
        """What it takes, as pairs of abstract and transfer syntax."""
        return [pair for abstracts, transfers in self.takes for pair in itertools.product(abstracts, transfers)]


class ReturnGrant(Payload):
    """What a C-MOVE or N-ACTION opened: `caller` of the stated site may reach `title` for `services` until then."""

    caller: str
    title: str
    services: list[str]
    until: Instant


class Statement(Payload):
    """What one site says to one other: that it accepts it, and which devices it grants. Replaces all before.

    Attributes:
        site: who speaks.
        to_site: to whom.
        to_router_id: the identity of that site that was accepted; the statement holds for no other.
        counter: grows with every statement; a smaller one than seen before is a rollback and is refused.
        not_after: Unix seconds after which nothing in it holds.
        accepted: False withdraws everything.
        mailbox: prefix under which that site leaves letters for the speaker, or None if it takes none.
    """

    site: str
    to_site: str
    to_router_id: str
    counter: int
    not_after: Instant
    accepted: bool
    devices: list[GrantedDevice] = []
    returns: list[ReturnGrant] = []
    mailbox: MailboxPrefix | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        """Refuse what would be short to say and long to keep."""
        taken = (taken for device in self.devices for taken in device.takes)
        if sum(len(abstracts) * len(transfers) for abstracts, transfers in taken) > MOST_PAIRS:
            raise ValueError(f"more than {MOST_PAIRS} pairs of syntaxes")
        return self
