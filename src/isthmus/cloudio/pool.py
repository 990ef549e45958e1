"""All unacknowledged ciphertext of one Router comes out of one pool, of which each far site has a share."""

from collections.abc import Callable
from weakref import WeakValueDictionary

from isthmus.cloudio.options import MIB

Tell = Callable[[], None]


def _at_once(tell: Tell) -> None:
    tell()


class Pool:
    """A bound on memory that all streams of a Router share.

    A far site may hold as much as is still free, and so may each of its streams of what is free to its site. So one
    site whose side never acknowledges holds half of the pool at the most, two hold a third each, and so on: there is
    always as much left for the next one as each of them has, and nothing is kept back from a site that is alone.

    Args:
        limit: bytes in all.
        later: performs a call soon, but not now: whoever returns bytes is in the midst of its own work, and what goes
            wrong in the call is no matter of its. At once is for simulations, where nothing else is going on.
    """

    def __init__(self, limit: int = 256 * MIB, *, later: Callable[[Tell], object] = _at_once) -> None:
        self.limit = limit
        self.used = 0
        self._later = later
        self._shares: WeakValueDictionary[str, Share] = WeakValueDictionary()
        self._waiting: dict[Share, dict[int, Tell]] = {}

    def __repr__(self) -> str:
        waiting = sum(map(len, self._waiting.values()))
        return f"<Pool {self.used} of {self.limit} bytes, {len(self._shares)} sites, {waiting} waiting>"

    @property
    def free(self) -> int:
        """Bytes that nobody holds; below zero if the last write was larger than what was left."""
        return self.limit - self.used

    def share(self, far: str) -> "Share":
        """Return the share of a far site: the same one as long as a stream of it lives."""
        share = self._shares.get(far)
        if share is None:
            share = self._shares[far] = Share(self)
        return share

    def take(self, count: int) -> None:
        """Note `count` bytes as held."""
        self.used += count

    def give(self, count: int) -> None:
        """Return `count` bytes, and tell those who wait where there is room enough now."""
        self.used -= count
        for share in [share for share in self._waiting if share.roomy]:
            for tell in self._waiting.pop(share).values():
                self._later(tell)

    def wait(self, share: "Share", who: object, tell: Tell) -> None:
        """Call `tell` once, when there is room in `share` again."""
        self._waiting.setdefault(share, {})[id(who)] = tell

    def leave(self, share: "Share", who: object) -> None:
        """Forget that `who` waits; what was going to be called already may still be."""
        waiting = self._waiting.get(share)
        if waiting is not None and waiting.pop(id(who), None) is not None and not waiting:
            del self._waiting[share]


class Share:
    """What the streams to one far site hold of a pool."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.used = 0

    def __repr__(self) -> str:
        return f"<Share of {self.used} bytes in {self._pool!r}>"

    @property
    def free(self) -> int:
        """Bytes that this site may still take; zero or less: none."""
        return self._pool.free - self.used

    @property
    def roomy(self) -> bool:
        """Whether who waits should look: a sixteenth of the pool is free to it, or half of what its site may hold."""
        free = self.free
        return free > 0 and free >= min(self._pool.limit // 16, self._pool.free // 2)

    def take(self, count: int) -> None:
        """Note `count` bytes as held."""
        self.used += count
        self._pool.take(count)

    def give(self, count: int) -> None:
        """Return `count` bytes."""
        self.used -= count
        self._pool.give(count)

    def wait(self, who: object, tell: Tell) -> None:
        """Call `tell` once, when there is room again."""
        self._pool.wait(self, who, tell)

    def leave(self, who: object) -> None:
        """Forget that `who` waits."""
        self._pool.leave(self, who)
