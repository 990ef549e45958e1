"""Whom a Router tells that a session is over, and how often."""

from isthmus.router.live.forgotten import MOST, Forgotten

SESSION = bytes(16)


def test_the_other_router_is_told_for_a_minute_and_once_a_second() -> None:
    forgotten = Forgotten()
    forgotten.add(SESSION, "NORTH", 100.0)
    told = [tenth for tenth in range(1000, 1700) if forgotten.whom_to_tell(SESSION, tenth / 10) == "NORTH"]
    assert told == list(range(1000, 1601, 10))


def test_nobody_is_told_of_a_session_that_never_was() -> None:
    forgotten = Forgotten()
    forgotten.add(SESSION, "NORTH", 100.0)
    assert forgotten.whom_to_tell(b"another session!", 100.0) is None


def test_the_oldest_make_room_and_those_over_their_time_are_dropped() -> None:
    forgotten = Forgotten()
    for number in range(MOST + 5):
        forgotten.add(number.to_bytes(16, "big"), "NORTH", 100.0)
    assert len(forgotten) == MOST
    assert forgotten.whom_to_tell((4).to_bytes(16, "big"), 101.0) is None
    assert forgotten.whom_to_tell((5).to_bytes(16, "big"), 101.0) == "NORTH"
    forgotten.add(SESSION, "NORTH", 1000.0)
    assert len(forgotten) == 1
