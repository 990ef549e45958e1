"""Room for the spool: a quota of its own, and a floor under what is left of the disk."""

import shutil
import threading
from pathlib import Path
from typing import Final

from isthmus.kit.clock import Clock
from isthmus.router.queued.trouble import NoRoom

FLOOR_BYTES: Final = 2 * 1024**3
_LOOK_SECONDS: Final = 1.0  # at a gigabyte a second half the floor is used up before the next look


class Room:
    """How much the spool holds and may hold. Safe from any thread.

    Args:
        folder: where the spool is; it exists.
        quota: most bytes that the spool may hold; None: what the disk has.
        floor: bytes that stay free on the disk.
    """

    def __init__(self, folder: Path, clock: Clock, *, quota: int | None = None, floor: int = FLOOR_BYTES) -> None:
        self.quota = quota
        self.floor = floor
        self._folder = folder
        self._clock = clock
        self._lock = threading.Lock()
        self._used = 0
        self._free = 0
        self._looked: float | None = None

    @property
    def used(self) -> int:
        """Bytes in the spool's files."""
        return self._used

    def add(self, size: int) -> None:
        """Count `size` more bytes in the spool; below 0: fewer."""
        with self._lock:
            self._used += size

    def demand(self, size: int = 0) -> None:
        """Do nothing if `size` bytes more may be kept. Raises NoRoom with what is full."""
        if lack := self._lack(size):
            raise NoRoom(lack, hint="make room on the disk")

    def _lack(self, size: int) -> str:
        if self.quota is not None and self._used + size > self.quota:
            return f"the spool holds {self._used} of {self.quota} bytes that it may hold"
        now = self._clock.monotonic()
        if self._looked is None or now - self._looked >= _LOOK_SECONDS:
            self._free, self._looked = shutil.disk_usage(self._folder).free, now
        if self._free - size < self.floor:
            return f"{self._free} bytes are free on the disk, and {self.floor} are to stay so"
        return ""
