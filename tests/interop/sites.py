"""Devices of the network under test: registered, granted, and ready to be reached."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pydicom.data

from isthmus.testing.devices import PATIENCE, Listening, Wire, calling, listening
from isthmus.testing.dicom import associate_ac, associate_rq
from isthmus.testing.network import Network

TEST_FILES = Path(pydicom.data.__file__).parent / "test_files"
"""The images that come with pydicom."""
CT = TEST_FILES / "CT_small.dcm"
MR = TEST_FILES / "MR_small.dcm"

_numbers = itertools.count(1)


def new_title(word: str) -> str:
    """Return a title that no other test has, so that tests can share a network."""
    return f"{word}{next(_numbers)}"


async def caller(network: Network, word: str = "WS", *, site: str = "north", port: int | None = None) -> str:
    """Register a device that calls, and listens at `port` if it does; return its title."""
    title = new_title(word)
    place = "127.0.0.1" if port is None else f"127.0.0.1:{port}"
    await network.sites[site].control("device_add", address=f"{title}@{place}")
    return title


async def publish(
    network: Network,
    title: str,
    port: int,
    services: Sequence[str] = ("any",),
    /,
    *,
    owner: str = "south",
    to: str = "north",
    **options: Any,
) -> str:
    """Register a device that listens at `port`, grant it to the site `to`; return its title once it can be reached."""
    await network.sites[owner].control("device_add", address=f"{title}@127.0.0.1:{port}", **options)
    await network.grant(owner, title, to, services)
    return title


@dataclass(frozen=True, slots=True)
class Pair:
    """Two raw devices across the relay: the caller of north and the called device of south, both in the test's hand."""

    network: Network
    near: Wire
    far: Wire
    device: Listening
    caller: str
    called: str


@asynccontextmanager
async def joined(
    network: Network,
    request: Callable[[str, str], bytes] | None = None,
    answer: Callable[[bytes], bytes] = associate_ac,
    *,
    services: Sequence[str] = ("any",),
    **options: Any,
) -> AsyncIterator[Pair]:
    """Associate two raw devices: `request` of (called, calling), and the called device's `answer` to what it got."""
    over = asyncio.Event()
    arrived: asyncio.Queue[Wire] = asyncio.Queue()

    async def script(wire: Wire) -> None:
        wire.request = await wire.pdu()
        wire.accept = answer(wire.request)
        await wire.send(wire.accept)
        arrived.put_nowait(wire)
        await over.wait()

    async with listening(script) as device:
        who = await caller(network)
        title = await publish(network, new_title("PACS"), device.port, services, **options)
        async with calling(network.sites["north"].port) as near:
            near.request = request(title, who) if request is not None else associate_rq(title, who)
            await near.send(near.request)
            near.accept = await near.pdu()
            async with asyncio.timeout(PATIENCE):
                far = await arrived.get()
            try:
                yield Pair(network, near, far, device, who, title)
            finally:
                over.set()
