"""One site with a spool and a dispatcher of its own: objects go from the spool to real sockets, and no further."""

import contextlib
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from isthmus.contract.letters import ObjectKind
from isthmus.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN
from isthmus.envelope.records import ObjectMeta
from isthmus.kit.clock import SystemClock
from isthmus.kit.names import AETitle
from isthmus.router.queued.delivery.destinations import Means
from isthmus.router.queued.delivery.dispatcher import Dispatcher, LiveAssociate
from isthmus.router.queued.delivery.reading import SpoolSource
from isthmus.router.queued.ledger.database import Ledger
from isthmus.router.queued.ledger.deliveries import Outcome
from isthmus.router.queued.mirror import Mirror
from isthmus.router.queued.spool.bundles import Destination, Route, Spool
from isthmus.router.queued.spool.recovery import verified
from isthmus.router.queued.spool.room import Room
from isthmus.testing.dicom import CT_IMAGE_STORAGE, store_command
from isthmus.testing.network import Network, Site, until


@dataclass
class OneSite:
    """A Router, and what its queue is made of."""

    site: Site
    ledger: Ledger
    spool: Spool
    mirror: Mirror
    dispatcher: Dispatcher
    outcomes: list[Outcome]
    finished_: list[int] = field(default_factory=list)

    def recorded(self, outcomes: Sequence[Outcome]) -> None:
        self.outcomes += outcomes

    def finished(self, bundle_id: int, name: str) -> None:
        self.finished_.append(bundle_id)

    @staticmethod
    def store_command(sop_class: str, sop_instance: str) -> bytes:
        """Return the command set of a C-STORE-RQ."""
        return store_command(7, sop_class, sop_instance)

    async def device(self, port: int, title: str = "ARCHIVE", **options: Any) -> str:
        """Register an archive of the site."""
        await self.site.control("device_add", address=f"{title}@127.0.0.1:{port}", **options)
        return title

    async def queue(
        self,
        data_sets: Sequence[bytes],
        *,
        called: str = "ARCHIVE",
        calling: str = "CT1",
        command: bytes | None = None,
        sop_class: str = CT_IMAGE_STORAGE,
        transfer_syntax: str = EXPLICIT_VR_LITTLE_ENDIAN,
        kind: ObjectKind = ObjectKind.STORE,
    ) -> None:
        """Put data sets into the spool and the ledger, as an association of `calling` would."""
        route = Route(AETitle(calling), AETitle("GROUP"), (Destination(AETitle(called)),))
        bundle = await self.spool.take(route)
        for number, data_set in enumerate(data_sets):
            meta = ObjectMeta(
                kind=kind,
                calling=calling,
                called="GROUP",
                association=bytes(16),
                command=command or store_command(7, sop_instance=f"1.2.3.{number + 1}"),
                sop_class=sop_class,
                sop_instance=f"1.2.3.{number + 1}",
                transfer_syntax=transfer_syntax,
                received=self.site.live.core.clock.now(),
            )
            writer = bundle.begin(meta)
            for start in range(0, len(data_set), 1 << 20):
                writer.write(data_set[start : start + (1 << 20)])
                await until(lambda: bundle.pending_bytes < 8 << 20)
            await writer.finish()
        self.spool.give_back(bundle)
        await self.spool.close_idle()

    async def states(self) -> list[str]:
        """Return the state of each copy, in order."""
        rows = await self.ledger.read(
            lambda connection: connection.execute("SELECT state FROM copies ORDER BY copy_id").fetchall()
        )
        return [row[0] for row in rows]

    async def all_are(self, *wanted: str, seconds: float = 30.0) -> None:
        """Wait until every copy is in one of these states, and there is one."""

        async def holds() -> bool:
            states = await self.states()
            return bool(states) and set(states) <= set(wanted)

        await until(holds, seconds)


@contextlib.asynccontextmanager
async def one_site(folder: Path) -> AsyncIterator[OneSite]:
    """Run a site whose dispatcher is the test's own to start."""
    async with Network.running(folder / "network", ("south",), tls=False) as network:
        site = network.sites["south"]
        live = site.live
        home = folder / "queue"
        home.mkdir()
        ledger = Ledger.open(home / "ledger.db")
        room = Room(home, SystemClock(), floor=0)
        spool = Spool(home / "spool", bytes(range(32)), ledger, SystemClock(), room, os.urandom)
        source = SpoolSource(spool.path, spool.secrets, partial(verified, spool), spool.fresh)
        mirror = Mirror(live, live.core.directory._store)
        one = OneSite(site, ledger, spool, mirror, None, [])  # type: ignore[arg-type] # it comes at once
        means = Means(
            ledger=ledger,
            source=source,
            directory=live.core.directory,
            associate=LiveAssociate(live),
            prober=mirror,
            observer=one,
            seal=spool.seal_local,
            clock=live.core.clock,
            tasks=live.core.tasks,
        )
        one.dispatcher = Dispatcher(means, alert=live.core.audit.alert)
        live.when_accepted(mirror.seen)
        live.when_accepted(one.dispatcher.heard)
        async with spool.running():
            yield one
        source.close()
        await ledger.close()
