"""A Bridge of its own for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from isthmus.testing.bridge import BridgeUnderTest, running_bridge


@pytest.fixture
async def bridge(tmp_path: Path) -> AsyncIterator[BridgeUnderTest]:
    async with running_bridge(tmp_path / "bridge") as running:
        yield running
