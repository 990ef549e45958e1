"""The post office: outbox, inbox and receipts of one Router, put together."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from isthmus.contract.notices import PREFIX_BYTES, NoticeKind
from isthmus.envelope.identity import RouterId
from isthmus.errors import IsthmusError, OperatorError
from isthmus.kit.backoff import delays
from isthmus.kit.names import SiteName
from isthmus.kit.tasks import Tasks
from isthmus.router.queued.ledger import outgoing
from isthmus.router.queued.post.downloads import Downloads
from isthmus.router.queued.post.inbox import Inbox
from isthmus.router.queued.post.mailbox import COUNTER_BYTES, ROUTER_ID_BYTES, Letters, PostCore
from isthmus.router.queued.post.outbox import Outbox
from isthmus.router.queued.post.receipts import GATHER_SECONDS, ReceiptsOut
from isthmus.router.queued.spool.bundles import Spool
from isthmus.router.queued.spool.header import Route
from isthmus.router.queued.spool.recovery import verified

_log = structlog.get_logger()

WATCH_SECONDS: Final = 60.0
LETTERS_AGAIN_SECONDS: Final = 600.0
AGAIN_SECONDS: Final = 1.0
"""After which a part of the post that failed is started again at first."""
_MOST_AGAIN_SECONDS: Final = 60.0
_MOST_LETTERS_AGAIN: Final = 6 * 3600.0


class _SpoolForOutbox:
    """The spool as the outbox sees it."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool

    async def read(self, name: str, start: int, end: int) -> bytes:
        return await self._spool.read(name, start, end)

    async def verified(self, bundle_id: int) -> None:
        await verified(self._spool, bundle_id)

    @property
    def filling(self) -> bool:
        return self._spool.filling

    def object_secret(self, object_id: bytes) -> bytes:
        return self._spool.secrets.object_secret(object_id)

    def want(self, is_wanted: Callable[[Route], bool]) -> None:
        self._spool.want(is_wanted)


