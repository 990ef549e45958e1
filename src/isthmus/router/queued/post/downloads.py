"""Envelopes that are being fetched: their blobs side by side, all verified before anything counts."""

import asyncio
import contextlib
import sqlite3
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Final

import structlog

from isthmus.contract.letters import Manifest, Receipt, ReceiptState
from isthmus.envelope.identity import RouterId
from isthmus.envelope.mailboxes import envelope_blob_name, envelope_blob_names
from isthmus.errors import BlobMissing, ProviderTrouble, SealBroken
from isthmus.kit.backoff import delays
from isthmus.kit.tasks import Tasks
from isthmus.ports.blobstore import Blobstore
from isthmus.router.queued.ledger import incoming
from isthmus.router.queued.ledger.records import BundleRow
from isthmus.router.queued.post.backlog import Backlog
from isthmus.router.queued.post.lanes import MOST, Lanes
from isthmus.router.queued.post.mailbox import PostCore, ask_for, delete_quietly
from isthmus.router.queued.post.stragglers import Stragglers
from isthmus.router.queued.spool.bundles import Spool
from isthmus.router.queued.spool.header import Inbound
from isthmus.router.queued.spool.inbound import InboundBundle
from isthmus.router.queued.spool.indexing import StoredObject
from isthmus.router.queued.trouble import NoRoom, SpoolFailed

_log = structlog.get_logger()

_AT_ONCE: Final = 8  # envelopes of which blobs are under way
_FIRST_WAIT: Final = 0.05
_MOST_WAIT: Final = 300.0
_LEAST_REST: Final = 1.0  # however often a sender rings
_FULL_SECONDS: Final = 30.0
_CALL_SECONDS: Final = 60.0
_WAIT_SECONDS: Final = 2.0  # for blobs that were announced before they were put
_SLOWEST: Final = 32 * 1024  # bytes a second below which a get is given up
_UNREACHED_SECONDS: Final = 600.0  # after which what lies with a pair that is not open here is asked for anew
GRACE_SECONDS: Final = 30.0
"""How long a blob may be missing before its sender is asked and a person told."""


@dataclass(slots=True)
class _Pull:
    """An envelope on its way here."""

    router_id: RouterId
    manifest: Manifest
    counter: int
    order: int
    resumed: bool
    began: float
    bundle: InboundBundle | None = None
    done: set[int] = field(default_factory=set)
    damaged: Counter[int] = field(default_factory=Counter)
    asked: float = 0.0
    tries: int = 0
    rung: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def starts(self) -> list[int]:
        """Where each blob starts, and the end."""
        return list(accumulate(self.manifest.blobs, initial=0))


class _Damaged(SealBroken):
    """What was fetched twice does not verify."""


