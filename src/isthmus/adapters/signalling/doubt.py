"""When to believe that a network lets no WebSocket through, though the Bridge can be asked."""

from typing import Final

YOUNG_SECONDS: Final = 30.0
"""A connection that dies before says nothing good of the way; one that was older was simply lost."""
_ENOUGH: Final = 3
_PLAIN: Final = 2  # refused or swallowed, while requests reach the Bridge: twice is no accident
_DIED: Final = 1


class Doubt:
    """Counts what speaks against WebSockets."""

    def __init__(self) -> None:
        self._count = 0

    def __repr__(self) -> str:
        return f"<Doubt {self._count} of {_ENOUGH}>"

    @property
    def enough(self) -> bool:
        """Whether to use requests instead."""
        return self._count >= _ENOUGH

    def refused(self) -> None:
        """The Bridge answered a request, and an upgrade did not reach it."""
        self._count += _PLAIN

    def lived(self, seconds: float) -> None:
        """A WebSocket was lost at that age."""
        self._count = self._count + _DIED if seconds < YOUNG_SECONDS else 0

    def clear(self) -> None:
        """WebSockets work."""
        self._count = 0
