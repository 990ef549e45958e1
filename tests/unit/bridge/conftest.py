"""Parts of a Bridge without sockets, and a clock to turn."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from isthmus.bridge.administration import Administration
from isthmus.bridge.config import BridgeAddress, BridgeConfig
from isthmus.bridge.parts import Parts
from isthmus.kit.names import HostPort
from isthmus.testing.bridge import Bench
from isthmus.testing.clock import FakeClock


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    clock = FakeClock()
    config = BridgeConfig(data=tmp_path, listen=HostPort("127.0.0.1", 0))
    parts = await Parts.open(config, clock)
    await parts.blobs.open()
    address = BridgeAddress("http://127.0.0.1", config.listen, parts.identity.public, "")
    yield Bench(parts, clock, Administration(parts, address))
    await parts.close()
