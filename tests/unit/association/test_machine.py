"""The upper layer machine: one side at a time, its other side written by hand."""

from itertools import product

import pytest

from isthmus.association.machine import ARTIM, LINGER, OPENING, UpperLayer
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
from isthmus.association.states import Role, State
from isthmus.association.table import TABLE
from isthmus.dicom.pdus import Abort as AbortPdu
from isthmus.dicom.pdus import Reject as RejectPdu
from isthmus.errors import LocalMisuse
from isthmus.testing import dicom

RQ = dicom.associate_rq()
AC = dicom.associate_ac(RQ)
NOW = 100.0


def sent(layer: UpperLayer) -> bytes:
    return b"".join(layer.take_bytes())


def acceptor(idle: float | None = None) -> UpperLayer:
    layer = UpperLayer(Role.ACCEPTOR, idle=idle)
    layer.connection_made(NOW)
    return layer


def accepted(idle: float | None = None) -> UpperLayer:
    """An acceptor in Sta6."""
    layer = acceptor(idle=idle)
    layer.receive(RQ, NOW)
    layer.request(AcceptPrimitive(AC), NOW)
    layer.take_bytes()
    return layer


def requestor(idle: float | None = None) -> UpperLayer:
    layer = UpperLayer(Role.REQUESTOR, idle=idle)
    assert layer.request(AssociateRequestPrimitive(RQ), NOW) == [ShouldConnect()]
    layer.connection_made(NOW)
    return layer


def established(idle: float | None = None) -> UpperLayer:
    """A requestor in Sta6."""
    layer = requestor(idle=idle)
    layer.receive(AC, NOW)
    layer.take_bytes()
    return layer


def kinds(events: list[Event]) -> list[type[Event]]:
    return [type(event) for event in events]


def in_state(state: State) -> UpperLayer:
    """A machine driven to this state by what PS3.8 says leads there."""
    match state:
        case State.STA1_IDLE:
            layer = UpperLayer(Role.REQUESTOR)
        case State.STA2_AWAITING_RQ:
            layer = acceptor()
        case State.STA3_AWAITING_LOCAL_RESPONSE:
            layer = acceptor()
            layer.receive(RQ, NOW)
        case State.STA4_AWAITING_CONNECTION:
            layer = UpperLayer(Role.REQUESTOR)
            layer.request(AssociateRequestPrimitive(RQ), NOW)
        case State.STA5_AWAITING_AC_OR_RJ:
            layer = requestor()
        case State.STA6_ESTABLISHED:
            layer = established()
        case State.STA7_AWAITING_RELEASE_RP:
            layer = established()
            layer.request(ReleaseRequest(), NOW)
        case State.STA8_AWAITING_LOCAL_RELEASE:
            layer = established()
            layer.receive(dicom.release_rq(), NOW)
        case State.STA9_COLLISION_REQUESTOR_AWAITING_LOCAL_RELEASE:
            layer = established()
            layer.request(ReleaseRequest(), NOW)
            layer.receive(dicom.release_rq(), NOW)
        case State.STA10_COLLISION_ACCEPTOR_AWAITING_RELEASE_RP:
            layer = accepted()
            layer.request(ReleaseRequest(), NOW)
            layer.receive(dicom.release_rq(), NOW)
        case State.STA11_COLLISION_REQUESTOR_AWAITING_RELEASE_RP:
            layer = in_state(State.STA9_COLLISION_REQUESTOR_AWAITING_LOCAL_RELEASE)
            layer.request(ReleaseResponse(), NOW)
        case State.STA12_COLLISION_ACCEPTOR_AWAITING_LOCAL_RELEASE:
            layer = in_state(State.STA10_COLLISION_ACCEPTOR_AWAITING_RELEASE_RP)
            layer.receive(dicom.release_rp(), NOW)
        case State.STA13_AWAITING_CLOSE:
            layer = acceptor()
            layer.receive(RQ, NOW)
            layer.request(RejectPrimitive(1, 1, 7), NOW)
    layer.take_bytes()
    assert layer.state is state
    return layer


PRIMITIVES: list[Primitive] = [
    AssociateRequestPrimitive(RQ),
    AcceptPrimitive(AC),
    RejectPrimitive(1, 1, 3),
    SendData(dicom.echo_rq()),
    ReleaseRequest(),
    ReleaseResponse(),
    Abort(),
]
PDUS = {
    "RQ": RQ,
    "AC": AC,
    "RJ": dicom.associate_rj(),
    "data": dicom.echo_rq(),
    "release RQ": dicom.release_rq(),
    "release RP": dicom.release_rp(),
    "abort": dicom.abort(),
    "invalid": b"\x63\0\0\0\0\0",
}


