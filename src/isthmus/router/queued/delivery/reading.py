"""Queued objects read back for delivery: opened segment by segment, a few at a time, in threads."""

import asyncio
import contextlib
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, Final, Protocol

from isthmus.envelope.records import ObjectMeta, RecordSpan, open_record_in
from isthmus.errors import SealBroken
from isthmus.router.queued.ledger.deliveries import DueCopy
from isthmus.router.queued.spool.fresh import FreshObjects
from isthmus.router.queued.spool.header import Inbound, unpack
from isthmus.router.queued.spool.secrets import SpoolSecrets
from isthmus.router.queued.trouble import from_os

_AHEAD_BYTES: Final = 2 * 1024 * 1024  # of one object that are open at once; as many again are being sent
_THREADS: Final = 4
_MOST_MANIFESTS: Final = 16  # of the bundles read last; each has up to 2,000 objects

_Part = tuple[list[bytes], bool]
"""Pieces of a data set, and whether there are more."""


class OpenedObject:
    """An object whose start verified: what is known of it, and its data set, which is asked for once."""

    def __init__(self, meta: ObjectMeta, first: _Part, more: Callable[[], "asyncio.Future[_Part]"]) -> None:
        """`more` is asked for the next part while there is one."""
        self.meta: Final = meta
        self._first = first
        self._more = more

    async def pieces(self) -> AsyncIterator[bytes]:
        """Yield the data set. Raises SealBroken where it does not verify, SpoolFailed where it cannot be read."""
        pieces, unfinished = self._first
        while True:
            ahead = self._more() if unfinished else None
            for piece in pieces:
                yield piece
            if ahead is None:
                return
            pieces, unfinished = await ahead


class Source(Protocol):
    """Where the objects of copies are read from."""

    async def open(self, copy: DueCopy) -> OpenedObject:
        """Open the object of a copy. Raises SealBroken if it does not verify, SpoolFailed if it cannot be read."""
        ...


class SpoolSource:
    """Reads from the bundles of the spool, whose files `path` names, what is not held as it came in."""

    def __init__(
        self,
        path: Callable[[str], Path],
        secrets: SpoolSecrets,
        verified: Callable[[int], Awaitable[None]],
        fresh: FreshObjects,
    ) -> None:
        """`verified` returns when a bundle that was there at the start has been read through."""
        self._verified = verified
        self._fresh = fresh
        self._path = path
        self._secrets = secrets
        self._manifests: OrderedDict[str, Mapping[bytes, bytes]] = OrderedDict()
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="delivery")

    def close(self) -> None:
        """Let the threads go."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def open(self, copy: DueCopy) -> OpenedObject:
        """Open the object of a copy. Raises SealBroken if it does not verify, SpoolFailed if it cannot be read."""
        await self._verified(copy.bundle_id)
        loop = asyncio.get_running_loop()
        if (fresh := self._fresh.take(copy.bundle_id, copy.object_id)) is not None:
            return OpenedObject(fresh.meta, (fresh.pieces, False), loop.create_future)
        meta, first, parts = await loop.run_in_executor(self._threads, self._begin, copy)
        return OpenedObject(meta, first, lambda: loop.run_in_executor(self._threads, next, parts))

    def _begin(self, copy: DueCopy) -> tuple[ObjectMeta, _Part, Iterator[_Part]]:
        span = RecordSpan(copy.object_id, copy.position, copy.length)
        try:
            file = self._path(copy.bundle).open("rb", buffering=0)
            with contextlib.ExitStack() as stack:
                stack.enter_context(file)
                meta, payloads = open_record_in(file, span, self._secret(file, copy), hashing=False)
                parts = _parts(file, payloads, copy.payload)
                first = next(parts)
                stack.pop_all()  # the generator closes the file
        except OSError as error:
            raise from_os(error, "reading a queued object") from error
        return meta, first, parts

    def _secret(self, file: BinaryIO, copy: DueCopy) -> bytes:
        """Return what opens the object: derived if it was sealed here, else out of the manifest that it came with."""
        if copy.far_router is None:
            return self._secrets.object_secret(copy.object_id)
        with self._lock:
            held = self._manifests.get(copy.bundle)
            if held is None:
                held = self._manifests[copy.bundle] = self._secrets_in(file, copy.bundle)
                if len(self._manifests) > _MOST_MANIFESTS:
                    self._manifests.popitem(last=False)
        secret = held.get(copy.object_id)
        if secret is None:
            raise SealBroken("an object is not in the manifest that it came with")
        return secret

    def _secrets_in(self, file: BinaryIO, bundle: str) -> Mapping[bytes, bytes]:
        found = unpack(file, bundle, self._secrets)
        if found is None or not isinstance(found[0].content, Inbound):
            raise SealBroken("a bundle of another site has no manifest")
        return {item.object_id: item.secret for item in found[0].content.manifest.objects}


def _parts(file: BinaryIO, payloads: Iterator[bytes], left: int) -> Iterator[_Part]:
    """Yield the data set of `left` bytes in parts of some megabytes."""
    with file:
        pieces: list[bytes] = []
        ahead = 0
        for piece in payloads:
            pieces.append(piece)
            ahead += len(piece)
            left -= len(piece)
            if ahead >= _AHEAD_BYTES and left > 0:
                yield pieces, True
                pieces, ahead = [], 0
    yield pieces, False
