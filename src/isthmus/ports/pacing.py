"""What an adapter asks before it loads the site's line, in one direction. Zero cost while there is no cap."""

from enum import IntEnum
from typing import Protocol


class Urgency(IntEnum):
    """Who goes first when not all can; a smaller number does."""

    LIVE = 0
    QUEUED = 1


class Pacing(Protocol):
    """A cap on what goes one way, shared by all adapters."""

    @property
    def is_free(self) -> bool:
        """Whether there is no cap, so that nobody has to ask."""
        ...

    @property
    def rate(self) -> float | None:
        """The cap in bytes a second, or None."""
        ...

    @property
    def slice_bytes(self) -> int:
        """How much to ask for at once."""
        ...

    async def take(self, size: int, urgency: Urgency) -> None:
        """Return when `size` bytes may go."""
        ...

    def take_at_once(self, size: int, urgency: Urgency) -> bool:
        """Return whether `size` bytes may go now, and count them if so."""
        ...

    def count(self, size: int) -> float:
        """Count bytes that are gone or here already; return for how many seconds nothing more should come."""
        ...
