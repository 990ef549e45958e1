"""Presentation data values inside P-DATA-TF PDUs (PS3.8 section 9.3.5.1 and annex E).

A PDU's payload is a chain of PDVs: length (4 bytes, counts what follows), presentation context id (1), message control
header (1: bit 0 = command, bit 1 = last fragment), fragment. The walker keeps the bytes of command sets, which are
small, and only counts those of data sets, which are not.
"""

import struct
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from isthmus.dicom.command import CommandSet, announces_data_set
from isthmus.errors import RemoteMisuse

COMMAND = 0x01
"""Bit of the message control header: the fragment is of a command set, not of a data set."""
LAST = 0x02
"""Bit of the message control header: the fragment is the last of its command set or data set."""

MAX_COMMAND = 1 << 20
"""Bytes of unfinished command sets that one side may make us keep. Real ones have some hundred; the largest that is
conceivable carries a list of attributes or an error comment. One MiB over all contexts is a generous stop."""

HEADER_LENGTH = 6
_HEADER = struct.Struct(">IBB")
_INVALID_PARAMETER = 6  # PS3.8 table 9-26: invalid PDU parameter value


@dataclass(frozen=True, slots=True)
class Command:
    """A complete command set as it travelled, joined from its fragments. It may name a patient: never log `raw`."""

    context_id: int
    raw: bytes = field(repr=False)

    def parse(self) -> CommandSet:
        """Return the fields. Raises RemoteMisuse if the elements do not fill the bytes."""
        return CommandSet.parse(self.raw)


class PdvWalker:
    """Walks PDVs however the bytes are cut, and yields the command sets that became complete.

    `contexts` are the ids that may carry data (None: any). After each `walk`, `turn` says whether a message ended in
    those bytes, and `take` hands over the command sets completed since the last `take`.
    """

    __slots__ = ("_context", "_done", "_flags", "_header", "_open", "_open_bytes", "_pdu_left", "_pdv_left", "contexts",
                 "max_command", "turn")  # fmt: skip

    def __init__(self, contexts: AbstractSet[int] | None = None, *, max_command: int = MAX_COMMAND) -> None:
        self.contexts = contexts
        self.max_command = max_command
        self.turn = False
        self._pdu_left = 0  # payload bytes of this PDU that no PDV has claimed yet
        self._pdv_left = 0  # bytes of the current fragment still to come
        self._header = bytearray()  # a PDV header that was cut
        self._context = 0
        self._flags = 0
        self._open: dict[int, bytearray] = {}  # context id -> fragments of a command set
        self._open_bytes = 0
        self._done: list[Command] = []

    @property
    def command_open(self) -> bool:
        """Whether a command set has begun and not ended."""
        return bool(self._open)

    def take(self) -> tuple[Command, ...]:
        """Return the command sets completed since the last call, in order, and forget `turn`."""
        self.turn = False
        if not self._done:
            return ()
        done = tuple(self._done)
        self._done.clear()
        return done

    def begin(self, length: int) -> None:
        """Expect the payload of a PDU of this length, in bytes. Raises RemoteMisuse if no PDV would fit into it."""
        self._pdu_left = length
        self._check_room()

    def walk(self, data: bytes | bytearray | memoryview, start: int, end: int) -> None:
        """Walk the next payload bytes of the PDU begun, data[start:end]. Raises RemoteMisuse (2/6)."""
        position = start
        while position < end:
            if not self._pdv_left:
                position = self._walk_header(data, position, end)
                continue
            taken = min(self._pdv_left, end - position)
            if self._flags & COMMAND:
                self._collect(data[position : position + taken])
            position += taken
            self._pdv_left -= taken
            if not self._pdv_left:
                self._end_fragment()

    def _walk_header(self, data: bytes | bytearray | memoryview, position: int, end: int) -> int:
        if not self._header and end - position >= HEADER_LENGTH:
            length, context, flags = _HEADER.unpack_from(data, position)
            position += HEADER_LENGTH
        else:
            taken = min(HEADER_LENGTH - len(self._header), end - position)
            self._header += data[position : position + taken]
            position += taken
            if len(self._header) < HEADER_LENGTH:
                return position
            length, context, flags = _HEADER.unpack(self._header)
            self._header.clear()
        if length < 2:
            raise RemoteMisuse("a PDV is too short for its own header", reason=_INVALID_PARAMETER)
        if length + 4 > self._pdu_left:
            raise RemoteMisuse("a PDV is longer than its PDU", reason=_INVALID_PARAMETER)
        if self.contexts is not None and context not in self.contexts:
            raise RemoteMisuse(f"P-DATA on context {context}, which was not accepted", reason=_INVALID_PARAMETER)
        self._pdu_left -= length + 4
        self._check_room()
        self._pdv_left = length - 2
        self._context = context
        self._flags = flags
        if flags & COMMAND and context not in self._open:
            self._open[context] = bytearray()
        if length == 2:
            self._end_fragment()
        return position

    def _check_room(self) -> None:
        if 0 < self._pdu_left < HEADER_LENGTH:
            raise RemoteMisuse("a P-DATA-TF PDU ends inside a PDV header", reason=_INVALID_PARAMETER)

    def _collect(self, fragment: bytes | bytearray | memoryview) -> None:
        self._open_bytes += len(fragment)
        if self._open_bytes > self.max_command:
            raise RemoteMisuse(f"command sets over {self.max_command} bytes are unfinished", reason=_INVALID_PARAMETER)
        self._open[self._context] += fragment

    def _end_fragment(self) -> None:
        if not self._flags & LAST:
            return
        if not self._flags & COMMAND:
            self.turn = True
            return
        raw = bytes(self._open.pop(self._context))
        self._open_bytes -= len(raw)
        self._done.append(Command(self._context, raw))
        if not announces_data_set(raw):
            self.turn = True
