"""An outage: a device, or a caller it does not take, that is let alone for a while. Nothing it missed is counted."""

from collections.abc import Iterator

from isthmus.kit.backoff import delays

FIRST_SECONDS = 1.0
MOST_SECONDS = 300.0
HEARD_SECONDS = 10.0
"""After a failure: how long even a sign of life brings no new attempt."""


class Outage:
    """One that lasts: when it began (Unix seconds), why, and when to try again (seconds on the clock that never jumps).

    Only an attempt that fails makes it longer, so that it ends with the first one that does not.
    """

    def __init__(self, since: float) -> None:
        self.since = since
        self.reason = ""
        self.failures = 0
        self.next_probe = 0.0
        self.alerted = False
        self._failed_at = 0.0
        self._delays: Iterator[float] = delays(FIRST_SECONDS, MOST_SECONDS)

    def __repr__(self) -> str:
        return f"<Outage: {self.failures} failures, next attempt at {self.next_probe:.0f}: {self.reason}>"

    def failed(self, reason: str, monotonic: float) -> None:
        """Note an attempt that failed."""
        self.reason = reason
        self.failures += 1
        self._failed_at = monotonic
        self.next_probe = monotonic + next(self._delays)

    def heard(self, monotonic: float) -> None:
        """Note that the device gave somebody else a good answer: it is tried soon."""
        self.next_probe = min(self.next_probe, max(monotonic, self._failed_at + HEARD_SECONDS))
