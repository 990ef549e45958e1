"""The version of what is durable about the network, by which several Bridges on one database agree.

Whoever changes accounts or documents locks one row first, takes what others have changed meanwhile, and only then looks
at its memory: so that is the truth for as long as the change takes, at whichever Bridge, and two changes never cross.
What changed is found by the version that each row carries.
"""

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from sqlalchemy import BigInteger, Integer, LargeBinary, String, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from isthmus.bridge.database import Base, Database
from isthmus.errors import OperatorError

CatchUp = Callable[[AsyncSession, int], Awaitable[None]]
"""Takes into memory all rows whose version is above the one given."""
_ONLY: Final = 1


class NetworkRow(Base):
    """One row: how often the network was changed, whose database this is, and where its blobs are."""

    __tablename__ = "network"

    id: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    version: Mapped[int] = mapped_column(BigInteger)
    identity: Mapped[bytes | None] = mapped_column(LargeBinary)
    blobs: Mapped[str | None] = mapped_column(String(64))


@dataclass(frozen=True, slots=True)
class Change:
    """A transaction in which nobody else changes the network, and the version that it makes."""

    session: AsyncSession
    version: int


class Register:
    """Changes of the network, one at a time."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._changing = asyncio.Lock()
        self._readers: list[CatchUp] = []
        self.version = -1
        self.on_change: Callable[[], None] = _nothing

    def __repr__(self) -> str:
        return f"<Register at {self.version}>"

    def add_reader(self, reader: CatchUp) -> None:
        """Have somebody's memory kept up to date; the readers are asked in order."""
        self._readers.append(reader)

    async def open(self, identity: bytes) -> None:
        """Read everything. Raises OperatorError if the database is shared by Bridges of another identity."""
        async with self._database.transaction() as session:
            row = (await session.scalars(select(NetworkRow).with_for_update())).one()
            if row.identity is None or not self._database.is_shared:
                row.identity = identity
            elif not hmac.compare_digest(row.identity, identity):
                raise OperatorError(
                    "this database belongs to Bridges with another identity key",
                    hint="copy identity.key from the data folder of the first one to this one's",
                )
        await self.refresh()

    async def has_blobs_at(self, mark: str) -> bool:
        """Return whether the blobs of the network are there, or nowhere yet."""
        async with self._database.transaction() as session:
            return (await session.scalars(select(NetworkRow.blobs))).one() in {None, mark}

    async def agree_on_blobs(self, mark: str, *, others: bool) -> None:
        """Note where the blobs of the network are. Raises OperatorError if `others` run, and have them elsewhere."""
        async with self._database.transaction() as session:
            row = (await session.scalars(select(NetworkRow).with_for_update())).one()
            if row.blobs not in {None, mark} and others:
                raise OperatorError(
                    "the other Bridges of this network keep their blobs elsewhere",
                    hint="--blobs names a folder or an object store that all of them share",
                )
            row.blobs = mark

    @asynccontextmanager
    async def change(self) -> AsyncIterator[Change]:
        """Give a transaction for one change. What it did is to be taken into memory right after, without a wait.

        Raises ProviderTrouble if the database is away.
        """
        async with self._changing:
            async with self._database.transaction() as session:
                version = (
                    await session.scalars(
                        update(NetworkRow)
                        .where(NetworkRow.id == _ONLY)
                        .values(version=NetworkRow.version + 1)
                        .returning(NetworkRow.version)
                    )
                ).one()
                if version - 1 > self.version:
                    await self._catch_up(session, version - 1)
                yield Change(session, version)
            self.version = version
        self.on_change()

    async def refresh(self) -> None:
        """Take what other Bridges have changed. Raises ProviderTrouble if the database is away."""
        async with self._changing, self._database.transaction() as session:
            version = (await session.scalars(select(NetworkRow.version))).one()
            if version > self.version:
                await self._catch_up(session, version)

    async def _catch_up(self, session: AsyncSession, version: int) -> None:
        for reader in self._readers:
            await reader(session, self.version)
        self.version = version


def _nothing() -> None:
    """Nobody listens yet."""
