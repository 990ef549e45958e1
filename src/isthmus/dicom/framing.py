"""PDU framing (PS3.8 section 9.3): type (1 byte), reserved (1), length (4, counts what follows), payload.

Type and length are checked before a byte of the payload is kept. All kinds but P-DATA-TF are small and surface whole;
P-DATA-TF surfaces as *runs*: as many consecutive whole PDUs as the input held, without a copy. A PDU of at most
`stream_threshold` bytes surfaces only whole, so that the association can be ended at a PDU boundary; a larger one
streams as pieces, and memory does not grow with it.
"""

import struct
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from isthmus.dicom.pdv import Command, PdvWalker
from isthmus.errors import RemoteMisuse


class PduType(IntEnum):
    """The first byte of a PDU (PS3.8 table 9-11 and following)."""

    ASSOCIATE_RQ = 0x01
    ASSOCIATE_AC = 0x02
    ASSOCIATE_RJ = 0x03
    P_DATA_TF = 0x04
    RELEASE_RQ = 0x05
    RELEASE_RP = 0x06
    ABORT = 0x07


HEADER_LENGTH: Final = 6
MAX_ASSOCIATE: Final = 256 * 1024
"""Largest A-ASSOCIATE-RQ or -AC in bytes: 128 contexts that list every transfer syntax come to 157 kB."""
STREAM_THRESHOLD: Final = 256 * 1024
"""Largest P-DATA-TF that is kept until whole, in bytes: toolkits default to 16 to 128 KiB."""

_MIN_ASSOCIATE = 68  # the fixed fields of PS3.8 table 9-11
_MAX_HELD_RUN = 1 << 20  # a command set of at most 64 KiB, even if it came in tiny PDVs; more is an attack
_UNRECOGNIZED_PDU = 1  # PS3.8 table 9-26
_UNEXPECTED_PDU = 2
_INVALID_PARAMETER = 6
_HEADER = struct.Struct(">BxI")
_PEEK = struct.Struct(">BxIIBB")  # the header and that of the first PDV
_P_DATA_TF = int(PduType.P_DATA_TF)  # comparing plain integers keeps the loop short


@dataclass(frozen=True, slots=True)
class Pdu:
    """A whole PDU of any kind but P-DATA-TF. `raw` includes the header."""

    type: PduType
    raw: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Data:
    """Bytes of P-DATA-TF PDUs, exactly as they came.

    `run` may be a view into the bytes fed: it is valid until the next feed. `boundary`: it ends where a PDU ends.
    `turn`: a message ends in it (the last fragment of a data set, or of a command set without one), so that somebody
    now waits for these bytes and they should leave at once. `commands` became complete in it.
    """

    run: bytes | memoryview = field(repr=False)
    turn: bool
    boundary: bool
    commands: tuple[Command, ...] = ()


Frame = Pdu | Data


