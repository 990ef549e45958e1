"""A Router's tables, and what serves them on loopback."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from isthmus.kit.clock import SystemClock
from isthmus.kit.names import HostPort
from isthmus.router.audit import Audit
from isthmus.router.control.administration import Administration
from isthmus.router.control.api import Control
from isthmus.router.keys import Keys
from isthmus.router.metrics import Metrics
from isthmus.router.routing.directory import Directory
from isthmus.router.routing.store import Store


@dataclass
class Running:
    """A Router of which only the control API runs."""

    folder: Path
    control: Control
    metrics: Metrics
    administration: Administration
    address: HostPort


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    clock = SystemClock()
    keys = Keys.open(tmp_path, now=clock.now())
    store = Store.open(tmp_path / "router.db")
    audit = Audit(store, clock)
    administration = Administration(store, Directory(store, keys, clock, alert=audit.alert), keys, audit, clock)
    metrics = Metrics()
    control = Control(tmp_path, administration, metrics)
    async with control.serving(HostPort("127.0.0.1", 0)) as address:
        yield Running(tmp_path, control, metrics, administration, address)
    store.close()
