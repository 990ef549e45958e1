"""When to look into a queue that tells nobody what came."""

from typing import Final

LEAST_SECONDS: Final = 0.1
LEAST_IN_A_FLOW_SECONDS: Final = 0.5
MOST_SECONDS: Final = 20.0
"""Between two looks of an idle listener: 129,600 a month."""
_FADES: Final = 0.75


class Rhythm:
    """Looks come soon after something was sent or found, and then after as long again as nothing was: 0.1, 0.2, 0.4 s.

    So whoever waits for an answer waits for at most twice its time, and whoever waits for nothing asks for little.
    Where things come at their own pace, as acknowledgements of bulk do, the first look waits for half of what is
    usual. All times are monotonic seconds.
    """

    def __init__(self, now: float) -> None:
        self._stirred_at = now
        self._looked_at = now
        self._usual = 0.0

    def looked(self, now: float, *, found: bool) -> None:
        """Note a look."""
        self._looked_at = now
        if found:
            self._usual += (now - self._stirred_at - self._usual) * (1 - _FADES)
            self._stirred_at = now

    def stir(self, now: float) -> None:
        """Note that something was sent, to which an answer may come."""
        if self._stirred_at <= self._looked_at:  # else a look is due for it already, which more must not put off
            self._stirred_at = now

    def next_look(self) -> float:
        """Return when to look."""
        least = min(max(self._usual / 2, LEAST_SECONDS), LEAST_IN_A_FLOW_SECONDS)
        quiet = self._looked_at - self._stirred_at
        return max(self._looked_at, self._stirred_at) + min(max(quiet, least), MOST_SECONDS)
