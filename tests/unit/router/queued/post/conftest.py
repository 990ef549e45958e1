"""Two sites that accepted each other; south has an archive that north may store to."""

import os
from pathlib import Path

import pytest
from tests.unit.router.queued.post.sites import Site, introduce

from isthmus.adapters.blobstore.memory import MemoryBlobstore
from isthmus.adapters.signalling.memory import MemorySignalling


@pytest.fixture
def cloud(monkeypatch: pytest.MonkeyPatch) -> tuple[MemorySignalling, MemoryBlobstore]:
    monkeypatch.setattr(os, "fsync", lambda _handle: None)  # no power is cut here, and a disk can be slow
    monkeypatch.setattr(os, "fdatasync", lambda _handle: None, raising=False)
    return MemorySignalling(), MemoryBlobstore()


@pytest.fixture
def north(tmp_path: Path, cloud: tuple[MemorySignalling, MemoryBlobstore]) -> Site:
    return Site(tmp_path / "north", "north", *cloud)


@pytest.fixture
def south(tmp_path: Path, cloud: tuple[MemorySignalling, MemoryBlobstore], north: Site) -> Site:
    site = Site(tmp_path / "south", "south", *cloud)
    introduce(north, site)
    site.device("PACS", for_site="north")
    site.device("AI", for_site="north")
    return site
