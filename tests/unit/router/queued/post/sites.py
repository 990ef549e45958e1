"""Sites with real ledgers, spools and post, and a cloud of memory between them. No DICOM, no Bridge, no socket."""

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from isthmus.contract.letters import ObjectKind, Receipt, ReceiptState
from isthmus.contract.rest import Network, SiteEntry
from isthmus.envelope.identity import Identity
from isthmus.envelope.records import ObjectMeta
from isthmus.errors import ProviderTrouble, Retry
from isthmus.kit.clock import SystemClock
from isthmus.kit.files import write_durably
from isthmus.kit.names import AETitle, SiteName
from isthmus.kit.tasks import Tasks
from isthmus.ports.blobstore import Blobstore
from isthmus.ports.signalling import Signalling
from isthmus.router.audit import Audit
from isthmus.router.control.administration import Administration
from isthmus.router.keys import Keys, Membership
from isthmus.router.queued.ledger import incoming
from isthmus.router.queued.ledger.database import Ledger
from isthmus.router.queued.post.alerts import Alerts
from isthmus.router.queued.post.mailbox import PostCore
from isthmus.router.queued.post.office import Post
from isthmus.router.queued.spool.bundles import Destination, Route, Spool
from isthmus.router.queued.spool.recovery import recover
from isthmus.router.queued.spool.room import Room
from isthmus.router.routing.directory import Directory
from isthmus.router.routing.store import Store
from isthmus.testing.network import until

SECRET = b"s" * 32
PATIENCE = 30.0


