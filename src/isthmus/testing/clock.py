"""A clock that a test turns by hand."""


class FakeClock:
    """Both clocks of `isthmus.kit.clock.Clock`, standing still until `advance`."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self._start = now
        self._elapsed = 0.0

    def now(self) -> float:
        """Return seconds since the Unix epoch."""
        return self._start + self._elapsed

    def monotonic(self) -> float:
        """Return seconds since this clock was made."""
        return self._elapsed

    def advance(self, seconds: float) -> None:
        """Let time pass. Raises ValueError for less than none: what goes back is `jump`."""
        if seconds < 0:
            raise ValueError("time does not go back")
        self._elapsed += seconds

    def jump(self, seconds: float) -> None:
        """Set the clock that people read, as an administrator might: forward or back."""
        self._start += seconds
