"""The whole live relay, and queued delivery, through proxies as hospitals have them."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.interop.certificates import Authority
from tests.loopback.proxies.proxy import Manners, Proxy, Upgrades

from isthmus.testing.devices import Archive, calling, listening
from isthmus.testing.dicom import echo_rq, echo_rsp, store_rq, store_rsp
from isthmus.testing.network import Network, NetworkOptions

MIB = 1024 * 1024


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
    archive = Archive()
    ca = None if manners.inspects is None else manners.inspects.certificate
    async with (
        Proxy.running(manners) as proxy,
        listening(archive) as pacs,
    ):
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        async with Network.running(folder, options=NetworkOptions(tls=True, ca=ca)) as network:
            await network.pair(pacs)
            yield network, proxy, network.sites["north"].port, archive
            await network.quiet()


async def echo_and_store(port: int, archive: Archive, size: int = 4 * MIB) -> None:
    body = os.urandom(size)
    async with calling(port) as wire:
        assert (await wire.associate("PACS", "WS"))[0] == 2
        await wire.send(echo_rq())
        assert await wire.pdu() == echo_rsp()
        await wire.send(store_rq(body, max_pdu_length=65_536))
        assert await wire.pdu() == store_rsp()
        await wire.release()


def polls(network: Network) -> set[str]:
    return {name for name, site in network.sites.items() if site.live.core.bridge is not None}


@pytest.mark.parametrize("upgrades", [Upgrades.REFUSED, Upgrades.STRIPPED, Upgrades.CUT])
async def test_where_upgrades_are_forbidden_long_poll_takes_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, upgrades: Upgrades
) -> None:
    manners = Manners(inspects=Authority(tmp_path / "ca"), upgrades=upgrades)
    async with relayed(tmp_path, monkeypatch, manners) as (_, proxy, port, archive):
        await echo_and_store(port, archive)
        assert proxy.seen["POST /api/v1/notices"] > 0
