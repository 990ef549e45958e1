import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.cloudio.control import MOST_RANGES, MOST_SIGNAL_BYTES, Status
from isthmus.errors import RemoteMisuse

NUMBERS = st.integers(0, 2**32 - 1)
STATUSES = st.builds(
    Status,
    next_expected=NUMBERS,
    sent=NUMBERS,
    limit=st.integers(0, 2**64 - 1),
    want=NUMBERS,
    signal_number=NUMBERS,
    signal_seen=NUMBERS,
    done=st.booleans(),
    held=st.lists(st.tuples(NUMBERS, NUMBERS), max_size=MOST_RANGES).map(tuple),
    signal=st.binary(max_size=MOST_SIGNAL_BYTES),
)


@given(STATUSES)
def test_a_status_comes_back_as_it_was_packed(status: Status) -> None:
    assert Status.unpack(status.pack()) == status


@given(STATUSES, st.binary(max_size=20))
def test_what_a_newer_version_adds_is_left_alone(status: Status, more: bytes) -> None:
    assert Status.unpack(status.pack() + more) == status


@given(STATUSES, st.data())
def test_a_status_that_is_cut_short_is_refused(status: Status, data: st.DataObject) -> None:
    packed = status.pack()
    with pytest.raises(RemoteMisuse):
        Status.unpack(packed[: data.draw(st.integers(0, len(packed) - 1))])


@given(st.binary(max_size=200))
def test_any_bytes_are_a_status_or_refused(payload: bytes) -> None:
    with contextlib.suppress(RemoteMisuse):
        Status.unpack(payload)


def test_a_status_of_another_version_is_refused() -> None:
    packed = Status(1, 2, 3, 4).pack()
    with pytest.raises(RemoteMisuse):
        Status.unpack(b"\x02" + packed[1:])


def test_a_signal_that_is_too_long_is_refused() -> None:
    with pytest.raises(RemoteMisuse):
        Status.unpack(Status(1, 2, 3, 4, signal=bytes(MOST_SIGNAL_BYTES + 1)).pack())


def test_the_layout_is_that_of_the_protocol() -> None:
    status = Status(
        next_expected=5,
        sent=7,
        limit=0x0102030405060708,
        want=4194304,
        signal_number=2,
        signal_seen=1,
        done=True,
        held=((6, 8),),
        signal=b"abort",
    )
    assert status.pack().hex(" ", 1) == (
        "01 01 00 00 00 05 00 00 00 07 01 02 03 04 05 06 07 08 00 40 00 00 00 00 00 02 00 00 00 01 01 05 "
        "00 00 00 06 00 00 00 08 61 62 6f 72 74"
    )
