"""Lanes of the hub for Routers whose network forbids WebSockets: what is to be sent waits for the next poll.

A Router polls in a few slots, so that one answer can be on its way while the next is made. In a slot one thing comes
after the other: a poll names the batch that came last, and if that is not the one the slot sent last, its answer was
lost, and it is sent again. What the Router sends needs no lane; it is forwarded as it comes.
"""

import asyncio
import secrets
from collections import deque
from dataclasses import dataclass
from typing import Final

import structlog

from isthmus.bridge.accounts.service import Account
from isthmus.bridge.signalling.hub import Hub
from isthmus.contract.batches import LANE_BYTES, make_tag, pack_batch
from isthmus.contract.rest import REVOKED
from isthmus.errors import Problem

_log = structlog.get_logger()

GRACE_SECONDS: Final = 15.0
"""Without a poll for so long, a Router is gone: as soon as one whose WebSocket fell silent."""


@dataclass(slots=True)
class _Slot:
    """Polls that come one after the other: the batch that the last one was answered with, and the one that waits."""

    tag: bytes = b""
    body: bytes = b""
    size: int = 0
    waiting: asyncio.Future[bool] | None = None

    def wake(self, *, superseded: bool) -> None:
        """Let the waiting poll, if there is one, look again, or give way to a newer one of this slot."""
        if self.waiting is not None and not self.waiting.done():
            self.waiting.set_result(superseded)
        self.waiting = None


class PollLane:
    """One Router that polls."""

    def __init__(self, polls: "Polls", account: Account) -> None:
        self.account = account
        self._polls = polls
        self._id = secrets.token_bytes(LANE_BYTES)
        self._queue: deque[bytes | memoryview] = deque()
        self._waiting = 0
        self._sent = 0
        self._slots: dict[int, _Slot] = {}
        self._woken = False
        self._under_way = 0
        self._gone: asyncio.TimerHandle | None = None
        self._attached = False
        self._revoked = False

    def __repr__(self) -> str:
        return f"<PollLane of {self.account.router_id}, {self._waiting} bytes to send>"

    @property
    def waiting(self) -> int:
        """Bytes that are still to be sent, or that may have to be sent again."""
        return self._waiting

    def send(self, *parts: bytes | memoryview) -> None:
        """Keep one message for the next poll."""
        message = parts[0] if len(parts) == 1 else b"".join(parts)
        self._queue.append(message)
        self._waiting += len(message)
        self._wake_one()

    def revoke(self) -> None:
        """Forget everything: its Router no longer belongs to the network."""
        self._revoked = True
        self.leave()
        self._queue.clear()
        self._polls.forget(self)

    def leave(self) -> None:
        """Its Router stops or has another way: nothing more is delivered here; what waits can still be fetched."""
        if self._attached:
            self._attached = False
            self._polls.hub.detach(self.account.mailbox, self)
        for slot in self._slots.values():
            slot.wake(superseded=False)

    async def poll(self, number: int, got: frozenset[bytes], wait: float, most: int) -> bytes:
        """Return the body that answers a poll, at the latest in `wait` seconds; with 0 only what is there already.

        Raises Problem 401 if the Router is revoked meanwhile.
        """
        slot = self._slots.setdefault(number, _Slot())
        slot.wake(superseded=True)  # its connection is lost, or this Router would not ask again
        self._begin(attach=wait > 0)
        try:
            if slot.tag and slot.tag not in got:
                return slot.body
            self._waiting -= slot.size
            slot.tag, slot.body, slot.size = b"", b"", 0
            superseded = not self._queue and wait > 0 and await self._wait(slot, wait)
        finally:
            self._end()
        if self._revoked:
            raise Problem(401, REVOKED, detail="This Router no longer belongs to the network.")
        if superseded:
            return pack_batch((), tag=make_tag(self._id, 0))
        return self._take(slot, most)

    async def _wait(self, slot: _Slot, seconds: float) -> bool:
        """Wait until there is something to send; return whether a newer poll took the slot."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while not self._queue and self._attached:
            slot.waiting = waiting = loop.create_future()
            try:
                async with asyncio.timeout_at(until):
                    if await waiting:
                        return True
            except TimeoutError:
                return False
            finally:
                self._woken = False
                if slot.waiting is waiting:
                    slot.waiting = None
        return False

    def _take(self, slot: _Slot, most: int) -> bytes:
        """Return the next batch, and keep it until the Router is known to have it."""
        messages: list[tuple[bytes | memoryview]] = []
        size = 0
        while self._queue and (not messages or size + len(self._queue[0]) <= most):
            message = self._queue.popleft()
            size += len(message)
            messages.append((message,))
        if not messages:
            return pack_batch((), tag=make_tag(self._id, 0))
        self._sent += 1
        slot.tag, slot.size = make_tag(self._id, self._sent), size
        slot.body = pack_batch(messages, tag=slot.tag)
        if self._queue:
            self._wake_one()
        return slot.body

    def _wake_one(self) -> None:
        if self._woken:
            return
        for slot in self._slots.values():
            if slot.waiting is not None and not slot.waiting.done():
                self._woken = True
                slot.wake(superseded=False)
                return

    def _begin(self, *, attach: bool) -> None:
        self._under_way += 1
        if self._gone is not None:
            self._gone.cancel()
            self._gone = None
        if attach and not self._attached and not self._revoked:
            self._attached = True
            self._polls.hub.attach(self.account.mailbox, self)
            _log.info("router connected", site=self.account.site, by="long poll")
        elif attach and self._attached:
            self._polls.hub.claim(self.account.mailbox)  # its polls may be shared out among several Bridges

    def _end(self) -> None:
        self._under_way -= 1
        if not self._under_way:
            self._gone = asyncio.get_running_loop().call_later(GRACE_SECONDS, self._expire)

    def _expire(self) -> None:
        if self._attached:
            _log.info("router disconnected", site=self.account.site, reason="it polls no more")
        self.leave()
        self._polls.forget(self)


class Polls:
    """The lanes of all Routers that poll at this Bridge. A Router that polls at another one has its lane there."""

    def __init__(self, hub: Hub) -> None:
        self.hub = hub
        self._lanes: dict[bytes, PollLane] = {}
        self._stopping = False

    def __repr__(self) -> str:
        return f"<Polls of {len(self._lanes)} Routers>"

    async def poll(self, account: Account, slot: int, got: frozenset[bytes], wait: float, most: int) -> bytes:
        """Answer one poll of a Router; see `PollLane.poll`."""
        lane = self._lanes.get(account.mailbox)
        if lane is None:
            lane = self._lanes[account.mailbox] = PollLane(self, account)
        return await lane.poll(slot, got, 0.0 if self._stopping else wait, most)

    def leave(self, account: Account) -> None:
        """Deliver nothing more to a Router's polls."""
        if (lane := self._lanes.get(account.mailbox)) is not None:
            lane.leave()

    def forget(self, lane: PollLane) -> None:
        """Let go of a lane."""
        if self._lanes.get(lane.account.mailbox) is lane:
            del self._lanes[lane.account.mailbox]

    def stop(self) -> None:
        """Answer every poll that waits, and let none wait from now on: the Bridge stops."""
        self._stopping = True
        for lane in tuple(self._lanes.values()):
            lane.leave()
