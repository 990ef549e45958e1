"""What carries packets from one Bridge to another: prompt, in order, and free to lose what it cannot carry."""

from collections.abc import Callable
from typing import Final, Protocol

EVERYBODY: Final = "all"
"""Where every Bridge listens, besides its own name."""
MAX_WAITING_BYTES: Final = 64 * 1024 * 1024  # on the way out; what is beyond is dropped, and streams heal that


class Bus(Protocol):
    """A way between Bridges. Packets from one to another come in the order in which they were sent, or not at all."""

    async def open(self, name: str, take: Callable[[bytes], None]) -> None:
        """Give what is sent to `name`, or to everybody, to `take` from now on. Raises OperatorError if it cannot be."""
        ...

    def send(self, to: str, packet: bytes) -> None:
        """Send a packet, or drop it if too much waits already."""
        ...

    async def close(self) -> None:
        """Send what still waits, and let go of everything."""
        ...


def drop(_packet: bytes) -> None:
    """Take a packet before anybody listens."""