class Framer:
    """Cuts one direction of a TCP connection into frames.

    Args:
        max_associate: largest A-ASSOCIATE PDU in bytes.
        stream_threshold: largest P-DATA-TF in bytes that surfaces only whole.
        opening: the types that the first PDU may have; empty for any.
        contexts: presentation context ids that may carry data; None for any. Set `contexts` when they are known.
    """

    def __init__(
        self,
        max_associate: int = MAX_ASSOCIATE,
        stream_threshold: int = STREAM_THRESHOLD,
        *,
        opening: AbstractSet[PduType] = frozenset(),
        contexts: AbstractSet[int] | None = None,
    ) -> None:
        self._max_associate = max_associate
        self._stream_threshold = stream_threshold
        self._opening = opening
        self._walker = PdvWalker(contexts)
        self._held = bytearray()  # a PDU, or a header, that is not whole yet
        self._need = 0  # length of the PDU held, once its header is known
        self._left = 0  # bytes still to come of a PDU that streams
        self._broken: RemoteMisuse | None = None
        self._hold = False
        self._streams = False  # the last run ended inside a PDU that streams
        self._waiting = bytearray()  # a run kept back because it ends inside a command set
        self._waiting_turn = False
        self._waiting_commands: tuple[Command, ...] = ()

    @property
    def contexts(self) -> AbstractSet[int] | None:
        """Presentation context ids that may carry data; None for any."""
        return self._walker.contexts

    @contexts.setter
    def contexts(self, contexts: AbstractSet[int] | None) -> None:
        self._walker.contexts = contexts

    def hold_commands(self, max_command: int) -> None:
        """From the next feed on let no run begin or end inside a command set, so that it can be rewritten.

        Unfinished command sets over `max_command` bytes, or in a PDU that streams, are refused from then on.
        """
        self._hold = True
        self._walker.max_command = max_command

    @property
    def buffered(self) -> int:
        """How many bytes are kept until more arrive."""
        return len(self._held) + len(self._waiting)

    @property
    def inside_pdu(self) -> bool:
        """Whether the input so far ends inside a PDU."""
        return bool(self._held or self._left)

    def feed(self, data: bytes | bytearray | memoryview) -> list[Frame]:
        """Return the frames that these bytes complete.

        Raises RemoteMisuse at the first wrong PDU, and at every call after it; `frames` also gives what came before.
        """
        return list(self.frames(data))

    def frames(self, data: bytes | bytearray | memoryview) -> Iterator[Frame]:
        """Yield the frames that these bytes complete, one by one; must be run to its end.

        The next frame is cut only when asked for, so that an accepted association's `contexts` can be set in between.
        Raises RemoteMisuse where the wrong PDU begins, and at every call after it.
        """
        if self._broken is not None:
            raise self._broken
        try:
            yield from self._held_back(self._cut(memoryview(data))) if self._hold else self._cut(memoryview(data))
        except RemoteMisuse as misuse:
            self._broken = misuse
            self._held = bytearray()
            self._waiting = bytearray()
            raise

    def _cut(self, view: memoryview) -> Iterator[Frame]:
        position = 0
        if self._left:
            position = min(self._left, len(view))
            yield self._piece(view[:position])
        elif self._held:
            position, streams = self._fill(view)
            if streams:  # the header was cut and is now complete
                header, self._held = self._held, bytearray()
                yield Data(memoryview(header), turn=False, boundary=False)
                end = min(position + self._left, len(view))
                if end > position:
                    yield self._piece(view[position:end])
                position = end
            elif self._need and len(self._held) == self._need:
                whole, self._held, self._need = self._held, bytearray(), 0
                yield self._whole(whole)
        if position < len(view):
            yield from self._scan(view, position)

    def _fill(self, view: memoryview) -> tuple[int, bool]:
        """Complete the header held, then the PDU held; return how many bytes that took, and if the PDU streams."""
        position = 0
        if not self._need:
            position = min(HEADER_LENGTH - len(self._held), len(view))
            self._held += view[:position]
            if len(self._held) < HEADER_LENGTH:
                return position, False
            kind, length = _HEADER.unpack(self._held)
            self._check(kind, length)
            if kind == _P_DATA_TF and length > self._stream_threshold:
                self._stream(length)
                return position, True
            self._need = HEADER_LENGTH + length
        end = min(position + self._need - len(self._held), len(view))
        self._held += view[position:end]
        return end, False

    def _whole(self, pdu: bytearray) -> Frame:
        if pdu[0] != _P_DATA_TF:
            return Pdu(PduType(pdu[0]), bytes(pdu))
        walker = self._walker
        walker.begin(len(pdu) - HEADER_LENGTH)
        walker.walk(pdu, HEADER_LENGTH, len(pdu))
        turn = walker.turn
        return Data(memoryview(pdu), turn, boundary=True, commands=walker.take())

    def _stream(self, length: int) -> None:
        self._walker.begin(length)
        self._left = length

    def _piece(self, run: memoryview) -> Data:
        walker = self._walker
        walker.walk(run, 0, len(run))
        self._left -= len(run)
        turn = walker.turn
        return Data(run, turn, boundary=not self._left, commands=walker.take())

    def _scan(self, view: memoryview, position: int) -> Iterator[Frame]:
        """Cut from a PDU boundary on. One turn of the loop is one PDU; most are one fragment of a data set."""
        walker = self._walker
        size = len(view)
        start = position  # of the run
        turn = False
        commands: list[Command] = []
        contexts = frozenset() if self._opening else walker.contexts
        kind = length = 0
        try:
            while (left := size - position) >= HEADER_LENGTH:
                if left >= 12:
                    kind, length, pdv, context, flags = _PEEK.unpack_from(view, position)
                    if (
                        flags == 0
                        and kind == _P_DATA_TF
                        and pdv == length - 4
                        and pdv >= 2
                        and left >= length + HEADER_LENGTH
                        and (contexts is None or context in contexts)
                    ):
                        position += length + HEADER_LENGTH
                        continue
                else:
                    kind, length = _HEADER.unpack_from(view, position)
                self._check(kind, length)
                end = position + HEADER_LENGTH + length
                if end > size:
                    break
                if kind == _P_DATA_TF:
                    walker.begin(length)
                    walker.walk(view, position + HEADER_LENGTH, end)
                    turn = turn or walker.turn
                    commands.extend(walker.take())
                    position = end
                    continue
                if position > start:
                    yield Data(view[start:position], turn, boundary=True, commands=tuple(commands))
                turn, commands = False, []
                raw = bytes(view[position:end])
                position = start = end
                yield Pdu(PduType(kind), raw)
                contexts = walker.contexts
        except RemoteMisuse:
            if position > start:
                yield Data(view[start:position], turn, boundary=True, commands=tuple(commands))
            raise
        if size - position >= HEADER_LENGTH and kind == _P_DATA_TF and length > self._stream_threshold:
            yield from self._begin_stream(view, start, position, length, turn, commands)
            return
        if position > start:
            yield Data(view[start:position], turn, boundary=True, commands=tuple(commands))
        if position < size:
            self._need = HEADER_LENGTH + length if size - position >= HEADER_LENGTH else 0
            self._held = bytearray(view[position:])

    def _begin_stream(
        self, view: memoryview, start: int, position: int, length: int, turn: bool, commands: list[Command]
    ) -> Iterator[Frame]:
        """Surface the run before a PDU that streams together with the first piece of it."""
        walker = self._walker
        self._stream(length)
        try:
            walker.walk(view, position + HEADER_LENGTH, len(view))
        except RemoteMisuse:
            if position > start:
                yield Data(view[start:position], turn, boundary=True, commands=tuple(commands))
            raise
        self._left -= len(view) - position - HEADER_LENGTH
        if self._hold and position > start:  # what is whole must stay apart, or it could not be rewritten
            yield Data(view[start:position], turn, boundary=True, commands=tuple(commands))
            start, turn, commands = position, False, []
        turn = turn or walker.turn
        yield Data(view[start:], turn, boundary=False, commands=(*commands, *walker.take()))

    def _held_back(self, frames: Iterator[Frame]) -> Iterator[Frame]:
        """Join runs until no command set is open at their end."""
        for frame in frames:
            if not isinstance(frame, Data):
                if self._waiting:
                    yield self._release(b"")
                yield frame
                continue
            open_ = self._walker.command_open
            streams, self._streams = self._streams or not frame.boundary, not frame.boundary
            if streams and (open_ or frame.commands):
                raise RemoteMisuse("a command set that must be rewritten is in too large a PDU")
            if open_:
                self._waiting += frame.run
                self._waiting_turn = self._waiting_turn or frame.turn
                self._waiting_commands += frame.commands
                if len(self._waiting) > _MAX_HELD_RUN:
                    raise RemoteMisuse("a command set that must be rewritten comes in too many pieces")
            elif self._waiting:
                self._waiting_turn = self._waiting_turn or frame.turn
                self._waiting_commands += frame.commands
                yield self._release(frame.run)
            else:
                yield frame

    def _release(self, run: bytes | memoryview) -> Data:
        self._waiting += run
        data = Data(memoryview(self._waiting), self._waiting_turn, boundary=True, commands=self._waiting_commands)
        self._waiting, self._waiting_turn, self._waiting_commands = bytearray(), False, ()
        return data

    def _check(self, kind: int, length: int) -> None:
        """Judge a PDU by its header alone. Raises RemoteMisuse."""
        if not 1 <= kind <= 7:
            raise RemoteMisuse(f"PDU type {kind:#04x} does not exist", reason=_UNRECOGNIZED_PDU)
        if self._opening:
            if kind not in self._opening:
                raise RemoteMisuse(f"the first PDU is {PduType(kind).name}", reason=_UNEXPECTED_PDU)
            self._opening = frozenset()
        if kind == _P_DATA_TF:
            return
        if kind <= PduType.ASSOCIATE_AC:
            if not _MIN_ASSOCIATE <= length <= self._max_associate:
                raise RemoteMisuse(f"{PduType(kind).name} of {length} bytes", reason=_INVALID_PARAMETER)
        elif length != 4:
            raise RemoteMisuse(f"{PduType(kind).name} of {length} bytes, not 4", reason=_INVALID_PARAMETER)
