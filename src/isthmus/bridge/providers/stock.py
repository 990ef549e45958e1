"""How much lies in the blobstores of cloud pairs: an estimate, since nobody says when a blob is deleted.

Held is what was put and not yet got: blobs are got once, as a rule, and deleted then. What is got twice makes it too
small, what is deleted or forgotten unread too large; it is never more than what was put in this month and the last,
since a provider that was set up lets go of what is older.
"""

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from sqlalchemy import Double, cast, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from isthmus.bridge.database import to_micros, to_seconds
from isthmus.bridge.providers.models import StockRow, UsageRow

_DAY: Final = 86_400.0
_MOST: Final = 2**63 - 1


def month_of(now: float) -> str:
    """Return the month of an instant, as 2026-11 (UTC)."""
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m")


def bounds_of(month: str) -> tuple[float, float]:
    """Return the first instant of a month and that of the next (Unix seconds). Raises ValueError."""
    first = datetime.strptime(month, "%Y-%m").replace(tzinfo=UTC)
    after = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
    return first.timestamp(), after.timestamp()


class Stock:
    """The estimate, brought up to an instant within one transaction."""

    def __init__(self, session: AsyncSession, now: float) -> None:
        self._session = session
        self._now = now
        self._came: dict[str, int] = defaultdict(int)
        self._went: dict[str, int] = defaultdict(int)

    def came(self, provider: str, count: int) -> None:
        """Note bytes that were put."""
        self._came[provider] += count

    def went(self, provider: str, count: int) -> None:
        """Note bytes that were got."""
        self._went[provider] += count

    async def keep(self, insert: Any) -> None:
        """Write the estimate of the pairs that something was noted of."""
        for provider in sorted({*self._came, *self._went}):
            first = {"provider": provider, "month": month_of(self._now), "held": 0, "byte_days": 0.0}
            if not await self._has_row(provider):
                await self._session.execute(
                    insert(StockRow).values(**first, counted=to_micros(self._now)).on_conflict_do_nothing()
                )
            row = (await self._advanced(provider))[-1]
            # a report of what was got may come before that of who put it: no more than this is owed
            held = row.held + self._came[provider] - self._went[provider]
            row.held = min(max(held, -self._went[provider], -_MOST), _MOST)
            await self._session.flush()

    async def byte_days(self, month: str) -> dict[str, float]:
        """Return the byte-days of a month so far, by pair; nothing of it is written."""
        found: dict[str, float] = {}
        with self._session.no_autoflush:
            for provider in await self._session.scalars(select(StockRow.provider).distinct()):
                for row in await self._advanced(provider):
                    if row.month == month:
                        found[provider] = row.byte_days
                    self._session.expunge(row)
        return found

    async def _has_row(self, provider: str) -> bool:
        return (await self._session.scalar(select(StockRow.provider).where(StockRow.provider == provider))) is not None

    async def _advanced(self, provider: str) -> list[StockRow]:
        """Return all months of a pair, the newest of them this one, brought up to now."""
        chosen = select(StockRow).where(StockRow.provider == provider).order_by(StockRow.month)
        rows = list(await self._session.scalars(chosen.with_for_update()))
        put = await self._put(provider)
        while True:
            row = rows[-1]
            _, end = bounds_of(row.month)
            row.held = min(row.held, put.get(row.month, 0) + put.get(_before(row.month), 0))
            until = min(max(self._now, to_seconds(row.counted)), end)
            row.byte_days += max(row.held, 0) * (until - to_seconds(row.counted)) / _DAY
            row.counted = to_micros(until)
            if self._now < end:
                return rows
            following = StockRow(
                provider=provider, month=month_of(end), held=row.held, counted=to_micros(end), byte_days=0.0
            )
            self._session.add(following)
            rows.append(following)

    async def _put(self, provider: str) -> Mapping[str, int]:
        """Return how much all sites have put, by month."""
        chosen = select(UsageRow.month, func.sum(cast(UsageRow.up, Double))).where(
            UsageRow.provider == provider, UsageRow.kind == "put"
        )
        return {month: int(total) for month, total in await self._session.execute(chosen.group_by(UsageRow.month))}


def _before(month: str) -> str:
    return month_of(bounds_of(month)[0] - 1)
