"""Room for the spool: a quota of its own, and a floor under what is left of the disk."""

import shutil
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isthmus.kit.clock import Clock
from isthmus.router.queued.trouble import NoRoom
from isthmus.router.routing.records import SPOOL_FLOOR

_LOOK_SECONDS: Final = 1.0  # at a gigabyte a second half the floor is used up before the next look


@dataclass(frozen=True, slots=True)
class RoomState:
    """How things stand, in bytes.

    Attributes:
        used: in the spool's files.
        quota: most that they may have; None: what the disk has.
        free: on the disk, `floor` of which is to stay so.
        lack: why nothing more is taken; empty if something is.
    """

    used: int
    quota: int | None
    free: int
    floor: int
    lack: str


class Room:
    """How much the spool holds and may hold. Safe from any thread.

    Args:
        folder: where the spool is; it exists.
        quota: most bytes that the spool may hold; None: what the disk has.
        floor: bytes that stay free on the disk.
    """

    def __init__(self, folder: Path, clock: Clock, *, quota: int | None = None, floor: int = SPOOL_FLOOR) -> None:
        self._quota = quota
        self._floor = floor
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

    def limit(self, *, quota: int | None, floor: int) -> None:
        """Keep to other limits from now on; what is there already stays."""
        self._quota, self._floor = quota, floor

    def add(self, size: int) -> None:
        """Count `size` more bytes in the spool; below 0: fewer."""
        with self._lock:
            self._used += size

    def demand(self, size: int = 0) -> None:
        """Do nothing if `size` bytes more may be kept. Raises NoRoom with what is full."""
        if lack := self._lack(size):
            raise NoRoom(lack[0], hint=lack[1])

    def state(self) -> RoomState:
        """Return how things stand now."""
        lack = self._lack(0)
        return RoomState(self._used, self._quota, self._free, self._floor, lack[0] if lack else "")

    def _lack(self, size: int) -> tuple[str, str] | None:
        """Return what is full, and what can be done about it."""
        quota, floor = self._quota, self._floor
        now = self._clock.monotonic()
        if self._looked is None or now - self._looked >= _LOOK_SECONDS:
            self._free, self._looked = shutil.disk_usage(self._folder).free, now
        if quota is not None and self._used + size > quota:
            hint = "isthmus queue list says what fills it; isthmus router settings --spool-quota"
            return f"the spool holds {self._used} of {quota} bytes that it may hold", hint
        if self._free - size < floor:
            return f"{self._free} bytes are free on the disk, and {floor} are to stay so", "make room on the disk"
        return None
