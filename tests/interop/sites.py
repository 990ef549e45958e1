"""Devices of the network under test: registered, granted, and ready to be reached."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydicom.data

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
    *,
    owner: str = "south",
    to: str = "north",
    **options: Any,
) -> str:
    """Register a device that listens at `port`, grant it to the site `to`; return its title once it can be reached."""
    await network.sites[owner].control("device_add", address=f"{title}@127.0.0.1:{port}", **options)
    await network.grant(owner, title, to, services)
    return title
