"""Who may measure the way to this Bridge now: everybody, and so within bounds."""

import contextlib
from collections.abc import Iterator
from typing import Final

from isthmus.errors import Problem
from isthmus.kit.clock import Clock

MOST_AT_ONCE: Final = 4
BUDGET_BYTES: Final = 128 * 1024 * 1024
BYTES_PER_SECOND: Final = 4 * 1024 * 1024


class Probe:
    """Decides who may measure. One budget for all who ask, since nobody knows them.

    Attributes:
        running: how many measurements go on now.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.running = 0
        self._left = float(BUDGET_BYTES)
        self._filled = clock.monotonic()

    @contextlib.contextmanager
    def turn(self, size: int) -> Iterator[None]:
        """Let one measurement of `size` bytes go on. Raises Problem 429 if there are too many."""
        if self.running >= MOST_AT_ONCE:
            raise _busy()
        self.take(size)
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1

    def take(self, size: int) -> None:
        """Take `size` bytes from the budget. Raises Problem 429 if it does not hold so many."""
        now = self._clock.monotonic()
        self._left = min(float(BUDGET_BYTES), self._left + (now - self._filled) * BYTES_PER_SECOND)
        self._filled = now
        if self._left < size:
            raise _busy()
        self._left -= size


def _busy() -> Problem:
    return Problem(429, "Too many probes", detail="Others measure their way too.", hint="try again in a minute")
