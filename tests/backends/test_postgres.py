"""The Bridge on a real PostgreSQL: schema, durability, revocation, and that it is one Bridge's alone."""

import asyncio
import itertools
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # has no types
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from tests.backends.server import PASSWORD, USER, PostgresServer, running_server

from isthmus.bridge.administration import open_administration
from isthmus.bridge.database import _LOCK, Base, Database
from isthmus.contract.rest import SessionEnd
from isthmus.errors import OperatorError, Problem
from isthmus.testing.bridge import running_bridge

_names = (f"bridge_{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_server() as server:
        yield server


async def ask(server: PostgresServer, sql: str, database: str = "postgres") -> Any:
    connection = await asyncpg.connect(host=str(server.folder), user=USER, password=PASSWORD, database=database)
    try:
        return await connection.fetch(sql)
    finally:
        await connection.close()


@pytest.fixture
async def database(server: PostgresServer) -> str:
    """Return the name of a new database."""
    name = next(_names)
    await ask(server, f"CREATE DATABASE {name}")
    return name


@pytest.fixture
def url(server: PostgresServer, database: str) -> str:
    return server.url(database)


async def test_the_migrations_make_the_tables_that_the_code_reads(url: str) -> None:
    database = Database(url)
    await database.open()
    async with database.transaction() as session:
        connection = await session.connection()
        differences = await connection.run_sync(
            lambda sync: compare_metadata(MigrationContext.configure(sync), Base.metadata)
        )
    await database.close()
    assert differences == []


async def test_a_network_lives_on_postgresql_through_restarts_and_revocation(tmp_path: Path, url: str) -> None:
    async with running_bridge(tmp_path, database_url=url) as bridge:
        one, other = await bridge.pair()
        await one.client.publish([one.titles("CALLER")])
        session_id = await one.open(other)
        await one.client.end_session(session_id, SessionEnd(outcome="released", bytes_out=1001, bytes_in=7))
        await bridge.administration.invite("third")
        await bridge.administration.withdraw("third")
        bridge.members.clear()
    async with running_bridge(tmp_path, listen=bridge.address.listen) as again:  # it remembers its database
        again.members.extend((one, other))
        assert [row["site"] for row in await again.administration.sites()] == ["clinic", "hospital"]
        (row,) = await again.administration.audit()
        assert (row["calling"], row["called"], row["outcome"], row["bytes_out"]) == ("CALLER", "PACS", "released", 1001)
        assert [entry.site for entry in (await one.client.network()).sites] == ["hospital"]
        assert [row["withdrawn"] is not None for row in await again.administration.invites() if row["open"] is False]
        await again.administration.revoke("hospital")
        with pytest.raises(Problem, match="no longer belongs"):
            await other.client.heartbeat([])
    async with open_administration(tmp_path) as administration:
        assert [row["site"] for row in await administration.run("sites", {})] == ["clinic"]
    assert not (tmp_path / "bridge.db").exists()


async def test_a_second_bridge_on_the_same_database_refuses_to_start(tmp_path: Path, url: str) -> None:
    async with running_bridge(tmp_path / "one", database_url=url) as first:
        with pytest.raises(OperatorError, match="another Bridge uses this database") as error:
            async with running_bridge(tmp_path / "two", database_url=url):
                pass
        assert "--database-url" in error.value.hint
        assert (await first.join("clinic")).site == "clinic"
    async with running_bridge(tmp_path / "two", database_url=url) as second:
        assert [row["site"] for row in await second.administration.sites()] == ["clinic"]


async def test_a_bridge_whose_connection_broke_makes_another_and_takes_its_lock_again(
    tmp_path: Path, server: PostgresServer, database: str
) -> None:
    cut = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
    async with running_bridge(tmp_path, database_url=server.url(database)) as bridge:
        await bridge.join("one")
        assert len(await ask(server, cut)) == 1
        await bridge.join("two")
        held = await ask(server, f"SELECT pg_try_advisory_lock({_LOCK})", database)
        assert held[0][0] is False


async def test_a_bridge_that_lost_its_lock_to_another_writes_nothing_more(
    tmp_path: Path, server: PostgresServer, database: str
) -> None:
    cut = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        f" WHERE datname = '{database}' AND application_name = 'isthmus-bridge'"
    )
    async with running_bridge(tmp_path, database_url=server.url(database)) as bridge:
        invite, member = await bridge.invite("one"), bridge.member("one")
        thief = await asyncpg.connect(host=str(server.folder), user=USER, password=PASSWORD, database=database)
        taking = asyncio.get_running_loop().create_task(thief.execute(f"SELECT pg_advisory_lock({_LOCK})"))
        await ask(server, cut)
        await taking
        with pytest.raises(Problem) as problem:
            await member.client.enrol(invite, member.prekey_document())
        assert problem.value.status == 503
        assert await ask(server, "SELECT * FROM sites", database) == []
        await thief.close()
        assert (await member.client.enrol(invite, member.prekey_document())).site == "one"


@pytest.mark.parametrize("wrong", ["password", "database", "server"])
async def test_a_database_out_of_reach_is_told_without_the_password(
    tmp_path: Path, server: PostgresServer, database: str, wrong: str
) -> None:
    url = {
        "password": server.url(database, "wrong-secret"),
        "database": server.url("nowhere"),
        "server": server.url(database).replace(server.folder.name, "nowhere"),
    }[wrong]
    with pytest.raises(OperatorError, match="cannot open the Bridge database") as error:
        async with running_bridge(tmp_path, database_url=url):
            pass
    said = "".join(traceback.format_exception(error.value)) + error.value.hint
    assert PASSWORD not in said
    assert PASSWORD.replace(" ", "%20") not in said
    assert "wrong-secret" not in said


@pytest.mark.parametrize("url", ["mysql://u:secret@h/d", "secret", "postgresql+psycopg2://u:secret@h/d", "://secret"])
def test_a_url_of_another_kind_is_refused_without_quoting_it(url: str) -> None:
    with pytest.raises(OperatorError) as error:
        Database(url)
    assert "secret" not in str(error.value)
