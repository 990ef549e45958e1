"""How durable objects get into the ledger: a tenth of a second behind, many in one commit."""

import asyncio
import contextlib
import dataclasses
import sqlite3
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from isthmus.envelope.records import ObjectMeta
from isthmus.router.queued.ledger import ingested
from isthmus.router.queued.ledger.database import Ledger
from isthmus.router.queued.ledger.records import BundleRow, Direction, NewCopy, ObjectRow
from isthmus.router.queued.spool.files import BundleFile
from isthmus.router.queued.spool.header import BundleHeader, Inbound, Route
from isthmus.router.queued.spool.secrets import SpoolSecrets
from isthmus.router.queued.trouble import NoRoom, SpoolFailed

MOST_BEHIND: Final = 20_000  # objects without a row; with more no object is begun, so that memory stays flat
_GATHER_SECONDS: Final = 0.01
_APART_SECONDS: Final = 0.1  # between commits, which share the disk with the objects that their senders wait for
_AGAIN_SECONDS: Final = 1.0
_MOST_TOGETHER: Final = 1_000
HEAD_BYTES: Final = 64 * 1024

_log = structlog.get_logger()


class StudyHook(Protocol):
    """Who wants to know which study an object is of. What it raises is logged, and the object has no study then."""

    def look(self, meta: ObjectMeta, head: bytes) -> object | None:
        """Return what is to be noted, from the first HEAD_BYTES of the data set. Called in any thread."""
        ...

    def note(self, connection: sqlite3.Connection, looked: object, now: float) -> int | None:
        """Return the `study_id`, inside the transaction in which the object gets its row."""
        ...


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object that survives a power cut.

    Attributes:
        bundle_id: the bundle it is in.
        position: where its record starts in the bundle's file.
        length: bytes of the record.
        digest: SHA-256 of the data set.
        payload: bytes of the data set.
        ordinal: which object of the bundle it is, from 1.
        looked: what the study hook made of it.
    """

    object_id: bytes
    bundle_id: int
    position: int
    length: int
    digest: bytes
    payload: int
    ordinal: int
    meta: ObjectMeta
    looked: object | None = None


def look(study: StudyHook | None, meta: ObjectMeta, head: bytes) -> object | None:
    """Return what the study hook makes of an object, whatever happens there."""
    if study is None:
        return None
    try:
        return study.look(meta, head)
    except Exception as error:  # noqa: BLE001 - a data set may be anything, and is kept all the same
        _log.warning("the study of an object could not be read", error=type(error).__name__)
        return None


def bundle_row(header: BundleHeader, name: str, *, size: int, objects: int, closed: bool) -> BundleRow:
    """Return the ledger's row of a bundle."""
    content = header.content
    inbound = content if isinstance(content, Inbound) else None
    return BundleRow(
        bundle_id=header.bundle_id,
        name=name,
        direction=Direction.IN if inbound else Direction.OUT,
        calling=inbound.manifest.calling if inbound else content.calling,  # type: ignore[union-attr]  # one or the other
        called=inbound.manifest.called if inbound else content.called,  # type: ignore[union-attr]  # one or the other
        far_router=inbound.far_router if inbound else None,
        size=size,
        objects=objects,
        opened=header.opened,
        closed=closed,
        gone=False,
    )


def rows_of(
    connection: sqlite3.Connection,
    stored: StoredObject,
    copies: Sequence[NewCopy],
    *,
    calling: str,
    secrets: SpoolSecrets,
    study: StudyHook | None,
    now: float,
) -> tuple[ObjectRow, Sequence[NewCopy]]:
    """Return the rows of an object and its copies, after its study got its own. `copies` need no `study_id`."""
    study_id = None
    if study is not None and stored.looked is not None:
        try:
            study_id = study.note(connection, stored.looked, now)
        except sqlite3.Error:
            raise
        except Exception as error:  # noqa: BLE001 - what is known of the study is not worth an object
            _log.warning("the study of an object could not be noted", error=type(error).__name__)
    meta = stored.meta
    row = ObjectRow(
        object_id=stored.object_id,
        bundle_id=stored.bundle_id,
        position=stored.position,
        length=stored.length,
        digest=stored.digest,
        kind=meta.kind,
        calling=calling,
        called=meta.called,
        association=meta.association,
        sop_class=meta.sop_class,
        transfer_syntax=meta.transfer_syntax,
        instance_mac=secrets.instance_mac(meta.sop_instance),
        study_id=study_id,
        received=meta.received,
        payload=stored.payload,
    )
    if study_id is None:
        return row, copies
    return row, [dataclasses.replace(copy, study_id=study_id) for copy in copies]


