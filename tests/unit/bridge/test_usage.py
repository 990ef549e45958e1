"""What sites asked of providers: counted once, whatever becomes of the reports; and what is guessed about storage."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import select, update

from isthmus.bridge.providers.models import CountedRow, UsageRow
from isthmus.bridge.providers.prices import cost
from isthmus.bridge.providers.stock import Stock, bounds_of
from isthmus.bridge.providers.usage import UsageBook
from isthmus.contract.rest import Usage
from isthmus.envelope.identity import RouterId
from isthmus.errors import ProviderTrouble, Retry
from isthmus.testing.bridge import Bench

NORTH, SOUTH = RouterId("N" * 36), RouterId("S" * 36)
SITES = {NORTH: "north", SOUTH: "south"}
DAY = 86400.0
KNOWN = ("aws", "nats")


def report(run: str = "a", provider: str = "aws", **kinds: tuple[int, int, int]) -> Usage:
    counts = [
        {"provider": provider, "kind": kind, "requests": requests, "up": up, "down": down}
        for kind, (requests, up, down) in kinds.items()
    ]
    return Usage.model_validate({"run": run * 16, "counts": counts})


async def of_month(bench: Bench, month: str) -> dict[tuple[str, str], Any]:
    return {(line.site, line.provider): line for line in await bench.parts.usage.month(month)}


def month(bench: Bench) -> str:
    return datetime.fromtimestamp(bench.clock.now(), UTC).strftime("%Y-%m")


def to_start_of_next_month(bench: Bench) -> None:
    bench.clock.advance(bounds_of(month(bench))[1] - bench.clock.now())


def take(bench: Bench, usage: Usage, router: RouterId = NORTH, known: tuple[str, ...] = KNOWN) -> None:
    bench.parts.usage.take(router, SITES[router], usage, known)


async def test_a_report_counts_by_its_difference_and_a_repeated_or_smaller_one_for_nothing(bench: Bench) -> None:
    for count in (3, 3, 10, 7, 10, 12):
        take(bench, report(put=(count, count * 100, 0)))
        await bench.parts.usage.flush()
    line = (await of_month(bench, month(bench)))["north", "aws"]
    assert (line.requests, line.up, line.out) == ({"put": 12}, 1200, 0)


async def test_a_lost_report_is_made_good_by_the_next_and_reports_between_two_flushes_are_one(bench: Bench) -> None:
    for count in (1, 2, 3):
        take(bench, report(get=(count, 0, count)))
    line = (await of_month(bench, month(bench)))["north", "aws"]
    assert (line.requests, line.out) == ({"get": 3}, 3)


async def test_a_new_run_of_a_router_adds_and_a_late_word_of_the_run_before_does_not_add_again(bench: Bench) -> None:
    take(bench, report("a", put=(5, 50, 0)))
    await bench.parts.usage.flush()
    take(bench, report("b", put=(2, 20, 0)))
    await bench.parts.usage.flush()
    take(bench, report("a", put=(5, 50, 0)))
    await bench.parts.usage.flush()
    take(bench, report("b", put=(3, 30, 0)))
    line = (await of_month(bench, month(bench)))["north", "aws"]
    assert (line.requests, line.up) == ({"put": 8}, 80)


async def test_another_bridge_of_the_same_database_adds_only_what_is_new(bench: Bench) -> None:
    take(bench, report(put=(5, 50, 0)))
    await bench.parts.usage.flush()
    another = UsageBook(bench.parts.database, bench.clock)
    another.take(NORTH, "north", report(put=(6, 60, 0)), KNOWN)
    await another.flush()
    take(bench, report(put=(7, 70, 0)))
    line = (await of_month(bench, month(bench)))["north", "aws"]
    assert line.requests == {"put": 7}


async def test_only_the_last_runs_of_a_router_are_remembered(bench: Bench) -> None:
    for run in "abcdef0":
        take(bench, report(run, put=(1, 1, 0)))
        await bench.parts.usage.flush()
    async with bench.parts.database.transaction() as session:
        kept = json.loads((await session.scalars(select(CountedRow.runs))).one())
    assert [run[0] for run in kept] == ["d", "e", "f", "0"]


async def test_pairs_that_never_were_here_are_not_counted(bench: Bench) -> None:
    take(bench, report(provider="invented", put=(1, 1, 1)))
    assert await of_month(bench, month(bench)) == {}


async def test_absurd_counts_spoil_only_their_own_site_and_never_the_database(bench: Bench) -> None:
    take(bench, report(put=(2**53, 2**53, 2**53)), SOUTH)
    await bench.parts.usage.flush()
    async with bench.parts.database.transaction() as session:
        await session.execute(update(UsageRow).values(requests=2**63 - 5, up=2**63 - 5, down=2**63 - 5))
    take(bench, report("b", put=(2**53, 2**53, 2**53)), SOUTH)
    take(bench, report(put=(1, 1, 0)))
    lines = await of_month(bench, month(bench))
    assert lines["north", "aws"].requests == {"put": 1}
    assert lines["south", "aws"].requests["put"] == 2**63 - 1


async def test_what_cannot_be_written_now_is_written_later(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    take(bench, report(put=(3, 30, 0)))
    take(bench, report(put=(1, 1, 0)), SOUTH)

    async def away(batch: object) -> None:
        raise ProviderTrouble("the database is away", retry=Retry.LATER)

    with monkeypatch.context() as patched:
        patched.setattr(bench.parts.usage, "_add", away)
        with pytest.raises(ProviderTrouble):
            await bench.parts.usage.flush()
        take(bench, report(put=(5, 50, 0)))
    lines = await of_month(bench, month(bench))
    assert lines["north", "aws"].requests == {"put": 5}
    assert lines["south", "aws"].requests == {"put": 1}


# what lies there


async def test_what_was_put_counts_until_it_was_got(bench: Bench) -> None:
    to_start_of_next_month(bench)
    take(bench, report(put=(1, 1000, 0)))
    await bench.parts.usage.flush()
    bench.clock.advance(2 * DAY)
    take(bench, report(get=(1, 0, 1000)), SOUTH)
    await bench.parts.usage.flush()
    bench.clock.advance(5 * DAY)
    lines = await of_month(bench, month(bench))
    assert lines["north", "aws"].byte_days == pytest.approx(2000)
    assert lines["south", "aws"].byte_days == 0


async def test_byte_days_go_to_the_sites_by_what_they_put(bench: Bench) -> None:
    to_start_of_next_month(bench)
    take(bench, report(put=(1, 3000, 0)))
    take(bench, report(put=(1, 1000, 0)), SOUTH)
    await bench.parts.usage.flush()
    bench.clock.advance(DAY)
    lines = await of_month(bench, month(bench))
    assert (lines["north", "aws"].byte_days, lines["south", "aws"].byte_days) == (
        pytest.approx(3000),
        pytest.approx(1000),
    )


async def test_a_get_that_is_reported_before_its_put_leaves_nothing_behind(bench: Bench) -> None:
    take(bench, report(get=(1, 0, 1000)), SOUTH)
    await bench.parts.usage.flush()
    take(bench, report(put=(1, 1000, 0)))
    await bench.parts.usage.flush()
    bench.clock.advance(DAY)
    assert (await of_month(bench, month(bench)))["north", "aws"].byte_days == 0


async def test_what_nobody_gets_is_gone_after_the_month_after_the_next_began(bench: Bench) -> None:
    to_start_of_next_month(bench)
    first = month(bench)
    take(bench, report(put=(1, 1000, 0)))
    await bench.parts.usage.flush()
    months = []
    for _ in range(3):
        start, end = bounds_of(month(bench))
        months.append((month(bench), (end - start) / DAY))
        to_start_of_next_month(bench)
    async with bench.parts.database.transaction() as session:
        stock = Stock(session, bench.clock.now())
        found = [(await stock.byte_days(name)).get("aws") for name, _ in months]
    assert first == months[0][0]
    assert found == [pytest.approx(1000 * months[0][1]), pytest.approx(1000 * months[1][1]), 0]


async def test_the_months_are_kept_apart(bench: Bench) -> None:
    to_start_of_next_month(bench)
    first = month(bench)
    take(bench, report(put=(1, 1000, 0)))
    await bench.parts.usage.flush()
    to_start_of_next_month(bench)
    take(bench, report(put=(3, 1500, 0)))
    second = month(bench)
    assert (await of_month(bench, first))["north", "aws"].requests == {"put": 1}
    assert (await of_month(bench, second))["north", "aws"].requests == {"put": 2}


def test_money_is_reckoned_by_thousand_requests_gigabytes_and_gigabytes_for_thirty_days() -> None:
    prices = {"put": 0.005, "get": 0.0004, "up": 0.01, "out": 0.09, "stored": 0.023}
    counts = {"put": 2000, "get": 10_000, "up": 3e9, "out": 2e9, "byte_days": 30e9, "delete": 500}
    assert cost(prices, counts) == pytest.approx(0.01 + 0.004 + 0.03 + 0.18 + 0.023)
    assert cost({}, counts) is None
