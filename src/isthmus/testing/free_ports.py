"""Ports for what must listen at a port that was named before it runs, or at the same one when it runs again."""

import contextlib
import errno
import os
import secrets
import socket
from collections import deque

_FIRST, _COUNT = 12_000, 20_000
"""Below the ports that the system gives to whoever asks for any: these could be somebody else's a moment later."""
_HELD = 64
_held: deque[int] = deque()
"""Descriptors of UDP sockets: by them others that test see what is given out. The last ones are enough."""


def free_port() -> int:
    """Return a TCP port at which nobody listens, on any address, and that nobody else who asks here gets for long."""
    while True:
        port, claim = _FIRST + secrets.randbelow(_COUNT), socket.socket(type=socket.SOCK_DGRAM)
        try:
            claim.bind(("127.0.0.1", port))
            with contextlib.closing(socket.socket()) as trial:
                trial.bind(("", port))
        except OSError as error:
            claim.close()
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            break
    _held.append(claim.detach())
    if len(_held) > _HELD:
        os.close(_held.popleft())
    return port
