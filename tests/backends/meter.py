"""A meter that tests read."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counts:
    """Counts requests by kind, and the bytes they carried (`isthmus.ports.provider.Meter`)."""

    requests: Counter[str] = field(default_factory=Counter)
    up: int = 0
    down: int = 0

    def count(self, kind: str, *, up: int = 0, down: int = 0) -> None:
        """Count one."""
        self.requests[kind] += 1
        self.up += up
        self.down += down
