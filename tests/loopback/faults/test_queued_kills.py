"""T1, T2: Routers that die in any I/O call, and disks that forget; what was acknowledged arrives, byte for byte."""

import asyncio
import random
from pathlib import Path

import pytest
from tests.loopback.faults.disk import Disk, build
from tests.loopback.faults.queued import PATIENCE, QueuedSites, Sender

from isthmus.demo.parts import Part
from isthmus.kit.tasks import Tasks
from isthmus.router.queued.delivery.recording import MOST_BEHIND
from isthmus.testing.depth import count

KILLS = count(push=3, nightly=25)
SEEDS = range(count(push=1, nightly=20))  # 500 kills of each kind a night
ENDINGS = [True, False][: count(push=1, nightly=2)]  # a power cut kills the process too
KILLS_FIRST = [False, True][: count(push=1, nightly=2)]
MOST_CALLS = 400  # some twenty objects' worth of I/O calls: kills fall into each of them, and between them


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("disk"))


async def kill_again_and_again(sites: QueuedSites, part: Part, disk: Disk, sender: Sender, *, power: bool) -> None:
    chance = sender.chance
    tasks = Tasks("test")
    await asyncio.to_thread(part.stop)
    await asyncio.to_thread(sites.start, part, disk.environment())
    for _ in range(KILLS):
        disk.kill(after=chance.randint(0, MOST_CALLS))
        sending = tasks.spawn(sender.send(10_000), name="send")
        await asyncio.to_thread(part.wait, PATIENCE)
        if power:
            disk.cut_power()
        await asyncio.to_thread(sites.start, part, disk.environment())
        sending.cancel()
        await tasks.close()
    await sender.send(20)  # and it works as before


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("power", ENDINGS, ids=["power lost", "killed"][: len(ENDINGS)])
async def test_a_sending_router_that_dies_loses_nothing_it_acknowledged(
    library: Path, tmp_path: Path, *, power: bool, seed: int
) -> None:
    """T1."""
    async with QueuedSites.running(tmp_path) as sites:
        disk = Disk(library, sites.north.data, tmp_path, forgets=power)
        sender = Sender(sites.north_port, random.Random(seed))
        await kill_again_and_again(sites, sites.north, disk, sender, power=power)
        await sites.delivered(sender)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("power", KILLS_FIRST, ids=["killed", "power lost"][: len(KILLS_FIRST)])
async def test_a_receiving_router_that_dies_loses_nothing_and_repeats_little(
    library: Path, tmp_path: Path, *, power: bool, seed: int
) -> None:
    """T2: at most one object is sent to the archive again for each kill; after a power cut it may be some more."""
    async with QueuedSites.running(tmp_path) as sites:
        disk = Disk(library, sites.south.data, tmp_path, forgets=power)
        sender = Sender(sites.north_port, random.Random(seed))
        await kill_again_and_again(sites, sites.south, disk, sender, power=power)
        await sites.delivered(sender)
        repeated = sum(times - 1 for times in sites.archive.times.values())
        assert repeated <= KILLS * (MOST_BEHIND if power else 1)  # what the ledger had not recorded yet