class Downloads:
    """Fetches envelopes. `received` is told the called title when objects for a device of ours came in."""

    def __init__(
        self,
        core: PostCore,
        spool: Spool,
        *,
        owed: Callable[[], None],
        received: Callable[[str], None],
        lanes: Lanes | None = None,
    ) -> None:
        self.lanes = lanes or Lanes(core.clock)
        self._stragglers = Stragglers(core.clock, core.tasks, lambda: self.lanes.quiet)
        self._core = core
        self._spool = spool
        self._owed = owed
        self._received = received
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._pulls: dict[bytes, _Pull] = {}
        self._order = 0
        self._backlogs: dict[str, Backlog] = {}
        self._closing = False
        self._tasks = Tasks("downloads")

    def __repr__(self) -> str:
        return f"<Downloads: {len(self._pulls)} envelopes, {self.lanes!r}>"

    def full(self, router_id: str) -> bool:
        """Return whether so much of a Router is not here yet that no more of its letters are to be read."""
        return router_id in self._backlogs and self._backlogs[router_id].full

    def rung(self, router_id: str) -> None:
        """A Router has put a letter, perhaps once more, with what it is about: look for what is missing of it."""
        for pull in self._pulls.values():
            if pull.router_id == router_id:
                pull.rung.set()

    async def resume(self) -> None:
        """Go on with what an earlier run began, or whose task failed."""
        for envelope_id, router_id, size in await self._core.ledger.read(incoming.pulling):
            backlog = self._backlogs.setdefault(router_id, Backlog())
            if envelope_id not in backlog:
                backlog.add(envelope_id, size)
        for router_id in self._backlogs:
            self._go_on(router_id)

    def start(self, router_id: RouterId, manifest: Manifest, counter: int, size: int) -> None:
        """Fetch an envelope that the ledger knows of and whose manifest has `size` bytes, unless that is begun."""
        backlog = self._backlogs.setdefault(router_id, Backlog())
        if manifest.envelope_id in backlog:
            return
        backlog.add(manifest.envelope_id, size)
        if not backlog.taking and (envelope_id := backlog.next()) is not None:
            if envelope_id == manifest.envelope_id:
                self._begin(router_id, manifest, counter, resumed=False)
            else:
                self._go_on(router_id, envelope_id)

    def _begin(self, router_id: RouterId, manifest: Manifest, counter: int, *, resumed: bool) -> None:
        self._order += 1
        pull = _Pull(router_id, manifest, counter, self._order, resumed, self._core.clock.monotonic())
        self._pulls[manifest.envelope_id] = pull
        self._stragglers.more()
        self._tasks.spawn(self._run(pull), name="fetch an envelope")

    def _go_on(self, router_id: str, envelope_id: bytes | None = None) -> None:
        """Take up what of a site waits in the ledger, if there may be more: this one first."""
        backlog = self._backlogs[router_id]
        if backlog.taking or self._closing:
            return
        first = envelope_id or backlog.next()
        if first is not None:
            backlog.taking = True
            self._tasks.spawn(self._take_up(backlog, first), name="go on with envelopes")

    async def _take_up(self, backlog: Backlog, first: bytes) -> None:
        envelope_id: bytes | None = first
        try:
            while envelope_id is not None:
                begun = False
                try:
                    begun = await self._begin_kept(envelope_id)
                finally:
                    if not begun:
                        backlog.over(envelope_id)
                envelope_id = backlog.next()
        except (NoRoom, SpoolFailed) as error:  # `resume` is called again
            _log.warning("what is to be fetched cannot be read from the ledger", reason=str(error))
        finally:
            backlog.taking = False

    async def _begin_kept(self, envelope_id: bytes) -> bool:
        """Fetch an envelope whose manifest is in the ledger; False if it is not to be, or cannot be, fetched."""
        item = await self._core.ledger.read(partial(incoming.pulled, envelope_id=envelope_id))
        if item is None:
            return False
        try:
            content = self._core.local.open_local(incoming.manifest_label(envelope_id), item.manifest)
            manifest = await asyncio.to_thread(Manifest.parse, content)
        except (SealBroken, ValueError) as error:  # the ledger is another spool's, or damaged
            site = self._core.site_of(item.router_id)
            why = str(error) if isinstance(error, SealBroken) else "its manifest is damaged here"
            self._core.alerts.raise_(site, "ledger", f"an envelope of site {site} cannot be gone on with: {why}")
            return False
        self._begin(RouterId(item.router_id), manifest, item.counter, resumed=True)
        return True

    async def close(self) -> None:
        """Stop; what is half here is gone on with at the next start."""
        self._closing = True
        await self._tasks.close()

    async def _run(self, pull: _Pull) -> None:
        site = self._core.site_of(pull.router_id)
        waits = delays(_FIRST_WAIT, _MOST_WAIT)
        refused: tuple[str, ReceiptState, str] | None = None
        try:
            while True:
                try:
                    if refused is not None:
                        await self._give_up(pull, *refused)
                        return
                    async with self._slots:
                        if await self._attempt(pull):
                            break
                    await self._late(pull)
                    wait = next(waits)
                except NoRoom as error:
                    self._core.alerts.raise_(site, "room", f"objects of site {site} wait in the cloud: {error}")
                    wait = _FULL_SECONDS
                except SpoolFailed as error:
                    self._core.alerts.raise_(site, "room", f"objects of site {site} could not be kept: {error}")
                    await self._begin_anew(pull)
                    wait = _FULL_SECONDS
                except _Damaged:
                    self._core.alerts.raise_(
                        site, "damaged", f"what site {site} sent does not verify; it is asked anew"
                    )
                    refused = ("unreadable", ReceiptState.UNREADABLE, "")
                    continue
                except incoming.ForeignObject as error:
                    self._core.alerts.raise_(site, "foreign", f"site {site}: {error}")
                    refused = ("held", ReceiptState.HELD, str(error))
                    continue
                await self._rest(pull, wait)
            for matter in ("room", "blob", "pair"):
                self._core.alerts.clear(site, matter)
        finally:
            if pull.bundle is not None:
                pull.bundle.close()
            self._pulls.pop(pull.manifest.envelope_id, None)
            self._backlogs[pull.router_id].over(pull.manifest.envelope_id)
            self._go_on(pull.router_id)

    async def _rest(self, pull: _Pull, wait: float) -> None:
        """Wait before another attempt; not as long if the sender rings, which may have put what was missing."""
        pull.rung.clear()
        await asyncio.sleep(min(wait, _LEAST_REST))
        if wait > _LEAST_REST:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait - _LEAST_REST):
                    await pull.rung.wait()

    async def _attempt(self, pull: _Pull) -> bool:
        """Fetch what is not here; return whether the envelope is, and counts."""
        if not pull.done and await self._core.ledger.run(partial(self._take_known, pull)):
            self._finished(pull)
            return True
        store = self._store(pull)
        if store is None:
            return False
        if pull.bundle is None:
            pull.bundle = await self._spool.receive(pull.router_id, pull.manifest)
            if pull.resumed:
                prefix = await pull.bundle.verified_prefix()
                pull.done = {index for index, end in enumerate(pull.starts[1:]) if end <= prefix}
        whole = await self._fetch(pull, pull.bundle, store)
        pull.tries += 1
        if not whole:
            return False
        try:
            row, stored = await pull.bundle.commit(self._spool.fresh)
        except SealBroken:
            await self._doubt(pull, pull.bundle)
            return False
        used = await self._core.ledger.run(partial(self._write, pull, row, stored))
        pull.bundle.close()
        if not used:  # every object was here already
            await pull.bundle.drop()
        self._finished(pull)
        return True

    async def _fetch(self, pull: _Pull, bundle: InboundBundle, store: Blobstore) -> bool:
        """Fetch blobs, many at a time; return whether none is lacking."""
        waiting = iter([index for index in range(len(pull.manifest.blobs)) if index not in pull.done])
        running: set[asyncio.Task[None]] = set()
        try:
            while True:
                while len(running) < MOST and (index := next(waiting, None)) is not None:
                    running.add(self._tasks.spawn(self._get(pull, bundle, store, index), name="get a blob"))
                if not running:
                    break
                ended, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    task.result()
        finally:
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)
        return len(pull.done) == len(pull.manifest.blobs)

    async def _get(self, pull: _Pull, bundle: InboundBundle, store: Blobstore, index: int) -> None:
        size = pull.manifest.blobs[index]
        name = envelope_blob_name(pull.manifest.name_key, index)
        try:
            async with self.lanes.lane((0, pull.order, index), size):
                try:
                    async with asyncio.timeout(_CALL_SECONDS + size / _SLOWEST):
                        get = partial(store.get, name, wait=0.0 if pull.tries else _WAIT_SECONDS)
                        body = await (get() if store.traits.billed else self._stragglers.call(get))
                except BlobMissing:
                    return  # an answer, and no trouble of the store's
        except (ProviderTrouble, TimeoutError):
            return  # another attempt comes
        if len(body) != size:
            self._count_damage(pull, index)
            return
        await bundle.pwrite(pull.starts[index], body)
        pull.done.add(index)

    def _store(self, pull: _Pull) -> Blobstore | None:
        """Return where the blobs are; None if that pair of clouds is not open here. Raises _Damaged if it stays so."""
        try:
            return self._core.stores.queued_store(pull.manifest.provider)
        except ProviderTrouble as trouble:
            site = self._core.site_of(pull.router_id)
            self._core.alerts.raise_(site, "pair", f"what site {site} sent waits where we cannot get it: {trouble}")
            if self._core.clock.monotonic() - pull.began > _UNREACHED_SECONDS:
                raise _Damaged("it is asked for by another way") from trouble
            return None

    async def _doubt(self, pull: _Pull, bundle: InboundBundle) -> None:
        """Find the blob that is damaged, and have it fetched again. Raises _Damaged the second time."""
        prefix = await bundle.verified_prefix()
        starts = pull.starts
        index = next((number for number, end in enumerate(starts[1:]) if prefix < end), len(starts) - 2)
        pull.done.discard(index)
        self._count_damage(pull, index)

    @staticmethod
    def _count_damage(pull: _Pull, index: int) -> None:
        pull.damaged[index] += 1
        if pull.damaged[index] > 1:
            raise _Damaged("a blob does not verify, and did not the second time")

    async def _late(self, pull: _Pull) -> None:
        """Not all blobs are there: after a while tell, and ask the sender."""
        now = self._core.clock.monotonic()
        if now - pull.began < GRACE_SECONDS or now - pull.asked < GRACE_SECONDS:
            return
        pull.asked = now
        site = self._core.site_of(pull.router_id)
        self._core.alerts.raise_(site, "blob", f"objects that site {site} sent are missing in the cloud; it is asked")
        await ask_for(self._core, pull.router_id, pull.counter)

    async def _begin_anew(self, pull: _Pull) -> None:
        if pull.bundle is not None:
            await pull.bundle.drop()
            pull.bundle, pull.done = None, set()

    async def _give_up(self, pull: _Pull, state: str, says: ReceiptState, comment: str) -> None:
        """Say that this envelope will not be kept."""
        receipt = Receipt(envelope_id=pull.manifest.envelope_id, state=says, comment=comment, at=self._core.clock.now())

        def write(connection: sqlite3.Connection) -> None:
            if incoming.finish(connection, receipt.envelope_id, 0, state):
                incoming.owe_receipt(connection, pull.router_id, receipt)

        await self._core.ledger.run(write)
        if pull.bundle is not None:
            await pull.bundle.drop()
        self._owed()
        self._spawn_delete(pull.manifest)

    # -- in the ledger

    def _take_known(self, pull: _Pull, connection: sqlite3.Connection) -> bool:
        """If every object is here already, have it delivered for this envelope; return whether that was so."""
        manifest, now = pull.manifest, self._core.clock.now()
        known = incoming.known_objects(connection, pull.router_id, manifest)
        if len(known) < len(manifest.objects) or any(gone for _, gone in known.values()):
            return False
        if incoming.finish(connection, manifest.envelope_id, next((b for b, _ in known.values()), 0), "received"):
            self._spool.add_known(connection, Inbound(pull.router_id, manifest), known)
            self._owe_received(connection, pull, now)
        return True

    def _write(self, pull: _Pull, row: BundleRow, stored: list[StoredObject], connection: sqlite3.Connection) -> bool:
        """Have the objects count, all or none; return whether the bundle's file is needed."""
        manifest, now = pull.manifest, self._core.clock.now()
        if not incoming.finish(connection, manifest.envelope_id, row.bundle_id, "received"):
            return True
        known = incoming.known_objects(connection, pull.router_id, manifest)
        gone = [object_id for object_id, (_, is_gone) in known.items() if is_gone]
        incoming.forget_objects(connection, gone)
        for object_id in gone:
            del known[object_id]
        needed = self._spool.add_inbound(
            connection, row, stored, Inbound(pull.router_id, manifest), known, flagged=gone
        )
        self._owe_received(connection, pull, now)
        return needed

    @staticmethod
    def _owe_received(connection: sqlite3.Connection, pull: _Pull, now: float) -> None:
        receipt = Receipt(envelope_id=pull.manifest.envelope_id, state=ReceiptState.RECEIVED, at=now)
        incoming.owe_receipt(connection, pull.router_id, receipt)

    def _finished(self, pull: _Pull) -> None:
        self._received(pull.manifest.called)
        self._owed()
        self._spawn_delete(pull.manifest)

    def _spawn_delete(self, manifest: Manifest) -> None:
        self._core.tasks.spawn(self._delete(manifest), name="delete read blobs")

    async def _delete(self, manifest: Manifest) -> None:
        names = envelope_blob_names(manifest.name_key, len(manifest.blobs))
        with contextlib.suppress(ProviderTrouble):
            await delete_quietly(self._core.stores.queued_store(manifest.provider), *names)
