"""What a device is sent: even fragments within its maximum PDU length, and the very bytes that came."""

import random

import pytest

from isthmus.dicom.fragments import FragmentReader
from isthmus.dicom.framing import Data, Framer
from isthmus.router.queued.delivery.fragments import FragmentWriter, room_for


def _cut(data: bytes, max_pdu_length: int, pieces: list[int]) -> bytes:
    writer = FragmentWriter(5, room_for(max_pdu_length))
    out, position = b"", 0
    for length in pieces:
        out += writer.write(data[position : position + length])
        position += length
    return out + writer.write(data[position:]) + writer.finish()


def _pdu_lengths(run: bytes) -> list[int]:
    lengths = []
    while run:
        lengths.append(int.from_bytes(run[2:6], "big"))
        run = run[6 + lengths[-1] :]
    return lengths


@pytest.mark.parametrize("max_pdu_length", [0, 8, 9, 100, 16_384, 16_383, 65_535, 131_072, 2**32 - 1])
def test_bytes_come_out_as_they_went_in_however_they_are_cut(max_pdu_length: int) -> None:
    chance = random.Random(max_pdu_length)
    data = chance.randbytes(3000 if max_pdu_length < 1000 and max_pdu_length else 400_000)
    for pieces in ([], [1], [0, 7, 1000], [chance.randrange(len(data) // 8) for _ in range(6)]):
        run = _cut(data, max_pdu_length, pieces)
        fragments = FragmentReader().feed(run)
        assert b"".join(fragment.data for fragment in fragments) == data
        assert [fragment.last for fragment in fragments] == [False] * (len(fragments) - 1) + [True]
        assert {fragment.context_id for fragment in fragments} == {5}
        assert [len(fragment.data) % 2 for fragment in fragments] == [0] * len(fragments)
        if max_pdu_length:
            assert max(_pdu_lengths(run)) <= max_pdu_length
        assert all(isinstance(frame, Data) for frame in Framer().feed(run))


def test_a_data_set_of_odd_length_ends_in_the_only_odd_fragment() -> None:
    fragments = FragmentReader().feed(_cut(b"x" * 101, 16, [33]))
    assert [len(fragment.data) for fragment in fragments] == [10] * 10 + [1]


def test_odd_pieces_still_leave_as_even_fragments() -> None:
    fragments = FragmentReader().feed(_cut(b"y" * 1000, 107, [3, 5, 333, 1, 101]))
    assert [len(fragment.data) % 2 for fragment in fragments] == [0] * len(fragments)


def test_a_device_without_a_limit_gets_pdus_of_128_kib() -> None:
    assert max(_pdu_lengths(_cut(bytes(400_000), 0, []))) == 128 * 1024


def test_a_limit_too_small_for_anything_still_gets_two_bytes_a_pdu() -> None:
    assert [room_for(length) for length in (1, 6, 7, 8, 9, 10)] == [2, 2, 2, 2, 2, 4]


def test_a_data_set_without_bytes_is_one_empty_last_fragment() -> None:
    (fragment,) = FragmentReader().feed(_cut(b"", 16_384, []))
    assert (fragment.last, bytes(fragment.data)) == (True, b"")
