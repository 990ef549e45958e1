"""How objects are written: sealed, hashed and made durable off the loop, in order, one object at a time a bundle."""

import asyncio
import contextlib
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Final, Protocol

import structlog

from isthmus.contract.letters import OBJECT_ID_BYTES
from isthmus.envelope.records import ObjectMeta, RecordSealer
from isthmus.errors import IsthmusError, LocalMisuse
from isthmus.router.queued.spool.files import BundleFile
from isthmus.router.queued.spool.header import Route
from isthmus.router.queued.spool.indexing import HEAD_BYTES, StoredObject
from isthmus.router.queued.spool.room import Room
from isthmus.router.queued.spool.secrets import SpoolSecrets
from isthmus.router.queued.trouble import from_os

BUNDLE_BYTES: Final = 8 * 1024 * 1024
GATHER_BYTES: Final = 4 * 1024 * 1024
GATHER_SECONDS: Final = 0.04
"""While the link is idle a bundle closes early: when it holds so much, or so long after somebody wanted it."""
FLOW_GATHER_SECONDS: Final = 0.25
FLOW_SECONDS: Final = 0.5
"""A bundle that follows another so soon is part of a flow: it may fill, or take longer, as each costs work."""
MOST_OBJECTS: Final = 2_000
SEGMENT_BYTES: Final = 128 * 1024  # sealed while more is received: the last one is what a sender waits for
HIGH_WATER: Final = 4 * 1024 * 1024  # bytes that wait to be written before the sender is to stop
LOW_WATER: Final = 1024 * 1024

Fragment = bytes | memoryview

_log = structlog.get_logger()


class Keeper(Protocol):
    """What a bundle needs of its spool. All of it may be called from any thread."""

    room: Room
    secrets: SpoolSecrets

    @property
    def executor(self) -> Executor:
        """Where the steps of bundles run."""
        ...

    def random(self, size: int) -> bytes:
        """Return random bytes."""
        ...

    def create(self, route: Route, *, fills: bool) -> BundleFile:
        """Return a new file; `fills`: it will probably be filled. Raises OSError."""
        ...

    def look(self, meta: ObjectMeta, head: bytes) -> object | None:
        """Return what is to be noted of the object's study."""
        ...

    def stored(self, file: BundleFile, stored: StoredObject) -> None:
        """Take an object that is durable."""
        ...

    def closed(self, file: BundleFile) -> None:
        """Take a file that is closed."""
        ...

    def parked(self, file: BundleFile) -> None:
        """Take a file that is still open, and used by nobody."""
        ...

    def is_wanted(self, route: Route) -> bool:
        """Return whether somebody waits for objects of this route: a bundle is not to grow then. On the loop only."""
        ...


