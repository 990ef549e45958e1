"""Spare files: written through with zeros while nothing is received, so that bundles can be written over them.

A file that grows has its new blocks noted by the file system at each fdatasync. Where the blocks are there already, and
were written before, only the data has to reach the disk: half the time, with a journal and without (bench/README.md).
"""

import contextlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from isthmus.kit import platform
from isthmus.router.queued.spool.room import Room

MOST_SPARES: Final = 32  # with the bundles' own size, some hundred megabytes that a sender may send at once

_ZEROS: Final = bytes(1024 * 1024)
_NAME_BYTES: Final = 16


class Spares:
    """The spare files of a spool, `size` bytes each. Safe from any thread.

    A spare has the name that its bundle will have, durably. Until that has a header in front the file is none of the
    bundles: a start finds no header and drops it.
    """

    def __init__(self, folder: Path, size: int, room: Room, random: Callable[[int], bytes]) -> None:
        self._folder = folder
        self._size = size
        self._room = room
        self._random = random
        self._lock = threading.Lock()
        self._making = threading.Lock()
        self._ready: list[Path] = []
        self._over = False

    def take(self) -> Path | None:
        """Return a spare, which is the caller's from now on, or None if there is none."""
        with self._lock:
            return self._ready.pop() if self._ready else None

    def make(self) -> bool:
        """Make one more, unless there are enough; return whether it did.

        Raises NoRoom, and OSError, and leaves no file then.
        """
        with self._making:
            count = len(self._ready)
            if self._over or count >= MOST_SPARES:
                return False
            self._room.demand((count + 1) * self._size)
            path = self._folder / self._random(_NAME_BYTES).hex()
            try:
                self._write(path)
            except BaseException:
                _delete(path)
                raise
            with self._lock:
                self._ready.append(path)
            return True

    def clear(self) -> None:
        """Delete them all: somebody needs the room."""
        while (path := self.take()) is not None:
            _delete(path)

    def close(self) -> None:
        """Make no more, and delete them all."""
        with self._making:
            self._over = True
        self.clear()

    def _write(self, path: Path) -> None:
        handle = platform.open_spool_file(path, create=True, write=True)
        try:
            for offset in range(0, self._size, len(_ZEROS)):
                platform.write_at(handle, _ZEROS[: self._size - offset], offset)
            platform.sync_data(handle)
        finally:
            os.close(handle)
        platform.fsync_folder(self._folder)


def _delete(path: Path) -> None:
    with contextlib.suppress(OSError):  # the next start drops it
        path.unlink()
