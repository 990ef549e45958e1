"""Whom the answers of a C-MOVE may go to before the far Router's word of it has arrived."""

from types import SimpleNamespace
from typing import cast

import pytest

from isthmus.envelope.identity import RouterId
from isthmus.kit.names import AETitle, SiteName
from isthmus.relay.policy import ReturnWanted, Way
from isthmus.router.live.registry import MOST_EXPECTED, RETURN_MEMORY_SECONDS, Core, Live
from isthmus.router.live.session import Parties, Session
from isthmus.testing.clock import FakeClock

PACS, WS = AETitle("PACS"), AETitle("WS")
ONE, TWO = RouterId("ONE"), RouterId("TWO")


class Known:
    def __init__(self) -> None:
        self.owners: dict[AETitle, RouterId] = {}

    def owner_of(self, title: AETitle) -> RouterId | None:
        return self.owners.get(title)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def known() -> Known:
    return Known()


@pytest.fixture
def live(clock: FakeClock, known: Known) -> Live:
    return Live(cast("Core", SimpleNamespace(clock=clock, directory=known)))


def move(live: Live, by: RouterId, destination: AETitle) -> None:
    session = Session(live, live.core.clock)
    session.device_asks = False
    session.parties = Parties(AETitle("VIEWER"), PACS, SiteName("far"), by)
    live.way_back(session, ReturnWanted(Way.STORE, destination))


def expected(live: Live, destination: AETitle = WS) -> RouterId | None:
    row = live.expected_return(PACS, destination)
    return None if row is None else row.router_id


def test_a_move_lets_its_destination_be_called_at_the_site_that_asked_for_a_minute(
    live: Live, clock: FakeClock
) -> None:
    move(live, ONE, WS)
    assert expected(live) == ONE
    clock.advance(RETURN_MEMORY_SECONDS + 1)
    assert expected(live) is None


def test_a_destination_that_belongs_to_another_site_is_not_called_at_the_one_that_asked(
    live: Live, known: Known
) -> None:
    known.owners[WS] = TWO
    move(live, ONE, WS)
    assert expected(live) is None
    known.owners[WS] = ONE
    assert expected(live) == ONE


def test_nobody_takes_over_a_destination_that_another_site_named_first(live: Live) -> None:
    move(live, ONE, WS)
    move(live, TWO, WS)
    assert expected(live) == ONE


def test_one_router_is_remembered_with_so_many_destinations_only(live: Live) -> None:
    move(live, TWO, WS)
    for number in range(MOST_EXPECTED + 5):
        move(live, ONE, AETitle(f"X{number}"))
    named = [number for number in range(MOST_EXPECTED + 5) if expected(live, AETitle(f"X{number}")) is not None]
    assert named == list(range(5, MOST_EXPECTED + 5))
    assert expected(live) == TWO
