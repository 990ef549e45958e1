"""A call that is left behind by the others is made once more beside itself, and whichever ends first counts.

Connections share a line unevenly, and one that got little of it keeps to that for a second after all others have ended:
TCP finds out slowly that there is room. Another connection carries the same bytes in a fraction of that time. That is
for the end of a study only: while more comes all the time, nobody waits for one blob, and carrying it twice costs.
"""

import asyncio
import statistics
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from isthmus.kit.clock import Clock
from isthmus.kit.tasks import Tasks

_LONGER: Final = 1.5  # than others took: that is left behind
_RECENT: Final = 8
_ENOUGH: Final = 4  # calls from which is known how long one takes
_REST_SECONDS: Final = 0.25  # without anything new: then this is the end, and no lull in a flow
_MOST_SECONDS: Final = 3.0  # where each takes longer than this, the line has no room for twice the same
_AGAIN_PART: Final = 0.25  # of the usual time until somebody who may not be helped yet is looked at again
T = TypeVar("T")


class Stragglers:
    """Makes calls on one store, and makes those again that are left behind.

    Args:
        clock: for how long they take.
        tasks: where they run.
        quiet: says whether little else is under way: only then is there room for a second call.
    """

    def __init__(self, clock: Clock, tasks: Tasks, quiet: Callable[[], bool]) -> None:
        self._clock = clock
        self._tasks = tasks
        self._quiet = quiet
        self._recent: deque[float] = deque(maxlen=_RECENT)
        self._last_new = clock.monotonic()

    def __repr__(self) -> str:
        return f"<Stragglers: {len(self._recent)} calls known>"

    def more(self) -> None:
        """Take note that there is something new to carry."""
        self._last_new = self._clock.monotonic()

    async def call(self, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what `make` returns, which may be called twice. Raises what the call raises that ends last."""
        began = self._clock.monotonic()
        running = {self._start(make)}
        again = False
        try:
            while True:
                patience = None if again else self._patience(began)
                done, running = await asyncio.wait(running, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                best = min(done, key=lambda call: call.exception() is not None, default=None)
                if best is not None and (best.exception() is None or not running):
                    self._recent.append(self._clock.monotonic() - began)
                    return best.result()
                if not done and self._quiet() and self._clock.monotonic() - self._last_new >= _REST_SECONDS:
                    again = True
                    running.add(self._start(make))
        finally:
            for call in running:
                call.cancel()
            if running:
                await asyncio.wait(running)

    def _start(self, make: Callable[[], Coroutine[Any, Any, T]]) -> asyncio.Task[T]:
        return self._tasks.spawn(make(), name="carry a blob", awaited=True)

    def _patience(self, began: float) -> float | None:
        """Return how long to wait before a call counts as left behind; None: it never does."""
        if len(self._recent) < _ENOUGH:
            return None
        usual = statistics.median(self._recent)
        if usual > _MOST_SECONDS:
            return None
        return max(began + usual * _LONGER - self._clock.monotonic(), usual * _AGAIN_PART)
