"""The whole live relay, and queued delivery, through proxies as hospitals have them."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.interop.certificates import Authority
from tests.loopback.proxies.proxy import Manners, Proxy, Upgrades

from isthmus.adapters import bridge_http
from isthmus.adapters.signalling import bridge as signalling
from isthmus.adapters.signalling import polling, websocket
from isthmus.contract import batches
from isthmus.contract.rest import HEARTBEAT_SECONDS
from isthmus.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN
from isthmus.errors import ProviderTrouble, Untrusted
from isthmus.router.keys import read_membership
from isthmus.router.membership import join
from isthmus.testing.bridge import running_bridge
from isthmus.testing.devices import Archive, calling, listening
from isthmus.testing.dicom import CT_IMAGE_STORAGE, echo_rq, echo_rsp, store_rq, store_rsp
from isthmus.testing.network import Network, NetworkOptions, Site, until

MIB = 1024 * 1024
IDLE_CUT = 60.0
"""Seconds: the shortest after which proxies in hospitals are known to cut what is idle."""


@pytest.fixture(autouse=True)
def no_other_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@asynccontextmanager
async def relayed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, manners: Manners
) -> AsyncIterator[tuple[Network, Proxy, int, Archive]]:
    """Two sites whose Routers reach the Bridge through a proxy of these manners only."""
    if manners.upgrades is not Upgrades.PASS:  # where they do pass, a busy machine is given its time
        monkeypatch.setattr(signalling, "_HEARD_SECONDS", 0.5)
        monkeypatch.setattr(signalling, "_UPGRADE_SECONDS", 0.5)
    archive = Archive()
    ca = None if manners.inspects is None else manners.inspects.certificate
    async with Proxy.running(manners) as proxy, listening(archive) as pacs:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        async with Network.running(folder, options=NetworkOptions(tls=True, ca=ca)) as network:
            await network.pair(pacs)
            yield network, proxy, network.sites["north"].port, archive
            assert proxy.connects
            assert {line.split(":")[0] for line in proxy.connects} == {"CONNECT 127.0.0.1"}


async def echo_and_store(port: int, *, size: int = 4 * MIB) -> None:
    """Relay a C-ECHO and a C-STORE."""
    async with calling(port) as wire:
        assert (await wire.associate("PACS", "WS"))[0] == 2
        await wire.send(echo_rq())
        assert await wire.pdu() == echo_rsp()
        await wire.send(store_rq(os.urandom(size), max_pdu_length=65_536))
        assert await wire.pdu() == store_rsp()
        await wire.release()


async def queue_and_deliver(network: Network, port: int, *, size: int = 6 * MIB) -> None:
    """Have one object wait at north and be delivered at south."""
    north, south = network.sites["north"], network.sites["south"]
    pair = f"{CT_IMAGE_STORAGE}:{EXPLICIT_VR_LITTLE_ENDIAN}"
    await south.control("device_probe", device="PACS", calling=None, everything=False, declare=[pair], forget=False)
    offers = north.live.core.directory.offers
    await until(lambda: any(device.syntaxes for _, device in offers()))
    await north.control("delivery_set", title="PACS", mode="queued")
    async with calling(port) as wire:
        assert (await wire.associate("PACS", "WS"))[0] == 2
        await wire.send(store_rq(os.urandom(size), max_pdu_length=65_536))
        assert await wire.pdu() == store_rsp()
        await wire.release()
    await until(lambda: _is_delivered(north), 30.0)


async def _is_delivered(north: Site) -> bool:
    answer = await north.control("queue_list", done=True, again=True, limit=10)
    return bool(answer["rows"]) and all(row["delivered"] == row["total"] for row in answer["rows"])


async def both(network: Network, port: int) -> None:
    await echo_and_store(port)
    await network.quiet()
    await queue_and_deliver(network, port)


@pytest.mark.parametrize("account", ["", "isthmus:p@ss"])
async def test_through_a_proxy_that_tunnels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, account: str) -> None:
    async with relayed(tmp_path, monkeypatch, Manners(account=account)) as (network, _, port, _archive):
        await both(network, port)


async def test_through_a_proxy_that_opens_tls_if_its_ca_was_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manners = Manners(inspects=Authority(tmp_path / "ca"))
    with capture_logs() as logs:
        async with relayed(tmp_path, monkeypatch, manners) as (network, proxy, port, _):
            await both(network, port)
            assert proxy.seen["POST /api/v1/sessions"] >= 1
            assert proxy.seen["GET /api/v1/signalling"] == 2
    told = [line for line in logs if line["event"] == "TLS to the Bridge is opened on the way, as --ca allows"]
    assert told
    assert {line["ca"] for line in told} == {str(manners.inspects.certificate)}  # type: ignore[union-attr]  # it is set


@pytest.mark.parametrize("known", [False, True])
async def test_a_proxy_that_opens_tls_is_refused_even_if_the_machine_trusts_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    authority = Authority(tmp_path / "ca")
    if known:
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
    async with Proxy.running(Manners(inspects=authority)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        with pytest.raises(Untrusted, match="opened on the way") as refused:
            async with Network.running(tmp_path, options=NetworkOptions(tls=True)):
                pass
    assert "--ca" in refused.value.hint


async def test_a_proxy_that_opens_tls_with_another_ca_than_the_allowed_one_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Authority(tmp_path / "other")
    monkeypatch.setenv("SSL_CERT_FILE", str(other.certificate))
    async with Proxy.running(Manners(inspects=other)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        options = NetworkOptions(tls=True, ca=Authority(tmp_path / "ca").certificate)
        with pytest.raises(Untrusted, match="not by the CA of --ca"):
            async with Network.running(tmp_path, options=options):
                pass


@pytest.mark.parametrize("manners", [Manners(account="user:right"), Manners(refuses=True)], ids=["account", "refuses"])
async def test_a_proxy_that_lets_nobody_through_is_named_in_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manners: Manners
) -> None:
    async with Proxy.running(manners) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:wrong@127.0.0.1:{proxy.port}")
        with pytest.raises(ProviderTrouble, match=r"407|403") as refused:
            async with Network.running(tmp_path, options=NetworkOptions(tls=True)):
                pass
    assert "wrong" not in str(refused.value)  # the password


@pytest.mark.parametrize("upgrades", [one for one in Upgrades if one is not Upgrades.PASS])
async def test_where_no_websocket_gets_through_long_poll_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, upgrades: Upgrades
) -> None:
    manners = Manners(inspects=Authority(tmp_path / "ca"), upgrades=upgrades)
    with capture_logs() as logs:
        async with relayed(tmp_path, monkeypatch, manners) as (network, proxy, port, _):
            await until(lambda: proxy.seen["GET /api/v1/notices"] > 3)
            await echo_and_store(port)
            if upgrades is Upgrades.STRIPPED:  # from here on they are all alike
                await queue_and_deliver(network, port)
            assert proxy.seen["POST /api/v1/notices"] > 0
    told = [line for line in logs if "by long poll" in line["event"]]
    assert len(told) == 2  # once by each Router


async def test_a_proxy_that_lets_websockets_through_again_is_noticed_while_data_flows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signalling, "_AGAIN_FIRST", 0.5)
    manners = Manners(inspects=Authority(tmp_path / "ca"), upgrades=Upgrades.REFUSED)
    with capture_logs() as logs:
        async with relayed(tmp_path, monkeypatch, manners) as (_, proxy, port, _archive), calling(port) as wire:
            assert (await wire.associate("PACS", "WS"))[0] == 2
            assert proxy.seen["GET /api/v1/notices"] > 0
            proxy.manners = Manners(inspects=manners.inspects)
            changed = "a WebSocket reaches the Bridge again: no more long polls"
            while sum(line["event"] == changed for line in logs) < 2:
                await wire.send(store_rq(os.urandom(MIB), max_pdu_length=65_536))
                assert await wire.pdu() == store_rsp()
            await wire.send(echo_rq())
            assert await wire.pdu() == echo_rsp()
            await wire.release()
            await until(lambda: proxy.seen["DELETE /api/v1/notices"] == 2)


def test_nothing_that_should_stay_open_is_idle_for_as_long_as_proxies_grant() -> None:
    assert 2 * websocket.PING_SECONDS < IDLE_CUT
    assert 2 * batches.MOST_POLL_SECONDS < IDLE_CUT
    assert 2 * HEARTBEAT_SECONDS < IDLE_CUT
    assert bridge_http.KEEP_ALIVE_SECONDS < IDLE_CUT  # what may be used again has not been cut yet


@pytest.mark.parametrize("upgrades", [Upgrades.PASS, Upgrades.REFUSED])
async def test_an_idle_association_outlives_a_proxy_that_cuts_what_is_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, upgrades: Upgrades
) -> None:
    """All in a thirtieth of the real time."""
    cut = IDLE_CUT / 30
    monkeypatch.setattr(websocket, "PING_SECONDS", websocket.PING_SECONDS / 30)
    monkeypatch.setattr(polling, "MOST_POLL_SECONDS", batches.MOST_POLL_SECONDS / 30)
    monkeypatch.setattr(bridge_http, "KEEP_ALIVE_SECONDS", bridge_http.KEEP_ALIVE_SECONDS / 30)
    manners = Manners(inspects=Authority(tmp_path / "ca"), upgrades=upgrades, idle=cut)
    async with relayed(tmp_path, monkeypatch, manners) as (_network, proxy, port, _), calling(port) as wire:
        assert (await wire.associate("PACS", "WS"))[0] == 2
        await asyncio.sleep(2 * cut)  # idle: nothing to wait for
        await wire.send(echo_rq())
        assert await wire.pdu() == echo_rsp()
        await wire.release()
        opened = proxy.seen["GET /api/v1/signalling"]
        await echo_and_store(port)
        if upgrades is Upgrades.PASS:
            assert opened == proxy.seen["GET /api/v1/signalling"] == 2  # never cut


async def test_through_a_proxy_that_holds_back_what_is_not_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manners = Manners(inspects=Authority(tmp_path / "ca"), upgrades=Upgrades.REFUSED, buffers=True)
    async with relayed(tmp_path, monkeypatch, manners) as (network, _, port, _archive):
        await both(network, port)


async def test_through_a_proxy_that_takes_no_long_bodies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manners = Manners(inspects=Authority(tmp_path / "ca"), upgrades=Upgrades.REFUSED, most_body=MIB // 2)
    async with relayed(tmp_path, monkeypatch, manners) as (network, proxy, port, _):
        await both(network, port)
        assert proxy.too_long > 0


async def test_a_router_that_has_joined_is_told_of_an_inspecting_proxy_later_by_joining_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority, folder = Authority(tmp_path / "ca"), tmp_path / "router"
    async with running_bridge(tmp_path / "bridge", tls=True) as bridge:
        invite = await bridge.invite("north")
        router_id = await join(folder, invite)
        async with Proxy.running(Manners(inspects=authority)) as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.url)
            with pytest.raises(Untrusted):
                await join(folder, invite)
            assert await join(folder, invite, ca=authority.certificate) == router_id
    membership = read_membership(folder)
    assert membership is not None
    assert membership.ca == authority.certificate
