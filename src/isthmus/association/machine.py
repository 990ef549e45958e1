"""The upper layer machine of one TCP connection towards one device (PS3.8 section 9.2).

Bytes, primitives and the time go in; events, bytes and a deadline come out. Every change of state is a cell of
`isthmus.association.table`. Nothing is invented in data transfer: P-DATA-TF leaves as it was given, and arrives as it
came. What the standard leaves to the implementation is here: idle ends an association by A-ABORT, a side that broke
the protocol is given `linger` seconds instead of ARTIM's ten, and inside an outgoing PDU the connection is reset.
"""

from typing import Final

from isthmus.association.negotiation import agreed_contexts, refusal_by_protocol
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
from isthmus.association.states import Action, Role, State, Trigger
from isthmus.association.table import NEXT, TABLE
from isthmus.dicom.associate import AssociateAccept, AssociateRequest
from isthmus.dicom.framing import MAX_ASSOCIATE, STREAM_THRESHOLD, Data, Framer, Pdu, PduType
from isthmus.dicom.pdus import RELEASE_RP, RELEASE_RQ, short_description
from isthmus.dicom.pdus import Abort as AbortPdu
from isthmus.dicom.pdus import Reject as RejectPdu
from isthmus.errors import LocalMisuse, RemoteMisuse

ARTIM: Final = 10.0
"""Seconds that the other side has to close after our A-ASSOCIATE-RJ, A-ABORT or A-RELEASE-RP."""
OPENING: Final = 5.0
"""Seconds from the connection to a whole first PDU: devices send it at once, scanners never."""
LINGER: Final = 0.5
"""Seconds that a side which broke the protocol has to close: enough for our A-ABORT to arrive, too short to hold us."""

_UNEXPECTED: Final = AbortPdu(2, 2)
_ESTABLISHED: Final = frozenset(state for state in State if 6 <= int(state.value[3:]) <= 12)
_RECEIVED: Final = {
    PduType.ASSOCIATE_RQ: Trigger.EVT6_RQ_RECEIVED,
    PduType.ASSOCIATE_AC: Trigger.EVT3_AC_RECEIVED,
    PduType.ASSOCIATE_RJ: Trigger.EVT4_RJ_RECEIVED,
    PduType.RELEASE_RQ: Trigger.EVT12_RELEASE_RQ_RECEIVED,
    PduType.RELEASE_RP: Trigger.EVT13_RELEASE_RP_RECEIVED,
    PduType.ABORT: Trigger.EVT16_ABORT_RECEIVED,
}
_ASKED: Final[dict[type[Primitive], Trigger]] = {
    AssociateRequestPrimitive: Trigger.EVT1_ASSOCIATE_REQUEST,
    AcceptPrimitive: Trigger.EVT7_ACCEPT,
    RejectPrimitive: Trigger.EVT8_REJECT,
    SendData: Trigger.EVT9_SEND_DATA,
    ReleaseRequest: Trigger.EVT11_RELEASE_REQUEST,
    ReleaseResponse: Trigger.EVT14_RELEASE_RESPONSE,
    Abort: Trigger.EVT15_ABORT_REQUEST,
}
_Input = Data | Pdu | Primitive | RemoteMisuse | None


