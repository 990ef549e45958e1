"""How bodies of requests come in: gathered, so that an upload wakes its handler a few times, not with each read."""

from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

GATHERED_BYTES: Final = 512 * 1024  # what a request may hold in memory before its handler is asked to take it


class GatheringProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1, but a handler that waits for the body is woken at half a megabyte, or at the end."""

    def on_body(self, body: bytes) -> None:
        """Called by the parser with each part of a body."""
        cycle = self.cycle
        if cycle.response_complete:
            return
        cycle.body += body
        if len(cycle.body) >= GATHERED_BYTES:
            self.flow.pause_reading()
            cycle.message_event.set()
