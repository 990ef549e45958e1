"""A spool in a folder of its own, which can be left as a power cut would leave it, and opened again."""

import hashlib
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from isthmus.contract.letters import ObjectKind
from isthmus.envelope.records import ObjectMeta
from isthmus.kit.names import AETitle, SiteName
from isthmus.router.queued.ledger.database import Ledger
from isthmus.router.queued.spool.bundles import Destination, OpenBundle, Route, Spool, StoredObject
from isthmus.router.queued.spool.recovery import Recovered, recover
from isthmus.router.queued.spool.room import Room
from isthmus.testing.clock import FakeClock

SECRET = b"s" * 32
ROUTE = Route(AETitle("CT1"), AETitle("PACS"), (Destination(AETitle("PACS"), SiteName("south")),))


def chance(seed: str) -> Callable[[int], bytes]:
    """Return a source of bytes that is the same for the same seed."""
    state = hashlib.sha256(seed.encode()).digest()

    def random(size: int) -> bytes:
        nonlocal state
        state = hashlib.sha256(state).digest()
        return (state * (size // 32 + 1))[:size]

    return random


class Home:
    """A data folder, and what runs on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.route = ROUTE
        self.ready: list[int] = []
        self.recovered = Recovered()

    @asynccontextmanager
    async def running(self, *, quota: int | None = None) -> AsyncIterator[Spool]:
        """Open ledger and spool, recover, and run."""
        ledger = Ledger.open(self.folder / "ledger.db")
        try:
            spool = self.spool(ledger, quota=quota)
            self.recovered = await recover(spool)
            async with spool.running():
                yield spool
        finally:
            await ledger.close()

    def spool(self, ledger: Ledger, *, quota: int | None = None) -> Spool:
        """Return a spool that does not run yet."""
        (self.folder / "spool").mkdir(exist_ok=True)
        room = Room(self.folder / "spool", self.clock, quota=quota, floor=0)
        spool = Spool(self.folder / "spool", SECRET, ledger, self.clock, room, chance(f"{self.clock.now()}"))
        spool.when_ready(self.ready.append)
        return spool

    def cut_power(self, to: Path, *, ledger: bool = True) -> "Home":
        """Return the same folder as it is on the disk at this moment; `ledger`: with that, too."""
        to.mkdir()
        shutil.copytree(self.folder / "spool", to / "spool")
        if ledger:
            for path in self.folder.glob("ledger.db*"):
                shutil.copy(path, to)
        other = Home(to)
        other.clock.advance(1)
        return other

    def files(self) -> list[Path]:
        """Return the bundles' files."""
        return sorted((self.folder / "spool").iterdir())

    def meta(self, number: int = 0, kind: ObjectKind = ObjectKind.STORE) -> ObjectMeta:
        """Return what is known of an object."""
        return ObjectMeta(
            kind=kind,
            calling="CT1",
            called="PACS",
            association=b"a" * 16,
            command=b"command",
            sop_class="1.2.840.10008.5.1.4.1.1.2",
            sop_instance=f"1.2.3.{number}",
            transfer_syntax="1.2.840.10008.1.2.1",
            received=self.clock.now(),
        )

    async def store(self, bundle: OpenBundle, content: bytes, number: int = 0) -> StoredObject:
        """Store one object and return it once it may be acknowledged."""
        writer = bundle.begin(self.meta(number))
        for start in range(0, len(content), 16384):
            writer.write(content[start : start + 16384])
        return await writer.finish()


async def count(ledger: Ledger, table: str) -> int:
    """Return how many rows a table has."""

    def work(connection: sqlite3.Connection) -> int:
        return int(connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0])

    return await ledger.read(work)


async def contents(spool: Spool) -> list[bytes]:
    """Return the data set of every object in the ledger, in order of bundle and place; all of them verify."""

    def rows(connection: sqlite3.Connection) -> list[tuple[str, bytes, int, int]]:
        return connection.execute(
            "SELECT b.name, o.object_id, o.position, o.length FROM objects AS o JOIN bundles AS b"
            " ON b.bundle_id = o.bundle_id ORDER BY b.bundle_id, o.position"
        ).fetchall()

    found = []
    for name, object_id, position, length in await spool.ledger.read(rows):
        async with spool.reader(name) as reader:
            _, payloads = reader.open_object(object_id, position, length)
            found.append(b"".join(payloads))
    return found
