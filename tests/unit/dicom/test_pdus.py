"""The small PDUs and our own P-DATA-TF."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.dicom.framing import Data, Framer
from isthmus.dicom.pdus import Abort, Reject, message, short_description
from isthmus.errors import RemoteMisuse
from isthmus.testing import dicom

byte = st.integers(0, 255)


@given(byte, byte, byte)
def test_a_reject_keeps_values_that_the_standard_does_not_know(result: int, source: int, reason: int) -> None:
    reject = Reject(result, source, reason)
    assert Reject.parse(reject.to_bytes()) == reject
    assert f"{result}/{source}/{reason}" in str(reject)


@given(byte, byte)
def test_an_abort_keeps_values_that_the_standard_does_not_know(source: int, reason: int) -> None:
    """pynetdicom#769: the reason travels."""
    abort = Abort(source, reason)
    assert Abort.parse(abort.to_bytes()) == abort
    assert f"{source}/{reason}" in str(abort)


def test_rejects_and_aborts_read_well() -> None:
    assert str(Reject(1, 1, 7)) == "rejected permanently: called AE title not recognized (1/1/7)"
    assert str(Reject(2, 3, 2)) == "rejected transiently: local limit exceeded (2/3/2)"
    assert str(Abort(2, 6)) == "aborted by the service-provider: invalid PDU parameter value (2/6)"
    assert str(Abort(0, 0)) == "aborted by the service-user: no reason given (0/0)"
    assert Reject(1, 1, 7).permanent
    assert not Reject(2, 1, 7).permanent


@pytest.mark.parametrize("raw", [b"", dicom.abort()[:-1], dicom.abort() + b"\0", dicom.release_rq()])
def test_an_abort_that_is_none_is_misuse(raw: bytes) -> None:
    with pytest.raises(RemoteMisuse):
        Abort.parse(raw)


@pytest.mark.parametrize("max_pdu_length", [0, 1, 7, 8, 9, 64, 16_384, 1 << 32])
def test_a_message_is_cut_to_even_fragments_within_the_limit(max_pdu_length: int) -> None:
    """fo-dicom#284, PS3.8 annex E; a limit below the smallest fragment cannot be kept."""
    command, data_set = dicom.store_command(), bytes(range(256)) * 100
    raw = message(3, command, data_set, max_pdu_length=max_pdu_length)
    at = 0
    commands, parts = b"", b""
    while at < len(raw):
        length = int.from_bytes(raw[at + 2 : at + 6], "big")
        assert length <= max(max_pdu_length or 16_384, 8)
        fragment = raw[at + 12 : at + 6 + length]
        assert len(fragment) % 2 == 0
        if raw[at + 11] & 1:
            commands += fragment
        else:
            parts += fragment
        at += 6 + length
    assert (commands, parts) == (command, data_set)
    frames = Framer().feed(raw)
    assert [command.raw for frame in frames if isinstance(frame, Data) for command in frame.commands] == [command]
    assert [frame.turn for frame in frames if isinstance(frame, Data)] == [True]


def test_a_description_tells_kind_and_size_only() -> None:
    assert (
        short_description(dicom.associate_rq("SECRET")) == f"A-ASSOCIATE-RQ ({len(dicom.associate_rq('SECRET'))} bytes)"
    )
    assert short_description(dicom.pdata(1, b"Doe^John")) == "P-DATA-TF (20 bytes)"
    assert short_description(b"\x63\0\0\0\0\1") == "PDU type 0x63 (7 bytes)"
    assert short_description(b"\x01") == "part of a PDU header (1 bytes)"
