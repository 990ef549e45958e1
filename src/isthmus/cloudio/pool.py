"""All unacknowledged ciphertext of one Router comes out of one pool."""

from collections.abc import Callable

from isthmus.cloudio.options import MIB


class Pool:
    """A bound on memory that all streams of a Router share.

    A stream may hold as much as is still free: so a few streams whose far side is gone never take everything, and
    whoever holds nothing always finds room soon.
    """

    def __init__(self, limit: int = 256 * MIB) -> None:
        self.limit = limit
        self.used = 0
        self._waiting: dict[int, Callable[[], None]] = {}

    def __repr__(self) -> str:
        return f"<Pool {self.used} of {self.limit} bytes, {len(self._waiting)} waiting>"

    @property
    def free(self) -> int:
        """Bytes that nobody holds; below zero if the last write was larger than what was left."""
        return self.limit - self.used

    def take(self, count: int) -> None:
        """Note `count` bytes as held."""
        self.used += count

    def give(self, count: int) -> None:
        """Return `count` bytes, and tell those who wait once a sixteenth of the pool is free."""
        self.used -= count
        if self._waiting and self.free >= self.limit // 16:
            waiting, self._waiting = self._waiting, {}
            for tell in waiting.values():
                tell()

    def wait(self, who: object, tell: Callable[[], None]) -> None:
        """Call `tell` once, when there is room again."""
        self._waiting[id(who)] = tell

    def leave(self, who: object) -> None:
        """Forget that `who` waits."""
        self._waiting.pop(id(who), None)
