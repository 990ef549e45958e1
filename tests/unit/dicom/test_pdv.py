"""The PDV walker: cut anywhere, it finds the command sets and the ends of messages."""

import pytest

from isthmus.dicom.pdv import MAX_COMMAND, PdvWalker
from isthmus.errors import RemoteMisuse
from isthmus.testing import dicom


def walk(walker: PdvWalker, pdu: bytes, size: int) -> None:
    walker.begin(len(pdu) - 6)
    for start in range(6, len(pdu), size):
        walker.walk(pdu, start, min(start + size, len(pdu)))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
def test_fragments_of_two_messages_interleaved_stay_apart(size: int) -> None:
    """fo-dicom#1359: what a broken device sends is still read right."""
    one, two = dicom.store_command(1), dicom.store_command(2)
    walker = PdvWalker()
    walk(walker, dicom.pdata_of((1, 1, one[:30]), (3, 1, two[:10]), (1, 3, one[30:]), (3, 3, two[10:])), size)
    assert [(command.context_id, command.raw) for command in walker.take()] == [(1, one), (3, two)]
    assert not walker.command_open


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_a_turn_is_seen_however_the_bytes_are_cut(size: int) -> None:
    walker = PdvWalker()
    walk(walker, dicom.pdata_of((1, 3, dicom.store_command()), (1, 0, b"abc")), size)
    before = walker.turn
    walk(walker, dicom.pdata_of((1, 2, b"")), size)
    after = walker.turn
    walker.take()
    assert (before, after, walker.turn) == (False, True, False)


def test_a_side_that_never_sets_the_last_fragment_bit_of_a_command_is_stopped() -> None:
    """io-dicom#50, for what we must keep: command sets."""
    walker = PdvWalker()
    pdu = dicom.pdata(1, bytes(64 * 1024 - 2), command=True)
    for _ in range(MAX_COMMAND // (64 * 1024 - 2)):
        walk(walker, pdu, 1 << 20)
    with pytest.raises(RemoteMisuse) as caught:
        walk(walker, pdu, 1 << 20)
    assert (caught.value.source, caught.value.reason) == (2, 6)


def test_the_limit_holds_for_the_commands_of_all_contexts_together() -> None:
    walker = PdvWalker(max_command=100)
    walk(walker, dicom.pdata(1, bytes(60), command=True), 1000)
    with pytest.raises(RemoteMisuse):
        walk(walker, dicom.pdata(3, bytes(60), command=True), 1000)


def test_a_side_that_never_sets_the_last_fragment_bit_of_a_data_set_costs_nothing() -> None:
    """io-dicom#50, for data sets: they are only counted."""
    walker = PdvWalker()
    for _ in range(1000):
        walk(walker, dicom.pdata(1, bytes(1000)), 1 << 20)
    assert walker.take() == ()


def test_a_command_cut_by_a_pdu_without_room_is_refused() -> None:
    walker = PdvWalker()
    with pytest.raises(RemoteMisuse):
        walker.begin(3)


def test_a_message_without_a_readable_command_does_not_wait() -> None:
    walker = PdvWalker()
    walk(walker, dicom.pdata(1, b"\xff" * 9, command=True, last=True), 1000)
    assert walker.turn
    assert "ff" not in repr(walker.take())
