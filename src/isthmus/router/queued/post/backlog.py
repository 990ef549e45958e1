"""What of one site is on its way here, and how much of it may be in memory and in the ledger."""

from collections import deque
from typing import Final

MOST_WAITING: Final = 20_000
"""Envelopes of one site that may wait to be fetched; then its mailbox is not read on until they are fewer."""
MOST_WAITING_BYTES: Final = 64 * 1024 * 1024
"""Bytes of their manifests, in the same way: these are in the ledger."""
MOST_HELD: Final = 256
"""Envelopes of one site that are worked on at a time, each with an open file; the others only the ledger knows."""
MOST_HELD_BYTES: Final = 8 * 1024 * 1024
"""Bytes of their manifests, in the same way; one is let in whatever its size."""


class Backlog:
    """The envelopes of one site that are not here yet, in the order of their letters."""

    def __init__(self) -> None:
        self._sizes: dict[bytes, int] = {}
        self._bytes = 0
        self._held: set[bytes] = set()
        self._held_bytes = 0
        self._behind: deque[bytes] = deque()
        self.taking = False

    def __repr__(self) -> str:
        return f"<Backlog: {len(self._held)} worked on, {len(self._behind)} behind>"

    def __contains__(self, envelope_id: bytes) -> bool:
        return envelope_id in self._sizes

    @property
    def full(self) -> bool:
        """Whether no more of that site is to be read for now."""
        return len(self._sizes) >= MOST_WAITING or self._bytes >= MOST_WAITING_BYTES

    def add(self, envelope_id: bytes, size: int) -> None:
        """Put an envelope that is not in it, and whose manifest has `size` bytes, behind all others."""
        self._sizes[envelope_id] = size
        self._bytes += size
        self._behind.append(envelope_id)

    def next(self) -> bytes | None:
        """Return the envelope that is to be worked on now, if there may be one more; it counts until it is over."""
        if not self._behind:
            return None
        size = self._sizes[self._behind[0]]
        if self._held and (len(self._held) >= MOST_HELD or self._held_bytes + size > MOST_HELD_BYTES):
            return None
        envelope_id = self._behind.popleft()
        self._held.add(envelope_id)
        self._held_bytes += size
        return envelope_id

    def over(self, envelope_id: bytes) -> None:
        """An envelope that `next` returned is here, will not be, or is to be added again."""
        self._held.remove(envelope_id)
        size = self._sizes.pop(envelope_id)
        self._held_bytes -= size
        self._bytes -= size