class UpperLayer:
    """One side, requestor or acceptor, of one connection towards a device.

    Args:
        role: which side we are.
        artim: seconds of the ARTIM timer.
        opening: seconds an accepted connection has for its whole first PDU.
        linger: seconds until the connection of a side that broke the protocol is closed.
        idle: seconds without a byte either way after which an association is aborted; None for never.
        max_associate: see `Framer`.
        stream_threshold: see `Framer`.
    """

    def __init__(
        self,
        role: Role,
        *,
        artim: float = ARTIM,
        opening: float = OPENING,
        linger: float = LINGER,
        idle: float | None = None,
        max_associate: int = MAX_ASSOCIATE,
        stream_threshold: int = STREAM_THRESHOLD,
    ) -> None:
        self.role: Final = role
        self._state = State.STA1_IDLE
        self._artim_seconds = artim
        self._opening_seconds = opening
        self._linger_seconds = linger
        self._idle_seconds = idle
        self._artim: float | None = None  # when it expires
        self._progress = 0.0  # when the last byte went either way
        first = {PduType.ASSOCIATE_RQ} if role is Role.ACCEPTOR else {PduType.ASSOCIATE_AC, PduType.ASSOCIATE_RJ}
        self._framer = Framer(max_associate, stream_threshold, opening=first | {PduType.ABORT})
        self._request: AssociateRequest | None = None
        self._out: list[bytes | bytearray | memoryview] = []
        self._inside_pdu = False  # what we sent ends inside a P-DATA-TF
        self._deaf = False  # the other side broke the protocol: what else it sends is not looked at
        self._closing = False  # ShouldClose was said
        self._bytes_in = 0
        self._bytes_out = 0

    @property
    def state(self) -> State:
        """Where the machine stands."""
        return self._state

    @property
    def established(self) -> bool:
        """Whether an association exists (Sta6 to Sta12)."""
        return self._state in _ESTABLISHED

    @property
    def closed(self) -> bool:
        """Whether ShouldClose was said, or the connection went away by itself: nothing more will happen."""
        return self._closing

    def allows(self, primitive: type[Primitive]) -> bool:
        """Return whether the state allows this kind of primitive now."""
        return not self._closing and (self._state, _ASKED[primitive]) in TABLE

    def hold_commands(self, max_command: int) -> None:
        """From now on let no run of a DataIndication begin or end inside a command set; see `Framer.hold_commands`."""
        self._framer.hold_commands(max_command)

    # --- the transport ---

    def connection_made(self, now: float) -> None:
        """Take note that the TCP connection is there. Raises LocalMisuse if none was awaited."""
        trigger = Trigger.EVT5_CONNECTION_INDICATED if self.role is Role.ACCEPTOR else Trigger.EVT2_CONNECTION_CONFIRMED
        self._step(trigger, None, now, [])

    def connection_lost(self, now: float) -> list[Event]:
        """Take note that the TCP connection is gone, or could not be made; may be called again."""
        events: list[Event] = []
        if not self._closing and self._state is not State.STA1_IDLE:
            self._step(Trigger.EVT17_CONNECTION_CLOSED, None, now, events)
        self._closing = True
        self._state = State.STA1_IDLE
        self._artim = None
        self._out.clear()
        return events

    def receive(self, data: bytes | bytearray | memoryview, now: float) -> list[Event]:
        """Return what these bytes mean. Misuse is no error here: it becomes an A-ABORT and an AbortIndication."""
        events: list[Event] = []
        self._bytes_in += len(data)
        self._progress = now
        if self._closing or self._deaf:
            return events
        try:
            for frame in self._framer.frames(data):
                trigger = Trigger.EVT10_DATA_RECEIVED if isinstance(frame, Data) else _RECEIVED[frame.type]
                self._step(trigger, frame, now, events)
                if self.closed:
                    break
        except RemoteMisuse as misuse:
            self._deaf = True
            self._step(Trigger.EVT19_INVALID_PDU, misuse, now, events)
        return events

    def take_bytes(self) -> list[bytes | bytearray | memoryview]:
        """Return what must be written, in order, and forget it."""
        out, self._out = self._out, []
        return out

    # --- the user ---

    def request(self, primitive: Primitive, now: float) -> list[Event]:
        """Do what the user asks. Raises LocalMisuse if the state forbids it, or a PDU of ours is cut or malformed."""
        if self._closing:
            raise LocalMisuse(f"{type(primitive).__name__} on a closed connection")
        if self._inside_pdu and not isinstance(primitive, SendData | Abort):
            raise LocalMisuse(f"{type(primitive).__name__} inside a P-DATA-TF")
        events: list[Event] = []
        try:
            self._step(_ASKED[type(primitive)], primitive, now, events)
        except RemoteMisuse as misuse:
            raise LocalMisuse(f"{type(primitive).__name__}: {misuse}") from misuse
        return events

    # --- time ---

    def deadline(self) -> float | None:
        """Return when `tick` is due, on the clock of `now`; None if never."""
        if self._closing:
            return None
        if self._idle_seconds is None or not self.established:
            return self._artim
        return self._progress + self._idle_seconds

    def tick(self, now: float) -> list[Event]:
        """Return what the time means; harmless before the deadline."""
        events: list[Event] = []
        deadline = self.deadline()
        if deadline is None or now < deadline:
            return events
        if self._artim is not None:
            self._step(Trigger.EVT18_ARTIM_EXPIRED, None, now, events)
        else:
            self._step(Trigger.EVT15_ABORT_REQUEST, Abort(2, 0), now, events)
            events.insert(0, AbortIndication(AbortPdu(2, 0), provider=True, why="idle for too long"))
        return events

    # --- the table ---

    def _step(self, trigger: Trigger, given: _Input, now: float, events: list[Event]) -> None:
        action = TABLE.get((self._state, trigger))
        if action is None:
            raise LocalMisuse(f"{trigger.name} in {self._state.name}")
        self._state = self._do(action, given, now, events) or NEXT[action][0]

    def _do(self, action: Action, given: _Input, now: float, events: list[Event]) -> State | None:
        """Perform an action; return the next state where the action leaves a choice and it is not the first."""
        match action:
            case Action.DT_1 | Action.AR_7:
                assert isinstance(given, SendData)
                self._inside_pdu = not given.boundary
                self._send(given.run, now)
            case Action.DT_2 | Action.AR_6:
                assert isinstance(given, Data)
                events.append(DataIndication(given.run, given.turn, given.boundary, given.commands))
            case Action.AR_1:
                self._send(RELEASE_RQ, now)
            case Action.AR_2:
                events.append(ReleaseIndication())
            case Action.AR_3:
                events += [ReleaseConfirmed(), self._close()]
            case Action.AR_4:
                self._send(RELEASE_RP, now)
                self._artim = now + self._artim_seconds
            case Action.AR_8:
                events.append(ReleaseIndication(collision=True))
                if self.role is Role.ACCEPTOR:
                    return State.STA10_COLLISION_ACCEPTOR_AWAITING_RELEASE_RP
            case Action.AR_9:
                self._send(RELEASE_RP, now)
            case Action.AR_10:
                events.append(ReleaseConfirmed())
            case Action.AR_5 | Action.AA_5:
                self._artim = None
            case Action.AA_6:
                pass
            case Action.AA_1 | Action.AA_2 | Action.AA_3 | Action.AA_4 | Action.AA_7 | Action.AA_8:
                self._abort(action, given, now, events)
            case _:
                return self._associate(action, given, now, events)
        return None

    def _associate(self, action: Action, given: _Input, now: float, events: list[Event]) -> State | None:
        """Perform AE-1 to AE-8."""
        match action:
            case Action.AE_1:
                assert isinstance(given, AssociateRequestPrimitive)
                self._request = AssociateRequest.parse(given.raw)
                events.append(ShouldConnect())
            case Action.AE_2:
                assert self._request is not None
                self._send(self._request.raw, now)
            case Action.AE_3:
                assert isinstance(given, Pdu)
                accept = AssociateAccept.parse(given.raw)
                self._agree(accept)
                events.append(AssociateConfirmed(accept))
            case Action.AE_4:
                assert isinstance(given, Pdu)
                events += [AssociateRejected(given.raw, RejectPdu.parse(given.raw)), self._close()]
            case Action.AE_5:
                self._artim = now + self._opening_seconds
            case Action.AE_6:
                assert isinstance(given, Pdu)
                self._request = AssociateRequest.parse(given.raw)
                self._artim = None
                refusal = refusal_by_protocol(self._request)
                if refusal is not None:
                    self._send(refusal.to_bytes(), now)
                    self._artim = now + self._artim_seconds
                    events.append(AssociateRefusedHere(self._request, refusal))
                    return State.STA13_AWAITING_CLOSE
                events.append(AssociateIndication(self._request))
            case Action.AE_7:
                assert isinstance(given, AcceptPrimitive)
                self._agree(AssociateAccept.parse(given.raw))
                self._send(given.raw, now)
            case _:  # AE-8
                assert isinstance(given, RejectPrimitive)
                self._send(RejectPdu(given.result, given.source, given.reason).to_bytes(), now)
                self._artim = now + self._artim_seconds
        return None

    def _abort(self, action: Action, given: _Input, now: float, events: list[Event]) -> None:
        """Perform AA-1 to AA-4, AA-7 and AA-8."""
        match action:
            case Action.AA_2:
                self._artim = None
                events.append(self._close())
            case Action.AA_3:
                assert isinstance(given, Pdu)
                events += [AbortIndication(AbortPdu.parse(given.raw), provider=False), self._close()]
            case Action.AA_4:
                events.append(ConnectionLost())
            case Action.AA_7:
                self._send_abort(_UNEXPECTED, now, events)
            case _:  # AA-1 and AA-8
                if isinstance(given, Abort):
                    answer, wait = AbortPdu(given.source, given.reason), self._artim_seconds
                elif isinstance(given, RemoteMisuse):
                    answer, wait = AbortPdu(given.source, given.reason), self._linger_seconds
                    events.append(AbortIndication(answer, provider=True, why=str(given)))
                else:
                    answer, wait = _UNEXPECTED, self._linger_seconds
                    what = short_description(given.raw) if isinstance(given, Pdu) else "P-DATA-TF"
                    events.append(AbortIndication(answer, provider=True, why=f"{what} in {self._state.value}"))
                self._artim = now + wait
                self._send_abort(answer, now, events)

    def _agree(self, accept: AssociateAccept) -> None:
        assert self._request is not None
        self._framer.contexts = frozenset(agreed_contexts(self._request, accept))

    def _send(self, data: bytes | bytearray | memoryview, now: float) -> None:
        self._out.append(data)
        self._bytes_out += len(data)
        self._progress = now

    def _send_abort(self, answer: AbortPdu, now: float, events: list[Event]) -> None:
        if self._inside_pdu:
            self._out.clear()
            events.append(self._close(reset=True))
        else:
            self._send(answer.to_bytes(), now)

    def _close(self, *, reset: bool = False) -> ShouldClose:
        self._closing = True
        return ShouldClose(reset)

    def __repr__(self) -> str:
        titles = f" {self._request.calling}→{self._request.called}" if self._request else ""
        agreed = self._framer.contexts
        contexts = f", {len(agreed)} contexts" if agreed is not None else ""
        state = f"{self._state.value} {self._state.name.split('_', 1)[1].replace('_', ' ').lower()}"
        counts = f"{self._bytes_in} bytes in, {self._bytes_out} out"
        return f"<UpperLayer {self.role.value}{titles} {state}{contexts}, {counts}>"
