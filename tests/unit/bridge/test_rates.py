"""How often a Router may ask, and how many sessions it may have open."""

import pytest

from isthmus.bridge.problems import problem_response
from isthmus.bridge.rates import Rate, Rates
from isthmus.bridge.sessions import service
from isthmus.contract.rest import SessionCount, SessionEnd
from isthmus.envelope.identity import RouterId
from isthmus.errors import Problem
from isthmus.testing.bridge import Bench
from isthmus.testing.clock import FakeClock

ONE, OTHER = RouterId("ONE"), RouterId("OTHER")
END = SessionEnd(outcome="released", bytes_out=0, bytes_in=0)


def spend(rates: Rates, router_id: RouterId) -> int:
    """Ask until it is refused; return how often it was not."""
    count = 0
    while True:
        try:
            rates.take(router_id)
        except Problem:
            return count
        count += 1


def test_a_router_may_ask_in_a_burst_and_then_at_its_rate() -> None:
    clock = FakeClock()
    rates = Rates(Rate(per_second=10, burst=50), clock)
    assert spend(rates, ONE) == 50
    clock.advance(2)
    assert spend(rates, ONE) == 20
    clock.advance(1_000_000)
    assert spend(rates, ONE) == 50


def test_one_router_that_asks_too_often_costs_the_others_nothing() -> None:
    rates = Rates(Rate(per_second=10, burst=50), FakeClock())
    spend(rates, ONE)
    assert spend(rates, OTHER) == 50


def test_whoever_asks_too_often_is_told_when_to_come_again() -> None:
    clock = FakeClock()
    rates = Rates(Rate(per_second=0.25, burst=1), clock)
    rates.take(ONE)
    with pytest.raises(Problem) as refused:
        rates.take(ONE)
    assert refused.value.status == 429
    wait = problem_response(refused.value).headers["Retry-After"]
    assert wait == "4"
    clock.advance(int(wait))
    rates.take(ONE)


async def test_a_router_opens_only_so_many_sessions_until_some_have_ended(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MOST_OPEN", 3)
    one, other, first, _ = await bench.pair()
    sessions = bench.parts.sessions
    opened = [sessions.open(first, one.request(other)[0]) for _ in range(3)]
    again = one.request(other)[0]
    with pytest.raises(Problem) as refused:
        sessions.open(first, again)
    assert (refused.value.status, refused.value.title) == (429, "Too many sessions")
    assert refused.value.retry_after > 0
    sessions.end(first, opened[0].session_id, END)
    sessions.end(first, opened[0].session_id, END)  # said twice, it makes room for one all the same
    sessions.open(first, again)
    sessions.open(first, again)  # which is the same one
    with pytest.raises(Problem):
        sessions.open(first, one.request(other)[0])
    bench.clock.advance(61)
    sessions.expire()
    assert sessions.live == []
    sessions.open(first, one.request(other)[0])


def count(number: int, other: str) -> SessionCount:
    return SessionCount(
        session_id=number.to_bytes(16, "big"),
        other_router_id=other,
        calling="CALLER",
        called="PACS",
        started=0,
        bytes_out=0,
        bytes_in=0,
    )


async def test_a_router_names_only_so_many_sessions_that_the_bridge_does_not_know(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MOST_OPEN", 3)
    _, _, first, second = await bench.pair()
    sessions = bench.parts.sessions
    for _ in range(2):  # the second time it is the same ones
        sessions.heartbeat(first, [count(number, second.router_id) for number in range(10)])
    assert len(sessions._announced) == 3
    sessions.heartbeat(second, [count(number, first.router_id) for number in range(10)])
    assert sorted(session.session_id[-1] for session in sessions.live) == [0, 1, 2]
    sessions.heartbeat(first, [count(number, second.router_id) for number in range(10, 20)])
    sessions.heartbeat(second, [count(number, first.router_id) for number in range(10, 20)])
    assert len(sessions.live) == 3, "brought back beyond what one Router may have open"
    bench.clock.advance(61)
    sessions.expire()
    assert sessions.live == []
    assert sessions._announced == {}
    sessions.heartbeat(second, [count(number, first.router_id) for number in range(20, 30)])
    assert len(sessions._announced) == 3
