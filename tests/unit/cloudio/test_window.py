import itertools
from math import inf

import pytest

from isthmus.cloudio.options import MIB, StreamOptions
from isthmus.cloudio.path import Path
from isthmus.cloudio.pool import Pool
from isthmus.cloudio.window import MOST_AHEAD, SEAL_OVERHEAD, ReaderWindow, Sealed, WriterWindow
from isthmus.errors import RemoteMisuse

OPTIONS = StreamOptions(window_least=10_000, window_most=80_000)


def writer(*, credit: int = 10_000, pool: Pool | None = None) -> WriterWindow:
    return WriterWindow(credit=credit, pool=(pool or Pool()).share("far"), options=OPTIONS)


def fill(window: WriterWindow, count: int, size: int = 1000) -> None:
    for sequence in range(count):
        window.add(Sealed(sequence, bytes(size), (sequence + 1) * size, as_blob=False))


def send(window: WriterWindow, now: float) -> list[int]:
    sent = []
    while (segment := window.take()) is not None:
        window.handed_over(segment, now)
        sent.append(segment.sequence)
    return sent


def test_segments_leave_in_order_and_once() -> None:
    window = writer()
    fill(window, 5)
    assert send(window, 0.0) == [0, 1, 2, 3, 4]
    assert send(window, 0.1) == []


def test_nothing_leaves_beyond_the_credit() -> None:
    window = writer(credit=2500)
    fill(window, 5)
    assert send(window, 0.0) == [0, 1]
    window.acknowledge(2, (), 3000, 0.1)
    assert send(window, 0.1) == [2]


def test_credit_never_shrinks() -> None:
    window = writer(credit=2500)
    fill(window, 5)
    window.acknowledge(0, (), 1, 0.0)
    assert send(window, 0.0) == [0, 1]


def test_a_cumulative_acknowledgement_releases_all_below_it_and_the_pool() -> None:
    pool = Pool()
    window = writer(pool=pool)
    fill(window, 5)
    send(window, 0.0)
    released = window.acknowledge(3, (), 10_000, 0.1)
    assert [segment.sequence for segment in released] == [0, 1, 2]
    assert pool.used == window.held_bytes == 2000


def test_acknowledging_what_was_never_sent_is_refused() -> None:
    window = writer(credit=2500)
    fill(window, 5)
    send(window, 0.0)
    with pytest.raises(RemoteMisuse):
        window.acknowledge(3, (), 0, 0.1)


def test_what_stays_unacknowledged_goes_again_after_a_quarter_second_first_one_then_more() -> None:
    window = writer()
    fill(window, 5)
    send(window, 0.0)
    assert window.overdue(0.24) == []
    assert [segment.sequence for segment in window.overdue(0.25)] == [0]
    assert send(window, 0.25) == [0]
    window.acknowledge(1, (), 10_000, 0.3)
    assert [segment.sequence for segment in window.overdue(0.56)] == [1, 2]


def test_only_what_the_far_side_does_not_hold_goes_again() -> None:
    window = writer()
    fill(window, 6)
    send(window, 0.0)
    window.acknowledge(0, ((1, 2), (4, 6)), 10_000, 0.1)
    assert [segment.sequence for segment in window.overdue(0.3)] == [0, 2, 3]


def test_progress_postpones_sending_again() -> None:
    window = writer()
    fill(window, 5)
    send(window, 0.0)
    window.acknowledge(1, (), 10_000, 0.2)
    assert window.overdue(0.3) == []


def test_fruitless_repetitions_become_rarer() -> None:
    window = writer()
    fill(window, 1)
    send(window, 0.0)
    times = []
    for _ in range(8):
        now = window.deadline()
        times.append(now)
        window.overdue(now)
        send(window, now)
    waits = [round(later - earlier, 3) for earlier, later in itertools.pairwise(times)]
    assert waits == [0.25, 0.5, 1.0, 2.0, 2.0, 2.0, 2.0]


def test_what_is_acknowledged_while_it_waits_to_go_again_does_not_go() -> None:
    window = writer()
    fill(window, 2)
    send(window, 0.0)
    window.overdue(0.3)
    window.acknowledge(2, (), 10_000, 0.31)
    assert send(window, 0.31) == []


def test_a_writer_stops_at_the_window_and_goes_on_at_half_of_it() -> None:
    window = writer(credit=1_000_000)
    fill(window, 9)
    assert window.has_room()
    window.add(Sealed(9, bytes(1000), 10_000, as_blob=False))
    assert not window.has_room()
    send(window, 0.0)
    window.acknowledge(4, (), 0, 0.1)
    assert not window.has_half()
    window.acknowledge(5, (), 0, 0.1)
    assert window.has_half()


def test_a_writer_stops_at_the_credit_and_goes_on_at_half_of_the_first() -> None:
    window = writer(credit=4000)
    fill(window, 4)
    assert not window.has_room()
    send(window, 0.0)
    window.acknowledge(4, (), 5999, 0.1)
    assert not window.has_half()
    window.acknowledge(4, (), 6000, 0.1)
    assert window.has_half()


