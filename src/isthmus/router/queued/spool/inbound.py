"""A bundle that comes from another site: blobs are written where they belong, and all is verified before it counts."""

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

from isthmus.envelope.records import ObjectMeta, RecordOpener, RecordSpan
from isthmus.errors import SealBroken
from isthmus.kit import platform
from isthmus.kit.threads import to_its_end
from isthmus.router.queued.ledger.records import BundleRow
from isthmus.router.queued.spool import header as headers
from isthmus.router.queued.spool.fresh import FreshObject, FreshObjects
from isthmus.router.queued.spool.header import BundleHeader, Inbound
from isthmus.router.queued.spool.indexing import StoredObject, bundle_row
from isthmus.router.queued.spool.reading import verify_record
from isthmus.router.queued.spool.room import Room
from isthmus.router.queued.spool.secrets import SpoolSecrets
from isthmus.router.queued.trouble import from_os

_READ_BYTES: Final = 1024 * 1024

Look = Callable[[ObjectMeta, bytes], object | None]


class InboundBundle:
    """The file of an envelope that is being fetched. Offsets count from the envelope's start.

    One call at a time, except that `pwrite` may be called while another is under way.

    Attributes:
        start: where the envelope starts in the file.
    """

    def __init__(self, path: Path, handle: int, header: BundleHeader, start: int, room: Room, look: Look) -> None:
        self.name: Final = path.name
        self.header: Final = header
        self.start: Final = start
        content = header.content
        assert isinstance(content, Inbound)
        self.far_router: Final = content.far_router
        self.manifest: Final = content.manifest
        self._path = path
        self._handle: int | None = handle
        self._room = room
        self._look = look
        self._counted = os.fstat(handle).st_size
        self._writing = asyncio.Lock()

    @property
    def bundle_id(self) -> int:
        """The bundle's id: that of the first attempt, if this is another one."""
        return self.header.bundle_id

    @classmethod
    def open(cls, path: Path, header: BundleHeader, secrets: SpoolSecrets, room: Room, look: Look) -> Self:
        """Make the file, or open the one of the same envelope that is there. Raises OSError. For a thread."""
        with contextlib.suppress(FileNotFoundError):
            if (found := cls._reopen(path, header, secrets, room, look)) is not None:
                return found
        content = headers.pack(header, path.name, secrets)
        handle = platform.open_spool_file(path, create=True, write=True)
        try:
            platform.write_at(handle, content, 0)
            platform.sync_data(handle)
            platform.fsync_folder(path.parent)
        except BaseException:
            os.close(handle)
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        room.add(len(content))
        return cls(path, handle, header, len(content), room, look)

    @classmethod
    def _reopen(cls, path: Path, header: BundleHeader, secrets: SpoolSecrets, room: Room, look: Look) -> Self | None:
        """Return the unfinished bundle in `path` if it is of this very envelope; else remove it."""
        with path.open("rb") as file:
            size = file.seek(0, 2)
            try:
                known = headers.unpack(file, path.name, secrets)
            except SealBroken:
                known = None
        if known is not None and known[0].content == header.content:
            platform.fsync_folder(path.parent)  # whoever made it may have been stopped before it did so
            return cls(path, platform.open_spool_file(path, create=False, write=True), *known, room, look)
        path.unlink()
        room.add(-size)
        return None

    async def pwrite(self, offset: int, data: bytes) -> None:
        """Write a blob where it belongs. Raises NoRoom or SpoolFailed; the bundle is then dropped and begun anew."""
        if offset < 0 or offset + len(data) > self.manifest.size:
            raise SealBroken("a blob lies outside its envelope")
        self._room.demand()
        handle = self._handle
        assert handle is not None
        try:
            async with self._writing:  # where the system has no pwrite, the handle has one position
                await to_its_end(platform.write_at, handle, data, self.start + offset)
        except OSError as error:
            raise from_os(error, "writing a bundle of another site") from error
        end = self.start + offset + len(data)
        if end > self._counted:
            self._room.add(end - self._counted)
            self._counted = end

    async def verified_prefix(self) -> int:
        """Return how far the envelope verifies, segment by segment: from there on it is to be fetched (again).

        Raises SpoolFailed if it cannot be read.
        """
        try:
            return await asyncio.to_thread(self._verify_prefix)
        except OSError as error:
            raise from_os(error, "reading a bundle of another site") from error

    async def commit(self, fresh: FreshObjects | None = None) -> tuple[BundleRow, list[StoredObject]]:
        """Verify every byte of every object, make all durable, and return the rows to be.

        The objects stand in the order of the manifest; `fresh` gets some of them as they were opened. Raises SealBroken
        if anything does not verify, NoRoom or SpoolFailed if it cannot be kept.
        """
        try:
            stored, opened = await to_its_end(self._commit, 0 if fresh is None else fresh.room)
        except OSError as error:
            raise from_os(error, "keeping a bundle of another site") from error
        if fresh is not None:
            fresh.put(self.bundle_id, opened)
        size = self.start + self.manifest.size
        return bundle_row(self.header, self.name, size=size, objects=len(stored), closed=True), stored

    async def drop(self) -> None:
        """Delete the file, of which nothing was acknowledged. Harmless twice, and after `close`."""
        self.close()
        with contextlib.suppress(OSError):  # the sweep of unfinished bundles tries again
            await asyncio.to_thread(self._path.unlink, missing_ok=True)
            self._room.add(-self._counted)
            self._counted = 0

    def close(self) -> None:
        """Let go of the file, which stays for the next attempt, or as a bundle that counts."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def _verify_prefix(self) -> int:
        with self._path.open("rb", buffering=0) as file:
            for item in self.manifest.objects:
                opener = RecordOpener(item.object_id, item.secret)
                file.seek(self.start + item.offset)
                left = item.length
                with contextlib.suppress(SealBroken):
                    while left and not opener.whole and (chunk := file.read(min(left, _READ_BYTES))):
                        left -= len(chunk)
                        opener.feed(chunk)
                if not opener.whole:
                    return item.offset + opener.verified
                if opener.verified != item.length:  # it never will be what the manifest says; `commit` says so
                    return item.offset
        return self.manifest.size

    def _commit(self, most_opened: int) -> tuple[list[StoredObject], dict[bytes, FreshObject]]:
        assert self._handle is not None
        stored: list[StoredObject] = []
        opened: dict[bytes, FreshObject] = {}
        with self._path.open("rb", buffering=0) as file:
            for ordinal, item in enumerate(self.manifest.objects, 1):
                span = RecordSpan(item.object_id, self.start + item.offset, item.length)
                keep = item.length <= most_opened
                # whoever has the secret can seal a segment, and a last one with any digest: if that is the sender
                # alone, hashing would find nothing
                record = verify_record(file, span, item.secret, hashing=self.manifest.shared, keep=keep)
                if record.digest != item.digest or record.meta.kind is not item.kind:
                    raise SealBroken("an object is not the one that its manifest names")
                looked = self._look(record.meta, record.head)
                stored.append(record.stored(self.bundle_id, ordinal, looked))
                if keep:
                    most_opened -= item.length
                    opened[item.object_id] = FreshObject(record.meta, record.pieces)
        platform.sync_data(self._handle)
        return stored, opened
