"""When a trouble that lasts is worth another line in the log."""

from math import inf
from typing import Final

AGAIN_SECONDS: Final = 60.0


class Complaint:
    """One trouble that comes and goes: said when it begins, when its reason changes, and once a minute."""

    def __init__(self) -> None:
        self._reason: str | None = None
        self._said_at = -inf

    def is_news(self, reason: str, now: float) -> bool:
        """Note that the trouble is there, at monotonic second `now`; return whether to say so."""
        if reason == self._reason and now - self._said_at < AGAIN_SECONDS:
            return False
        self._reason, self._said_at = reason, now
        return True

    def over(self) -> bool:
        """Note that it is over; return whether there was any."""
        was_there = self._reason is not None
        self._reason = None
        return was_there
