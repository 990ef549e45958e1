"""Several Bridges on one PostgreSQL behind one address: nobody notices which one it reached."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]  # has no types
import pytest
from tests.backends.bridges import Bridges, running_bridges
from tests.backends.server import PASSWORD, USER, PostgresServer, running_server
from tests.backends.servers.nats import NatsServer, running_nats

from isthmus.testing.devices import Archive, calling, listening
from isthmus.testing.dicom import echo_rq, echo_rsp

_names = (f"several_{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with running_server() as server:
        yield server


@pytest.fixture(scope="module")
def nats() -> Iterator[NatsServer]:
    keys = 'authorization { user: bridges, password: "s/cret" }'
    with running_nats(in_operator_mode=False, options=keys) as server:
        yield server


@pytest.fixture
async def url(server: PostgresServer) -> str:
    """Return the URL of a new database."""
    name = next(_names)
    connection = await asyncpg.connect(host=str(server.folder), user=USER, password=PASSWORD, database="postgres")
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    return server.url(name)


@pytest.fixture(params=["notify", "nats"])
def arguments(request: pytest.FixtureRequest, url: str) -> list[str]:
    """Return how each Bridge is run: once for each engine."""
    if request.param == "notify":
        return ["--database-url", url]
    nats: NatsServer = request.getfixturevalue("nats")
    return ["--database-url", url, "--bus", nats.url.replace("//", "//bridges:s%2Fcret@")]


async def test_an_association_crosses_from_a_router_at_one_bridge_to_a_router_at_another(
    tmp_path: Path, arguments: list[str]
) -> None:
    archive = Archive()
    async with listening(archive) as pacs, running_bridges(tmp_path, arguments) as network:
        await spread(network)
        await network.pair(pacs)
        async with calling(network.sites["north"].port) as wire:
            assert (await wire.associate("PACS", "WS"))[0] == 2
            await wire.send(echo_rq())
            assert await wire.pdu() == echo_rsp()
            await wire.release()
        await network.quiet()


async def spread(network: Bridges) -> None:
    """Have north's notices come through the first Bridge, south's through the second; both accept each other."""
    for bridge, name in zip(network.bridges, ("north", "south"), strict=True):
        network.balancer.ports = [bridge.port]
        await network.join(name)
    network.balancer.ports = [bridge.port for bridge in network.bridges]
    await network.accept_all()
