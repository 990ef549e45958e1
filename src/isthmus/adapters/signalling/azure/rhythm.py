"""When to look into a queue that tells nobody what came."""

from typing import Final

LEAST_SECONDS: Final = 0.1
LEAST_WHEN_SLOW_SECONDS: Final = 0.5
MOST_SECONDS: Final = 20.0
"""Between two looks of an idle listener: 129,600 a month."""
_FADES: Final = 0.75
_EARLY: Final = 0.75  # of the time after which the next one usually comes, in a flow
_MOST_DOUBLINGS: Final = 16
_STEP: Final = 0.2  # of the same, until the next look; each step is twice as long


class Rhythm:
    """Looks come soon after something was asked or found, and then after as long again as nothing was: 0.1, 0.2, 0.4 s.

    So whoever waits for an answer waits for at most twice its time, and whoever waits for nothing asks for little.
    Where things come one after the other without being asked for, as bulk and its acknowledgements do, that is a flow:
    the next look is when the next one is due. A question ends a flow. All times are monotonic seconds.
    """

    def __init__(self, now: float) -> None:
        self._asked_at = now
        self._looked_at = now
        self._found_at = now
        self._answered_after = 0.0
        self._between = 0.0  # two finds of a flow; 0: there is none
        self._missed = 0

    def looked(self, now: float, *, found: bool) -> None:
        """Note a look."""
        self._looked_at = now
        if not found:
            self._missed += 1
            return
        asked = self._asked_at >= self._found_at
        since = now - max(self._asked_at, self._found_at)
        if asked:
            self._answered_after += (since - self._answered_after) * (1 - _FADES)
        elif since > MOST_SECONDS:
            self._between = 0.0
        else:
            self._between = self._between + (since - self._between) * (1 - _FADES) if self._between else since
        self._found_at = now
        self._missed = 0

    def stir(self, now: float) -> None:
        """Note that something was asked, to which an answer may come."""
        self._between = 0.0
        if max(self._asked_at, self._found_at) <= self._looked_at:  # else a look is due for it already
            self._asked_at = now
            self._missed = 0

    def next_look(self) -> float:
        """Return when to look."""
        since = max(self._asked_at, self._found_at)
        if self._between:
            due = since + self._between * (_EARLY + _STEP * (2.0 ** min(self._missed, _MOST_DOUBLINGS) - 1))
            return min(max(due, self._looked_at + LEAST_SECONDS), self._looked_at + MOST_SECONDS)
        least = min(max(self._answered_after / 2, LEAST_SECONDS), LEAST_WHEN_SLOW_SECONDS)
        quiet = self._looked_at - since
        return max(self._looked_at, since) + min(max(quiet, least), MOST_SECONDS)
