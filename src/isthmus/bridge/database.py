"""The Bridge's database: SQLite in the data folder, or PostgreSQL by URL. Times are UTC integers, microseconds."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, MetaData, event, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

from isthmus.errors import OperatorError

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_NAMING: Final = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}


class Base(DeclarativeBase):
    """All tables of the Bridge; constraints have names, since SQLite can only change what has one."""

    metadata = MetaData(naming_convention=_NAMING)


def to_micros(seconds: float) -> int:
    """Return Unix seconds as the integer that is stored."""
    return round(seconds * 1_000_000)


def to_seconds(micros: int) -> float:
    """Return a stored time as Unix seconds."""
    return micros / 1_000_000


class Database:
    """One engine. On SQLite there is exactly one connection: two writers can corrupt a log that is being reset."""

    def __init__(self, url: str) -> None:
        """Describe a database; nothing is opened yet. `url` is SQLAlchemy's, with an async driver."""
        self._sqlite = url.startswith("sqlite")
        sizes: dict[str, Any] = {"pool_size": 1, "max_overflow": 0} if self._sqlite else {"pool_pre_ping": True}
        self._engine: AsyncEngine = create_async_engine(url, hide_parameters=True, **sizes)
        self._sessions = async_sessionmaker(self._engine, expire_on_commit=False)
        if self._sqlite:
            event.listen(self._engine.sync_engine, "connect", _prepare_sqlite)
            event.listen(self._engine.sync_engine, "begin", _begin_immediate)

    @classmethod
    def in_folder(cls, folder: Path) -> "Database":
        """Return the SQLite database of a data folder, readable by its owner only."""
        path = folder / "bridge.db"
        path.touch(mode=0o600)
        return cls(f"sqlite+aiosqlite:///{path}")

    async def open(self) -> None:
        """Check the file and bring its schema up to date. Raises OperatorError if it is damaged or out of reach."""
        try:
            async with self._engine.begin() as connection:
                if self._sqlite:
                    verdict = (await connection.execute(text("PRAGMA quick_check"))).scalar_one()
                    if verdict != "ok":
                        raise OperatorError(f"the Bridge database is damaged: {verdict}", hint="restore a backup")
                await connection.run_sync(_upgrade)
        except (SQLAlchemyError, OSError) as error:
            raise OperatorError(f"cannot open the Bridge database: {error}") from error

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """Give a session that commits when the block ends, durably, and rolls back if it raises."""
        async with self._sessions() as session, session.begin():
            yield session

    async def close(self) -> None:
        """Let go of every connection."""
        await self._engine.dispose()


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # so that the driver starts no transaction of its own
    cursor = connection.cursor()
    for pragma in ("journal_mode=DELETE", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=5000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: Connection) -> None:
    # a deferred transaction that reads and then writes fails at once if another process writes in between
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
