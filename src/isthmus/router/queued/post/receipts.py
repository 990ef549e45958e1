"""Receipts: what became of objects, from who has them to who sent them, many to a letter."""

import asyncio
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from isthmus.contract.letters import LetterKind
from isthmus.errors import SealBroken, Untrusted
from isthmus.router.queued.ledger import outgoing
from isthmus.router.queued.ledger.outgoing import EMPTY_RECEIPTS, PostedLetter
from isthmus.router.queued.post.mailbox import FarMailbox, Letters, PostCore, far_mailbox, tell_unsealed
from isthmus.router.queued.trouble import NoRoom, SpoolFailed

_log = structlog.get_logger()

MOST_IN_LETTER: Final = 500
GATHER_SECONDS: Final = 1.0
ACK_SECONDS: Final = 30.0
"""How long read letters wait to be acknowledged by a letter that has something to say."""


class ReceiptsOut:
    """Sends the receipts that are due, a second after the first of them or when a letter is full."""

    def __init__(self, core: PostCore, letters: Letters, *, gather: float = GATHER_SECONDS) -> None:
        self._core = core
        self._letters = letters
        self._gather = gather
        self._wake = asyncio.Event()
        self._unacked: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<ReceiptsOut: {len(self._unacked)} sites wait for an acknowledgement>"

    def due(self) -> None:
        """Something was put among the receipts that are due."""
        self._wake.set()

    def read(self, router_id: str) -> None:
        """A letter of that Router was read that it keeps until it is acknowledged."""
        self._unacked.setdefault(router_id, self._core.clock.monotonic())

    def acknowledged(self, router_id: str) -> None:
        """A letter went to that Router, which acknowledged all before it."""
        self._unacked.pop(router_id, None)

    async def run(self) -> None:
        """Send until cancelled."""
        self._wake.set()
        while True:
            try:
                async with asyncio.timeout(ACK_SECONDS / 2):
                    await self._wake.wait()
                await asyncio.sleep(self._gather)
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                await self.turn()
            except (NoRoom, SpoolFailed) as error:
                _log.error("receipts could not be sent", reason=str(error))
                self._wake.set()
                await asyncio.sleep(ACK_SECONDS)

    async def turn(self) -> None:
        """Send what is due now."""
        for router_id, count in (await self._core.ledger.read(outgoing.receipts_due)).items():
            if (far := far_mailbox(self._core, router_id)) is not None:
                for _ in range(0, count, MOST_IN_LETTER):
                    if not await self._send(far, partial(self._write, far)):
                        break
        now = self._core.clock.monotonic()
        for router_id, since in list(self._unacked.items()):
            if now - since < ACK_SECONDS:
                continue
            far = far_mailbox(self._core, router_id)
            if far is not None:
                self.acknowledged(router_id)
                if not await self._send(far, partial(self._acknowledge, far)):
                    self._unacked.setdefault(router_id, since)

    async def _send(self, far: FarMailbox, write: Callable[[sqlite3.Connection], list[PostedLetter]]) -> bool:
        """Write to one site; False, with an alert, if nothing can be sealed for it."""
        try:
            await self._letters.send(far, write)
        except (Untrusted, SealBroken) as error:
            tell_unsealed(self._core, far.router_id, error)
            return False
        return True

    def _write(self, far: FarMailbox, connection: sqlite3.Connection) -> list[PostedLetter]:
        receipts = outgoing.take_receipts(connection, far.router_id, most=MOST_IN_LETTER, reveal=far.reveal)
        if receipts is None:
            return []
        body = receipts.to_payload()
        return outgoing.add_letter(
            connection, far.router_id, far, LetterKind.RECEIPTS, body, now=self._core.clock.now()
        )

    def _acknowledge(self, far: FarMailbox, connection: sqlite3.Connection) -> list[PostedLetter]:
        return outgoing.add_letter(
            connection, far.router_id, far, LetterKind.RECEIPTS, EMPTY_RECEIPTS, now=self._core.clock.now()
        )
