"""The spool: bundles that are being written, that wait, and that go when nobody needs them any more."""

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import structlog

from isthmus.contract.letters import Manifest
from isthmus.envelope.identity import RouterId
from isthmus.envelope.records import ObjectMeta
from isthmus.kit import platform
from isthmus.kit.clock import Clock
from isthmus.kit.files import make_private_folder
from isthmus.kit.tasks import Tasks
from isthmus.kit.threads import opened
from isthmus.router.queued.ledger import incoming, ingested
from isthmus.router.queued.ledger.database import Ledger
from isthmus.router.queued.ledger.records import BundleRow, NewCopy
from isthmus.router.queued.spool import header as headers
from isthmus.router.queued.spool import notes
from isthmus.router.queued.spool.files import BundleFile
from isthmus.router.queued.spool.fresh import FreshObjects
from isthmus.router.queued.spool.header import BundleHeader, Destination, Inbound, Route
from isthmus.router.queued.spool.inbound import InboundBundle
from isthmus.router.queued.spool.indexing import MOST_BEHIND, Indexer, StoredObject, StudyHook, look, rows_of
from isthmus.router.queued.spool.reading import BundleReader
from isthmus.router.queued.spool.room import Room
from isthmus.router.queued.spool.secrets import SpoolSecrets
from isthmus.router.queued.spool.spares import Spares
from isthmus.router.queued.spool.writing import BUNDLE_BYTES, ObjectWriter, OpenBundle
from isthmus.router.queued.trouble import NoRoom, SpoolFailed, from_os

__all__ = [
    "BundleReader",
    "Destination",
    "InboundBundle",
    "NoRoom",
    "ObjectWriter",
    "OpenBundle",
    "Route",
    "Spool",
    "SpoolFailed",
    "StoredObject",
    "StudyHook",
]

IDLE_SECONDS: Final = 1.0  # devices that open an association for each image come back sooner
QUIET_SECONDS: Final = 2.0  # without an object, before spare files are made: they share the disk
_WORKERS: Final = 8
_SPARE_BYTES: Final = BUNDLE_BYTES + 1024 * 1024  # a bundle is full when its last object has gone beyond its size
_NAME_BYTES: Final = 16

_log = structlog.get_logger()


def _everybody(_: Route) -> bool:
    return True


