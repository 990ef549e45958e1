"""Time as an argument. Code that waits or stamps takes a Clock; tests give it one that they turn by hand."""

import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks: one that people read, one that never jumps."""

    def now(self) -> float:
        """Return seconds since the Unix epoch (UTC)."""
        ...

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back; its zero means nothing."""
        ...


class SystemClock:
    """The machine's own clocks, with the offset to the Bridge's clock where that is known (seconds to add)."""

    def __init__(self) -> None:
        self.offset = 0.0

    def now(self) -> float:
        """Return seconds since the Unix epoch, corrected by `offset`."""
        return time.time() + self.offset

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back."""
        return time.monotonic()
