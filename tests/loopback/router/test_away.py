"""What a Router says of itself when its Bridge is gone, or has shut it out."""

import itertools
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from isthmus.envelope.identity import RouterId
from isthmus.testing.network import Network, Site, until


async def bridge_of(site: Site) -> Any:
    return (await site.control("status"))["bridge"]


async def test_a_revoked_router_says_so_long_before_its_next_heartbeat(tmp_path: Path) -> None:
    async with Network.running(tmp_path, ["north"]) as network:
        assert network.bridge is not None
        north = network.sites["north"]
        await network.bridge.control("revoke", site="north")

        async def said() -> bool:
            bridge = await bridge_of(north)
            return (bridge["connected"], bridge["trouble"]) == (False, "revoked by the Bridge")

        await until(said, 5.0)


async def test_a_router_says_that_its_bridge_is_away_and_that_it_is_back_long_before_its_next_heartbeat(
    tmp_path: Path,
) -> None:
    async with Network.running(tmp_path, ["north"]) as network:
        north = network.sites["north"]
        with capture_logs() as logs:
            await _away_and_back(network, north)
    said = [line["event"] for line in logs if line["event"].startswith("signalling")]
    assert said[0] == "signalling connection lost"
    assert said[-1] == "signalling connected again"
    assert said.count("signalling connected again") == 1
    reasons = [line["error"] for line in logs if line["event"] == "signalling not connected"]
    assert all(reason != before for before, reason in itertools.pairwise(reasons))


async def _away_and_back(network: Network, north: Site) -> None:
    await network.stop_bridge()

    async def connected() -> bool:
        return bool((await bridge_of(north))["connected"])

    async def away() -> bool:
        return not await connected()

    await until(away, 5.0)
    trouble = (await bridge_of(north))["trouble"]
    assert trouble.endswith("cannot be reached: Connection refused") or "was closed" in trouble, trouble
    await network.start_bridge()
    await until(connected, 8.0)
    parts = network.parts
    assert parts is not None
    await until(lambda: parts.hub.is_online(RouterId(north.router_id)))
