"""The Bridge's database: SQLite in the data folder, or PostgreSQL by URL. Times are UTC integers, microseconds."""

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from alembic import command
from alembic.config import Config
from sqlalchemy import URL, Connection, MetaData, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

from isthmus.errors import OperatorError, ProviderTrouble, Retry

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
_NAMING: Final = {
    "ix": "ix_%(column_0_label)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
_DAMAGED: Final = "put back the newest backup of bridge.db; or is another database meant? --database-url names it"
_ONE_CONNECTION: Final[dict[str, Any]] = {"pool_size": 1, "max_overflow": 0}
_FEW_CONNECTIONS: Final[dict[str, Any]] = {"pool_size": 4, "max_overflow": 0}
_POSTGRESQL: Final = "postgresql+asyncpg"
_SETTINGS: Final = {
    "application_name": "isthmus-bridge",
    # a Bridge that is gone without a word must not hold its lock for hours
    "tcp_keepalives_idle": "20",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
_CONNECT_SECONDS: Final = 10.0
_LOCK: Final = 0x697374686D7573  # the number that all Bridges mean by "this database is in use"
_UPGRADE_LOCK: Final = _LOCK + 1  # "its schema is being brought up to date"
_LOCK_WAIT_MILLISECONDS: Final = 3000  # a Bridge that has just stopped may hold it a moment longer
_LOCK_NOT_AVAILABLE: Final = "55P03"  # PostgreSQL's appendix A


class Base(DeclarativeBase):
    """All tables of the Bridge; constraints have names, since SQLite can only change what has one."""

    metadata = MetaData(naming_convention=_NAMING)


def to_micros(seconds: float) -> int:
    """Return Unix seconds as the integer that is stored."""
    return round(seconds * 1_000_000)


def to_seconds(micros: int) -> float:
    """Return a stored time as Unix seconds."""
    return micros / 1_000_000


class _InUse(Exception):
    """Somebody holds the database's lock who shares it with nobody."""


class Database:
    """On SQLite exactly one connection, since two writers can corrupt a log that is being reset.

    On PostgreSQL a few, and other Bridges beside them. Each connection takes a lock that the server keeps for it: the
    Bridges share it, and who fills an empty database has it alone, so that nothing is ever written beside that.
    """

    def __init__(self, url: str, *, alone: bool = False) -> None:
        """Describe a database; nothing is opened yet. Raises OperatorError if `url` is of no kind that is known.

        `alone`: nobody else may have the database open.
        """
        parsed = _parse(url)
        self._sqlite = parsed.drivername.startswith("sqlite")
        try:
            self._engine: AsyncEngine = (
                create_async_engine(parsed, hide_parameters=True, **_ONE_CONNECTION)
                if self._sqlite
                else create_async_engine(
                    parsed,
                    hide_parameters=True,
                    pool_pre_ping=True,
                    connect_args={"server_settings": _SETTINGS, "timeout": _CONNECT_SECONDS},
                    **(_ONE_CONNECTION if alone else _FEW_CONNECTIONS),
                )
            )
        except ModuleNotFoundError as error:
            raise OperatorError(
                f"PostgreSQL needs the Python package {error.name}", hint="install isthmus[postgres]"
            ) from error
        self._sessions = async_sessionmaker(self._engine, expire_on_commit=False)
        if self._sqlite:
            event.listen(self._engine.sync_engine, "connect", _prepare_sqlite)
            event.listen(self._engine.sync_engine, "begin", _begin_immediate)
        else:
            event.listen(self._engine.sync_engine, "connect", functools.partial(_take_lock, alone=alone))

    @property
    def is_shared(self) -> bool:
        """Whether other Bridges may work on this database at the same time."""
        return not self._sqlite

    @classmethod
    def in_folder(cls, folder: Path) -> "Database":
        """Return the SQLite database of a data folder, readable by its owner only."""
        path = folder / "bridge.db"
        path.touch(mode=0o600)
        return cls(f"sqlite+aiosqlite:///{path}")

    async def open(self) -> None:
        """Check the file and bring its schema up to date.

        Raises OperatorError if it is damaged, out of reach, or another Bridge's.
        """
        try:
            async with self._engine.begin() as connection:
                if self._sqlite:
                    verdict = (await connection.execute(text("PRAGMA quick_check"))).scalar_one()
                    if verdict != "ok":
                        raise OperatorError(f"the Bridge database is damaged: {verdict}", hint=_DAMAGED)
                else:
                    await connection.execute(text(f"SELECT pg_advisory_xact_lock({_UPGRADE_LOCK})"))
                await connection.run_sync(_upgrade)
        except _InUse as error:
            raise OperatorError(
                "this database is in use, and not shared",
                hint="a Bridge of an older release runs on it, or it is being filled: wait for that to end",
            ) from error
        except (SQLAlchemyError, OSError) as error:
            reason = getattr(error, "orig", None) or error
            raise OperatorError(
                f"cannot open the Bridge database: {reason}",
                hint=_DAMAGED if self._sqlite else "is --database-url right?",
            ) from error

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """Give a session that commits when the block ends, durably, and rolls back if it raises.

        Raises ProviderTrouble if the database is away.
        """
        try:
            async with self._sessions() as session, session.begin():
                yield session
        except _InUse as error:
            raise ProviderTrouble("the database is in use, and not shared", retry=Retry.LATER) from error
        except (OSError, DBAPIError) as error:
            if isinstance(error, DBAPIError) and not error.connection_invalidated:
                raise
            raise ProviderTrouble("the Bridge's database is out of reach", retry=Retry.LATER) from error

    async def close(self) -> None:
        """Let go of every connection."""
        await self._engine.dispose()


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # so that the driver starts no transaction of its own
    cursor = connection.cursor()
    for pragma in ("journal_mode=DELETE", "synchronous=FULL", "foreign_keys=ON", "busy_timeout=15000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_immediate(connection: Connection) -> None:
    # a deferred transaction that reads and then writes fails at once if another process writes in between
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _take_lock(connection: Any, _record: object, *, alone: bool) -> None:
    cursor = connection.cursor()
    try:
        cursor.execute(f"SET lock_timeout = {_LOCK_WAIT_MILLISECONDS}")
        cursor.execute(f"SELECT pg_advisory_lock{'' if alone else '_shared'}({_LOCK})")
        cursor.execute("SET lock_timeout = DEFAULT")
        connection.commit()
    except Exception as error:
        connection.close()
        if getattr(error, "sqlstate", "") == _LOCK_NOT_AVAILABLE:
            raise _InUse from error
        raise
    finally:
        cursor.close()


def connect_arguments(url: str) -> dict[str, Any]:
    """Return what asyncpg is called with for a connection beside the engine's. Raises OperatorError."""
    parsed = _parse(url)
    arguments = parsed.get_dialect()().create_connect_args(parsed)[1]
    own = {name: arguments[name] for name in arguments if not name.startswith("prepared_statement")}
    return {**own, "server_settings": _SETTINGS, "timeout": _CONNECT_SECONDS}


def _parse(url: str) -> URL:
    """Return the URL with its driver. What is wrong with it is not quoted: it may hold a password."""
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise OperatorError("the database URL is not one", hint="postgresql://USER:PASSWORD@HOST/NAME") from error
    if parsed.drivername in {"postgresql", "postgres"}:
        parsed = parsed.set(drivername=_POSTGRESQL)
    if parsed.drivername not in {_POSTGRESQL, "sqlite+aiosqlite"}:
        raise OperatorError(
            f"the Bridge knows no database of kind {parsed.drivername}", hint="postgresql://USER:PASSWORD@HOST/NAME"
        )
    return parsed


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    command.upgrade(config, "head")
