"""Two machines, one on each side of a connection that cuts bytes where it likes."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.association.machine import UpperLayer
from isthmus.association.primitives import (
    AcceptPrimitive,
    AssociateIndication,
    AssociateRequestPrimitive,
    DataIndication,
    Event,
    ReleaseConfirmed,
    ReleaseIndication,
    ReleaseRequest,
    ReleaseResponse,
    SendData,
    ShouldClose,
)
from isthmus.association.states import Role, State
from isthmus.testing import depth, dicom

RQ = dicom.associate_rq()
AC = dicom.associate_ac(RQ)


@dataclass
class Pair:
    """A requestor and an acceptor, and all that each of them heard."""

    piece: int = 1 << 20
    one: UpperLayer = field(default_factory=lambda: UpperLayer(Role.REQUESTOR, stream_threshold=512))
    other: UpperLayer = field(default_factory=lambda: UpperLayer(Role.ACCEPTOR, stream_threshold=512))
    heard: dict[Role, list[Event]] = field(default_factory=lambda: {Role.REQUESTOR: [], Role.ACCEPTOR: []})
    data: dict[Role, bytes] = field(default_factory=lambda: {Role.REQUESTOR: b"", Role.ACCEPTOR: b""})

    def open(self) -> None:
        self.one.request(AssociateRequestPrimitive(RQ), 0)
        self.one.connection_made(0)
        self.other.connection_made(0)
        self.pump()
        self.other.request(AcceptPrimitive(AC), 0)
        self.pump()
        assert self.one.established
        assert self.other.established

    def carry(self, source: UpperLayer, to: UpperLayer) -> bool:
        raw = b"".join(source.take_bytes())
        for start in range(0, len(raw), self.piece):
            for event in to.receive(raw[start : start + self.piece], 0):
                self.heard[to.role].append(event)
                if isinstance(event, DataIndication):
                    self.data[to.role] += bytes(event.run)
                if isinstance(event, ShouldClose):
                    source.connection_lost(0)
        return bool(raw)

    def pump(self) -> None:
        while self.carry(self.one, self.other) | self.carry(self.other, self.one):
            pass


@pytest.mark.parametrize("piece", [1, 7, 1 << 20])
def test_an_association_from_request_to_release(piece: int) -> None:
    pair = Pair(piece)
    pair.open()
    assert isinstance(pair.heard[Role.ACCEPTOR][0], AssociateIndication)
    image = dicom.store_rq(bytes(5000), max_pdu_length=1000)
    pair.one.request(SendData(image), 0)
    pair.pump()
    pair.other.request(SendData(dicom.store_rsp()), 0)
    pair.pump()
    assert pair.data == {Role.ACCEPTOR: image, Role.REQUESTOR: dicom.store_rsp()}
    pair.one.request(ReleaseRequest(), 0)
    pair.pump()
    pair.other.request(ReleaseResponse(), 0)
    pair.pump()
    assert pair.heard[Role.REQUESTOR][-2:] == [ReleaseConfirmed(), ShouldClose()]
    assert pair.one.closed
    assert pair.other.state is State.STA1_IDLE


def test_releases_that_cross_end_in_order_on_both_sides() -> None:
    """PS3.8 section 7.2.2: the requestor answers first."""
    pair = Pair()
    pair.open()
    pair.one.request(ReleaseRequest(), 0)
    pair.other.request(ReleaseRequest(), 0)
    pair.pump()
    assert pair.heard[Role.REQUESTOR][-1] == ReleaseIndication(collision=True)
    assert pair.heard[Role.ACCEPTOR][-1] == ReleaseIndication(collision=True)
    assert pair.one.state is State.STA9_COLLISION_REQUESTOR_AWAITING_LOCAL_RELEASE
    assert not pair.other.allows(ReleaseResponse)
    pair.one.request(ReleaseResponse(), 0)
    pair.pump()
    assert pair.heard[Role.ACCEPTOR][-1] == ReleaseConfirmed()
    pair.other.request(ReleaseResponse(), 0)
    pair.pump()
    assert pair.heard[Role.REQUESTOR][-2:] == [ReleaseConfirmed(), ShouldClose()]
    assert pair.other.state is State.STA1_IDLE


messages = st.lists(
    st.one_of(
        st.integers(1, 3000).map(lambda size: dicom.store_rq(bytes(size), max_pdu_length=700)),
        st.integers(0, 2000).map(lambda size: dicom.pdata(3, bytes(size))),
        st.just(dicom.echo_rq()),
    ),
    max_size=8,
)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=depth.count(push=50, nightly=2_000), deadline=None)
@given(there=messages, back=messages, piece=st.integers(1, 5000))
def test_both_directions_at_once_arrive_byte_for_byte(there: list[bytes], back: list[bytes], piece: int) -> None:
    """fo-dicom#624: a C-CANCEL is never held up by the answers."""
    pair = Pair(piece)
    pair.open()
    for message in there:
        pair.one.request(SendData(message), 0)
    for message in back:
        pair.other.request(SendData(message), 0)
    pair.pump()
    assert pair.data == {Role.ACCEPTOR: b"".join(there), Role.REQUESTOR: b"".join(back)}
