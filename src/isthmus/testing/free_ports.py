"""Ports for what must listen at a port that was named before it runs, or at the same one when it runs again."""

import contextlib
import fcntl
import os
import socket
import tempfile
from pathlib import Path

_FIRST, _LAST = 12_000, 31_999
"""Below the ports that the system gives to whoever asks for any: these could be somebody else's a moment later."""


def free_port() -> int:
    """Return a TCP port at which nobody listens, on any address, and that nobody else on this machine gets for long.

    Processes that test at the same time share one counter, in a file of the temporary folder.

    Raises:
        OSError: no port of twenty thousand is free, or the file cannot be written.
    """
    counter = os.open(Path(tempfile.gettempdir()) / f"isthmus-test-ports-{os.getuid()}", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(counter, fcntl.LOCK_EX)
        before = int(os.pread(counter, 5, 0) or _LAST)
        for step in range(_LAST - _FIRST + 1):
            port = _FIRST + (before - _FIRST + 1 + step) % (_LAST - _FIRST + 1)
            if _is_free(port):
                os.pwrite(counter, b"%05d" % port, 0)
                return port
    finally:
        os.close(counter)
    raise OSError(f"no TCP port from {_FIRST} to {_LAST} is free")


def _is_free(port: int) -> bool:
    with socket.socket() as trial, contextlib.suppress(OSError):
        trial.bind(("", port))
        return True
    return False
