"""The Bridge on a real PostgreSQL: schema, durability, revocation, its lock, and how a network gets there."""

import asyncio
import secrets
import traceback
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # has no types
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from tests.backends.servers.postgres import PASSWORD, USER, PostgresServer

from isthmus.bridge.administration import open_administration
from isthmus.bridge.database import _LOCK, Base, Database
from isthmus.bridge.moving import move_database
from isthmus.contract.rest import SessionEnd
from isthmus.errors import OperatorError, Problem
from isthmus.testing.bridge import running_bridge
from isthmus.testing.network import until


async def ask(server: PostgresServer, sql: str, database: str = "postgres") -> Any:
    connection = await asyncpg.connect(host=str(server.folder), user=USER, password=PASSWORD, database=database)
    try:
        return await connection.fetch(sql)
    finally:
        await connection.close()


@pytest.fixture
async def database(server: PostgresServer) -> str:
    """Return the name of a new database."""
    return await server.new_database()


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


async def test_a_database_that_somebody_has_alone_is_refused(
    tmp_path: Path, server: PostgresServer, database: str
) -> None:
    """A Bridge of an older release has it so, and who moves a network to it."""
    alone = await asyncpg.connect(host=str(server.folder), user=USER, password=PASSWORD, database=database)
    await alone.execute(f"SELECT pg_advisory_lock({_LOCK})")
    with pytest.raises(OperatorError, match="in use, and not shared"):
        async with running_bridge(tmp_path, database_url=server.url(database)):
            pass
    await alone.close()
    async with running_bridge(tmp_path, database_url=server.url(database)) as bridge:
        assert (await bridge.join("clinic")).site == "clinic"


async def test_a_bridge_whose_connections_broke_makes_others_and_takes_its_lock_again(
    tmp_path: Path, server: PostgresServer, database: str
) -> None:
    async with running_bridge(tmp_path, database_url=server.url(database)) as bridge:
        await bridge.join("one")
        await cut(server, database)
        await bridge.join("two")
        held = await ask(server, f"SELECT pg_try_advisory_lock({_LOCK})", database)
        assert held[0][0] is False


async def test_a_bridge_that_lost_its_lock_to_another_writes_nothing_more(
    tmp_path: Path, server: PostgresServer, database: str
) -> None:
    async with running_bridge(tmp_path, database_url=server.url(database)) as bridge:
        invite, member = await bridge.invite("one"), bridge.member("one")
        thief = await asyncpg.connect(host=str(server.folder), user=USER, password=PASSWORD, database=database)
        taking = asyncio.get_running_loop().create_task(thief.execute(f"SELECT pg_advisory_lock({_LOCK})"))
        await until(lambda: waits(server, database))  # who comes later waits behind it
        await cut(server, database)
        await taking
        with pytest.raises(Problem) as problem:
            await member.client.enrol(invite, member.prekey_document())
        assert problem.value.status == 503
        assert await ask(server, "SELECT * FROM sites", database) == []
        await thief.close()
        assert (await member.client.enrol(invite, member.prekey_document())).site == "one"


async def test_a_network_moves_from_a_file_to_postgresql_whole(
    tmp_path: Path, server: PostgresServer, database: str
) -> None:
    url, told = server.url(database), dict[str, int]()
    async with running_bridge(tmp_path) as bridge:
        one, other = await bridge.pair()
        await one.client.publish([one.titles("CALLER")])
        session_id = await one.open(other)
        await one.client.end_session(session_id, SessionEnd(outcome="released", bytes_out=2**40, bytes_in=7))
        with pytest.raises(OperatorError, match="in use by another Isthmus process"):
            await move_database(tmp_path, url, secrets.token_bytes, told.__setitem__)
        bridge.members.clear()
    before = await shown(tmp_path)
    count = await move_database(tmp_path, url, secrets.token_bytes, told.__setitem__)
    assert count == sum(told.values()) >= 8
    assert not (tmp_path / "bridge.db").exists()
    assert await shown(tmp_path) == before
    with pytest.raises(OperatorError, match="no database"):
        await move_database(tmp_path, url, secrets.token_bytes, told.__setitem__)
    async with running_bridge(tmp_path, listen=bridge.address.listen) as again:
        again.members.extend((one, other))
        assert [entry.site for entry in (await one.client.network()).sites] == ["hospital"]
        await other.client.publish([other.titles("PACS")])
    async with running_bridge(tmp_path / "new") as stranger:
        await stranger.join("elsewhere")
    with pytest.raises(OperatorError, match="has data already: documents, invites, network"):
        await move_database(tmp_path / "new", url, secrets.token_bytes, told.__setitem__)
    async with running_bridge(tmp_path / "new") as stranger:
        assert [row["site"] for row in await stranger.administration.sites()] == ["elsewhere"]


async def shown(data: Path) -> list[Any]:
    """Return what an operator sees of a Bridge that does not run."""
    async with open_administration(data) as administration:
        return [await administration.run(operation, {}) for operation in ("sites", "invites", "audit")]


async def cut(server: PostgresServer, database: str) -> None:
    """Break every connection of Bridges."""
    count = await ask(
        server,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        f" WHERE datname = '{database}' AND application_name = 'isthmus-bridge'",
    )
    assert len(count) >= 3


async def waits(server: PostgresServer, database: str) -> bool:
    """Return whether somebody waits for the lock."""
    return bool(await ask(server, "SELECT * FROM pg_locks WHERE locktype = 'advisory' AND NOT granted", database))


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