class Site:
    """An institution whose Router does nothing but queue. `running` may be entered again after it was left."""

    def __init__(
        self,
        folder: Path,
        name: str,
        signalling: Signalling,
        blobstore: Blobstore,
        *,
        identity: Identity | None = None,
    ) -> None:
        folder.mkdir()
        if identity is not None:
            write_durably(folder / "identity.key", identity.private)
        self.folder, self.name = folder, name
        self.signalling, self.blobstore = signalling, blobstore
        self.clock = SystemClock()
        self.keys = Keys.open(folder, now=self.clock.now())
        self.keys.join(Membership("https://bridge.example", bytes(32), SiteName(name)))
        self.store = Store.open(folder / "router.db")
        self.alerts: list[str] = []
        self.directory = Directory(self.store, self.keys, self.clock, alert=self._alert)
        audit = Audit(self.store, self.clock)
        self.administration = Administration(self.store, self.directory, self.keys, audit, self.clock)
        self.hears = True
        self.came: list[str] = []
        self.quota: int | None = None
        self.pair = "bridge"
        self.others: dict[str, Blobstore] = {}

    def _alert(self, _site: str, text: str) -> None:
        self.alerts.append(text)

    def device(self, title: str, *, for_site: str, services: tuple[str, ...] = ("store",)) -> None:
        """Add a device that takes objects, granted to another site."""
        self.administration.device_add(f"{title}@192.0.2.10:104")
        self.administration.grant_add(title, site=for_site, services=list(services))

    def chosen_for(self, router_id: str) -> str:
        """Return the pair that envelopes use now (`EnvelopeStores`)."""
        del router_id
        return self.pair

    def queued_store(self, name: str) -> Blobstore:
        """Return a pair's blobstore."""
        if name not in self.others and name != "bridge":
            raise ProviderTrouble(f"{name} is not in use here", retry=Retry.LATER)
        return self.others.get(name, self.blobstore)

    # -- running

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Site"]:
        """Run post and spool; at the end everything stops as if the power were cut, but for what is durable."""
        self.ledger = Ledger.open(self.folder / "ledger.db")
        await self.ledger.run(lambda connection: None)
        (self.folder / "spool").mkdir(exist_ok=True)
        room = Room(self.folder / "spool", self.clock, quota=self.quota, floor=0)
        self.spool = Spool(self.folder / "spool", SECRET, self.ledger, self.clock, room, secrets.token_bytes)
        await recover(self.spool)
        tasks = Tasks(self.name)
        core = PostCore(
            identity=self.keys.identity,
            prekeys=lambda: self.keys.prekeys,
            directory=self.directory,
            signalling=self.signalling,
            blobstore=self.blobstore,
            stores=self,
            ledger=self.ledger,
            local=self.spool.secrets,
            clock=self.clock,
            tasks=tasks,
            alerts=Alerts(self._alert),
        )
        self.post = Post(core, self.spool, received=self.came.append, gather=0.01)
        self.spool.when_ready(self.post.bundle_ready)
        try:
            async with self.spool.running():
                self.run = tasks.spawn(self.post.run(), name="post")
                tasks.spawn(self._listen(), name="listen")
                try:
                    yield self
                finally:
                    self.run.cancel()
                    await asyncio.wait([self.run])
                    await tasks.close()
        finally:
            await self.ledger.close()

    async def _listen(self) -> None:
        async for notice in self.signalling.listen(self.keys.router_id):
            if self.hears:
                self.post.notice(notice)

    # -- what a device does

    async def store_objects(
        self, *data: bytes, to: "Site", titles: tuple[str, ...] = ("PACS",), kind: ObjectKind = ObjectKind.STORE
    ) -> None:
        """Take objects from CT1 for devices of another site, and close their bundle."""
        await self.store_for([(to, title) for title in titles], *data, kind=kind)

    async def store_for(
        self, devices: Sequence[tuple["Site", str]], *data: bytes, kind: ObjectKind = ObjectKind.STORE
    ) -> None:
        """Take objects from CT1 for devices of other sites, and close their bundle."""
        places = tuple(Destination(AETitle(title), SiteName(to.name), to.keys.router_id) for to, title in devices)
        route = Route(AETitle("CT1"), AETitle("GROUP"), places)
        bundle = await self.spool.take(route)
        for content in data:
            writer = bundle.begin(meta(content, kind))
            for start in range(0, len(content), 65_536):
                writer.write(content[start : start + 65_536])
            await writer.finish()
        self.spool.give_back(bundle)
        await bundle.settled()
        await self.spool.close_idle()

    async def deliver(self, *, state: ReceiptState = ReceiptState.DELIVERED, status: int = 0) -> list[bytes]:
        """Say what the device says of every copy that waits for one of ours; return the data sets."""
        rows = await self.rows(
            "SELECT c.copy_id, c.envelope_id, c.envelope_index, b.far_router, b.name, o.object_id, o.position,"
            " o.length, b.bundle_id FROM copies AS c JOIN objects AS o ON o.object_id = c.object_id"
            " JOIN bundles AS b ON b.bundle_id = c.bundle_id"
            " WHERE c.site IS NULL AND c.state = 'waiting' ORDER BY c.copy_id"
        )
        found = []
        for copy_id, envelope_id, index, far, name, object_id, position, length, bundle_id in rows:
            async with self.spool.reader(name) as reader:
                _, payloads = reader.open_object(object_id, position, length)
                found.append(b"".join(payloads))
            receipt = Receipt(
                envelope_id=envelope_id, index=index, state=state, status=status, comment="why", at=self.clock.now()
            )

            def write(connection: Any, copy: int = copy_id, to: str = far, said: Receipt = receipt) -> None:
                connection.execute("UPDATE copies SET state = ? WHERE copy_id = ?", (said.state.value, copy))
                incoming.owe_receipt(connection, to, said)

            await self.ledger.run(write)
            await self.spool.release(bundle_id)
        self.post.receipts_due()
        return found

    # -- looking

    async def rows(self, sql: str, *values: object) -> list[Any]:
        """Return rows of the ledger."""
        return await self.ledger.read(lambda connection: connection.execute(sql, values).fetchall())

    async def states(self) -> list[str]:
        """Return the state of each copy."""
        return [row[0] for row in await self.rows("SELECT state FROM copies ORDER BY copy_id")]

    async def until(self, sql: str, *values: object, seconds: float = PATIENCE) -> None:
        """Wait until a query finds something."""
        try:
            await until(lambda: self._finds(sql, values), seconds)
        except AssertionError:
            copies = await self.rows("SELECT state, COUNT(*) FROM copies GROUP BY state")
            raise AssertionError(f"{self.name}: not in time: {sql}; copies {copies}, {self.alerts}") from None

    async def _finds(self, sql: str, values: tuple[object, ...]) -> bool:
        return bool(await self.rows(sql, *values))

    async def forge(self, envelope_id: bytes, to: "Site") -> None:
        """Claim that an envelope was delivered, whoever's it is."""
        receipts = [
            Receipt(envelope_id=envelope_id, index=index, state=state, at=self.clock.now())
            for index, state in ((None, ReceiptState.RECEIVED), (0, ReceiptState.DELIVERED))
        ]

        def write(connection: Any) -> None:
            for receipt in receipts:
                incoming.owe_receipt(connection, to.keys.router_id, receipt)

        await self.ledger.run(write)
        self.post.receipts_due()

    async def until_all(self, state: str, count: int, *, ours: bool = False, seconds: float = PATIENCE) -> None:
        """Wait until that many copies, for other sites or for devices of `ours`, are in a state, and no other is."""
        which = "site IS NULL" if ours else "site IS NOT NULL"
        await self.until(
            f"SELECT 1 WHERE (SELECT COUNT(*) FROM copies WHERE {which} AND state = ?) = ?"
            f" AND (SELECT COUNT(*) FROM copies WHERE {which}) = ?",
            state,
            count,
            count,
            seconds=seconds,
        )

    async def until_alert(self, part: str) -> None:
        """Wait until a person is told of something."""
        await until(lambda: any(part in text for text in self.alerts), PATIENCE, what=lambda: str(self.alerts))


