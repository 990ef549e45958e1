"""Queued delivery between foreign devices: set up as people do it, and looked at with their commands."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.interop import dcmtk
from tests.interop.sites import publish

from isthmus.router.queued import mirror
from isthmus.testing.network import Network, Site, until

PATIENCE = 60.0
"""Seconds that a delivery may take: a device that was off is tried again within some of them."""


@asynccontextmanager
async def sites(folder: Path, names: Sequence[str] = ("north", "south")) -> AsyncIterator[Network]:
    """Run a network whose Routers do not pause while they ask devices what they take."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mirror, "APART_SECONDS", 0.0)
        async with Network.running(folder, names) as network:
            yield network


async def command(site: Site, *words: str) -> str:
    """Run an `isthmus` command on the data of a site as its operator does; return what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "isthmus", *words, "--data", str(site.data)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complained = await process.communicate()
    assert process.returncode == 0, complained.decode()
    return said.decode()


async def ask(site: Site, *words: str) -> Any:
    """Run a command with --json; return the answer."""
    return json.loads(await command(site, *words, "--json"))


async def probe(site: Site, title: str) -> dict[str, set[str]]:
    """Have a site ask its device what it takes; return the transfer syntaxes of each abstract syntax."""
    answer: dict[str, Any] = {"done": False}
    while not answer["done"]:
        answer = await site.control("device_probe", device=title)
    taken: dict[str, set[str]] = {}
    for pair in answer["pairs"]:
        taken.setdefault(pair["abstract"], set()).add(pair["transfer"])
    return taken


async def queue_for(
    network: Network,
    title: str,
    port: int,
    services: Sequence[str] = ("any",),
    *,
    owner: str = "south",
    to: str = "north",
    choose: bool = True,
    **options: Any,
) -> str:
    """Publish a device that listens at `port`, probe it, and have the site `to` queue for it; return its title."""
    await publish(network, title, port, services, owner=owner, to=to, **options)
    assert await probe(network.sites[owner], title)
    offers = network.sites[to].live.core.directory.offers
    await until(lambda: any(device.title == title and device.syntaxes for _, device in offers()))
    if choose:
        await network.sites[to].control("delivery_set", title=title, mode="queued")
    return title


async def rows(site: Site, title: str) -> list[dict[str, Any]]:
    """Return what the queue of a site says of a destination, what is delivered too, study by study."""
    answer = await site.control("queue_list", done=True, again=True, limit=1000)
    return [row for row in answer["rows"] if row["destination"] == title]


async def counts(site: Site, title: str) -> dict[str, int]:
    """Return how many objects for a destination are in each state, and in all."""
    states = ("total", "waiting", "posted", "received", "delivered", "held")
    found = await rows(site, title)
    return {state: number for state in states if (number := sum(row[state] for row in found))}


async def all_are(site: Site, title: str, **wanted: int) -> None:
    """Wait until the objects of a site for a destination are in these states, so many in each and none in others."""
    last: dict[str, int] = {}

    async def holds() -> bool:
        nonlocal last
        last = await counts(site, title)
        return last == {"total": sum(wanted.values()), **wanted}

    await until(holds, PATIENCE, what=lambda: f"{title}: {last} instead of {wanted}")


async def nothing_left(network: Network) -> None:
    """Wait until no Router has a file in its spool."""
    await until(lambda: not bundles(network), PATIENCE, what=lambda: f"left: {bundles(network)}")


def bundles(network: Network) -> list[str]:
    """Return the bundles in the spools."""
    return [
        f"{site.name}/{path.name}"
        for site in network.sites.values()
        for path in (site.data / "spool").iterdir()
        if is_bundle(path)
    ]


def is_bundle(path: Path) -> bool:
    """Return whether a file of a spool is there and has a header, which spare ones have not."""
    try:
        with path.open("rb") as file:
            return bool(file.read(8).strip(b"\0"))
    except FileNotFoundError:
        return False


async def storescu(
    port: int, calling: str, called: str, files: Sequence[Path], *options: str, patience: float = dcmtk.PATIENCE
) -> dcmtk.Ran:
    """Send files with storescu, which proposes what it needs for them and no more."""
    peer = ("-aet", calling, "-aec", called, "127.0.0.1", str(port))
    return await dcmtk.run("storescu", "-v", "-R", *options, *peer, *files, patience=patience)
