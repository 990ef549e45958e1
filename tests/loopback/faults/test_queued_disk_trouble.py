"""T7: any I/O call of a Router fails, for want of space or for good; nothing is acknowledged that is not durable."""

import asyncio
import errno
import random
from pathlib import Path

import pytest
from tests.loopback.faults.disk import Disk, build
from tests.loopback.faults.queued import QueuedSites, Sender

from isthmus.demo.parts import Part
from isthmus.testing.depth import count

CASES = [("north", errno.ENOSPC), ("south", errno.EIO), ("north", errno.EIO), ("south", errno.ENOSPC)][
    : count(push=2, nightly=4)
]
CALLS = range(0, 120, count(push=20, nightly=1))  # about what a few objects and their delivery need


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("disk"))


@pytest.mark.timeout(7200)
@pytest.mark.parametrize(("name", "error"), CASES, ids=[f"{name}, {errno.errorcode[error]}" for name, error in CASES])
async def test_a_failing_disk_loses_nothing_that_was_acknowledged(
    library: Path, tmp_path: Path, name: str, error: int
) -> None:
    """Space that is wanting returns after some calls; an error of the disk strikes one call. A power cut ends it."""
    async with QueuedSites.running(tmp_path) as sites:
        part: Part = getattr(sites, name)
        disk = Disk(library, part.data, tmp_path, forgets=True)
        sender = Sender(sites.north_port, random.Random(1))
        await asyncio.to_thread(part.stop)
        await asyncio.to_thread(sites.start, part, disk.environment())
        for calls in CALLS:
            disk.fail(error, after=calls, count=1 if error == errno.EIO else 7)
            before = disk.failed
            while disk.failed == before and part.running:
                await sender.send(1)
            await sender.send(2)
            if not part.running:  # a Router that cannot trust its disk any more stops, and says why
                await asyncio.to_thread(part.wait, 1.0)
                disk.recover()
                await asyncio.to_thread(sites.start, part, disk.environment())
        disk.recover()
        await sender.send(3)
        disk.kill(after=0)
        await sender.send(1) if name == "south" else None
        await asyncio.to_thread(part.wait, 60.0)
        disk.cut_power()
        await asyncio.to_thread(sites.start, part)
        await sites.delivered(sender)
        assert disk.failed >= len(CALLS)
