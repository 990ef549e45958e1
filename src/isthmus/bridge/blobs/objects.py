"""Blobs in an object store that several Bridges share: S3 or whatever else there is an adapter for.

The store holds a sealed body under a hash of name and body; the list of what is there is in the Bridges' database. A
blob is put there before it is listed, and listed before that is answered; it goes from the list first. So what a Bridge
that dies leaves behind is at worst an object that nobody finds, which goes when its time is over. Which of two bodies
has a name is decided by the list: not every store can.
"""

import asyncio
import hashlib
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from isthmus.bridge.blobs.book import BlobBook
from isthmus.bridge.blobs.files import GrowingBlob
from isthmus.bridge.blobs.shared import SharedBlobStore
from isthmus.bridge.blobs.store import QUEUED, Allowance, Entry
from isthmus.bridge.providers.trial import try_store
from isthmus.errors import BlobExists, BlobMissing, ContainerMissing, OperatorError, ProviderTrouble
from isthmus.kit.clock import Clock
from isthmus.kit.files import make_private_folder
from isthmus.kit.findings import Level
from isthmus.kit.threads import to_its_end
from isthmus.ports.blobstore import Blobstore

KEYS_HINT: Final = "--blobs-keys FILE gives the keys; docs/how-to/several-bridges.md says how"
_MARK: Final = "mark"
_MARKED: Final = re.compile(rb"[0-9a-f]{32}")
_LIVE: Final = "live/"
_AT_ONCE: Final = 16  # puts whose bodies are in memory
_LOOK_SECONDS: Final = 86_400.0  # between two looks at all that the store holds
_LATER_SECONDS: Final = 3600.0  # by which the clock of a store may be wrong


class ObjectBlobStore(SharedBlobStore):
    """The blobs of several Bridges, or of one. What comes in is written to `folder` until it is whole."""

    def __init__(
        self, store: Blobstore, book: BlobBook, folder: Path, clock: Clock, *, live: Allowance, queued: Allowance
    ) -> None:
        """Describe the store; nothing is asked of it yet."""
        super().__init__(folder, clock, live=live, queued=queued)
        self._store = store
        self._book = book
        self._puts = asyncio.Semaphore(_AT_ONCE)
        self._left: set[str] = set()  # objects that are in no list any more, and that the store did not delete
        self._next_look = 0.0

    async def open(self) -> None:
        """Find out whether the store does what is needed, and read the list. Raises OperatorError if it does not."""
        try:
            self._book.store = await self._found_mark()
            findings = await try_store(self._store)
            async for _ in self._store.list(_MARK):
                break
        except ContainerMissing as error:
            raise OperatorError(f"--blobs: {error}", hint="make it first; the keys need not be allowed to") from error
        except ProviderTrouble as error:
            raise OperatorError(f"--blobs: {error}", hint=error.hint or KEYS_HINT) from error
        for finding in findings:
            if finding.level is Level.BAD:
                raise OperatorError(f"--blobs: {finding.found}", hint=finding.advice)
        for path in make_private_folder(self._folder).glob("new.*"):
            path.unlink()
        for entry in await self._found():
            self._index(entry)

    async def mark(self) -> str:
        """Return what tells this store from all others."""
        return self._book.store

    async def sweep(self) -> int:
        """Take what the list says, delete what everybody forgot, and once a day what nobody lists; return how much."""
        count = await super().sweep()
        if self._clock.monotonic() < self._next_look:
            return count
        self._next_look = self._clock.monotonic() + _LOOK_SECONDS
        await self._book.forget_other_stores()
        return count + await self._delete_unlisted()

    async def close(self) -> None:
        """Let go of connections."""
        await self._store.close()

    # where the whole ones are

    async def _keep(self, growing: GrowingBlob, entry: Entry) -> None:
        async with self._puts:
            await self._store.put(_key(entry), await to_its_end(growing.whole))
        try:
            await self._book.add(entry)
        except BlobExists:
            self._left.add(_key(entry))
            raise
        growing.kept = True
        await to_its_end(growing.drop)

    async def _body_of(self, entry: Entry) -> bytes:
        try:
            return await self._store.get(_key(entry))
        except BlobMissing:
            listed = await self._book.find(entry.name)
            if listed is not None and listed.digest == entry.digest:
                # the store lost it: whoever puts it again is not told that it is there
                await self._book.remove([entry.name])
            raise

    async def _remove(self, names: Sequence[str]) -> None:
        if names:
            self._left.update(map(_key, await self._book.remove(names)))
            self._unindex(names)
            if self.on_deleted is not None:
                self.on_deleted(names)
        if left := set(self._left):
            await self._store.delete(*left)
            self._left -= left

    async def _index_found(self, name: str) -> None:
        entry = await self._book.find(name)
        if entry is not None:
            self._index(entry)

    async def _found(self) -> list[Entry]:
        return await self._book.all()

    async def _is_there(self, name: str) -> bool:
        return await self._book.find(name) is not None

    # inside

    async def _found_mark(self) -> str:
        """Return the mark that the store bears, or give it one."""
        try:
            mark = await self._store.get(_MARK)
        except BlobMissing:
            mark = secrets.token_hex(16).encode()
            try:
                await self._store.put(_MARK, mark)
            except BlobExists:
                mark = await self._store.get(_MARK)  # another Bridge was quicker
        if not _MARKED.fullmatch(mark):
            raise OperatorError(
                f"--blobs: what is called '{_MARK}' there is not a Bridge's", hint="name a bucket or prefix of its own"
            )
        return mark.decode()

    async def _delete_unlisted(self) -> int:
        """Delete objects whose time is over, also those that are in no list; return how many."""
        await self._store.put(_MARK, self._book.store.encode())  # a rule of the bucket may have deleted it
        now = self._clock.now() - _LATER_SECONDS
        old = [
            blob.name
            async for blob in self._store.list("")
            if blob.name.startswith((QUEUED, _LIVE)) and blob.modified < now - self._allowance(blob.name).lifetime
        ]
        await self._store.delete(*old)
        return len(old)


def _key(entry: Entry) -> str:
    """Return under which name a store has a blob: who may list it does not learn what opens the way to a blob."""
    kind = QUEUED if entry.name.startswith(QUEUED) else _LIVE
    return f"{kind}{hashlib.sha256(entry.digest + entry.name.encode()).hexdigest()}"
