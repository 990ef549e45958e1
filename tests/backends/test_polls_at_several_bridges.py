"""Routers that poll, and whose requests reach now one Bridge and now another."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.backends.bridges import running_bridges
from tests.backends.servers.postgres import PostgresServer

from isthmus.adapters import bridge_http
from isthmus.adapters.bridge_http import BridgeConnection, RefusedOnTheWay
from isthmus.testing.devices import Archive, Wire, calling, listening
from isthmus.testing.dicom import echo_rq, echo_rsp, store_rq, store_rsp


@pytest.fixture
async def url(server: PostgresServer) -> str:
    """Return the URL of a new database."""
    return server.url(await server.new_database())


@pytest.fixture(autouse=True)
def no_websockets(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> Any:
        raise RefusedOnTheWay(403)

    monkeypatch.setattr(BridgeConnection, "upgrade", refuse)
    monkeypatch.setattr(bridge_http, "KEEP_ALIVE_SECONDS", 0.001)  # each request is balanced by itself


async def exchange(wire: Wire) -> None:
    await wire.send(echo_rq())
    assert await wire.pdu(25.0) == echo_rsp()
    await wire.send(store_rq(os.urandom(1 << 20), max_pdu_length=65_536))
    assert await wire.pdu(25.0) == store_rsp()


async def test_an_association_goes_on_whichever_bridge_a_poll_reaches_and_when_one_dies(
    tmp_path: Path, url: str
) -> None:
    archive = Archive()
    async with listening(archive) as pacs, running_bridges(tmp_path, ["--database-url", url]) as network:
        await network.join("north")
        await network.join("south")
        await network.accept_all()
        await network.pair(pacs)
        async with calling(network.sites["north"].port) as wire:
            assert (await wire.associate("PACS", "WS"))[0] == 2
            for _ in range(3):
                await exchange(wire)
            assert min(network.balancer.taken[bridge.port] for bridge in network.bridges) > 10
            await network.bridges[0].stop(signal.SIGKILL)
            await exchange(wire)
            await wire.release()
        assert (pacs.dialled, archive.released) == (1, 1)
