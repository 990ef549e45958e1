"""The payload of a control segment: all that one side knows of a stream pair, as a snapshot.

Every status replaces the ones before it (the control sequence orders them), so losing, repeating or reordering them
does no harm. Layout in docs/protocol/streams.md, "Status".
"""

import struct
from dataclasses import dataclass
from typing import Final, Self

from isthmus.errors import RemoteMisuse

MOST_SIGNAL_BYTES: Final = 64
MOST_RANGES: Final = 8

_VERSION: Final = 1
_DONE: Final = 1
_FIXED: Final = struct.Struct(">BBIIQIIIBB")
_RANGE: Final = struct.Struct(">II")


@dataclass(frozen=True, slots=True)
class Status:
    """What one side has received, sent, allows and wants to say.

    Attributes:
        next_expected: every data segment below this sequence has arrived.
        sent: how many data segments were sent, so that a lost last one is missed.
        limit: payload bytes that the far side may send in all; never shrinks.
        want: the window in bytes that this side's own sending could fill.
        signal_number: how many signals this side has given; 0 for none.
        signal_seen: the number of the last signal seen from the far side.
        done: both directions are complete and acknowledged here.
        held: ranges (first, end) of sequences that arrived beyond a gap, in order, the first few of them.
        signal: the last signal given.
    """

    next_expected: int
    sent: int
    limit: int
    want: int
    signal_number: int = 0
    signal_seen: int = 0
    done: bool = False
    held: tuple[tuple[int, int], ...] = ()
    signal: bytes = b""

    def pack(self) -> bytes:
        """Return the payload to seal."""
        fixed = _FIXED.pack(
            _VERSION,
            _DONE if self.done else 0,
            self.next_expected,
            self.sent,
            self.limit,
            self.want,
            self.signal_number,
            self.signal_seen,
            len(self.held),
            len(self.signal),
        )
        return b"".join((fixed, *(_RANGE.pack(*range_) for range_ in self.held), self.signal))

    @classmethod
    def unpack(cls, payload: bytes) -> Self:
        """Return the status in a payload; bytes after it are of a newer version and left alone.

        Raises RemoteMisuse if it is cut short or makes no sense.
        """
        try:
            version, flags, expected, sent, limit, want, number, seen, ranges, length = _FIXED.unpack_from(payload)
            held = tuple(_RANGE.unpack_from(payload, _FIXED.size + index * _RANGE.size) for index in range(ranges))
        except struct.error as error:
            raise RemoteMisuse("a status is cut short") from error
        start = _FIXED.size + ranges * _RANGE.size
        signal = payload[start : start + length]
        if version != _VERSION or len(signal) != length or length > MOST_SIGNAL_BYTES:
            raise RemoteMisuse("a status makes no sense")
        return cls(expected, sent, limit, want, number, seen, bool(flags & _DONE), held, signal)
