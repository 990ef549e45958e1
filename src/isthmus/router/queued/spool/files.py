"""One bundle's file while it is written: bytes are added at its end, made durable, or cut off again."""

import contextlib
import os
from pathlib import Path
from typing import Final

from isthmus.kit import platform
from isthmus.router.queued.spool.header import BundleHeader, Route
from isthmus.router.queued.spool.room import Room


class BundleFile:
    """An open bundle's file. One thread at a time.

    Attributes:
        route: where its objects go.
        durable: its length as far as it would survive a power cut; up to here all is whole records.
        whole: where the last whole record ends, or the header; beyond it is one that is being written.
        end: where the next byte goes. A file that was a spare has zeros behind it until it is closed.
        objects: whole records up to `durable`.
    """

    def __init__(self, path: Path, header: BundleHeader, route: Route, room: Room) -> None:
        self.path: Final = path
        self.header: Final = header
        self.route: Final = route
        self.durable = 0
        self.whole = 0
        self.end = 0
        self.objects = 0
        self._room = room
        self._named = False
        self._longer = False
        self._handle: int | None = None

    @property
    def bundle_id(self) -> int:
        """The bundle's id."""
        return self.header.bundle_id

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name

    def create(self, header: bytes, *, spare: bool = False) -> None:
        """Make the file, with its header. Nothing is durable before `sync`. Raises OSError, and leaves no file then.

        `spare`: it is one of `Spares`, there already, and durably so.
        """
        try:
            self._handle = platform.open_spool_file(self.path, create=not spare, write=True)
        except OSError:
            if spare:
                self.unlink()
            raise
        self._named = self._longer = spare
        try:
            self.append(header)
            self.whole = self.end
        except BaseException:
            self.close()
            self.unlink()
            raise

    def append(self, data: bytes) -> None:
        """Write at the end. Raises OSError; the file is then cut and not written again."""
        assert self._handle is not None
        platform.write_at(self._handle, data, self.end)
        self.end += len(data)
        self._room.add(len(data))

    def sync(self) -> None:
        """Make durable what was written. Raises OSError; the file is then cut and never written or synced again."""
        assert self._handle is not None
        platform.sync_data(self._handle)
        if not self._named:
            platform.fsync_folder(self.path.parent)
            self._named = True
        self.durable = self.whole = self.end

    def rewind(self) -> None:
        """Take back the record that is being written. Raises OSError."""
        assert self._handle is not None
        os.ftruncate(self._handle, self.whole)
        self._longer = False
        self._forget(self.whole)

    def cut(self) -> None:
        """Close the file at its last durable length; what cannot be cut off now is at the next start."""
        if self._handle is not None:
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, self.durable)
            self._longer = False
            self._forget(os.fstat(self._handle).st_size)
        self.close()

    def close(self) -> None:
        """Let go of the file; it is not written again."""
        handle, self._handle = self._handle, None
        if handle is None:
            return
        if self._longer:
            try:
                os.ftruncate(handle, self.end)
            except OSError:  # the next start cuts it off
                self._forget(os.fstat(handle).st_size)
        with contextlib.suppress(OSError):  # what was acknowledged is durable already
            os.close(handle)

    def unlink(self) -> None:
        """Remove the file, of which nothing was acknowledged."""
        with contextlib.suppress(OSError):  # the next start removes it
            self.path.unlink(missing_ok=True)
        self._room.add(-self.end)
        self.end = 0

    def _forget(self, end: int) -> None:
        self._room.add(end - self.end)
        self.end = self.whole = end
