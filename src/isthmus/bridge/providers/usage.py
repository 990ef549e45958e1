"""What the sites asked of providers, for whoever pays the bill: by month (UTC), site, pair and kind; written behind.

A Router reports cumulative counts with each heartbeat. What of them is counted already is kept durably, by Router and
run, and only the difference is added, in the same transaction: a report may be lost, repeated, late, or come by way of
another Bridge of the same database. What a Router counted in its last seconds before it was killed is lost.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from sqlalchemy import case, literal, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from isthmus.bridge.database import Database
from isthmus.bridge.providers.models import CountedRow, UsageRow
from isthmus.bridge.providers.stock import Stock, month_of
from isthmus.contract.rest import Usage
from isthmus.envelope.identity import RouterId
from isthmus.errors import ProviderTrouble
from isthmus.kit.clock import Clock

_log = structlog.get_logger()
_FLUSH_SECONDS: Final = 30.0  # above a heartbeat, so that most flushes see both ends of a transfer
_RETRY_SECONDS: Final = 30.0
_AT_ONCE: Final = 50  # Routers in one transaction: the loop is not held up by it for longer than some milliseconds
_MOST_RUNS: Final = 4  # of one Router: the one before may still have a report under way
_MOST: Final = 2**63 - 1  # what the database holds

Counts = dict[str, list[int]]
"""Requests, bytes up and bytes down, by pair and kind with a space between."""


@dataclass(frozen=True, slots=True)
class UsageLine:
    """What one site asked of one pair in a month. `requests` by kind; bytes; `byte_days` is an estimate."""

    site: str
    provider: str
    requests: Mapping[str, int]
    up: int
    out: int
    byte_days: float


@dataclass(slots=True)
class _Waiting:
    site: str
    runs: dict[str, Counts]


class UsageBook:
    """Takes reports at once in memory, and has them in the database a little later."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._waiting: dict[RouterId, _Waiting] = {}
        self._taken: dict[RouterId, Usage] = {}
        self._something = asyncio.Event()
        self._flushing = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<UsageBook: {len(self._waiting)} reports wait>"

    def take(self, router_id: RouterId, site: str, usage: Usage, known: Iterable[str]) -> None:
        """Take a Router's report; what it says of pairs that are not `known` is left out."""
        if self._taken.get(router_id) == usage:
            return
        self._taken[router_id] = usage
        names = frozenset(known)
        waiting = self._waiting.setdefault(router_id, _Waiting(site, {}))
        counts = waiting.runs.setdefault(usage.run, {})
        for row in usage.counts:
            if row.provider in names:
                key = f"{row.provider} {row.kind}"
                counts[key] = _larger(counts.get(key), [row.requests, row.up, row.down])
        for run in list(waiting.runs)[:-_MOST_RUNS]:
            del waiting.runs[run]
        self._something.set()

    def forget(self, router_id: RouterId) -> None:
        """Forget in memory a Router that left the network; what it has used stays in the book."""
        self._taken.pop(router_id, None)

    async def run(self) -> None:
        """Write what was reported, now and then, until cancelled."""
        while True:
            await self._something.wait()
            await asyncio.sleep(_FLUSH_SECONDS)
            try:
                await self.flush()
            except (SQLAlchemyError, ProviderTrouble) as error:
                _log.error("usage not written", error=repr(error))
                await asyncio.sleep(_RETRY_SECONDS)

    async def flush(self) -> None:
        """Write everything that was reported so far."""
        async with self._flushing:
            self._something.clear()
            batch, self._waiting = self._waiting, {}
            routers = sorted(batch)
            try:
                while routers:
                    await self._add({name: batch[name] for name in routers[:_AT_ONCE]})
                    del routers[:_AT_ONCE]
            except BaseException:
                for name in routers:  # whatever was added meanwhile is newer, and the larger count wins
                    newer = self._waiting.get(name)
                    self._waiting[name] = batch[name] if newer is None else _joined(batch[name], newer)
                self._something.set()
                raise

    async def month(self, month: str) -> list[UsageLine]:
        """Return what was asked in a month, by site and pair."""
        await self.flush()
        async with self._database.transaction() as session:
            rows = (await session.scalars(select(UsageRow).where(UsageRow.month == month))).all()
            byte_days = await Stock(session, self._clock.now()).byte_days(month)
        put: dict[str, int] = defaultdict(int)
        for row in rows:
            put[row.provider] += row.up if row.kind == "put" else 0
        found: dict[tuple[str, str], list[UsageRow]] = defaultdict(list)
        for row in rows:
            found[row.site, row.provider].append(row)
        return [_line(found[key], put, byte_days) for key in sorted(found)]

    # inside

    async def _add(self, batch: Mapping[RouterId, _Waiting]) -> None:
        """Add the difference between what these Routers say and what is counted already."""
        now = self._clock.now()
        sums: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
        async with self._database.transaction() as session:
            insert = _insert_of(session)
            await session.execute(
                insert(CountedRow).on_conflict_do_nothing(), [{"router_id": name, "runs": "{}"} for name in batch]
            )
            chosen = select(CountedRow).where(CountedRow.router_id.in_(batch)).order_by(CountedRow.router_id)
            for row in (await session.scalars(chosen.with_for_update())).all():
                waiting = batch[RouterId(row.router_id)]
                runs: dict[str, Counts] = json.loads(row.runs)
                for run, counts in waiting.runs.items():
                    counted = runs.pop(run, {})
                    for key, said in counts.items():
                        provider, kind = key.split(" ")
                        before = counted.get(key, [0, 0, 0])
                        counted[key] = _larger(before, said)
                        total = sums[waiting.site, provider, kind]
                        for index in range(3):
                            total[index] += counted[key][index] - before[index]
                    runs[run] = counted  # behind the others: the oldest go first
                row.runs = json.dumps(dict(list(runs.items())[-_MOST_RUNS:]))
            await self._sum_up(session, sums, now)

    async def _sum_up(
        self, session: AsyncSession, sums: Mapping[tuple[str, str, str], Sequence[int]], now: float
    ) -> None:
        month = month_of(now)
        stock = Stock(session, now)
        insert = _insert_of(session)
        rows: list[dict[str, Any]] = []
        for (site, provider, kind), (requests, up, down) in sorted(sums.items()):
            if not (requests or up or down):
                continue
            fresh = {"requests": min(requests, _MOST), "up": min(up, _MOST), "down": min(down, _MOST)}
            rows.append({"month": month, "site": site, "provider": provider, "kind": kind, **fresh})
            if kind == "put":
                stock.came(provider, up)
            elif kind == "get":
                stock.went(provider, down)
        if rows:
            adding = insert(UsageRow)
            await session.execute(
                adding.on_conflict_do_update(
                    index_elements=["month", "site", "provider", "kind"],
                    set_={
                        name: _capped(getattr(UsageRow, name), adding.excluded[name])
                        for name in ("requests", "up", "down")
                    },
                ),
                rows,
            )
            await stock.keep(insert)


