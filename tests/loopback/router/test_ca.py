"""A reverse proxy in front of the Bridge whose certificate is by an authority that only the operator knows."""

import asyncio
import contextlib
import json
import secrets
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.interop.certificates import Authority

from isthmus.adapters.bridge_http import BridgeConnection
from isthmus.contract.invites import Invite
from isthmus.envelope.identity import Identity
from isthmus.errors import IsthmusError, OperatorError, Problem, ProviderTrouble
from isthmus.kit.names import HostPort
from isthmus.kit.tasks import Tasks
from isthmus.router.app import run_router
from isthmus.router.config import RouterConfig
from isthmus.router.membership import join
from isthmus.testing.bridge import BridgeUnderTest, running_bridge
from isthmus.testing.network import until

LOOPBACK = HostPort("127.0.0.1", 0)


@contextlib.asynccontextmanager
async def in_front_of(bridge: BridgeUnderTest, authority: Authority) -> AsyncIterator[str]:
    """Speak TLS for a Bridge; yield the URL."""
    made = authority.issue("bridge")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.certificate, made.key)

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward = await asyncio.open_connection("127.0.0.1", bridge.address.listen.port)
        await asyncio.gather(carry(reader, onward[1]), carry(onward[0], writer))

    async with await asyncio.start_server(proxy, "127.0.0.1", 0, ssl=context) as server:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_router_trusts_the_ca_that_it_joined_with_and_does_so_when_it_runs(tmp_path: Path) -> None:
    authority, folder = Authority(tmp_path / "ca"), tmp_path / "router"
    async with running_bridge(tmp_path / "bridge") as bridge, in_front_of(bridge, authority) as url:
        made = await bridge.invite("north")
        invite = Invite(url, made.identity, made.site, made.secret)
        with pytest.raises(IsthmusError, match="unknown CA"):
            await join(folder, invite)
        router_id = await join(folder, invite, ca=authority.certificate)
        assert json.loads((folder / "membership.json").read_text())["ca"] == str(authority.certificate)
        tasks, stop = Tasks("router under test"), asyncio.Event()
        config = RouterConfig(data=folder, dicom=LOOPBACK, console=LOOPBACK)
        running = tasks.spawn(run_router(config, stop, lambda _: None), name="router")
        await until(lambda: bridge.parts.hub.is_online(router_id))
        stop.set()
        await running
    authority.certificate.unlink()
    with pytest.raises(OperatorError, match="cannot use the CA file"):
        await run_router(config, stop, lambda _: None)


async def test_a_ca_file_that_is_gone_is_an_outage_until_it_is_back(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    async with running_bridge(tmp_path / "bridge") as bridge, in_front_of(bridge, authority) as url:
        made = await bridge.invite("north")
        own = Identity.generate(secrets.token_bytes)
        hidden = authority.certificate.with_suffix(".hidden")
        async with BridgeConnection(url, made.identity, own, ca=authority.certificate) as client:
            authority.certificate.rename(hidden)
            with pytest.raises(ProviderTrouble, match="CA file"):
                await client.heartbeat([])
            hidden.rename(authority.certificate)
            with pytest.raises(Problem, match="not part of the network"):
                await client.heartbeat([])
