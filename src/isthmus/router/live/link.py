"""What joins the two halves of a session: a Duplex over the cloud, or, between devices of one site, nothing at all."""

import asyncio
import functools
from collections.abc import Callable
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

    def __init__(self, out: "_Way", back: "_Way") -> None:
        self._out = out
        self._back = back

    @classmethod
    def pair(cls, one: DuplexObserver, two: DuplexObserver) -> tuple["LocalLink", "LocalLink"]:
        """Return two ends that are joined: what is written to one comes to the other's observer."""
        onward, back = _Way(writer=one, reader=two), _Way(writer=two, reader=one)
        return cls(onward, back), cls(back, onward)

    def write(self, data: bytes | bytearray | memoryview, *, flush: bool) -> bool:
        """Hand the bytes to the other end in the next turn of the loop."""
        del flush
        return self._out.write(bytes(data))

    def finish(self) -> None:
        """Tell the other end that this was all."""
        self._out.soon(self._out.reader.on_final)

    def consumed(self, count: int) -> None:
        """Let the other end write that much more."""
        self._back.consumed(count)

    def signal(self, payload: bytes) -> None:
        """Hand a signal to the other end."""
        self._out.soon(functools.partial(self._out.reader.on_signal, payload))

    def close(self) -> None:
        """Hear nothing more."""
        self._back.closed = True


class _Way:
    """One direction of a local link."""

    def __init__(self, *, writer: DuplexObserver, reader: DuplexObserver, window: int = 4 * 1024 * 1024) -> None:
        self.writer = writer
        self.reader = reader
        self.closed = False
        self._window = window
        self._on_the_way = 0
        self._starved = False

    def write(self, data: bytes) -> bool:
        self._on_the_way += len(data)
        self._starved = self._on_the_way >= self._window
        self.soon(functools.partial(self.reader.on_data, data))
        return not self._starved

    def consumed(self, count: int) -> None:
        self._on_the_way -= count
        if self._starved and self._on_the_way <= self._window // 2:
            self._starved = False
            self.soon(self.writer.on_writable)

    def soon(self, call: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_soon(self._do, call)

    def _do(self, call: Callable[[], None]) -> None:
        if not self.closed:
            call()