@pytest.mark.parametrize(
    ("state", "primitive"),
    list(product(State, PRIMITIVES)),
    ids=lambda one: one.value if isinstance(one, State) else type(one).__name__,
)
def test_a_primitive_is_done_where_the_table_has_a_cell_and_local_misuse_elsewhere(
    state: State, primitive: Primitive
) -> None:
    layer = in_state(state)
    if layer.allows(type(primitive)):
        layer.request(primitive, NOW)
        assert layer.state is not state or isinstance(primitive, SendData)
    else:
        with pytest.raises(LocalMisuse):
            layer.request(primitive, NOW)
        assert layer.state is state
        assert sent(layer) == b""


@pytest.mark.parametrize(
    ("state", "pdu"),
    list(product([state for state in State if state.value not in ("Sta1", "Sta4")], PDUS)),
    ids=lambda one: one.value if isinstance(one, State) else one,
)
def test_a_pdu_that_the_state_does_not_expect_ends_the_association(state: State, pdu: str) -> None:
    layer = in_state(state)
    events = layer.receive(PDUS[pdu], NOW)
    if pdu == "abort":
        assert kinds(events)[-1] is ShouldClose
        assert sent(layer) == b""
    elif layer.state is State.STA13_AWAITING_CLOSE and state is not State.STA13_AWAITING_CLOSE:
        assert kinds(events) == [AbortIndication]
        assert sent(layer)[:6] == b"\x07\0\0\0\0\4"
        assert layer.deadline() == NOW + LINGER
    elif state is State.STA13_AWAITING_CLOSE:
        assert events == []
        assert layer.state is state


@pytest.mark.parametrize("state", [state for state in State if state is not State.STA1_IDLE], ids=lambda one: one.value)
def test_a_lost_connection_ends_in_idle_and_is_told_if_there_was_an_association(state: State) -> None:
    layer = in_state(state)
    expected = [] if state in (State.STA2_AWAITING_RQ, State.STA13_AWAITING_CLOSE) else [ConnectionLost()]
    assert layer.connection_lost(NOW) == expected
    assert layer.state is State.STA1_IDLE
    assert layer.connection_lost(NOW) == []
    assert layer.deadline() is None
    assert layer.receive(RQ, NOW) == []


def test_the_grid_walks_every_state_of_the_table() -> None:
    assert {state for state, _ in TABLE} == set(State)


# --- association set-up ---


def test_a_request_is_indicated_and_the_answer_leaves_byte_for_byte() -> None:
    layer = acceptor()
    (event,) = layer.receive(RQ, NOW)
    assert isinstance(event, AssociateIndication)
    assert event.request.raw == RQ
    assert layer.deadline() is None
    assert layer.request(AcceptPrimitive(AC), NOW) == []
    assert sent(layer) == AC
    assert layer.established


def test_a_confirmed_association_tells_the_answer_as_it_came() -> None:
    layer = requestor()
    assert sent(layer) == RQ
    (event,) = layer.receive(AC, NOW)
    assert isinstance(event, AssociateConfirmed)
    assert event.accept.raw == AC


def test_a_transient_reject_is_told_as_such() -> None:
    """pynetdicom#791."""
    layer = requestor()
    raw = dicom.associate_rj(2, 3, 2)
    assert layer.receive(raw, NOW) == [AssociateRejected(raw, RejectPdu(2, 3, 2)), ShouldClose()]
    assert layer.closed


def test_our_reject_waits_ten_seconds_for_the_device_to_close() -> None:
    layer = acceptor()
    layer.receive(RQ, NOW)
    layer.request(RejectPrimitive(1, 1, 7), NOW)
    assert sent(layer) == dicom.associate_rj(1, 1, 7)
    assert layer.deadline() == NOW + ARTIM
    assert layer.tick(NOW + ARTIM - 0.1) == []
    assert layer.tick(NOW + ARTIM) == [ShouldClose()]
    assert layer.tick(NOW + ARTIM) == []


def test_another_protocol_version_is_refused_without_asking() -> None:
    layer = acceptor()
    raw = RQ[:7] + b"\2" + RQ[8:]
    (event,) = layer.receive(raw, NOW)
    assert isinstance(event, AssociateRefusedHere)
    assert event.answer == RejectPdu(1, 2, 2)
    assert sent(layer) == dicom.associate_rj(1, 2, 2)
    assert layer.deadline() == NOW + ARTIM