def test_a_writer_holds_at_most_as_much_as_is_free_to_its_site() -> None:
    pool = Pool(limit=9000)
    window = writer(pool=pool)
    fill(window, 2)
    assert window.has_room()
    window.add(Sealed(2, bytes(1000), 3000, as_blob=False))
    assert not window.has_room()


def test_dropping_gives_all_back() -> None:
    pool = Pool()
    window = writer(pool=pool)
    fill(window, 5)
    send(window, 0.0)
    window.acknowledge(2, (), 0, 0.1)
    window.drop()
    assert pool.used == 0
    assert window.empty
    assert window.deadline() == inf


def test_the_window_is_twice_bandwidth_times_round_trip_within_bounds() -> None:
    path = Path(StreamOptions())
    assert path.window == 4 * MIB
    for step in range(1, 30):
        path.round_trip(0.050, step * 0.1)
        path.delivered(10 * MIB, step * 0.1)  # 100 MiB/s
    assert path.window == pytest.approx(10 * MIB, rel=0.05)
    for step in range(30, 60):
        path.round_trip(0.050, step * 0.1)
        path.delivered(1000 * MIB, step * 0.1)
    assert path.window == 32 * MIB
    for step in range(60, 160):
        path.round_trip(0.001, step * 0.1)
        path.delivered(MIB, step * 0.1)
    assert path.window == 4 * MIB


def test_patience_is_twice_the_round_trip_but_never_short() -> None:
    path = Path(StreamOptions())
    assert path.patience == 0.25
    for step in range(100):
        path.round_trip(0.4, step)
    assert path.patience == pytest.approx(0.8)


def test_idle_time_does_not_count_as_slowness() -> None:
    path = Path(StreamOptions())
    for step in range(1, 30):
        path.round_trip(0.050, step * 0.1)
        path.delivered(10 * MIB, step * 0.1)
    window = path.window
    path.idle()
    path.delivered(100, 1000.0)
    path.delivered(100, 1000.05)
    assert path.window == window


def reader(credit: int = 10_000) -> ReaderWindow:
    return ReaderWindow(credit=credit, options=OPTIONS)


def segment(payload: int = 1000) -> bytes:
    return bytes(payload + SEAL_OVERHEAD)


def test_a_reader_hands_on_in_order() -> None:
    window = reader()
    for sequence in (2, 0, 1):
        assert window.accept(sequence, segment(), 0.0)
        taken = []
        while window.pop() is not None:
            taken.append(window.next_expected)
            window.took(1000, 0.0)
        assert taken == {2: [], 0: [0], 1: [1, 2]}[sequence]


def test_a_repeat_is_not_accepted() -> None:
    window = reader()
    assert window.accept(0, segment(), 0.0)
    window.pop()
    window.took(1000, 0.0)
    assert not window.accept(0, segment(), 0.0)
    assert window.accept(3, segment(), 0.0)
    assert not window.accept(3, segment(), 0.0)


def test_more_than_was_allowed_is_refused_before_it_is_kept() -> None:
    window = reader(credit=2500)
    window.accept(1, segment(), 0.0)
    window.accept(2, segment(), 0.0)
    with pytest.raises(RemoteMisuse):
        window.accept(3, segment(), 0.0)


def test_a_segment_too_far_ahead_is_refused() -> None:
    window = reader()
    with pytest.raises(RemoteMisuse):
        window.accept(MOST_AHEAD, segment(1), 0.0)
    with pytest.raises(RemoteMisuse):
        window.may_come(MOST_AHEAD)


def test_consuming_moves_the_limit_by_as_much() -> None:
    window = reader()
    window.accept(0, segment(), 0.0)
    window.pop()
    window.took(1000, 0.0)
    assert window.limit == 10_000
    window.consume(1000)
    assert window.limit == 11_000


def test_the_window_opens_to_what_the_far_side_could_fill_and_never_closes() -> None:
    window = reader()
    window.widen(50_000)
    assert window.limit == 50_000
    window.widen(10_000)
    assert window.limit == 50_000
    window.widen(1_000_000)
    assert window.limit == OPTIONS.window_most


def test_a_gap_is_known_from_what_came_after_it_or_from_what_was_sent() -> None:
    window = reader()
    assert window.missing(8) == []
    window.known_sent(2, 1.0)
    assert window.missing(8) == [0, 1]
    window.accept(3, segment(), 2.0)
    assert window.missing(8) == [0, 1, 2]
    assert window.missing(2) == [0, 1]
    assert window.look_at(0.5) == 1.5
    window.accept(0, segment(), 3.0)
    window.pop()
    window.took(1000, 3.0)
    assert window.look_at(0.5) == 3.5


def test_ranges_beyond_a_gap_are_told_in_order() -> None:
    window = reader()
    for sequence in (5, 2, 3, 9, 6):
        window.accept(sequence, segment(10), 0.0)
    assert window.ranges() == ((2, 4), (5, 7), (9, 10))