def meta(content: bytes, kind: ObjectKind = ObjectKind.STORE) -> ObjectMeta:
    """Return what is known of an object."""
    return ObjectMeta(
        kind=kind,
        calling="CT1",
        called="GROUP",
        association=b"a" * 16,
        command=b"command",
        sop_class="1.2.840.10008.5.1.4.1.1.2",
        sop_instance=f"1.2.{int.from_bytes(hashlib.sha256(content).digest()[:8], 'big')}",
        transfer_syntax="1.2.840.10008.1.2.1",
        received=1_800_000_000.0,
    )


def introduce(*sites: Site, online: bool = True) -> None:
    """Let sites accept each other, and learn what each says to the others."""
    _exchange(sites, online=online)
    for one in sites:
        for other in sites:
            if one is not other:
                one.administration.site_accept(other.name, router_id=other.keys.router_id)
    learn(*sites, online=online)


def learn(*sites: Site, online: bool = True) -> None:
    """Let sites hear what is new of each other, as from the Bridge."""
    _exchange(sites, online=online)
    _exchange(sites, online=online)


def _exchange(sites: tuple[Site, ...], *, online: bool) -> None:
    said = {}
    for site in sites:
        site.store.forget_published()
        said[site.name] = site.directory.own_documents(site.clock.now())
    for site in sites:
        entries = []
        for other in sites:
            if other is site:
                continue
            documents = {
                document.kind.name: document
                for document in said[other.name]
                if document.kind.name != "STATEMENT" or f'"to_site":"{site.name}"'.encode() in document.payload
            }
            entries.append(
                SiteEntry(
                    site=other.name,
                    router_id=other.keys.router_id,
                    public_key=other.keys.identity.public,
                    online=online,
                    statement=documents.get("STATEMENT"),
                    prekey=documents["PREKEY"],
                )
            )
        network = Network(
            revision="1",
            site=site.name,
            sites=entries,
            providers=[],
            own_counter=site.store.own_counter(),
            time=site.clock.now(),
        )
        site.directory.apply(network, site.clock.now())
