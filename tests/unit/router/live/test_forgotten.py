"""Whom a Router tells that a session is over, and how often."""

from isthmus.router.live.forgotten import MOST, Forgotten
from isthmus.router.providers.pair import CloudPair

SESSION = bytes(16)
PAIR = CloudPair("bridge")


def test_the_other_router_is_told_for_a_minute_and_once_a_second() -> None:
    forgotten = Forgotten()
    forgotten.add(SESSION, "NORTH", PAIR, 100.0)
    told = [tenth for tenth in range(1000, 1700) if _told(forgotten, SESSION, tenth / 10)]
    assert told == list(range(1000, 1601, 10))


def test_nobody_is_told_of_a_session_that_never_was() -> None:
    forgotten = Forgotten()
    forgotten.add(SESSION, "NORTH", PAIR, 100.0)
    assert forgotten.whom_to_tell(b"another session!", 100.0) is None


def test_the_oldest_make_room_and_those_over_their_time_are_dropped() -> None:
    forgotten = Forgotten()
    for number in range(MOST + 5):
        forgotten.add(number.to_bytes(16, "big"), "NORTH", PAIR, 100.0)
    assert len(forgotten) == MOST
    assert forgotten.whom_to_tell((4).to_bytes(16, "big"), 101.0) is None
    assert _told(forgotten, (5).to_bytes(16, "big"), 101.0)
    forgotten.add(SESSION, "NORTH", PAIR, 1000.0)
    assert len(forgotten) == 1


def _told(forgotten: Forgotten, session_id: bytes, now: float) -> bool:
    over = forgotten.whom_to_tell(session_id, now)
    return over is not None and (over.far_router, over.pair) == ("NORTH", PAIR)
