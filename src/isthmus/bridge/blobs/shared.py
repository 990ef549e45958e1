"""Blobs in a folder that several Bridges share, on NFS or the like.

Each has an index in memory, and tells the others what it put and deleted. A word may be lost, so a name that is not in
the index is looked for in the folder.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final

from isthmus.bridge.blobs.store import BlobStore, Entry, entry_of, unlink
from isthmus.errors import BlobMissing
from isthmus.kit.files import make_private_folder, write_durably

_MARK: Final = "store.id"
_ABANDONED_SECONDS: Final = 3600.0  # after which what another Bridge began to write is nobody's


class SharedBlobStore(BlobStore):
    """The blobs of several Bridges, seen from one.

    `on_kept` and `on_deleted` are told what was put and deleted here. A blob that is still being put is handed on only
    at the Bridge to which it is put; at another it is waited for.
    """

    on_kept: Callable[[Entry], None] | None = None
    on_deleted: Callable[[Sequence[str]], None] | None = None

    async def mark(self) -> str:
        """Return what tells this folder from all others."""
        return await asyncio.to_thread(self._mark)

    async def put(self, site: str, name: str, body: AsyncIterator[bytes], size: int, digest: bytes) -> bool:
        """Keep a blob, and tell the others; see BlobStore."""
        if name in self._entries and not await self._is_there(name):
            self._unindex([name])  # another Bridge has deleted it, and its word was lost
        new = await super().put(site, name, body, size, digest)
        entry = self._entries.get(name)
        if new and entry is not None and self.on_kept is not None:
            self.on_kept(entry)
        return new

    async def read(self, name: str, wait: float = 0.0) -> tuple[int, AsyncIterator[bytes]]:
        """Return a blob's size and its body; see BlobStore."""
        if name not in self._entries and name not in self._growing:
            await self._index_found(name)
        try:
            return await super().read(name, wait)
        except BlobMissing:
            self._unindex([name])
            if not wait:
                raise
        await self._index_found(name)
        return await super().read(name)

    async def sweep(self) -> int:
        """Look what is there, and delete what everybody forgot; return how much."""
        await self._refresh()
        return await super().sweep()

    async def forget_site(self, site: str) -> None:
        """Delete every blob of a site that was revoked, whichever Bridge put it."""
        await self._refresh()
        await super().forget_site(site)

    # what other Bridges say

    def kept_elsewhere(self, entry: Entry) -> None:
        """Take that another Bridge has put a blob."""
        self._index(entry)
        self._arrived(entry.name)

    def deleted_elsewhere(self, names: Sequence[str]) -> None:
        """Take that another Bridge has deleted blobs."""
        self._forsake(names)
        self._unindex(names)

    async def _refresh(self) -> None:
        """Have the index say what is there."""
        known = list(self._entries)
        found = {entry.name: entry for entry in await self._found()}
        self._unindex([name for name in known if name not in found and not await self._is_there(name)])
        for entry in found.values():
            self._index(entry)

    # where the whole ones are

    async def _found(self) -> list[Entry]:
        """Return all that is there."""
        return await asyncio.to_thread(self._scan)

    async def _is_there(self, name: str) -> bool:
        """Return whether there is a blob, whatever the index says."""
        return await asyncio.to_thread(self._path(name).exists)

    async def _remove(self, names: Sequence[str]) -> None:
        """Delete blobs, and tell the others."""
        self._unindex(names)
        await asyncio.to_thread(unlink, [self._path(name) for name in names])
        if names and self.on_deleted is not None:
            self.on_deleted(names)

    def _mark(self) -> str:
        path = make_private_folder(self._folder) / _MARK
        if not path.exists():
            write_durably(path, secrets.token_hex(16).encode())
        return path.read_text()

    def _scan(self) -> list[Entry]:
        found = []
        for path in self._folder.iterdir():
            if path.suffix == ".blob":
                entry = entry_of(path)
                found += [] if entry is None else [entry]
            elif path.name.startswith("new."):
                self._drop_abandoned(path)
        return found

    def _drop_abandoned(self, path: Path) -> None:
        try:
            if path.stat().st_mtime < self._clock.now() - _ABANDONED_SECONDS:
                path.unlink()
        except FileNotFoundError:
            pass  # it is whole now, or another Bridge did it