def test_a_malformed_request_is_aborted_not_raised() -> None:
    layer = acceptor()
    raw = RQ[:74] + b"\x10\0\xff\xff" + RQ[78:]
    (event,) = layer.receive(raw, NOW)
    assert isinstance(event, AbortIndication)
    assert (event.source, event.reason, event.provider) == (2, 6, True)
    assert sent(layer) == dicom.abort(2, 6)


def test_a_malformed_answer_is_aborted_not_raised() -> None:
    layer = requestor()
    layer.take_bytes()
    (event,) = layer.receive(AC[:74] + b"\x10\0\xff\xff" + AC[78:], NOW)
    assert isinstance(event, AbortIndication)
    assert sent(layer) == dicom.abort(2, 6)


def test_a_malformed_pdu_of_ours_is_our_mistake() -> None:
    with pytest.raises(LocalMisuse):
        UpperLayer(Role.REQUESTOR).request(AssociateRequestPrimitive(b"\x01"), NOW)
    layer = acceptor()
    layer.receive(RQ, NOW)
    with pytest.raises(LocalMisuse):
        layer.request(AcceptPrimitive(RQ), NOW)
    layer.request(AcceptPrimitive(AC), NOW)
    assert layer.established


# --- the gate ---


def test_a_connection_that_says_nothing_is_closed_after_five_seconds() -> None:
    layer = acceptor()
    layer.receive(RQ[:3], NOW + 4)
    assert layer.deadline() == NOW + OPENING
    assert layer.tick(NOW + OPENING) == [ShouldClose()]


def test_an_http_request_on_the_dicom_port_is_answered_and_closed_within_a_second() -> None:
    """fo-dicom#1678."""
    layer = acceptor()
    (event,) = layer.receive(b"GET / HTTP/1.1\r\nHost: archive\r\n\r\n", NOW)
    assert isinstance(event, AbortIndication)
    assert event.why
    assert sent(layer) == dicom.abort(2, 1)
    assert layer.receive(b"more" * 100_000, NOW) == []
    assert sent(layer) == b""
    assert layer.deadline() == NOW + LINGER
    assert layer.tick(NOW + LINGER) == [ShouldClose()]


def test_a_first_pdu_that_is_no_request_is_refused_by_its_header() -> None:
    layer = acceptor()
    assert kinds(layer.receive(b"\x04\0\xff\xff\xff\xff", NOW)) == [AbortIndication]
    assert sent(layer) == dicom.abort(2, 2)


# --- data ---


def test_data_travels_as_it_is_in_both_directions() -> None:
    layer = established()
    run = dicom.store_rq(bytes(range(256)) * 200)
    (event,) = layer.receive(run, NOW)
    assert isinstance(event, DataIndication)
    assert event.run == run
    assert (event.turn, event.boundary, len(event.commands)) == (True, True, 1)
    layer.request(SendData(run), NOW)
    (out,) = layer.take_bytes()
    assert out is run


def test_data_on_a_refused_context_is_aborted_for_both() -> None:
    layer = acceptor()
    layer.receive(RQ, NOW)
    layer.request(AcceptPrimitive(dicom.associate_ac(RQ, refuse=[3])), NOW)
    layer.take_bytes()
    events = layer.receive(dicom.echo_rq(1) + dicom.store_rq(b"ab", 3), NOW)
    assert kinds(events) == [DataIndication, AbortIndication]
    assert sent(layer) == dicom.abort(2, 6)


def test_an_answer_and_data_in_one_read_are_both_heard() -> None:
    layer = requestor()
    assert kinds(layer.receive(AC + dicom.echo_rsp(), NOW)) == [AssociateConfirmed, DataIndication]


def test_data_after_our_release_request_is_delivered() -> None:
    """pynetdicom 3.0.0 notes."""
    layer = established()
    layer.request(ReleaseRequest(), NOW)
    assert kinds(layer.receive(dicom.echo_rsp() + dicom.release_rp(), NOW)) == [
        DataIndication,
        ReleaseConfirmed,
        ShouldClose,
    ]


def test_data_can_be_sent_until_we_agree_to_a_release() -> None:
    """pynetdicom#820: an N-EVENT-REPORT's answer during the release."""
    layer = established()
    assert layer.receive(dicom.release_rq(), NOW) == [ReleaseIndication()]
    layer.request(SendData(dicom.echo_rsp()), NOW)
    layer.request(ReleaseResponse(), NOW)
    assert sent(layer) == dicom.echo_rsp() + dicom.release_rp()
    assert layer.deadline() == NOW + ARTIM


