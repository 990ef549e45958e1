"""How many blobs are under way at once, and how fast they go.

One `Lanes` for each direction. The number is halved when the store has trouble, and grows back by one with each window
without any. Whoever waits gets the next free lane by rank, so that what is urgent or old goes first.
"""

import asyncio
import contextlib
import heapq
from collections.abc import AsyncIterator
from typing import Final

from isthmus.kit.clock import Clock

LEAST: Final = 2
MOST: Final = 8

Rank = tuple[int, int, int]
"""What goes first: the smallest."""


class Lanes:
    """A bound on calls, and on the bytes that they hold in memory.

    Args:
        clock: for goodput.
        least: lanes that there always are.
        most: and at the most.
        most_bytes: of all calls under way together; one call is let in whatever its size.
    """

    def __init__(
        self, clock: Clock, *, least: int = LEAST, most: int = MOST, most_bytes: int = 26 * 1024 * 1024
    ) -> None:
        self._clock = clock
        self._least, self._most = least, most
        self._most_bytes = most_bytes
        self._limit = most
        self._busy = 0
        self._busy_bytes = 0
        self._waiting: list[tuple[Rank, int, int, asyncio.Future[None]]] = []
        self._count = 0
        self._goodput = 0.0
        self._halved = False
        self._window_start = clock.monotonic()
        self._window_bytes = 0
        self._window_calls = 0

    def __repr__(self) -> str:
        return f"<Lanes: {self._busy} of {self._limit} busy, {len(self._waiting)} waiting>"

    @property
    def limit(self) -> int:
        """How many calls may be under way now."""
        return self._limit

    @property
    def idle(self) -> bool:
        """Whether there is a lane that nobody uses or waits for."""
        return self._busy < self._limit and not self._waiting

    @property
    def quiet(self) -> bool:
        """Whether few of the lanes are in use, and nobody waits."""
        return self._busy * 4 <= self._limit and not self._waiting

    def seconds_for(self, size: int) -> float | None:
        """Return how long so many bytes would take by themselves, as it went of late; None if nothing went yet."""
        return size / self._goodput if self._goodput else None

    @contextlib.asynccontextmanager
    async def lane(self, rank: Rank, size: int) -> AsyncIterator[None]:
        """Hold a lane for one call that carries `size` bytes. An error that leaves the block counts as trouble."""
        await self._enter(rank, size)
        try:
            yield
        except asyncio.CancelledError:
            self._leave(size, carried=0)
            raise
        except BaseException:
            self._trouble()
            self._leave(size, carried=0)
            raise
        self._leave(size, carried=size)

    async def _enter(self, rank: Rank, size: int) -> None:
        if not self._busy:
            self._new_window()  # what was measured before a pause says nothing
        if self._fits(size) and not self._waiting:
            self._take(size)
            return
        self._count += 1
        turn = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (rank, self._count, size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave(size, carried=0)
            raise

    def _fits(self, size: int) -> bool:
        return self._busy < self._limit and (not self._busy or self._busy_bytes + size <= self._most_bytes)

    def _take(self, size: int) -> None:
        self._busy += 1
        self._busy_bytes += size

    def _leave(self, size: int, *, carried: int) -> None:
        self._busy -= 1
        self._busy_bytes -= size
        self._window_bytes += carried
        self._window_calls += carried > 0
        if self._window_calls >= self._limit:
            self._settle()
        self._hand_on()

    def _hand_on(self) -> None:
        while self._waiting and (self._waiting[0][3].done() or self._fits(self._waiting[0][2])):
            _, _, size, turn = heapq.heappop(self._waiting)
            if not turn.done():
                self._take(size)
                turn.set_result(None)

    def _trouble(self) -> None:
        if not self._halved:  # once a window: calls that fail together are one trouble
            self._halved = True
            self._limit = max(self._least, self._limit // 2)

    def _settle(self) -> None:
        """A window is over: judge by it."""
        elapsed = self._clock.monotonic() - self._window_start
        self._goodput = self._window_bytes / elapsed if elapsed > 0 and not self._halved else 0.0
        if not self._halved:
            self._limit = min(self._most, self._limit + 1)
        self._new_window()

    def _new_window(self) -> None:
        self._window_start = self._clock.monotonic()
        self._window_bytes = self._window_calls = 0
        self._halved = False
