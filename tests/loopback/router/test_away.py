"""What a Router says of itself when its Bridge is gone, or has shut it out."""

from pathlib import Path
from typing import Any

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
        listen = await network.stop_bridge()

        async def connected() -> bool:
            return bool((await bridge_of(north))["connected"])

        async def away() -> bool:
            return not await connected()

        await until(away, 5.0)
        assert "cannot be reached" in (await bridge_of(north))["trouble"]
        await network.start_bridge(listen)
        await until(connected, 8.0)