def route_copies(route: Route, stored: StoredObject, *, flagged: bool = False) -> list[NewCopy]:
    """Return a waiting copy for every destination of the route."""
    return [
        NewCopy(
            object_id=stored.object_id,
            bundle_id=stored.bundle_id,
            destination=place.title,
            site=place.site,
            calling=route.calling,
            kind=stored.meta.kind,
            since=stored.meta.received,
            flagged=flagged,
            priority=route.priority,
        )
        for place in route.destinations
    ]


class Indexer:
    """Gathers what became durable and gives it rows. `add` and `closed` may be called from any thread.

    Attributes:
        on_stored: called on the loop with the bundle ids that have new rows.
        on_ready: called on the loop with the id of a bundle that is closed and has all its rows.
    """

    def __init__(
        self, ledger: Ledger, secrets: SpoolSecrets, now: Callable[[], float], study: StudyHook | None
    ) -> None:
        self.on_stored: Callable[[frozenset[int]], None] = _ignore
        self.on_ready: Callable[[int], None] = _ignore
        self._ledger = ledger
        self._secrets = secrets
        self._now = now
        self.study = study
        self._lock = threading.Lock()
        self._flushing = asyncio.Lock()
        self._stored: list[tuple[BundleFile, StoredObject]] = []
        self._closed: list[BundleFile] = []
        self._wake = asyncio.Event()
        self._hurry = asyncio.Event()  # a bundle was closed: somebody may wait for it
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def behind(self) -> int:
        """How many durable objects have no row yet."""
        return len(self._stored)

    def add(self, file: BundleFile, stored: StoredObject) -> None:
        """Take an object that is durable now."""
        with self._lock:
            self._stored.append((file, stored))
        self._ring(self._wake)

    def closed(self, file: BundleFile) -> None:
        """Take a file to which nothing is added any more."""
        with self._lock:
            self._closed.append(file)
        self._ring(self._hurry)

    async def run(self) -> None:
        """Index until cancelled. What fails is tried again: the objects are durable, and nobody waits for the rows."""
        self._loop = asyncio.get_running_loop()
        self._ring(self._wake)
        last = self._loop.time() - _APART_SECONDS
        while True:
            await self._wake.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(max(self._loop.time() + _GATHER_SECONDS, last + _APART_SECONDS)):
                    await self._hurry.wait()
            self._wake.clear()
            self._hurry.clear()
            last = self._loop.time()
            try:
                await self.flush()
            except (NoRoom, SpoolFailed) as error:
                _log.error("queued objects could not be put into the ledger", error=str(error), waiting=self.behind)
                await asyncio.sleep(_AGAIN_SECONDS)
                self._wake.set()

    async def flush(self) -> None:
        """Index all that was durable when this was called. Raises NoRoom or SpoolFailed; it is all kept then."""
        async with self._flushing:
            with self._lock:
                stored, closed = self._stored, self._closed
                self._stored, self._closed = [], []
            try:
                while stored or closed:
                    batch, rest = stored[:_MOST_TOGETHER], stored[_MOST_TOGETHER:]
                    done = [] if rest else closed
                    await self._ledger.run(lambda connection, b=batch, d=done: self._write(connection, b, d))  # type: ignore[misc]  # defaults bind the batch
                    stored, closed = rest, closed if rest else []
                    self._tell(batch, done)
            finally:
                if stored or closed:
                    with self._lock:
                        self._stored, self._closed = stored + self._stored, closed + self._closed

    def _write(
        self, connection: sqlite3.Connection, stored: list[tuple[BundleFile, StoredObject]], closed: list[BundleFile]
    ) -> None:
        now = self._now()
        sizes: dict[BundleFile, tuple[int, int]] = {}
        rows = []
        for file, item in stored:
            copies = route_copies(file.route, item)
            calling = file.route.calling
            rows.append(
                rows_of(connection, item, copies, calling=calling, secrets=self._secrets, study=self.study, now=now)
            )
            sizes[file] = (item.position + item.length, item.ordinal)
        for file in closed:
            sizes[file] = (file.durable, file.objects)
        for file, (size, objects) in sizes.items():
            row = bundle_row(file.header, file.name, size=size, objects=objects, closed=file in closed)
            ingested.put_bundle(connection, row)
        ingested.add_objects(connection, rows)

    def _tell(self, stored: list[tuple[BundleFile, StoredObject]], closed: list[BundleFile]) -> None:
        if stored:
            self.on_stored(frozenset(file.bundle_id for file, _ in stored))
        for file in closed:
            self.on_ready(file.bundle_id)

    def _ring(self, bell: asyncio.Event) -> None:
        def ring() -> None:
            self._wake.set()
            bell.set()

        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the next start indexes the rest
                self._loop.call_soon_threadsafe(ring)


def _ignore(_: object) -> None:
    pass
