"""Fragments out of runs: for who takes messages apart instead of passing them on (queued ingest, our own SCPs)."""

import struct
from dataclasses import dataclass, field

from isthmus.dicom.pdv import COMMAND, LAST
from isthmus.errors import LocalMisuse

_HEADER_LENGTH = 6  # of a PDU and of a PDV alike
_PDU = struct.Struct(">2xI")
_PDV = struct.Struct(">IBB")


@dataclass(frozen=True, slots=True)
class Fragment:
    """A piece of a command set or data set, without PDU and PDV headers.

    `last`: the command set or data set ends with it. `data` may be empty, and is a view into the run given.
    """

    context_id: int
    command: bool
    last: bool
    data: memoryview = field(repr=False)


class FragmentReader:
    """Takes the runs of one direction, in order and all of them, and gives their fragments.

    It trusts that a `Framer` has judged the bytes; a PDV that overruns its PDU is LocalMisuse here.
    """

    def __init__(self) -> None:
        self._header = bytearray()  # a header that was cut
        self._pdu_left = 0  # bytes of the PDU that no PDV has claimed yet
        self._pdv_left = 0
        self._context = 0
        self._flags = 0

    @property
    def between_pdus(self) -> bool:
        """Whether the next byte is the first of a PDU."""
        return not (self._pdu_left or self._pdv_left or self._header)

    def feed(self, run: bytes | bytearray | memoryview) -> list[Fragment]:
        """Return the fragments in these bytes; one that is cut comes in pieces, only the final one of them `last`."""
        view = memoryview(run)
        fragments = []
        position, end = 0, len(view)
        while position < end:
            if self._pdv_left:
                taken = min(self._pdv_left, end - position)
                self._pdv_left -= taken
                fragments.append(self._fragment(view[position : position + taken]))
                position += taken
                continue
            taken = min(_HEADER_LENGTH - len(self._header), end - position)
            self._header += view[position : position + taken]
            position += taken
            if len(self._header) < _HEADER_LENGTH:
                break
            header, self._header = self._header, bytearray()
            if not self._pdu_left:
                (self._pdu_left,) = _PDU.unpack(header)
                continue
            length, self._context, self._flags = _PDV.unpack(header)
            self._pdu_left -= 4 + length
            if length < 2 or self._pdu_left < 0:
                raise LocalMisuse("the run holds a malformed PDV")
            self._pdv_left = length - 2
            if not self._pdv_left:
                fragments.append(self._fragment(view[position:position]))
        return fragments

    def _fragment(self, data: memoryview) -> Fragment:
        last = bool(self._flags & LAST) and not self._pdv_left
        return Fragment(self._context, bool(self._flags & COMMAND), last, data)