class OpenBundle:
    """Where one association puts its objects. Behind it one file follows another as they fill up.

    Its methods are called on the loop. `on_writable` is called there when a writer that said "stop" may go on.
    """

    def __init__(self, keeper: Keeper, route: Route, file: BundleFile | None) -> None:
        self.route: Final = route
        self.on_writable: Callable[[], None] | None = None
        self._keeper = keeper
        self._loop = asyncio.get_running_loop()
        self._current: ObjectWriter | None = None
        self._lock = threading.Lock()
        self._waiting: deque[tuple[Callable[[], None], int]] = deque()
        self._working = False
        self._pending = 0
        self._stopped = False
        self._gathering: asyncio.TimerHandle | None = None
        # Below: the worker's own; the loop reads some of it.
        self._file = file
        self._closed_at = -math.inf  # seconds of the loop
        self._sealing: ObjectWriter | None = None
        self._closing = False

    @property
    def pending_bytes(self) -> int:
        """Bytes taken and not written yet."""
        return self._pending

    @property
    def is_begun(self) -> bool:
        """Whether there is an object in it, or one is on its way."""
        return self._current is not None or self._file is not None

    def begin(self, meta: ObjectMeta) -> "ObjectWriter":
        """Begin an object; the one before was finished or abandoned. Raises NoRoom."""
        if self._current is not None:
            raise LocalMisuse("one object at a time")
        self._keeper.room.demand()
        writer = ObjectWriter(self, meta, self._keeper.random(OBJECT_ID_BYTES))
        self._current = writer
        fills = self._file is None and not self.is_wanted()
        self.submit(lambda: self._begin(writer, fills=fills))
        return writer

    def secret_of(self, object_id: bytes) -> bytes:
        """Return the secret of an object that is sealed here."""
        return self._keeper.secrets.object_secret(object_id)

    def is_wanted(self) -> bool:
        """Return whether the file is to close early, since somebody waits for objects of this route.

        It then closes when it `has_enough`, or by itself after a moment: a bundle costs the same work at both sites
        whether it holds one object or ten.
        """
        if self._gathering is None and self._keeper.is_wanted(self.route):
            self._gather()
        return self._gathering is not None

    def has_enough(self) -> bool:
        """Return whether the file holds, or is about to hold, so much that it waits for no more."""
        file = self._file  # None: the worker has not begun it yet
        return self._pending + (0 if file is None else file.end) >= (BUNDLE_BYTES if self._flows else GATHER_BYTES)

    def close_soon(self) -> None:
        """Close the file behind this as soon as no object is half in it, or a moment later if it holds little."""
        if self.has_enough():
            self._gathered()
        elif self._gathering is None:
            self._gather()

    def leave(self) -> None:
        """Abandon what is not finished, and let the next association of the route have the file."""
        if self._current is not None:
            self._current.abandon()
        wanted = self.is_wanted()
        self.stop_gathering()
        self.submit(lambda: self._leave(close=wanted))

    async def settled(self) -> None:
        """Return when all that was asked for so far is done."""
        done: asyncio.Future[None] = self._loop.create_future()
        self.submit(lambda: self._call(lambda: None if done.done() else done.set_result(None)))
        await done

    # -- what writers use

    def submit(self, step: Callable[[], None], size: int = 0) -> bool:
        """Queue a step for the worker; return False if so many bytes wait that the sender is to stop."""
        with self._lock:
            self._waiting.append((step, size))
            self._pending += size
            self._stopped = self._stopped or self._pending > HIGH_WATER
            start, self._working = not self._working, True
            go_on = not self._stopped
        if start:
            self._keeper.executor.submit(self._work)
        return go_on

    def add(self, writer: "ObjectWriter", parts: list[Fragment]) -> None:
        """Worker: seal and write what was received of an object."""
        with self._guarded(writer) as going:
            if not going:
                return
            self._keeper.room.demand()
            assert self._file is not None
            payload = parts[0] if len(parts) == 1 else b"".join(parts)
            if len(writer.head) < HEAD_BYTES:
                writer.head += payload[: HEAD_BYTES - len(writer.head)]
            view = memoryview(payload)
            for start in range(0, len(view), SEGMENT_BYTES):
                self._file.append(writer.sealer.data(view[start : start + SEGMENT_BYTES]))

    def finish(self, writer: "ObjectWriter", *, close: bool) -> StoredObject | None:
        """Worker: make an object durable and return it, or None if the writer failed."""
        stored = None
        with self._guarded(writer) as going:
            if going:
                file = self._file
                assert file is not None
                looked = self._keeper.look(writer.meta, bytes(writer.head))
                position = file.whole
                file.append(writer.sealer.finish())
                file.sync()
                file.objects += 1
                stored = StoredObject(
                    object_id=writer.object_id,
                    bundle_id=file.bundle_id,
                    position=position,
                    length=file.whole - position,
                    digest=writer.sealer.digest,
                    payload=writer.sealer.payload_bytes,
                    ordinal=file.objects,
                    meta=writer.meta,
                    looked=looked,
                )
                self._keeper.stored(file, stored)
        self._sealing = None
        if close or self._closing or (self._file is not None and _is_full(self._file)):
            self._close()
        return stored

    def drop(self, writer: "ObjectWriter") -> None:
        """Worker: take back what was written of an object."""
        if self._sealing is writer:
            with self._guarded(writer) as going:
                if going and self._file is not None:
                    self._file.rewind()
            self._sealing = None
            if self._closing:
                self._close()

    def ended(self, writer: "ObjectWriter") -> None:
        """Let the next object begin."""
        if self._current is writer:
            self._current = None

    def answer(
        self, future: asyncio.Future[StoredObject], stored: StoredObject | None, failure: Exception | None
    ) -> None:
        """Worker: tell the loop how an object ended."""

        def tell() -> None:
            if future.done():  # whoever waited was cancelled
                return
            if stored is not None:
                future.set_result(stored)
            else:
                future.set_exception(failure or LocalMisuse("an object ended without a reason"))

        self._call(tell)

    def stop_gathering(self) -> None:
        """The file is about to close, or is let go of."""
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None

    @property
    def _flows(self) -> bool:
        return self._loop.time() - self._closed_at < FLOW_SECONDS

    def _gather(self) -> None:
        seconds = FLOW_GATHER_SECONDS if self._flows else GATHER_SECONDS
        self._gathering = self._loop.call_later(seconds, self._gathered)

    def _gathered(self) -> None:
        self.stop_gathering()
        self.submit(self._close_soon)

    # -- the worker's steps

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    self._working = False
                    return
                step, size = self._waiting.popleft()
            try:
                step()
            except Exception as error:  # noqa: BLE001 - a bug; those who wait for later steps must not wait for ever
                _log.exception("a step of a bundle failed", error=repr(error))
            with self._lock:
                self._pending -= size
                writable = self._stopped and self._pending <= LOW_WATER
                if writable:
                    self._stopped = False
            if writable:
                self._call(self._writable)

    def _begin(self, writer: "ObjectWriter", *, fills: bool) -> None:
        self._sealing = writer
        with self._guarded(writer):
            if self._file is None:
                self._file = self._keeper.create(self.route, fills=fills)
            self._file.append(writer.sealer.begin())

    @contextlib.contextmanager
    def _guarded(self, writer: "ObjectWriter") -> Iterator[bool]:
        """Run a step for a writer that has not failed; what fails is remembered there and undone in the file."""
        if writer.failure is not None:
            yield False
            return
        try:
            yield True
        except OSError as error:
            writer.failure = from_os(error, "writing a queued object")
            self._break()
        except IsthmusError as error:  # no room: the file is as good as before
            writer.failure = error
            self._take_back()
        except Exception as error:  # noqa: BLE001 - a bug, which the one who waits gets to see
            writer.failure = error
            self._break()

    def _take_back(self) -> None:
        if self._file is not None:
            try:
                self._file.rewind()
            except OSError:
                self._break()

    def _break(self) -> None:
        """Close the file at its last durable length: after an error nothing is written or synced there any more."""
        file, self._file = self._file, None
        if file is not None:
            file.cut()
            self._retire(file)

    def _close_soon(self) -> None:
        if self._sealing is not None:
            self._closing = True
        else:
            self._close()

    def _close(self) -> None:
        self._closing = False
        file, self._file = self._file, None
        if file is not None:
            self._closed_at = self._loop.time()
            file.close()
            self._retire(file)

    def _retire(self, file: BundleFile) -> None:
        if file.objects:
            self._keeper.closed(file)
        else:
            file.unlink()

    def _leave(self, *, close: bool) -> None:
        if close or self._closing or self._file is None or not self._file.objects:
            self._close()
            return
        file, self._file = self._file, None
        self._keeper.parked(file)

    def _writable(self) -> None:
        if self.on_writable is not None:
            self.on_writable()

    def _call(self, what: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(what)


class ObjectWriter:
    """Takes one object. `failure` is why it cannot be kept, as soon as that is known."""

    def __init__(self, bundle: OpenBundle, meta: ObjectMeta, object_id: bytes) -> None:
        self.meta: Final = meta
        self.object_id: Final = object_id
        self.failure: Exception | None = None
        self.head = bytearray()
        self._bundle = bundle
        self._parts: list[Fragment] = []
        self._gathered = 0
        self._over = False
        self.sealer: Final = RecordSealer(object_id, bundle.secret_of(object_id), meta, hashing=False)

    def write(self, fragment: Fragment) -> bool:
        """Take the next bytes of the data set, which nobody changes afterwards.

        Returns False if the sender is to stop until `OpenBundle.on_writable` is called; the fragment is taken even so.
        """
        if self._over:
            raise LocalMisuse("nothing comes after the end of an object")
        self._parts.append(fragment)
        self._gathered += len(fragment)
        return self._hand_over() if self._gathered >= SEGMENT_BYTES else True

    async def finish(self) -> StoredObject:
        """End the object and return it once it is durable: now it may be acknowledged.

        Cancelling does not take it back. Raises NoRoom or SpoolFailed; nothing of the object is kept then.
        """
        if self._over:
            raise LocalMisuse("an object ends once")
        self._over = True
        bundle = self._bundle
        if self._parts:
            self._hand_over()
        close = bundle.is_wanted() and bundle.has_enough()
        if close:
            bundle.stop_gathering()
        future: asyncio.Future[StoredObject] = asyncio.get_running_loop().create_future()

        def last() -> None:
            stored = None
            try:
                stored = bundle.finish(self, close=close)
            finally:
                bundle.answer(future, stored, self.failure)

        bundle.submit(last)
        bundle.ended(self)
        return await future

    def abandon(self) -> None:
        """Give the object up; nothing of it is kept. Harmless after its end."""
        if self._over:
            return
        self._over = True
        self._parts.clear()
        self._bundle.submit(lambda: self._bundle.drop(self))
        self._bundle.ended(self)

    def _hand_over(self) -> bool:
        parts, self._parts = self._parts, []
        size, self._gathered = self._gathered, 0
        go_on = self._bundle.submit(lambda: self._bundle.add(self, parts), size)
        for part in parts:  # meanwhile the worker seals: one after the other is what the sender would wait for
            self.sealer.hash(part)
        return go_on


def _is_full(file: BundleFile) -> bool:
    return file.end >= BUNDLE_BYTES or file.objects >= MOST_OBJECTS