class Post:
    """Queued objects to and from other sites. `run` must run; everything else may be called at any time on the loop.

    Args:
        core: what it works with.
        spool: after its recovery. Its `wanted` and `when_ready` are taken.
        received: told the network title of a device of ours that objects came in for.
        gather: seconds for which receipts wait for more.
    """

    def __init__(
        self,
        core: PostCore,
        spool: Spool,
        *,
        received: Callable[[str], None] | None = None,
        gather: float = GATHER_SECONDS,
    ) -> None:
        self.core: Final = core
        self.letters: Final = Letters(core)
        self.receipts: Final = ReceiptsOut(core, self.letters, gather=gather)
        self.outbox: Final = Outbox(core, self.letters, _SpoolForOutbox(spool))
        self.downloads: Final = Downloads(core, spool, owed=self.receipts.due, received=received or _nobody_waits)
        self.inbox: Final = Inbox(
            core,
            self.letters,
            self.receipts,
            self.downloads,
            release=spool.release,
            forget=self.outbox.forget,
            changed=self.outbox.wake,
        )
        self._again: dict[str, tuple[float, float]] = {}
        spool.wanted = self.outbox.wants

    def __repr__(self) -> str:
        return f"<Post: {self.outbox!r}, {self.inbox!r}>"

    async def run(self) -> None:
        """Carry post until cancelled."""
        tasks = Tasks("post")
        parts = [
            tasks.spawn(_kept_going(part, name), name=name)
            for part, name in (
                (self._start, "put letters again"),
                (self.outbox.run, "outbox"),
                (self.inbox.run, "inbox"),
                (self.receipts.run, "receipts"),
                (self._watch, "watch"),
            )
        ]
        try:
            await asyncio.gather(*parts)
        finally:
            await tasks.close()
            await self.downloads.close()

    def notice(self, notice: bytes) -> None:
        """Take a notice of kind LETTER or LETTER_MISSING, whatever is wrong with it."""
        body = notice[PREFIX_BYTES:]
        if len(body) < COUNTER_BYTES + ROUTER_ID_BYTES:
            return
        counter = int.from_bytes(body[:COUNTER_BYTES], "big")
        router_id = body[COUNTER_BYTES : COUNTER_BYTES + ROUTER_ID_BYTES].decode("ascii", "replace")
        if notice[0] == NoticeKind.LETTER:
            self.inbox.doorbell(router_id, counter, bytes(body[COUNTER_BYTES + ROUTER_ID_BYTES :]))
            self.downloads.rung(router_id)
        elif notice[0] == NoticeKind.LETTER_MISSING and any(row.router_id == router_id for row in self.core.accepted()):
            self.core.tasks.spawn(self._missing(router_id, counter), name="put again what is missing")

    def connected(self) -> None:
        """The connection to the Bridge is new, or the network changed: look everywhere."""
        self.inbox.look()
        self.outbox.wake()
        self.receipts.due()

    def bundle_ready(self, _bundle_id: int) -> None:
        """A bundle was closed. For `Spool.when_ready`."""
        self.outbox.wake()

    def receipts_due(self) -> None:
        """Deliveries wrote receipts that are due."""
        self.receipts.due()

    def renew_mailbox(self, site: SiteName) -> None:
        """Have a site leave its letters in a new mailbox, from letter 1 on: after a letter that could not be believed.

        What it wrote and we did not acknowledge it seals anew. Raises OperatorError if the site is not accepted.
        """
        for row in self.core.accepted():
            if row.site == site:
                old = outgoing.ack_tag(self.core.directory.mailboxes.get(row.router_id))
                while outgoing.ack_tag(self.core.directory.renew_mailbox(RouterId(row.router_id))) == old:
                    pass  # acknowledgements in the old mailbox must not pass for some in the new
                for matter in ("mailbox", "withheld"):
                    self.core.alerts.clear(site, matter)
                return
        raise OperatorError(f"site {site} is not accepted", hint="see isthmus site list")

    async def _missing(self, router_id: str, counter: int) -> None:
        await self.letters.missing(router_id, counter)
        await self.outbox.missing(router_id, counter)

    async def _start(self) -> None:
        for router_id in await self.core.ledger.read(outgoing.routers_with_letters):
            await self.letters.put_again(router_id)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            try:
                await self.outbox.watch()
                await self.inbox.go_on()
                await self.letters_again()
                self.receipts.due()  # also what was found damaged since
            except IsthmusError as error:
                _log.warning("the post could not be looked after", reason=str(error))
            self.outbox.wake()

    async def letters_again(self) -> None:
        """Put letters again that were not acknowledged for ten minutes; then for 20, 40 and so on."""
        now = self.core.clock.now()
        for router_id in await self.core.ledger.read(outgoing.routers_with_letters):
            since = await self.core.ledger.read(lambda c, r=router_id: outgoing.unacked_since(c, r))  # type: ignore[misc]  # a default binds it
            if since is None or now - since < LETTERS_AGAIN_SECONDS:
                self._again.pop(router_id, None)
                continue
            after, wait = self._again.get(router_id, (0.0, LETTERS_AGAIN_SECONDS))
            if now >= after:
                self._again[router_id] = (now + wait, min(wait * 2, _MOST_LETTERS_AGAIN))
                await self.letters.put_again(router_id)


async def _kept_going(part: Callable[[], Awaitable[None]], name: str) -> None:
    """Run a part of the post; if it fails, whatever it was, start it again: the others go on meanwhile."""
    waits = delays(AGAIN_SECONDS, _MOST_AGAIN_SECONDS)
    while True:
        try:
            await part()
            return
        except Exception as error:  # noqa: BLE001 - one fault must not end all post until somebody looks
            _log.error("a part of the post failed, and is started again", part=name, error=repr(error), exc_info=error)
        await asyncio.sleep(next(waits))


def _nobody_waits(_title: str) -> None:
    pass
