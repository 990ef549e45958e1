"""Reading in large pieces: a connection on which much is announced wakes its reader when much has come.

A link hands over a few kilobytes at a time, and each wake-up of a reader costs as much as a hundred of them. Where the
operating system can keep what comes until it is worth a look (SO_RCVLOWAT), a body of known length is read in pieces.
"""

import asyncio
from typing import Final

from isthmus.kit import platform

PIECE_BYTES: Final = 192 * 1024
_UNREAD_BYTES: Final = 17 * 1024
"""What may be out of the socket and not yet be counted: one TLS record (RFC 8446 section 5.2), in part."""


class Gathering:
    """How much must have come on one connection before its reader is woken. Does nothing where that cannot be said."""

    def __init__(self, transport: asyncio.BaseTransport | None) -> None:
        self._transport = transport
        self._least = 1

    def expect(self, left: int) -> None:
        """So many bytes are still to come, at least; 0: it is not known, wake for each. A closed end always wakes."""
        least = max(1, min(PIECE_BYTES, left - _UNREAD_BYTES))
        if least == self._least or self._transport is None or self._transport.is_closing():
            return
        self._least = least
        if (sock := self._transport.get_extra_info("socket")) is not None:
            platform.wake_reader_at(sock, least)