def _line(rows: Sequence[UsageRow], put: Mapping[str, int], byte_days: Mapping[str, float]) -> UsageLine:
    provider = rows[0].provider
    own = sum(row.up for row in rows if row.kind == "put")
    share = own / put[provider] if put[provider] else 0.0
    return UsageLine(
        site=rows[0].site,
        provider=provider,
        requests={row.kind: row.requests for row in rows},
        up=sum(row.up for row in rows),
        out=sum(row.down for row in rows),
        byte_days=byte_days.get(provider, 0.0) * share,
    )


def _larger(before: Sequence[int] | None, said: Sequence[int]) -> list[int]:
    """Return the larger of each count: they only grow, and what is smaller is an older report."""
    return list(said) if before is None else [max(one, other) for one, other in zip(before, said, strict=True)]


def _joined(older: _Waiting, newer: _Waiting) -> _Waiting:
    runs = {run: dict(counts) for run, counts in older.runs.items()}
    for run, counts in newer.runs.items():
        known = runs.setdefault(run, {})
        for key, said in counts.items():
            known[key] = _larger(known.get(key), said)
    return _Waiting(newer.site, dict(list(runs.items())[-_MOST_RUNS:]))


def _capped(column: Any, count: Any) -> Any:
    """Return `column + count`, or what the database holds at the most."""
    return case((column > _MOST - count, literal(_MOST)), else_=column + count)


def _insert_of(session: AsyncSession) -> Any:
    """Return the INSERT of the database in use, which knows what to do if the row is there."""
    return sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