def test_a_second_association_on_the_same_connection_is_not_opened() -> None:
    """fo-dicom#896: after release the connection closes."""
    layer = accepted()
    layer.receive(dicom.release_rq(), NOW)
    layer.request(ReleaseResponse(), NOW)
    layer.take_bytes()
    assert layer.receive(RQ, NOW) == []
    assert sent(layer) == dicom.abort(2, 2)
    assert layer.tick(NOW + ARTIM) == [ShouldClose()]


def test_a_command_that_must_be_rewritten_arrives_whole() -> None:
    layer = accepted()
    layer.hold_commands(64 * 1024)
    command = dicom.move_command("WS1")
    assert layer.receive(dicom.pdata(3, command[:9], command=True), NOW) == []
    (event,) = layer.receive(dicom.pdata(3, command[9:], command=True, last=True), NOW)
    assert isinstance(event, DataIndication)
    assert [one.raw for one in event.commands] == [command]
    assert len(event.run) == len(command) + 24


# --- the end ---


def test_an_abort_of_the_device_keeps_its_source_and_reason() -> None:
    """pynetdicom#769."""
    layer = established()
    events = layer.receive(dicom.abort(2, 5), NOW)
    assert events == [AbortIndication(AbortPdu(2, 5), provider=False), ShouldClose()]
    assert sent(layer) == b""


def test_our_abort_at_a_pdu_boundary_is_an_a_abort() -> None:
    layer = established()
    layer.request(SendData(dicom.pdata(3, b"ab")), NOW)
    assert layer.request(Abort(2, 0), NOW) == []
    assert sent(layer) == dicom.pdata(3, b"ab") + dicom.abort(2, 0)
    assert layer.deadline() == NOW + ARTIM


def test_our_abort_inside_a_pdu_is_a_reset_since_bytes_would_be_taken_as_content() -> None:
    layer = established()
    pdu = dicom.pdata(3, bytes(100))
    layer.request(SendData(pdu[:50], boundary=False), NOW)
    with pytest.raises(LocalMisuse):
        layer.request(ReleaseRequest(), NOW)
    assert layer.request(Abort(), NOW) == [ShouldClose(reset=True)]
    assert sent(layer) == b""
    assert layer.connection_lost(NOW) == []


def test_misuse_of_the_device_while_we_are_inside_a_pdu_is_a_reset_too() -> None:
    layer = established()
    layer.request(SendData(dicom.pdata(3, bytes(100))[:50], boundary=False), NOW)
    assert kinds(layer.receive(b"\x63\0\0\0\0\0", NOW)) == [AbortIndication, ShouldClose]


def test_a_streamed_pdu_that_ended_leaves_room_for_an_abort_again() -> None:
    layer = established()
    pdu = dicom.pdata(3, bytes(100))
    layer.request(SendData(pdu[:50], boundary=False), NOW)
    layer.request(SendData(pdu[50:], boundary=True), NOW)
    assert layer.request(Abort(), NOW) == []
    assert sent(layer) == pdu + dicom.abort()


def test_an_association_without_progress_is_aborted() -> None:
    layer = established(idle=60.0)
    assert layer.deadline() == NOW + 60
    layer.receive(dicom.pdata(3, b"ab")[:4], NOW + 30)
    assert layer.tick(NOW + 60) == []
    assert layer.tick(NOW + 90) == [AbortIndication(AbortPdu(2, 0), provider=True, why="idle for too long")]
    assert sent(layer) == dicom.abort(2, 0)
    assert layer.deadline() == NOW + 90 + ARTIM


def test_an_idle_association_may_last_for_hours() -> None:
    """pynetdicom#619, #825: no limit of its own."""
    layer = established()
    assert layer.deadline() is None
    assert layer.tick(NOW + 86_400) == []


def test_nothing_is_done_after_the_close() -> None:
    layer = established()
    layer.receive(dicom.abort(), NOW)
    with pytest.raises(LocalMisuse):
        layer.request(Abort(), NOW)
    assert not layer.allows(Abort)


def test_a_machine_tells_where_it_stands() -> None:
    layer = established()
    assert repr(layer) == (
        f"<UpperLayer requestor CT1→ARCHIVE Sta6 established, 2 contexts, {len(AC)} bytes in, {len(RQ)} out>"
    )
