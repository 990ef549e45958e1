"""How bodies of requests come in: gathered, so that an upload wakes its handler a few times, not with each read."""

from typing import Final, Self

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from isthmus.kit.gathering import Gathering

TRANSPORT: Final = "isthmus.transport"
"""The extension of an ASGI scope that has the connection which a request came by, under this name once more."""
GATHERED_BYTES: Final = 512 * 1024  # what a request may hold in memory before its handler is asked to take it


class GatheringProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, but a handler that waits for the body is woken at half a megabyte, or at the end."""

    def on_headers_complete(self) -> None:
        """Called by the parser after the head of a request."""
        super().on_headers_complete()
        self.scope["extensions"] = {TRANSPORT: {TRANSPORT: self.transport}}
        length = next((value for name, value in self.headers if name == b"content-length"), b"")
        self._left = int(length) if length.isdigit() else 0
        self._gathering = Gathering(self.transport)

    def on_body(self, body: bytes) -> None:
        """Called by the parser with each part of a body."""
        self._left -= len(body)
        self._gathering.expect(self._left)
        cycle = self.cycle
        if cycle.response_complete:
            return
        if not isinstance(cycle.body, _Parts):  # it is empty: new, or what it held was taken
            cycle.body = _Parts()  # type: ignore[assignment]  # what is asked of it, this can do as well
        cycle.body += body
        if len(cycle.body) >= GATHERED_BYTES:
            self.flow.pause_reading()
            cycle.message_event.set()


class _Parts:
    """A body in the parts it came in, put together once: a bytearray is copied each time it grows."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._size = 0

    def __iadd__(self, part: bytes) -> Self:
        self._parts.append(part)
        self._size += len(part)
        return self

    def __len__(self) -> int:
        return self._size

    def __bytes__(self) -> bytes:
        return b"".join(self._parts)
