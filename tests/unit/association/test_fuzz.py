"""T11, the machine's share: whatever a device sends, in whatever pieces, the answer is events and few bytes."""

import random

import pytest

from isthmus.association.machine import LINGER, UpperLayer
from isthmus.association.primitives import (
    AcceptPrimitive,
    AssociateIndication,
    AssociateRequestPrimitive,
    DataIndication,
    ReleaseIndication,
    ReleaseResponse,
    SendData,
    ShouldClose,
)
from isthmus.association.states import Role, State
from isthmus.dicom.associate import build_accept
from isthmus.testing import depth, dicom

RQ = dicom.associate_rq()
AC = dicom.associate_ac(RQ)
PDUS = [
    RQ,
    AC,
    dicom.associate_rj(),
    dicom.release_rq(),
    dicom.release_rp(),
    dicom.abort(),
    dicom.echo_rq(),
    dicom.store_rq(bytes(3_000), max_pdu_length=700),
    dicom.pdata_of((1, 3, dicom.store_command()), (3, 0, b"abc")),
    dicom.pdata(5, b"a context that was not accepted"),
    b"\x04\0\xff\xff\xff\xff\xff\xff\xff\xfb\x03\0",
    b"GET / HTTP/1.1\r\n\r\n",
]


def device(chance: random.Random, first: bytes) -> bytes:
    """Return what a device might send: a good start now and then, PDUs in any order, some bytes of them wrong."""
    raw = bytearray(b"".join([first] * chance.randint(0, 1) + chance.choices(PDUS, k=chance.randint(1, 5))))
    for _ in range(chance.choice((0, 0, 1, 3))):
        raw[chance.randrange(len(raw))] = chance.randrange(256)
    return bytes(raw)


def talk(chance: random.Random, role: Role) -> State:
    """Run one association against such a device; return the state it came to."""
    layer = UpperLayer(role, idle=300)
    if role is Role.REQUESTOR:
        layer.request(AssociateRequestPrimitive(RQ), 0)
    layer.connection_made(0)
    raw = device(chance, RQ if role is Role.ACCEPTOR else AC)
    at = said = written = 0
    came_to = layer.state
    while at < len(raw) and not layer.closed:
        size = chance.choice((1, 5, 100, 10_000))
        for event in layer.receive(raw[at : at + size], 0):
            match event:
                case AssociateIndication(request) if layer.allows(AcceptPrimitive):
                    answer = build_accept(request, lambda one: next(iter(one.transfer_syntaxes), ""))
                    layer.request(AcceptPrimitive(answer.raw), 0)
                case DataIndication() if layer.allows(SendData):
                    layer.request(SendData(dicom.echo_rsp()), 0)
                case ReleaseIndication() if layer.allows(ReleaseResponse):
                    layer.request(ReleaseResponse(), 0)
            said += 1
        written += sum(len(piece) for piece in layer.take_bytes())
        came_to = layer.state
        at += size
    assert written <= 2 * len(RQ) + 100 * (said + 1)
    if not layer.closed:
        deadline = layer.deadline()
        assert deadline is None or deadline >= LINGER
        if layer.state is State.STA13_AWAITING_CLOSE:
            assert deadline is not None
            assert layer.tick(deadline) == [ShouldClose()]
    layer.connection_lost(1)
    return came_to


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("role", Role, ids=lambda role: str(role.value))
def test_any_device_is_met_with_events_and_an_orderly_end(role: Role) -> None:
    chance = random.Random(1964)
    came_to = {talk(chance, role) for _ in range(depth.count(push=2_000, nightly=100_000))}
    assert {State.STA6_ESTABLISHED, State.STA13_AWAITING_CLOSE, State.STA1_IDLE} <= came_to
