"""What can go wrong with what a Router keeps: no room for it, or storage that does not keep it."""

import errno

from isthmus.errors import IsthmusError

_NO_ROOM = {errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG}


class NoRoom(IsthmusError):
    """The disk is full, or as full as the settings allow. It passes when room is made; nothing is broken."""


class SpoolFailed(IsthmusError):
    """The storage did not keep what it was given, or does not give it back. Nothing of it was acknowledged."""


def from_os(error: OSError, doing: str) -> NoRoom | SpoolFailed:
    """Return what an error of the system means for the spool; `doing` says what was tried."""
    if error.errno in _NO_ROOM:
        return NoRoom(f"no room left while {doing}", hint="make room on the disk that holds the data folder")
    return SpoolFailed(f"{doing}: {error.strerror or error}", hint="look at the disk that holds the data folder")
