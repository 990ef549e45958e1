"""What joins the two halves of a session: a Duplex over the cloud, or, between devices of one site, nothing at all."""

import asyncio
from typing import Protocol

from isthmus.cloudio.stream import DuplexObserver


class Link(Protocol):
    """A session's way to the other half, as `isthmus.cloudio.stream.Duplex` offers it."""

    def write(self, data: bytes | bytearray | memoryview, *, flush: bool) -> bool:
        """Send bytes; False: no more until `on_writable`."""
        ...

    def finish(self) -> None:
        """Nothing more will be written."""
        ...

    def consumed(self, count: int) -> None:
        """Give credit for bytes that have left to the device."""
        ...

    def signal(self, payload: bytes) -> None:
        """Say something beside the stream."""
        ...

    def close(self) -> None:
        """Let go of everything."""
        ...


class LocalLink:
    """One end of a link inside this Router. At most `window` bytes are on the way in each direction."""

    def __init__(self, observer: DuplexObserver, window: int = 4 * 1024 * 1024) -> None:
        self._observer = observer
        self._window = window
        self._in_flight = 0
        self._starved = False
        self._closed = False
        self._other: LocalLink | None = None

    @classmethod
    def pair(cls, one: DuplexObserver, two: DuplexObserver) -> tuple["LocalLink", "LocalLink"]:
        """Return two ends that are joined."""
        a, b = cls(one), cls(two)
        a._other, b._other = b, a
        return a, b

    def write(self, data: bytes | bytearray | memoryview, *, flush: bool) -> bool:
        """Hand the bytes to the other end in the next turn of the loop."""
        del flush
        self._in_flight += len(data)
        self._soon("on_data", bytes(data))
        self._starved = self._in_flight >= self._window
        return not self._starved

    def finish(self) -> None:
        """Tell the other end that this was all."""
        self._soon("on_final")

    def consumed(self, count: int) -> None:
        """Let the other end write that much more."""
        other = self._other
        if other is None:
            return
        other._in_flight -= count
        if other._starved and other._in_flight <= other._window // 2:
            other._starved = False
            asyncio.get_running_loop().call_soon(other._observer.on_writable)

    def signal(self, payload: bytes) -> None:
        """Hand a signal to the other end."""
        self._soon("on_signal", payload)

    def close(self) -> None:
        """Hear nothing more."""
        self._closed = True

    def _soon(self, event: str, *arguments: bytes) -> None:
        if self._other is not None:
            asyncio.get_running_loop().call_soon(self._other._deliver, event, arguments)

    def _deliver(self, event: str, arguments: tuple[bytes, ...]) -> None:
        if not self._closed:
            getattr(self._observer, event)(*arguments)
