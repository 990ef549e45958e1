"""A meter that tests read."""

from collections import Counter


class Counts:
    """Counts requests by kind (`isthmus.ports.provider.Meter`)."""

    def __init__(self) -> None:
        self.requests: Counter[str] = Counter()

    def count(self, kind: str, *, up: int = 0, down: int = 0) -> None:
        """Count one."""
        self.requests[kind] += 1
