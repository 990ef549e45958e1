"""Cloud pairs and usage on PostgreSQL, and at two Bridges that share one."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # has no types
import pytest
from tests.backends.servers.postgres import PASSWORD, USER, PostgresServer
from tests.loopback.bridge.clouds import BLOBSTORE_CANARY, SECRETS, SIGNALLING_CANARY, FakeCloud, install

from isthmus.bridge.database import to_micros
from isthmus.contract.rest import Usage
from isthmus.testing.bridge import BridgeUnderTest, Member, running_bridge
from isthmus.testing.network import until

ONE = {"name": "one", "signalling": "fake://a/b", "blobstore": "fake://a/c", "secrets": SECRETS}
DAY = 86_400.0


@pytest.fixture
async def database(server: PostgresServer) -> AsyncIterator[asyncpg.Connection]:
    """Give a way into a new database."""
    name = await server.new_database()
    connection = await asyncpg.connect(host=str(server.folder), user=USER, password=PASSWORD, database=name)
    yield connection
    await connection.close()


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> FakeCloud:
    return install(monkeypatch)


@asynccontextmanager
async def two(
    server: PostgresServer, database: asyncpg.Connection, folder: Path
) -> AsyncIterator[tuple[BridgeUnderTest, BridgeUnderTest]]:
    url = server.url(await database.fetchval("SELECT current_database()"))
    shared: dict[str, Any] = {"database_url": url, "blobs": str(folder / "blobs")}
    async with running_bridge(folder / "one", **shared) as one:
        (folder / "other").mkdir(mode=0o700)
        shutil.copy(folder / "one" / "identity.key", folder / "other")
        async with running_bridge(folder / "other", **shared) as other:
            yield one, other


def at(bridge: BridgeUnderTest, member: Member) -> Member:
    """Return the same Router, connected to another Bridge."""
    again = bridge.member(member.site)
    again.client._identity = member.identity
    again.identity = member.identity
    return again


def used(run: str, count: int) -> Usage:
    rows = [
        {"provider": "one", "kind": kind, "requests": count, "up": count * up, "down": count * down}
        for kind, up, down in (("put", 1000, 0), ("get", 0, 500), ("publish", 1, 0))
    ]
    return Usage.model_validate({"run": run * 16, "counts": rows})


async def usage_of(bridge: BridgeUnderTest) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = (await bridge.administration.run("provider_usage", {}))["rows"]
    return rows


async def test_a_pair_that_is_added_at_one_bridge_is_lent_by_the_other_and_its_secrets_are_sealed(
    server: PostgresServer, database: asyncpg.Connection, tmp_path: Path, cloud: FakeCloud
) -> None:
    async with two(server, database, tmp_path) as (one, other):
        member = await one.join("clinic")
        await one.administration.run("provider_add", ONE)
        elsewhere = at(other, member)
        await until(lambda: other.parts.providers.find("one") is not None)
        assert [entry.name for entry in (await elsewhere.client.network()).providers] == ["bridge", "one"]
        first = await elsewhere.client.loan("one")
        await one.administration.run("provider_set", {"name": "one", "secrets": {"blobstore.key": "another"}})
        await until(lambda: other.parts.providers.demand("one") == one.parts.providers.demand("one"))
        assert await elsewhere.client.loan("one") != first
        await member.client.heartbeat([], pairs=["one"])
        third = await other.join("hospital")
        await until(lambda: "one" in other.parts.providers.usable_by(member.identity.router_id))
        rows = {site.site: site.providers for site in (await third.client.network()).sites}
        assert rows == {"clinic": ["bridge", "one"]}
        await other.administration.run("provider_remove", {"name": "one"})
        await until(lambda: one.parts.providers.find("one") is None)
        await one.administration.run("provider_add", ONE)
        kept = str([tuple(row) for row in await database.fetch("SELECT * FROM providers")])
    for canary in (SIGNALLING_CANARY, BLOBSTORE_CANARY):
        assert canary not in kept
        assert canary.encode().hex() not in kept


async def test_a_router_that_moves_between_bridges_is_counted_once(
    server: PostgresServer, database: asyncpg.Connection, tmp_path: Path, cloud: FakeCloud
) -> None:
    async with two(server, database, tmp_path) as (one, other):
        member = await one.join("clinic")
        await one.administration.run("provider_add", ONE)
        elsewhere = at(other, member)
        for bridge, speaker, count in (
            (one, member, 5),
            (other, elsewhere, 5),
            (other, elsewhere, 9),
            (one, member, 7),
        ):
            await speaker.client.heartbeat([], usage=used("a", count))
            await bridge.parts.usage.flush()
        rows = await usage_of(other)
    assert [(row["site"], row["requests"], row["up"], row["out"]) for row in rows] == [
        ("clinic", {"put": 9, "get": 9, "publish": 9}, 9009, 4500)
    ]


async def test_bridges_that_write_at_once_lose_nothing_and_do_not_wait_for_each_other_for_ever(
    server: PostgresServer, database: asyncpg.Connection, tmp_path: Path, cloud: FakeCloud
) -> None:
    async with two(server, database, tmp_path) as (one, other):
        members = [await one.join(f"site{number}") for number in range(12)]
        await one.administration.run("provider_add", ONE)
        for count in range(1, 6):
            for bridge in (one, other):
                for member in members:
                    account = bridge.parts.accounts.of_router(member.identity.router_id)
                    assert account is not None
                    bridge.parts.usage.take(account.router_id, account.site, used("b", count), {"one"})
            async with asyncio.timeout(30):
                await asyncio.gather(one.parts.usage.flush(), other.parts.usage.flush())
        rows = await usage_of(one)
    assert [row["requests"]["put"] for row in rows] == [5] * 12


async def test_what_lies_there_is_estimated_on_postgresql_too(
    server: PostgresServer, database: asyncpg.Connection, tmp_path: Path, cloud: FakeCloud
) -> None:
    async with two(server, database, tmp_path) as (one, _):
        member = await one.join("clinic")
        await one.administration.run("provider_add", ONE)
        await member.client.heartbeat([], usage=used("c", 10))
        await one.parts.usage.flush()
        row = await database.fetchrow("SELECT held, byte_days FROM provider_stock")
        assert (row["held"], row["byte_days"]) == (5000, 0.0)
        await database.execute("UPDATE provider_stock SET counted = counted - $1", to_micros(60.0))
        rows = await usage_of(one)
    assert rows[0]["byte_days"] == pytest.approx(5000 * 60 / DAY, rel=0.2)
