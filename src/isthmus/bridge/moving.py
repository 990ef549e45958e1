"""Moving a Bridge's tables from SQLite to PostgreSQL: all of them in one transaction, or none."""

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Table, delete, func, insert, select
from sqlalchemy.ext.asyncio import AsyncSession

from isthmus.bridge.administration import store_database, with_stored_database
from isthmus.bridge.cluster.postgres import BodyRow
from isthmus.bridge.config import BridgeConfig
from isthmus.bridge.database import Base, Database
from isthmus.bridge.identity import load_identity
from isthmus.bridge.register import NetworkRow, Register
from isthmus.envelope.identity import Random
from isthmus.errors import OperatorError
from isthmus.kit.files import folder_lock
from isthmus.kit.names import HostPort

_AT_ONCE: Final = 1000
_MODULUS: Final = 2**256
Progress = Callable[[str, int], None]
"""Is told a table and how many of its rows are copied so far."""


@dataclass(slots=True)
class _Digest:
    """Count and sum of the rows' SHA-256: the same in whatever order two databases give them."""

    rows: int = 0
    sum: int = 0

    def add(self, rows: Sequence[Sequence[Any]]) -> None:
        """Count rows in."""
        self.rows += len(rows)
        for row in rows:
            self.sum += int.from_bytes(hashlib.sha256(repr(tuple(row)).encode()).digest(), "big")
        self.sum %= _MODULUS


async def move_database(data: Path, url: str, random: Random, progress: Progress) -> int:
    """Copy all tables of the Bridge in `data` to the empty database at `url`, and have it used from now on.

    Returns how many rows were copied. What was there is kept beside, as bridge.db.moved.

    Raises OperatorError, and changes nothing, if the Bridge runs, is at PostgreSQL already, the other database has data
    or is in use, or what arrived there is not what was sent.
    """
    if not (data / "bridge.db").exists():
        raise OperatorError(f"there is no database in {data}", hint="--data DIR names the folder of the Bridge")
    with folder_lock(data):
        config = with_stored_database(BridgeConfig(data=data, listen=HostPort("127.0.0.1", 0)))
        if config.database_url is not None:
            raise OperatorError("this Bridge has its tables in PostgreSQL already", hint="isthmus bridge run")
        source, target = Database.in_folder(data), Database(url, alone=True)
        if not target.is_shared:
            raise OperatorError("a PostgreSQL database is meant", hint="--to postgresql://USER:PASSWORD@HOST/NAME")
        try:
            await source.open()
            await Register(source).open(load_identity(data, random).public)
            await target.open()
            count = await _copy(source, target, progress)
        finally:
            await source.close()
            await target.close()
        store_database(data, url)
        (data / "bridge.db").rename(data / "bridge.db.moved")
    return count


async def _copy(source: Database, target: Database, progress: Progress) -> int:
    tables = [table for table in Base.metadata.sorted_tables if table is not BodyRow.__table__]
    count = 0
    async with source.transaction() as there, target.transaction() as here:
        await _check_empty(here, tables)
        await here.execute(delete(NetworkRow))
        for table in tables:
            sent, came = _Digest(), _Digest()
            async for rows in _rows(there, table):
                await here.execute(insert(table), [row._asdict() for row in rows])
                sent.add(rows)
                progress(table.name, sent.rows)
            async for rows in _rows(here, table):
                came.add(rows)
            if sent != came:
                raise OperatorError(
                    f"table {table.name} did not arrive as it was sent: {came.rows} rows of {sent.rows}",
                    hint="nothing was changed; try an empty database of another server",
                )
            count += sent.rows
    return count


async def _check_empty(session: AsyncSession, tables: Sequence[Table]) -> None:
    """Raise OperatorError if there is anything in the database but what its schema comes with."""
    network = (await session.scalars(select(NetworkRow).with_for_update())).one()
    full = [] if network.version == 0 and network.identity is None else ["network"]
    others = [table for table in tables if table is not NetworkRow.__table__]
    full += [table.name for table in others if await session.scalar(select(func.count()).select_from(table))]
    if full:
        raise OperatorError(
            f"the other database has data already: {', '.join(sorted(full))}", hint="--to names an empty one"
        )


async def _rows(session: AsyncSession, table: Table) -> AsyncIterator[Sequence[Any]]:
    result = await session.stream(select(table))
    async for rows in result.partitions(_AT_ONCE):
        yield rows
