"""Command sets and data sets as P-DATA-TF PDUs within what a device takes."""

import struct
from typing import Final

from isthmus.dicom.framing import PduType
from isthmus.dicom.pdv import COMMAND, LAST

_HEADER: Final = struct.Struct(">BxIIBB")  # of a PDU with one PDV
_OVERHEAD: Final = 6  # of a PDV, which a maximum PDU length counts
_MOST: Final = 128 * 1024 - _OVERHEAD
"""Bytes of a fragment to a device without a limit: larger PDUs gain nothing."""


def room_for(max_pdu_length: int) -> int:
    """Return the bytes of a fragment for a device that takes PDUs of `max_pdu_length` (0: any), always even.

    Fragments are of even length (PS3.8 annex E); a limit that leaves no room for two bytes is not one to keep.
    """
    room = min(max_pdu_length - _OVERHEAD, _MOST) if max_pdu_length else _MOST
    return max(room & ~1, 2)


class FragmentWriter:
    """Cuts one command set or data set, given in pieces of any length, into PDUs with one fragment each.

    The last fragment is kept back until `finish`, since only then it is known to be the last.
    """

    def __init__(self, context_id: int, room: int, *, command: bool = False) -> None:
        self._context_id = context_id
        self._room = room
        self._flags = COMMAND if command else 0
        self._full = self._header(room, 0)
        self._rest = b""

    def write(self, piece: bytes | memoryview) -> bytes:
        """Return the PDUs that are whole with this piece; may be empty."""
        room, rest = self._room, self._rest
        if len(rest) + len(piece) <= room:
            self._rest = rest + piece if rest else bytes(piece)
            return b""
        view = memoryview(piece)
        out: list[bytes | memoryview] = []
        position = 0
        if rest:
            position = room - len(rest)
            out += (self._full, rest, view[:position])
        end = len(view)
        while end - position > room:
            out += (self._full, view[position : position + room])
            position += room
        self._rest = bytes(view[position:])
        return b"".join(out)

    def finish(self) -> bytes:
        """Return the PDU with the last fragment. It is of odd length only if all that was written is."""
        rest, self._rest = self._rest, b""
        return self._header(len(rest), LAST) + rest

    def _header(self, length: int, last: int) -> bytes:
        return _HEADER.pack(PduType.P_DATA_TF, length + _OVERHEAD, length + 2, self._context_id, self._flags | last)