class Spool:
    """The spool of one Router. `recovery.recover` comes first, then `running`; methods are called on the loop.

    Args:
        folder: where the bundles are; it is made if need be.
        secret: of the spool (`secrets.load_secret`).
        random: returns so many random bytes, from any thread.
        study: who wants to know of which study an object is.

    Attributes:
        wanted: asked at the end of each object whether somebody waits for its route: the bundle then closes.
        doubtful: bundles that were there at the start and have not been verified since.
        spares: what bundles that will probably be filled are begun in.
        fresh: objects of other sites that were verified a moment ago.
    """

    def __init__(
        self,
        folder: Path,
        secret: bytes,
        ledger: Ledger,
        clock: Clock,
        room: Room,
        random: Callable[[int], bytes],
        *,
        study: StudyHook | None = None,
    ) -> None:
        self.folder: Final = make_private_folder(folder)
        platform.fsync_folder(folder.parent)
        self.secrets = SpoolSecrets(secret, random)
        self.room = room
        self.ledger: Final = ledger
        self.clock: Final = clock
        self.executor = ThreadPoolExecutor(_WORKERS, "spool")
        self.indexer: Final = Indexer(ledger, self.secrets, clock.now, study)
        self.wanted: Callable[[Route], bool] = _nobody
        self.doubtful: set[int] = set()
        self._random = random
        self.spares: Final = Spares(self.folder, _SPARE_BYTES, room, random)
        self.fresh: Final = FreshObjects()
        self._few_spares = asyncio.Event()
        self._last_busy = 0.0  # when a bundle was begun or an object stored
        self._last_id = 0
        self._id_lock = threading.Lock()
        self._ending = False
        self._taken: set[OpenBundle] = set()
        self._idle: dict[Route, BundleFile] = {}
        self._tasks = Tasks("spool")
        self._loop = asyncio.get_running_loop()

    # -- callbacks

    def when_stored(self, call: Callable[[frozenset[int]], None]) -> None:
        """Have `call` told the ids of bundles that got new rows: their waiting copies can be delivered."""
        self.indexer.on_stored = call

    def when_ready(self, call: Callable[[int], None]) -> None:
        """Have `call` told the id of each bundle that is closed and has all its rows."""
        self.indexer.on_ready = call

    # -- associations

    async def take(self, route: Route) -> OpenBundle:
        """Return where an association of this route puts its objects: an idle file of the route, or a new one.

        Raises NoRoom if there is none, or if the ledger cannot follow.
        """
        try:
            self.room.demand()
        except NoRoom:
            await asyncio.to_thread(self.spares.clear)
            raise
        if self.indexer.behind > MOST_BEHIND:
            raise NoRoom("the ledger is too far behind", hint="look at the disk that holds the data folder")
        bundle = OpenBundle(self, route, self._idle.pop(route, None))
        self._taken.add(bundle)
        return bundle

    def give_back(self, bundle: OpenBundle) -> None:
        """Say that the association is done with it; what it has not finished is abandoned. Harmless twice."""
        if bundle in self._taken:
            self._taken.discard(bundle)
            bundle.leave()

    @property
    def filling(self) -> bool:
        """Whether an association is putting objects into a bundle, which is not closed yet."""
        return any(bundle.is_begun for bundle in self._taken)

    def want(self, is_wanted: Callable[[Route], bool] = _everybody) -> None:
        """Close what is open of the routes that are wanted: at once, or behind the object that is being written."""
        for bundle in self._taken:
            if is_wanted(bundle.route):
                bundle.close_soon()
        for route in [route for route in self._idle if is_wanted(route)]:
            self._close_parked(route)

    async def close_idle(self, route: Route | None = None) -> None:
        """Close what no association uses, of this route or of all, and return when the ledger knows."""
        self._close_parked(route)
        await self.indexer.flush()

    # -- bundles that are there

    def path(self, name: str) -> Path:
        """Return where the bundle of this name is."""
        return self.folder / name

    async def read(self, name: str, start: int, end: int) -> bytes:
        """Return bytes `start` to `end` of a bundle's file. Raises SpoolFailed if it has not so many."""
        with self._reading(name):
            return await asyncio.to_thread(_read, self.path(name), start, end)

    @contextlib.asynccontextmanager
    async def reader(self, name: str) -> AsyncIterator[BundleReader]:
        """Hold a bundle's file open for reading. Raises SpoolFailed, and SealBroken for a damaged header."""
        with self._reading(name):
            reader = await opened(BundleReader.open, self.path(name), self.secrets)
        try:
            yield reader
        finally:
            reader.close()

    async def release(self, bundle_id: int) -> bool:
        """Delete the bundle's file if it is closed and all its copies are over; return whether it is gone now."""

        def let_go(connection: sqlite3.Connection) -> BundleRow | None:
            if not ingested.is_done(connection, bundle_id):
                return None
            row = ingested.bundle(connection, bundle_id)
            ingested.mark_gone(connection, bundle_id)  # from now on nobody counts on the file
            return row

        row = await self.ledger.run(let_go)
        if row is None:
            return False
        if row.gone:
            return True
        try:
            self.room.add(-await asyncio.to_thread(_delete, self.path(row.name)))
        except FileNotFoundError:  # deleted just before a crash
            pass
        except OSError as error:  # the next start tries again
            _log.warning("a bundle could not be deleted", bundle=row.name, error=error.strerror)
            return False
        self.doubtful.discard(bundle_id)
        return True

    # -- from other sites

    async def receive(self, far_router: RouterId, manifest: Manifest) -> InboundBundle:
        """Return the bundle for an envelope: a new one, or the one of the same envelope that a crash left unfinished.

        Raises NoRoom or SpoolFailed.
        """
        name = self.secrets.inbound_name(far_router, manifest.envelope_id)
        self.room.demand(manifest.size)
        header = BundleHeader(self.next_id(), self.clock.now(), Inbound(far_router, manifest))
        with self._reading(name):
            return await opened(InboundBundle.open, self.path(name), header, self.secrets, self.room, self.look)

    def add_objects(
        self,
        connection: sqlite3.Connection,
        calling: str,
        stored: Sequence[StoredObject],
        copies: Sequence[Sequence[NewCopy]],
    ) -> None:
        """Give objects and their copies rows, unless they have them; their studies too. On the ledger's thread."""
        rows = [
            rows_of(
                connection,
                item,
                of_item,
                calling=calling,
                secrets=self.secrets,
                study=self.indexer.study,
                now=self.clock.now(),
            )
            for item, of_item in zip(stored, copies, strict=True)
        ]
        ingested.add_objects(connection, rows)

    def add_inbound(
        self,
        connection: sqlite3.Connection,
        bundle: BundleRow,
        stored: Sequence[StoredObject],
        content: Inbound,
        known: dict[bytes, tuple[int, bool]],
        *,
        flagged: Collection[bytes] = (),
    ) -> bool:
        """Put what `InboundBundle.commit` returned into the ledger, with a copy each for the manifest's device.

        `known`: objects that are here already (`incoming.known_objects`); `flagged`: those that may be with the device
        already. Returns whether the bundle's file is needed: False if all are known. On the ledger's thread. Raises
        NoRoom or SpoolFailed.
        """
        now, manifest = self.clock.now(), content.manifest
        fresh = [item for item in stored if item.object_id not in known]
        places = {item.object_id: index for index, item in enumerate(manifest.objects)}
        copies = [
            NewCopy(
                object_id=item.object_id,
                bundle_id=bundle.bundle_id,
                destination=manifest.called,
                site=None,
                calling=manifest.calling,
                kind=item.meta.kind,
                since=now,
                envelope_id=manifest.envelope_id,
                envelope_index=places[item.object_id],
                flagged=item.object_id in flagged,
            )
            for item in fresh
        ]
        if fresh:
            ingested.put_bundle(connection, bundle)
            self.add_objects(connection, manifest.calling, fresh, [[copy] for copy in copies])
        self.add_known(connection, content, known, flagged=flagged)
        return bool(fresh)

    def add_known(
        self,
        connection: sqlite3.Connection,
        content: Inbound,
        known: dict[bytes, tuple[int, bool]],
        *,
        flagged: Collection[bytes] = (),
    ) -> None:
        """Have those of an envelope's objects that are here already delivered for it too.

        That is noted beside them, for the next ledger if this one is lost. On the ledger's thread. Raises NoRoom or
        SpoolFailed; then nothing is changed.
        """
        now = self.clock.now()
        for bundle_id in sorted({bundle_id for bundle_id, _ in known.values()}):
            row = ingested.bundle(connection, bundle_id)
            assert row is not None  # `known_objects` has just read it
            try:
                grown = notes.add(self.path(row.name), BundleHeader(bundle_id, now, content), row.size, self.secrets)
            except FileNotFoundError:  # the objects are lost with it, and held as damaged: there is nothing to keep
                continue
            except OSError as error:
                raise from_os(error, f"bundle {row.name}") from error
            self.room.add(grown)
        incoming.add_copies_of_known(connection, content.manifest, known, now=now, flagged=flagged)

    # -- kept in the ledger

    def seal_local(self, label: str, content: bytes) -> bytes:
        """Return `content` sealed for this spool only; `label` says what it is."""
        return self.secrets.seal_local(label, content)

    def open_local(self, label: str, sealed: bytes) -> bytes:
        """Return what was sealed under the same label. Raises SealBroken."""
        return self.secrets.open_local(label, sealed)

    # -- running

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Index in the background, and close what is idle. At the end all is closed, and in the ledger if it can be."""
        background = (
            self._tasks.spawn(self.indexer.run(), name="indexing"),
            self._tasks.spawn(self._keep_spares(), name="make spare files"),
        )
        try:
            yield
        finally:
            self._ending = True
            for bundle in list(self._taken):
                self.give_back(bundle)
                await bundle.settled()
            self._close_parked(None)
            for task in background:
                task.cancel()
            await self._tasks.close()
            try:
                await self.indexer.flush()
            except (NoRoom, SpoolFailed) as error:  # the next start indexes it
                _log.error("queued objects could not be put into the ledger", error=str(error))
            await asyncio.to_thread(self.executor.shutdown)
            await asyncio.to_thread(self.spares.close)

    def start_after(self, bundle_id: int) -> None:
        """Give new bundles higher ids than this."""
        self._last_id = max(self._last_id, bundle_id)

    def next_id(self) -> int:
        """Return a bundle id that no other has, and if the clock goes right none ever had."""
        with self._id_lock:
            self._last_id = max(self._last_id + 1, int(self.clock.now() * 1000))
            return self._last_id

    # -- what a bundle needs of its spool: `writing.Keeper`, from any thread

    def random(self, size: int) -> bytes:
        """Return random bytes."""
        return self._random(size)

    def create(self, route: Route, *, fills: bool) -> BundleFile:
        """Return a new file for a route; a spare one if it will probably be filled. Raises OSError."""
        self._last_busy = self.clock.monotonic()
        spare = None
        if fills:
            spare = self.spares.take()
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._few_spares.set)
        path = spare or self.path(self._random(_NAME_BYTES).hex())
        header = BundleHeader(self.next_id(), self.clock.now(), route)
        file = BundleFile(path, header, route, self.room)
        file.create(headers.pack(header, path.name, self.secrets), spare=spare is not None)
        return file

    def look(self, meta: ObjectMeta, head: bytes) -> object | None:
        """Return what is to be noted of the object's study."""
        return look(self.indexer.study, meta, head)

    def stored(self, file: BundleFile, stored: StoredObject) -> None:
        """Take an object that is durable."""
        self._last_busy = self.clock.monotonic()
        self.indexer.add(file, stored)

    def closed(self, file: BundleFile) -> None:
        """Take a file that is closed."""
        self.indexer.closed(file)

    def parked(self, file: BundleFile) -> None:
        """Take a file that is still open, and used by nobody."""
        try:
            self._loop.call_soon_threadsafe(self._park, file)
        except RuntimeError:  # the loop is closed: the next start finds it
            file.close()

    def is_wanted(self, route: Route) -> bool:
        """Return whether somebody waits for this route."""
        return self.wanted(route)

    # -- spare files

    async def _keep_spares(self) -> None:
        """Make spares once one was needed, while nothing comes."""
        while True:
            await self._few_spares.wait()
            if (rest := self._last_busy + QUIET_SECONDS - self.clock.monotonic()) > 0:
                await asyncio.sleep(rest)
                continue
            try:
                if await asyncio.to_thread(self.spares.make):
                    continue
            except NoRoom:
                pass
            except OSError as error:  # they only save time
                _log.warning("a spare file could not be made", error=error.strerror)
            self._few_spares.clear()

    # -- idle files

    def _park(self, file: BundleFile) -> None:
        if file.route in self._idle or self._ending or self.wanted(file.route):
            self._retire(file)
            return
        self._idle[file.route] = file
        self._loop.call_later(IDLE_SECONDS, self._expire, file)

    def _expire(self, file: BundleFile) -> None:
        if self._idle.get(file.route) is file:
            self._retire(self._idle.pop(file.route))

    def _close_parked(self, route: Route | None) -> None:
        for other in [route] if route is not None else list(self._idle):
            if (file := self._idle.pop(other, None)) is not None:
                self._retire(file)

    def _retire(self, file: BundleFile) -> None:
        file.close()
        self.indexer.closed(file)

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise from_os(error, f"bundle {name}") from error


def _delete(path: Path) -> int:
    """Delete a file and return how many bytes it had."""
    size = path.stat().st_size
    path.unlink()
    return size


def _nobody(_: Route) -> bool:
    return False


def _read(path: Path, start: int, end: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        content = file.read(end - start)
        while len(content) < end - start:
            more = file.read(end - start - len(content))
            if not more:
                raise SpoolFailed(f"bundle {path.name} is shorter than it was")
            content += more
        return content
