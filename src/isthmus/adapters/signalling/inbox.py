"""What a listener of a polled service has before it: filled by a task, taken by `listen`."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from isthmus.errors import ProviderTrouble


class Inbox:
    """Notices for one listener, until it takes them. While `most_bytes` wait, no more should be fetched."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._notices: deque[bytes] = deque()
        self._size = 0
        self._failure: ProviderTrouble | None = None
        self._ended = False
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Inbox of {len(self._notices)} notices>"

    def put(self, notice: bytes) -> None:
        """Take one more notice."""
        self._notices.append(notice)
        self._size += len(notice)
        self._changed.set()

    def fail(self, trouble: ProviderTrouble) -> None:
        """Let the listener have this, after what is here."""
        self._failure = trouble
        self._changed.set()

    def end(self) -> None:
        """Let the listener come to its end."""
        self._ended = True
        self._changed.set()

    async def room(self) -> None:
        """Return when the listener has caught up."""
        while self._size > self._most:
            self._changed.clear()
            await self._changed.wait()

    async def notices(self) -> AsyncIterator[bytes]:
        """Yield what comes until `end`. Raises ProviderTrouble after `fail`."""
        while not self._ended:
            while self._notices:
                notice = self._notices.popleft()
                self._size -= len(notice)
                self._changed.set()
                yield notice
            if self._failure is not None:
                raise self._failure
            self._changed.clear()
            if not self._ended:
                await self._changed.wait()
