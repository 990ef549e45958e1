"""One side of a live session: joins a device's upper layer to the stream that comes from the far Router.

Events and stream bytes go in, commands come out; the driver performs them in order. P-DATA bytes pass unchanged, and
so do A-RELEASE-RQ and -RP, in the stream; what ended an association any other way travels as an `Ending`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Final

from isthmus.association.machine import UpperLayer
from isthmus.association.primitives import (
    Abort,
    AbortIndication,
    AcceptPrimitive,
    AssociateConfirmed,
    AssociateIndication,
    AssociateRefusedHere,
    AssociateRejected,
    AssociateRequestPrimitive,
    ConnectionLost,
    DataIndication,
    Event,
    Primitive,
    RejectPrimitive,
    ReleaseConfirmed,
    ReleaseIndication,
    ReleaseRequest,
    ReleaseResponse,
    SendData,
    ShouldClose,
    ShouldConnect,
)
from isthmus.association.states import State
from isthmus.dicom.associate import AssociateAccept, AssociateRequest
from isthmus.dicom.framing import Data, Framer, Pdu, PduType
from isthmus.dicom.pdus import RELEASE_RP, RELEASE_RQ, Reject
from isthmus.dicom.pdv import Command as DimseCommand
from isthmus.dicom.rewrite import rewrite_commands
from isthmus.errors import AssociationAborted, LocalMisuse, RemoteMisuse
from isthmus.relay.ending import Ending, EndKind
from isthmus.relay.policy import CommandPolicy, ReturnWanted
from isthmus.relay.titles import MAX_COMMAND, Rename, Titles, renamed

GRACE_SECONDS: Final = 2.0
"""How long the bytes sent before an abort may still take to arrive; over TCP they would come first as well."""


class Outcome(Enum):
    """How a session ended, for audit and lists."""

    RELEASED = "released"
    ABORTED_HERE = "aborted by the local device"
    ABORTED_THERE = "aborted by the far device"
    LOST_HERE = "connection to the local device lost"
    LOST_THERE = "connection to the far device lost"
    LET_GO_HERE = "ended by this Router"
    LET_GO_THERE = "ended by the far Router"
    BROKEN = "path to the far Router lost"


_HERE: Final = {
    EndKind.ABORTED: Outcome.ABORTED_HERE,
    EndKind.LOST: Outcome.LOST_HERE,
    EndKind.LET_GO: Outcome.LET_GO_HERE,
}
_THERE: Final = {
    EndKind.ABORTED: Outcome.ABORTED_THERE,
    EndKind.LOST: Outcome.LOST_THERE,
    EndKind.LET_GO: Outcome.LET_GO_THERE,
}


@dataclass(frozen=True, slots=True)
class Asked:
    """The device asks for an association: decide, then call `accept`, `reject` or `let_go`."""

    request: AssociateRequest


@dataclass(frozen=True, slots=True)
class RefusedHere:
    """The device asked for what no DICOM association can be: it has its A-ASSOCIATE-RJ already."""

    request: AssociateRequest
    answer: Reject


@dataclass(frozen=True, slots=True)
class Answered:
    """The called device has answered: its A-ASSOCIATE-AC, or the RJ or A-ABORT that came instead, or nothing: lost."""

    accept: AssociateAccept | None
    raw: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class ToFar:
    """Write to the stream; `flush`: somebody waits for an answer to it. The view is valid only now."""

    data: bytes | memoryview = field(repr=False)
    flush: bool


@dataclass(frozen=True, slots=True)
class TellFar:
    """Signal beside the stream."""

    ending: Ending


@dataclass(frozen=True, slots=True)
class FinishFar:
    """Nothing more will be written to the stream."""


@dataclass(frozen=True, slots=True)
class ToDevice:
    """Send to the device, in this order."""

    chunks: list[bytes | bytearray | memoryview] = field(repr=False)


@dataclass(frozen=True, slots=True)
class CloseDevice:
    """Close the device's TCP connection: after what was written has left, or with a reset at once."""

    reset: bool


@dataclass(frozen=True, slots=True)
class Ended:
    """The association is over; comes once."""

    outcome: Outcome


