"""The bench of the dispatcher's tests."""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.router.conftest import Home, OtherSite
from tests.unit.router.queued.delivery.bench import Archive, Bench, Objects

from isthmus.kit.tasks import Tasks
from isthmus.router.queued.delivery import recording
from isthmus.router.queued.delivery.destinations import Means
from isthmus.router.queued.delivery.dispatcher import Dispatcher
from isthmus.router.queued.ledger.database import Ledger


@pytest.fixture
async def bench(
    home: Home, north: OtherSite, pacs: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    monkeypatch.setattr(recording, "GATHER_SECONDS", 0.0)  # time passes here only when it is told to
    ledger = Ledger.open(tmp_path / "ledger.db")
    ledger._connection.execute("PRAGMA synchronous = OFF")
    tasks = Tasks("test")
    archive, objects = Archive(), Objects()
    alerts: list[str] = []
    bench = Bench(
        home, ledger, archive, objects, [], [], alerts, north.router_id, itertools.count(1), itertools.count(1)
    )
    means = Means(
        ledger=ledger,
        source=objects,
        directory=home.directory,
        associate=archive,
        prober=archive,
        observer=bench,
        seal=lambda label, content: f"sealed {label} ".encode() + content[::-1],
        clock=home.clock,
        tasks=tasks,
    )
    bench.dispatcher = Dispatcher(means, alert=lambda site, text: alerts.append(text))
    yield bench
    await tasks.close()
    await ledger.close()
