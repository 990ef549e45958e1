"""Notices by ordinary requests, for a network whose proxy forbids WebSockets: slower, and as good otherwise.

What is published goes up in batches, two requests at a time, and what comes is polled for in two slots: while one
answer is on its way, the next is made. Nothing is put in order here, since signalling may reorder.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from math import inf
from typing import Final
from urllib.parse import urlencode

import structlog

from isthmus.adapters.bridge_http import BridgeConnection, RefusedOnTheWay
from isthmus.adapters.signalling.websocket import Bytes
from isthmus.contract.batches import (
    BATCH_BYTES,
    LANE_BYTES,
    LEAST_BATCH_BYTES,
    MOST_BATCH_BYTES,
    MOST_POLL_SECONDS,
    MOST_TAGS,
    TAG_BYTES,
    pack_batch,
    unpack_batch,
)
from isthmus.errors import IsthmusError, Problem, ProviderTrouble, RemoteMisuse, Retry
from isthmus.kit import backoff
from isthmus.kit.tasks import Tasks

_log = structlog.get_logger()

SLOTS: Final = 2
LOST_SECONDS: Final = 10.0
"""After so long without an answer the way is lost. A live session is given up after 25 s."""
_PATH: Final = "/notices"
_FIRST_SECONDS: Final = 0.001  # long enough to be listed as listening, so that the first answer tells that we are
_UP_HIGH_BYTES: Final = 4 * 1024 * 1024  # more waiting than this and publishers wait too
_UP_LOW_BYTES: Final = 1024 * 1024
_TRIES: Final = 3
_FIRST_DELAY: Final = 0.2
_MOST_DELAY: Final = 2.0
_LEAVE_SECONDS: Final = 2.0
_TOO_LARGE: Final = 413

Message = tuple[Bytes, ...]


class Polling:
    """The way to the hub by requests. To its owner it is what a WebSocket is."""

    def __init__(
        self,
        bridge: BridgeConnection,
        *,
        on_message: Callable[[bytes], None],
        on_lost: Callable[[str], None],
        on_gap: Callable[[], None],
    ) -> None:
        """Prepare; nothing is asked yet.

        Args:
            bridge: which Bridge.
            on_message: called with each notice.
            on_lost: called once, with the reason, when the Bridge has not answered for a while.
            on_gap: called when another Bridge, or the same one after a restart, took over: notices may be lost.
        """
        self._bridge = bridge
        self._on_message = on_message
        self._on_lost = on_lost
        self._on_gap = on_gap
        self._tasks = Tasks("long poll")
        self._out: deque[Message] = deque()
        self._out_bytes = 0
        self._arrived = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._readable = asyncio.Event()
        self._readable.set()
        self._loops: list[asyncio.Task[None]] = []
        self._lanes: deque[bytes] = deque(maxlen=MOST_TAGS)  # of one Bridge, or of several behind one address
        self._batch_bytes = BATCH_BYTES
        self._failing_since = inf
        self._open = False
        self._leaving = False

    def __repr__(self) -> str:
        state = "closed" if not self._open else "leaving" if self._leaving else "open"
        return f"<Polling {state}, {self._out_bytes} bytes to send>"

    @property
    def is_open(self) -> bool:
        """Whether notices can be sent."""
        return self._open and not self._leaving

    @property
    def is_full(self) -> bool:
        """Whether so much waits to be sent that a sender should wait too."""
        return not self._writable.is_set()

    async def writable(self) -> None:
        """Wait until there is room again, or the way is lost."""
        await self._writable.wait()

    def send(self, *parts: Bytes) -> None:
        """Send one message, the parts one after the other; dropped if the way is lost."""
        if not self._open:
            return
        self._out.append(parts)
        self._out_bytes += sum(map(len, parts))
        if self._out_bytes > _UP_HIGH_BYTES:
            self._writable.clear()
        self._arrived.set()

    def pause_reading(self) -> None:
        """Let the Bridge keep what comes."""
        self._readable.clear()

    def resume_reading(self) -> None:
        """Go on polling."""
        self._readable.set()

    async def open(self) -> None:
        """Begin to listen. Raises IsthmusError if the Bridge cannot be asked."""
        got: deque[bytes] = deque(maxlen=MOST_TAGS)
        self._take(await self._poll(0, got, _FIRST_SECONDS), got)
        self._open = True
        for slot in range(SLOTS):
            polling = self._keep_polling(slot, got if slot == 0 else deque(maxlen=MOST_TAGS))
            self._loops.append(self._tasks.spawn(polling, name="poll"))
            self._loops.append(self._tasks.spawn(self._keep_sending(), name="send"))

    async def leave(self) -> None:
        """Send what waits, tell the Bridge, fetch what is left, and end. What fails of this is lost."""
        if self._open and not self._leaving:
            self._leaving = True
            self._arrived.set()
            self._readable.set()
            try:
                async with asyncio.timeout(_LEAVE_SECONDS):
                    await self._bridge.request("DELETE", _PATH)
                    await asyncio.wait(self._loops)
            except (IsthmusError, TimeoutError):
                pass
        self._open = False
        self._writable.set()
        await self._tasks.close()

    # down

    async def _keep_polling(self, slot: int, got: deque[bytes]) -> None:
        delays = backoff.delays(_FIRST_DELAY, _MOST_DELAY)
        while True:
            await self._readable.wait()
            leaving = self._leaving
            try:
                body = await self._poll(slot, got, 0.0 if leaving else MOST_POLL_SECONDS)
                some = self._take(body, got)
            except IsthmusError as error:
                if leaving or self._failed(error):
                    return
                await asyncio.sleep(next(delays))
                continue
            delays, self._failing_since = backoff.delays(_FIRST_DELAY, _MOST_DELAY), inf
            if leaving and not some:
                return

    async def _poll(self, slot: int, got: deque[bytes], wait: float) -> bytes:
        fields = {"slot": slot, "wait": f"{wait:g}", "got": ",".join(tag.hex() for tag in got)}
        query = urlencode(fields, safe=",")
        return await self._bridge.request("GET", _PATH, query=query, most_bytes=MOST_BATCH_BYTES, wait=wait)

    def _take(self, body: bytes, got: deque[bytes]) -> bool:
        """Hand on what an answer holds; return whether that is anything. Raises ProviderTrouble if it is no batch."""
        tag = body[:TAG_BYTES]
        try:
            messages = list(unpack_batch(body, TAG_BYTES))
        except RemoteMisuse as error:
            raise ProviderTrouble(f"the Bridge's answer is not understood: {error}", retry=Retry.LATER) from error
        lane = tag[:LANE_BYTES]
        if lane not in self._lanes:
            self._lanes.append(lane)
            if self._open:
                self._on_gap()
        if messages:
            got.append(tag)
        for message in messages:
            self._on_message(message)
        return bool(messages)

    def _failed(self, error: IsthmusError) -> bool:
        """Note that a poll failed; return whether the way is lost."""
        now = asyncio.get_running_loop().time()
        self._failing_since = min(self._failing_since, now)
        if self._open and now - self._failing_since > LOST_SECONDS:
            self._open = False
            self._writable.set()
            self._arrived.set()
            self._on_lost(str(error))
        return not self._open

    # up

    async def _keep_sending(self) -> None:
        while self._open:
            if not self._out:
                if self._leaving:
                    return
                self._arrived.clear()
                await self._arrived.wait()
                continue
            await self._send_batch(self._next_batch())

    def _next_batch(self) -> list[Message]:
        batch = [self._out.popleft()]
        size = sum(map(len, batch[0]))
        while self._out and size < self._batch_bytes:
            more = sum(map(len, self._out[0]))
            if size + more > self._batch_bytes:
                break
            batch.append(self._out.popleft())
            size += more
        self._out_bytes -= size
        if self._out_bytes < _UP_LOW_BYTES:
            self._writable.set()
        return batch

    async def _send_batch(self, batch: list[Message]) -> None:
        """Have the Bridge forward a batch; what cannot be sent is dropped, which streams heal."""
        delays = backoff.delays(_FIRST_DELAY, _MOST_DELAY)
        body = pack_batch(batch)
        for _ in range(_TRIES):
            try:
                await self._bridge.request("POST", _PATH, body, most_bytes=len(body))
                return
            except Problem as problem:
                if problem.status != _TOO_LARGE and problem.status < 429:
                    _log.warning("notices refused by the Bridge", error=str(problem))
                    return
            except RefusedOnTheWay as trouble:
                if trouble.status == _TOO_LARGE and self._take_less(batch, len(body)):
                    return
            except IsthmusError as error:
                _log.debug("notices not sent", error=str(error))
            await asyncio.sleep(next(delays))

    def _take_less(self, batch: list[Message], size: int) -> bool:
        """A proxy takes no body of this size: from now on send half of it. False: it is one message already."""
        if len(batch) == 1:
            return False
        self._batch_bytes = max(LEAST_BATCH_BYTES, min(self._batch_bytes, size) // 2)
        _log.info("a proxy limits the size of requests", batch_bytes=self._batch_bytes)
        self._out.extendleft(reversed(batch))
        self._out_bytes += sum(len(part) for message in batch for part in message)
        return True
