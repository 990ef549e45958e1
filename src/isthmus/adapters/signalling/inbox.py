"""What a listener of a polled service has before it: filled by a task, taken by `listen`."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final, TypeVar

import structlog

from isthmus.errors import ProviderTrouble, Retry
from isthmus.kit import backoff
from isthmus.kit.complaint import Complaint

_log = structlog.get_logger()
_FIRST_DELAY: Final = 0.2
_MOST_DELAY: Final = 10.0
T = TypeVar("T")


class NoQueue(ProviderTrouble):
    """There is no queue for this mailbox, or not yet."""

    def __init__(self) -> None:
        super().__init__(
            "there is no queue for this mailbox",
            retry=Retry.LATER,
            hint="the Bridge makes it when it lends keys; see its log",
        )


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


async def looks(service: str, inbox: Inbox, look: Callable[[], Awaitable[T]], complaint: Complaint) -> AsyncIterator[T]:
    """Yield what each look finds, for ever; the next one comes when the listener has caught up.

    Trouble that passes is waited out, and logged under the name of the service; any other is the listener's, and the
    end.
    """
    waits = backoff.delays(_FIRST_DELAY, _MOST_DELAY)
    while True:
        await inbox.room()
        try:
            found = await look()
        except ProviderTrouble as trouble:
            if trouble.retry is Retry.NEVER or isinstance(trouble, NoQueue):
                inbox.fail(trouble)
                return
            if complaint.is_news(str(trouble), asyncio.get_running_loop().time()):
                _log.warning(f"{service} not heard", error=str(trouble), hint=trouble.hint)
            await asyncio.sleep(next(waits))
            continue
        if complaint.over():
            _log.info(f"{service} heard again")
        waits = backoff.delays(_FIRST_DELAY, _MOST_DELAY)
        yield found