SideCommand = (
    Asked | RefusedHere | Answered | ToFar | TellFar | FinishFar | ToDevice | CloseDevice | ReturnWanted | Ended
)


class Side:
    """The device's half of one session. `upper` is the state machine of its TCP connection.

    Args:
        upper: as acceptor where the device asks (the caller's side), as requestor where it is asked.
        device_asks: which of the two this is.
        policy: what the grant says about the requestor's commands.
    """

    def __init__(self, upper: UpperLayer, *, device_asks: bool, policy: CommandPolicy | None = None) -> None:
        self.upper: Final = upper
        self.policy = policy or CommandPolicy()
        self._device_asks = device_asks
        self._far = Framer()
        self._titles: Titles | None = None
        self._asked_length = 0  # the maximum PDU lengths that the two devices told each other; 0 is no limit
        self._answered_length = 0
        self._written = 0  # stream bytes to the far side
        self._delivered = 0  # stream bytes from the far side
        self._ending: Ending | None = None  # the far side's
        self._ending_due: float | None = None
        self._established = False
        self._accepted = False  # the called device has said yes: what it does next waits for `establish`
        self._early: list[Event] = []
        self.asked = False  # the first PDU has come
        self._finished = False
        self._over = False

    def __repr__(self) -> str:
        return f"<Side of {self.upper!r}, {self._written} B to far, {self._delivered} B from far>"

    @property
    def over(self) -> bool:
        """Whether the device's association has ended."""
        return self._over

    # -- set-up ----------------------------------------------------------------------------------------------------

    def translate(self, titles: Titles) -> None:
        """Translate titles in command sets from now on; before the association is there."""
        self._titles = titles
        self.upper.hold_commands(MAX_COMMAND)
        self._far.hold_commands(MAX_COMMAND)

    def call(self, request: bytes, now: float) -> list[SideCommand]:
        """Ask the device for an association with this A-ASSOCIATE-RQ."""
        if self._titles is not None:
            self._asked_length = AssociateRequest.parse(request).max_pdu_length
        return self._device(AssociateRequestPrimitive(request), now)

    def connected(self, now: float) -> list[SideCommand]:
        """Take the TCP connection: accepted from the device, or dialled after `call`."""
        self.upper.connection_made(now)
        return self._flush_device()

    def accept(self, raw: bytes, now: float) -> list[SideCommand]:
        """Answer the device's request with this A-ASSOCIATE-AC."""
        self._established = True
        if self._titles is not None:
            self._answered_length = AssociateAccept.parse(raw).max_pdu_length
        return self._device(AcceptPrimitive(raw), now)

    def reject(self, result: int, source: int, reason: int, now: float) -> list[SideCommand]:
        """Answer the device's request with an A-ASSOCIATE-RJ."""
        self._over = True
        return self._device(RejectPrimitive(result, source, reason), now)

    def establish(self, now: float) -> list[SideCommand]:
        """The far side has been told the device's answer: relay from now on, and what it did since then."""
        self._established = True
        early, self._early = self._early, []
        return self._events(early, now)

    # -- from the device -------------------------------------------------------------------------------------------

    def from_device(self, data: bytes | memoryview, now: float) -> list[SideCommand]:
        """Take bytes that the device sent. A command's view into them is valid until the next call."""
        return self._events(self.upper.receive(data, now), now)

    def device_lost(self, now: float) -> list[SideCommand]:
        """Take the end of the device's TCP connection."""
        commands = self._events(self.upper.connection_lost(now), now)
        if self._accepted and not self._established:
            self._early.append(ConnectionLost())
        if self._established:  # whatever state the machine was in: the far side hears of it
            commands += self._device_ended(EndKind.LOST, 2, 0)
        return commands

    def tick(self, now: float) -> list[SideCommand]:
        """Take the time; call at `deadline`."""
        commands: list[SideCommand] = []
        if self._ending_due is not None and now >= self._ending_due:
            commands += self._end_device(now)
        due = self.upper.deadline()
        if due is not None and now >= due:
            commands += self._events(self.upper.tick(now), now)
        return commands

    def deadline(self) -> float | None:
        """Return when `tick` wants to be called, on the clock of `now`."""
        return min((due for due in (self.upper.deadline(), self._ending_due) if due is not None), default=None)

    # -- from the far side -----------------------------------------------------------------------------------------

    def from_far(self, payload: bytes, now: float) -> list[SideCommand]:
        """Take stream bytes, in order."""
        commands: list[SideCommand] = []
        self._delivered += len(payload)
        if self._over:
            return commands
        try:
            for frame in self._far.frames(payload):
                if isinstance(frame, Data):
                    if frame.commands and not self._device_asks:
                        commands += self._check(frame.commands)
                    run = frame.run
                    if frame.commands and self._titles is not None:
                        run = self._renamed(run, self._titles.to_device, to_requestor=self._device_asks)
                    self.upper.request(SendData(run, boundary=frame.boundary), now)
                else:
                    self._pdu_from_far(frame, now)
        except (RemoteMisuse, LocalMisuse) as error:
            commands += self._flush_device()
            return commands + self.let_go(now, source=2, reason=getattr(error, "reason", 0))
        except AssociationAborted as error:
            commands += self._flush_device()
            return commands + self.let_go(now, source=error.source, reason=error.reason)
        commands += self._flush_device()
        if self.upper.state is State.STA13_AWAITING_CLOSE:
            commands += self._end(Outcome.RELEASED)
        if self._ending is not None and self._delivered >= self._ending.offset:
            commands += self._end_device(now)
        return commands

    def far_ending(self, ending: Ending, now: float) -> list[SideCommand]:
        """Take how the far device's association ended; what it sent before may still come, within GRACE_SECONDS."""
        if self._over or self._ending is not None:
            return []
        self._ending = ending
        if self._delivered >= ending.offset:
            return self._end_device(now)
        self._ending_due = now + GRACE_SECONDS
        return []

    def far_broken(self, now: float) -> list[SideCommand]:
        """Take the loss of the path: the device is let go."""
        if self._over:
            return []
        return self._end(Outcome.BROKEN) + self._device(Abort(2, 0), now)

    def let_go(self, now: float, *, source: int = 2, reason: int = 0) -> list[SideCommand]:
        """End the association by this Router's own doing, on both sides."""
        if self._over:
            return []
        ending = Ending(EndKind.LET_GO, source, reason, self._written)
        return [TellFar(ending), *self._end(Outcome.LET_GO_HERE), *self._device(Abort(source, reason), now)]

    # -- inside ----------------------------------------------------------------------------------------------------

    def _events(self, events: Iterable[Event], now: float) -> list[SideCommand]:
        commands: list[SideCommand] = []
        try:
            for event in events:
                if self._accepted and not self._established and type(event) is not ShouldClose:
                    self._early.append(_lasting(event))
                elif type(event) is DataIndication:
                    if event.commands and self._device_asks:
                        commands += self._check(event.commands)
                    run = event.run
                    if event.commands and self._titles is not None:
                        run = self._renamed(run, self._titles.to_network, to_requestor=not self._device_asks)
                    if not self._finished:
                        self._written += len(run)
                        commands.append(ToFar(run, event.turn))
                else:
                    commands += self._event(event, now)
        except AssociationAborted as error:
            commands += self.let_go(now, source=error.source, reason=error.reason)
        return commands + self._flush_device()

    def _event(self, event: Event, now: float) -> list[SideCommand]:
        match event:
            case AssociateIndication(request=request):
                self.asked = True
                self._asked_length = request.max_pdu_length
                return [Asked(request)]
            case AssociateConfirmed(accept=accept):
                self._answered_length = accept.max_pdu_length
                self._accepted = True
                return [Answered(accept, accept.raw)]
            case AssociateRejected(raw=raw):
                self._over = True
                return [Answered(None, raw)]
            case AssociateRefusedHere(request=request, answer=answer):
                self._over = self.asked = True
                return [RefusedHere(request, answer)]
            case ShouldConnect():
                return []
            case ReleaseIndication(collision=True):
                # Both devices want to end: each gets its answer from its own Router, in PS3.8's order.
                return self._device(ReleaseResponse(), now)
            case ReleaseIndication():
                return self._pdu_to_far(RELEASE_RQ)
            case ReleaseConfirmed():
                collision = self._device(ReleaseResponse(), now)
                return [*self._pdu_to_far(RELEASE_RP), *self._end(Outcome.RELEASED), *collision]
            case AbortIndication(provider=provider):
                kind = EndKind.LET_GO if provider else EndKind.ABORTED
                return self._device_ended(kind, event.source, event.reason)
            case ConnectionLost():
                return self._device_ended(EndKind.LOST, 2, 0)
            case ShouldClose(reset=reset):
                return [CloseDevice(reset)]
            case _:  # pragma: no cover - the machine has no others
                raise LocalMisuse(f"unexpected event {event!r}")

    def _check(self, dimse: Iterable[DimseCommand]) -> list[SideCommand]:
        ways: list[SideCommand] = []
        for command in dimse:
            try:
                way = self.policy.check(command.parse())
            except RemoteMisuse as error:
                if self.policy.requests is not None:  # it cannot be told from what is forbidden
                    raise AssociationAborted(str(error), source=error.source, reason=error.reason) from error
                continue  # the called device judges it, as it would on one LAN
            if way is not None:
                ways.append(way)
        return ways

    def _renamed(self, run: bytes | memoryview, rename: Rename, *, to_requestor: bool) -> bytes | memoryview:
        """Return the run, which holds whole command sets, with the titles in them renamed."""
        longest = self._asked_length if to_requestor else self._answered_length
        out = rewrite_commands(run, lambda command: renamed(command, rename), max_pdu_length=longest)
        return memoryview(out) if isinstance(out, bytearray) else out

    def _pdu_from_far(self, pdu: Pdu, now: float) -> None:
        if pdu.type is PduType.RELEASE_RQ and self.upper.allows(ReleaseResponse):
            self.upper.request(ReleaseResponse(), now)  # crossed our device's own request, and answers it
        elif pdu.type is PduType.RELEASE_RQ:
            self.upper.request(ReleaseRequest(), now)
        elif pdu.type is PduType.RELEASE_RP:
            self.upper.request(ReleaseResponse(), now)
        else:
            raise RemoteMisuse(f"the far Router sent a PDU of type {pdu.type} inside the stream")

    def _pdu_to_far(self, raw: bytes) -> list[SideCommand]:
        if self._finished:
            return []
        self._written += len(raw)
        return [ToFar(raw, flush=True)]

    def _device_ended(self, kind: EndKind, source: int, reason: int) -> list[SideCommand]:
        if self._over:
            return []
        if not self._established:
            self._over = True
            raw = None if kind is EndKind.LOST else bytes((7, 0, 0, 0, 0, 4, 0, 0, source, reason))
            return [Answered(None, raw)]
        outcome = _HERE[kind]
        return [TellFar(Ending(kind, source, reason, self._written)), *self._end(outcome)]

    def _end_device(self, now: float) -> list[SideCommand]:
        """End the device's association as the far one ended."""
        ending, self._ending_due = self._ending, None
        if ending is None or self._over:
            return []
        return self._end(_THERE[ending.kind]) + self._device(Abort(ending.source, ending.reason), now)

    def _end(self, outcome: Outcome) -> list[SideCommand]:
        if self._over:
            return []
        self._over = True
        commands: list[SideCommand] = [Ended(outcome)]
        if not self._finished:
            self._finished = True
            commands.insert(0, FinishFar())
        return commands

    def _device(self, primitive: Primitive, now: float) -> list[SideCommand]:
        if not self.upper.allows(type(primitive)):
            return []
        events = self.upper.request(primitive, now)
        return self._flush_device() + self._events(events, now)

    def _flush_device(self) -> list[SideCommand]:
        chunks = self.upper.take_bytes()
        return [ToDevice(chunks)] if chunks else []


def _lasting(event: Event) -> Event:
    """Return the event with bytes of its own instead of a view that is valid only now."""
    return replace(event, run=bytes(event.run)) if isinstance(event, DataIndication) else event
