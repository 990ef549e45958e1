"""How an association ended at one side, told to the other beside the stream, so that it never waits behind data."""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Self

from isthmus.errors import RemoteMisuse

_LAYOUT: Final = struct.Struct(">BBBxQ")


class EndKind(IntEnum):
    """Who ended it. A number that is not known here counts as LET_GO."""

    ABORTED = 1  # the device sent A-ABORT: source and reason are its own
    LOST = 2  # the device's TCP connection broke
    LET_GO = 3  # the Router ended it: drained, out of patience, or its device broke the protocol


@dataclass(frozen=True, slots=True)
class Ending:
    """An ending. `offset` is how many stream bytes came before it, which the other device should still get."""

    kind: EndKind
    source: int
    reason: int
    offset: int

    def encode(self) -> bytes:
        """Return the 12 bytes of the signal: kind, source, reason, zero, offset (8, big endian)."""
        return _LAYOUT.pack(self.kind, self.source, self.reason, self.offset)

    @classmethod
    def decode(cls, signal: bytes) -> Self:
        """Return the ending in a signal; bytes after the known ones are a newer Router's. Raises RemoteMisuse."""
        if len(signal) < _LAYOUT.size:
            raise RemoteMisuse(f"an ending of {len(signal)} bytes: {_LAYOUT.size} are the least")
        kind, source, reason, offset = _LAYOUT.unpack_from(signal)
        known = EndKind(kind) if kind in EndKind._value2member_map_ else EndKind.LET_GO
        return cls(known, source, reason, offset)
