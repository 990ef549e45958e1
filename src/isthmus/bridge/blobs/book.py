"""The list of blobs that lie in an object store: rows of the Bridges' database, where a look is not billed."""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Final

from sqlalchemy import BigInteger, LargeBinary, String, delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Mapped, mapped_column

from isthmus.bridge.blobs.files import DIGEST_BYTES, MOST_NAME
from isthmus.bridge.blobs.store import Entry
from isthmus.bridge.database import Base, Database, to_micros, to_seconds
from isthmus.errors import BlobExists, ProviderTrouble, Retry

_AT_ONCE: Final = 500  # names in one statement


class BlobRow(Base):
    """One blob: in which store, and what there is to know of it but its body."""

    __tablename__ = "blobs"

    store: Mapped[str] = mapped_column(String(64), primary_key=True)
    name: Mapped[str] = mapped_column(String(MOST_NAME), primary_key=True)
    site: Mapped[str] = mapped_column(String(63))
    size: Mapped[int] = mapped_column(BigInteger)
    created: Mapped[int] = mapped_column(BigInteger)
    digest: Mapped[bytes] = mapped_column(LargeBinary(DIGEST_BYTES))


class BlobBook:
    """The rows of one store. Every method raises ProviderTrouble if the database is away."""

    def __init__(self, database: Database) -> None:
        """Describe the list; `store` is the mark of the store that it is about, which is to be set first."""
        self.store = ""
        self._database = database

    def __repr__(self) -> str:
        return f"<BlobBook of {self.store}>"

    async def add(self, entry: Entry) -> None:
        """Note a blob that the store has, durably. Raises BlobExists if another body has its name."""
        fields = {
            "site": entry.site,
            "size": entry.size,
            "created": to_micros(entry.created),
            "digest": entry.digest,
        }
        insert = (postgresql if self._database.is_shared else sqlite).insert(BlobRow)
        row = insert.values(store=self.store, name=entry.name, **fields)
        same = row.on_conflict_do_update(
            index_elements=[BlobRow.store, BlobRow.name], set_=fields, where=BlobRow.digest == entry.digest
        )
        async with self._rows() as rows:
            if (await rows.execute(same.returning(BlobRow.name))).first() is None:
                raise BlobExists(entry.name)

    async def remove(self, names: Iterable[str]) -> list[Entry]:
        """Strike out blobs, and return those that there were."""
        ordered = sorted(names)  # so that two Bridges never wait for each other
        struck: list[Entry] = []
        async with self._rows() as rows:
            for start in range(0, len(ordered), _AT_ONCE):
                some = ordered[start : start + _AT_ONCE]
                those = delete(BlobRow).where(BlobRow.store == self.store, BlobRow.name.in_(some))
                struck += [_entry(row) for row in await rows.scalars(those.returning(BlobRow))]
        return struck

    async def find(self, name: str) -> Entry | None:
        """Return what is noted of a blob."""
        async with self._rows() as rows:
            row = await rows.get(BlobRow, (self.store, name))
            return None if row is None else _entry(row)

    async def all(self) -> list[Entry]:
        """Return everything."""
        async with self._rows() as rows:
            return [_entry(row) for row in await rows.scalars(select(BlobRow).where(BlobRow.store == self.store))]

    async def forget_other_stores(self) -> None:
        """Strike out what is in a store that is no longer used."""
        async with self._rows() as rows:
            await rows.execute(delete(BlobRow).where(BlobRow.store != self.store))

    @asynccontextmanager
    async def _rows(self) -> AsyncIterator[AsyncSession]:
        try:
            async with self._database.transaction() as session:
                yield session
        except SQLAlchemyError as error:
            raise ProviderTrouble("the Bridge's database is busy or in trouble", retry=Retry.LATER) from error


def _entry(row: BlobRow) -> Entry:
    return Entry(row.name, row.site, row.size, to_seconds(row.created), row.digest)
