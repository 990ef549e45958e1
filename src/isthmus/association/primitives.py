"""What the user of the upper layer asks for, and what it hears (PS3.8 section 7): frozen values, matched by type."""

from dataclasses import dataclass, field

from isthmus.dicom.associate import AssociateAccept, AssociateRequest
from isthmus.dicom.pdus import Abort as AbortPdu
from isthmus.dicom.pdus import Reject as RejectPdu
from isthmus.dicom.pdv import Command

# --- asked for ---


@dataclass(frozen=True, slots=True)
class AssociateRequestPrimitive:
    """Ask the device for an association with this A-ASSOCIATE-RQ, byte for byte (Evt1)."""

    raw: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class AcceptPrimitive:
    """Answer the device's request with this A-ASSOCIATE-AC, byte for byte (Evt7)."""

    raw: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class RejectPrimitive:
    """Answer the device's request with an A-ASSOCIATE-RJ (Evt8)."""

    result: int
    source: int
    reason: int


@dataclass(frozen=True, slots=True)
class SendData:
    """Send bytes of P-DATA-TF PDUs as they are (Evt9).

    `boundary`: they end where a PDU ends. A view stays in use until `take_bytes` has handed it on and it is written.
    """

    run: bytes | bytearray | memoryview = field(repr=False)
    boundary: bool = True


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    """Ask the device to end the association in order (Evt11)."""


@dataclass(frozen=True, slots=True)
class ReleaseResponse:
    """Agree to the device's release (Evt14)."""


@dataclass(frozen=True, slots=True)
class Abort:
    """End the association at once (Evt15): with A-ABORT at a PDU boundary, by closing inside a PDU."""

    source: int = 0
    reason: int = 0


Primitive = (
    AssociateRequestPrimitive | AcceptPrimitive | RejectPrimitive | SendData | ReleaseRequest | ReleaseResponse | Abort
)

# --- heard ---


@dataclass(frozen=True, slots=True)
class ShouldConnect:
    """Open the TCP connection to the device, then call `connection_made` (AE-1)."""


@dataclass(frozen=True, slots=True)
class AssociateIndication:
    """A device asks for an association; answer with AcceptPrimitive, RejectPrimitive or Abort."""

    request: AssociateRequest


@dataclass(frozen=True, slots=True)
class AssociateRefusedHere:
    """A device asked for an association that the upper layer itself refused (AE-6); nothing is left to answer."""

    request: AssociateRequest
    answer: RejectPdu


@dataclass(frozen=True, slots=True)
class AssociateConfirmed:
    """The device accepted the association."""

    accept: AssociateAccept


@dataclass(frozen=True, slots=True)
class AssociateRejected:
    """The device rejected the association: the PDU as it came, and its meaning."""

    raw: bytes = field(repr=False)
    answer: RejectPdu


@dataclass(frozen=True, slots=True)
class DataIndication:
    """Bytes of P-DATA-TF PDUs as they came; see `isthmus.dicom.framing.Data` for the fields.

    `run` is valid until the next `receive`.
    """

    run: bytes | memoryview = field(repr=False)
    turn: bool
    boundary: bool
    commands: tuple[Command, ...]


@dataclass(frozen=True, slots=True)
class ReleaseIndication:
    """The device asks to end the association in order; answer with ReleaseResponse when all is delivered.

    `collision`: it crossed our own request, and PS3.8 section 7.2.2 says in which order the two are answered.
    """

    collision: bool = False


@dataclass(frozen=True, slots=True)
class ReleaseConfirmed:
    """The device agreed to our release."""


@dataclass(frozen=True, slots=True)
class AbortIndication:
    """The association is over. `provider`: by this upper layer (A-P-ABORT), because of `why`; else by the device.

    `answer` is the A-ABORT that came from the device, or that went to it.
    """

    answer: AbortPdu
    provider: bool
    why: str = ""

    @property
    def source(self) -> int:
        """Source of the A-ABORT (PS3.8 table 9-26)."""
        return self.answer.source

    @property
    def reason(self) -> int:
        """Reason/Diag of the A-ABORT (PS3.8 table 9-26)."""
        return self.answer.reason


@dataclass(frozen=True, slots=True)
class ConnectionLost:
    """The TCP connection went away under an association (AA-4)."""


@dataclass(frozen=True, slots=True)
class ShouldClose:
    """Close the TCP connection now, after writing what `take_bytes` gives.

    `reset`: by RST and without writing, since the device is inside a PDU and would take an A-ABORT as its content.
    """

    reset: bool = False


Event = (
    ShouldConnect
    | AssociateIndication
    | AssociateRefusedHere
    | AssociateConfirmed
    | AssociateRejected
    | DataIndication
    | ReleaseIndication
    | ReleaseConfirmed
    | AbortIndication
    | ConnectionLost
    | ShouldClose
)
