"""`memory:` carries notices inside this process. For tests and trials."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

from isthmus.errors import ProviderTrouble, Retry
from isthmus.ports.signalling import SignallingTraits

_MOST_NOTICE_BYTES: Final = 1024 * 1024
_MOST_WAITING_BYTES: Final = 4 * 1024 * 1024
_SHORTEST_TURN_BYTES: Final = 512 * 1024


class _Mailbox:
    """Notices that wait for their listener, and those who wait for room."""

    def __init__(self) -> None:
        self.notices: deque[bytes] = deque()
        self.size = 0
        self.listeners = 0
        self.arrival: asyncio.Future[None] | None = None
        self.room: deque[asyncio.Future[None]] = deque()
        self.since_turn = 0


class MemorySignalling:
    """A signalling service that two sides share by holding the same object.

    Several listeners of one mailbox share its notices. A notice to a mailbox without a listener is lost, as it would be
    with the weakest provider.
    """

    def __init__(self, *, max_notice_bytes: int = _MOST_NOTICE_BYTES, cheap_bulk: bool = True) -> None:
        self.traits = SignallingTraits(max_notice_bytes=max_notice_bytes, cheap_bulk=cheap_bulk, retention=0.0)
        self._mailboxes: dict[str, _Mailbox] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"<MemorySignalling: {len(self._mailboxes)} mailboxes>"

    async def publish(self, to: str, notice: bytes) -> None:
        """Hand a notice to whoever listens; waits while 4 MiB wait there. Raises ProviderTrouble if it is too large."""
        if len(notice) > self.traits.max_notice_bytes:
            raise ProviderTrouble(f"a notice of {len(notice)} bytes is too large", retry=Retry.NEVER)
        self._demand_open()
        box = self._mailboxes.get(to)
        if box is None:
            return
        while box.size >= _MOST_WAITING_BYTES and box.listeners:
            room = asyncio.get_running_loop().create_future()
            box.room.append(room)
            await room
            self._demand_open()
        box.notices.append(notice)
        box.size += len(notice)
        if box.arrival is not None and not box.arrival.done():
            box.arrival.set_result(None)
        box.since_turn += len(notice)
        if box.since_turn >= _SHORTEST_TURN_BYTES:
            box.since_turn = 0
            await asyncio.sleep(0)  # or a writer that never waits would keep the loop from its reader

    def listen(self, at: str) -> AsyncIterator[bytes]:
        """Yield the notices for a mailbox; it exists from this call on."""
        box = self._mailboxes.setdefault(at, _Mailbox())
        box.listeners += 1
        return self._listen(at, box)

    async def _listen(self, at: str, box: _Mailbox) -> AsyncIterator[bytes]:
        try:
            while not self._closed:
                if not box.notices:
                    if box.arrival is None or box.arrival.done():
                        box.arrival = asyncio.get_running_loop().create_future()
                    await asyncio.shield(box.arrival)
                    continue
                notice = box.notices.popleft()
                box.size -= len(notice)
                if box.room and box.size < _MOST_WAITING_BYTES // 2:
                    _release(box)
                yield notice
        finally:
            box.listeners -= 1
            if not box.listeners:
                _release(box)
                if self._mailboxes.get(at) is box:
                    del self._mailboxes[at]

    async def close(self) -> None:
        """End every listener."""
        self._closed = True
        for box in self._mailboxes.values():
            if box.arrival is not None and not box.arrival.done():
                box.arrival.set_result(None)
            _release(box)

    def _demand_open(self) -> None:
        if self._closed:
            raise ProviderTrouble("this service is closed", retry=Retry.NEVER)


def _release(box: _Mailbox) -> None:
    while box.room:
        room = box.room.popleft()
        if not room.done():
            room.set_result(None)
