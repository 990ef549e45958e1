"""How much of the disk queued objects may fill is an operator's to say, to a Router that runs."""

from pathlib import Path

from isthmus.testing.network import Network


async def test_a_running_router_keeps_to_other_limits_of_its_spool_at_once_and_says_how_it_stands(
    tmp_path: Path,
) -> None:
    async with Network.running(tmp_path, ("south",), tls=False) as network:
        south = network.sites["south"]
        await south.control("setting_set", spool_floor="500MB")
        spool = (await south.control("status"))["spool"]
        assert (spool["used"], spool["quota"], spool["floor"], spool["lack"]) == (0, None, 500_000_000, "")
        await south.control("setting_set", spool_quota="3GB", spool_floor="900000TB")
        spool = (await south.control("status"))["spool"]
        assert (spool["quota"], spool["floor"]) == (3_000_000_000, 900_000 * 10**12)
        assert "are to stay so" in spool["lack"]
