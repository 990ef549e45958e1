"""Fragments out of runs, however the runs are cut."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.dicom.fragments import FragmentReader
from isthmus.dicom.framing import Data, Framer
from isthmus.errors import LocalMisuse
from isthmus.testing import dicom

IMAGE = bytes(range(256)) * 10
COMMAND = dicom.store_command()
STREAM = (
    dicom.store_rq(IMAGE, 3, max_pdu_length=300)
    + dicom.pdata_of((5, 1, COMMAND[:9]), (5, 3, COMMAND[9:]), (5, 0, b"ab"), (5, 2, b""))
    + b"\x04\0\0\0\0\0"
    + dicom.pdata(3, b"x", last=True)
)


def joined(chunks: list[bytes]) -> list[tuple[int, bool, bytes]]:
    """Return (context id, is a command set, bytes) of each command set and data set that ended."""
    reader = FragmentReader()
    whole, part = [], b""
    for chunk in chunks:
        for fragment in reader.feed(chunk):
            part += fragment.data
            if fragment.last:
                whole.append((fragment.context_id, fragment.command, part))
                part = b""
    assert part == b""
    return whole


@given(st.lists(st.integers(0, len(STREAM)), max_size=30))
def test_command_sets_and_data_sets_come_out_however_the_bytes_are_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    assert joined([STREAM[start:end] for start, end in itertools.pairwise(edges)]) == [
        (3, True, COMMAND),
        (3, False, IMAGE),
        (5, True, COMMAND),
        (5, False, b"ab"),
        (3, False, b"x"),
    ]


def test_the_runs_of_a_framer_are_what_it_reads() -> None:
    framer = Framer(stream_threshold=128)
    frames = framer.feed(STREAM[:1000]) + framer.feed(STREAM[1000:])
    assert joined([bytes(frame.run) for frame in frames if isinstance(frame, Data)]) == joined([STREAM])


@pytest.mark.parametrize("run", [b"\x04\0\0\0\0\6\0\0\0\1\1\0", b"\x04\0\0\0\0\6\0\0\0\3\1\0"])
def test_a_run_that_no_framer_judged_is_our_mistake(run: bytes) -> None:
    with pytest.raises(LocalMisuse):
        FragmentReader().feed(run)
