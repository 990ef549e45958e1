"""The inbox: letters of other sites, read in order, each checked against the one before.

A letter counts as read when the ledger knows what it says; what it is about is fetched beside that, so that one blob
that is late, or withheld, keeps nobody else's waiting. Nothing here believes a doorbell: it only makes us look.
"""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import structlog

from isthmus.contract.letters import LetterKind, Manifest, ObjectKind, Receipt, Receipts, ReceiptState
from isthmus.dicom.services import Service
from isthmus.envelope.identity import RouterId
from isthmus.envelope.letters import Letter, LetterHeader, PrekeyGone, letter_hash, verify_letter
from isthmus.envelope.mailboxes import letter_name
from isthmus.errors import AssociationRefused, BlobMissing, ProviderTrouble, SealBroken, Untrusted
from isthmus.kit.tasks import Tasks
from isthmus.router.queued.ledger import incoming, outgoing
from isthmus.router.queued.ledger.outgoing import PostedLetter
from isthmus.router.queued.post.downloads import Downloads
from isthmus.router.queued.post.mailbox import Letters, PostCore, ask_for, far_mailbox, open_from
from isthmus.router.queued.post.receipts import ReceiptsOut
from isthmus.router.queued.trouble import NoRoom, SpoolFailed
from isthmus.router.routing.records import Acceptance

_log = structlog.get_logger()

LOOK_SECONDS: Final = 60.0
_MOST_LOOK_SECONDS: Final = 300.0
GRACE_SECONDS: Final = 30.0
"""How long a letter may be missing of which a later one is there: stores take their time to show what was put."""
RENEW: Final = "isthmus site renew-mailbox"
_TRANSIENT: Final = 2  # result of an A-ASSOCIATE-RJ
_MOST_AHEAD: Final = 8  # letters that are asked for at once
_MOST_EARLY: Final = 64  # letters that came with their doorbell before their turn
_CALL_SECONDS: Final = 60.0
_FOLLOW_SECONDS: Final = 1.0
_AGAIN_SECONDS: Final = 1.0
_SOON: Final = 0.1
_SOON_MOST: Final = 5.0


@dataclass(slots=True)
class Reader:
    """The mailbox in which one accepted Router leaves letters for us."""

    acceptance: Acceptance
    prefix: str
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    looking: bool = True
    early: dict[int, bytes] = field(default_factory=dict)
    announced: int = 0
    ahead: int = 1
    gap: int = 0
    gap_since: float = 0.0


@dataclass(frozen=True, slots=True)
class _Opened:
    """A letter that verified and lies where it belongs, and what it says; None: sealed to a prekey that is gone."""

    header: LetterHeader
    content: Manifest | Receipts | None
    size: int = 0


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What reading a letter did in the ledger."""

    fresh: bool
    names: list[str]
    truthful: bool
    envelope: str | None = None
    applied: incoming.Applied | None = None
    letters: list[PostedLetter] = field(default_factory=list)


class Inbox:
    """Reads every accepted Router's letters. `release` lets a bundle go that is done; `released` wakes the outbox."""

    def __init__(
        self,
        core: PostCore,
        letters: Letters,
        receipts: ReceiptsOut,
        downloads: Downloads,
        *,
        release: Callable[[int], Awaitable[object]],
        forget: Callable[[list[bytes]], Coroutine[Any, Any, None]],
        changed: Callable[[], None],
    ) -> None:
        self._core = core
        self._letters = letters
        self._receipts = receipts
        self._downloads = downloads
        self._release = release
        self._forget = forget
        self._changed = changed
        self._readers: dict[str, tuple[Reader, asyncio.Task[None]]] = {}
        self._tasks = Tasks("inbox")

    def __repr__(self) -> str:
        return f"<Inbox: {len(self._readers)} mailboxes>"

    def doorbell(self, router_id: str, counter: int, raw: bytes = b"") -> None:
        """That Router is said to have left a letter, perhaps this one."""
        if router_id not in self._readers:
            return
        reader = self._readers[router_id][0]
        reader.announced = max(reader.announced, counter)
        if raw and len(reader.early) < _MOST_EARLY:
            reader.early[counter] = raw
        reader.wake.set()

    def look(self) -> None:
        """Look into every mailbox now."""
        for reader, _ in self._readers.values():
            reader.looking = True
            reader.wake.set()

    async def run(self) -> None:
        """Read until cancelled."""
        await self.go_on()
        try:
            while True:
                self._follow()
                await asyncio.sleep(_FOLLOW_SECONDS)
        finally:
            await self._tasks.close()
            self._readers.clear()

    async def go_on(self) -> None:
        """Do what the ledger says is still to be done, and what nobody does: after a start, or after trouble."""
        await self._downloads.resume()
        for done in await self._core.ledger.read(incoming.done_bundles):
            try:
                await self._release(done)
            except (NoRoom, SpoolFailed) as error:
                _log.warning("a bundle cannot be let go", reason=str(error))

    def _follow(self) -> None:
        """Have a reader for each accepted Router, at the prefix that it was told."""
        wanted: dict[str, tuple[Acceptance, str]] = {
            row.router_id: (row, prefix)
            for row in self._core.accepted()
            if (prefix := self._core.directory.mailboxes.get(row.router_id)) is not None
        }
        for router_id, (reader, task) in list(self._readers.items()):
            if router_id not in wanted or wanted[router_id][1] != reader.prefix or task.done():
                task.cancel()
                del self._readers[router_id]
        for router_id, (row, prefix) in wanted.items():
            if router_id not in self._readers:
                reader = Reader(row, prefix)
                task = self._tasks.spawn(self._read(reader), name=f"read the letters of {row.site}")
                self._readers[router_id] = (reader, task)

    async def _read(self, reader: Reader) -> None:
        idle = LOOK_SECONDS
        while True:
            reader.wake.clear()
            try:
                progress, soon = await self._turn(reader)
            except (NoRoom, SpoolFailed) as error:
                self._core.alerts.raise_(reader.acceptance.site, "ledger", f"no letter can be read: {error}")
                progress, soon = False, LOOK_SECONDS
            idle = LOOK_SECONDS if progress else min(idle * 1.5, _MOST_LOOK_SECONDS)
            try:
                async with asyncio.timeout(idle if soon is None else soon):
                    await reader.wake.wait()
            except TimeoutError:
                reader.looking = True

    async def _turn(self, reader: Reader) -> tuple[bool, float | None]:
        """Read what is there. Returns whether there was something, and in how many seconds to look again, if soon."""
        router_id = reader.acceptance.router_id
        progress = False
        while True:
            if self._downloads.full(router_id):
                return progress, LOOK_SECONDS
            where = partial(incoming.position, router_id=router_id, prefix=reader.prefix)
            counter, previous = await self._core.ledger.read(where)
            reader.early = {number: raw for number, raw in reader.early.items() if number >= counter}
            came_along = reader.early.pop(counter, None)
            if came_along is not None and await self._take(reader, counter, previous, came_along, tell=False):
                progress = True
                continue
            if not reader.looking and reader.announced < counter:
                return progress, None  # all that was announced came with its doorbell
            try:
                found = await self._fetch(reader, counter)
            except (ProviderTrouble, TimeoutError):
                return progress, _AGAIN_SECONDS
            if not found:
                reader.looking = False
                return progress, await self._missing(reader, counter)
            for raw in found:
                if not await self._take(reader, counter, previous, raw, tell=True):
                    return progress, None
                progress, counter, previous = True, counter + 1, letter_hash(raw)
                if self._downloads.full(router_id):
                    break

    async def _fetch(self, reader: Reader, counter: int) -> list[bytes]:
        """Return the letters from `counter` on that are there: one, or several at once while there are many."""
        many = reader.ahead
        calls = (self._get(reader, number) for number in range(counter, counter + many))
        found: list[bytes] = []
        for raw in await asyncio.gather(*calls):
            if raw is None:
                break
            found.append(raw)
        reader.ahead = min(many * 2, _MOST_AHEAD) if len(found) == many else 1
        return found

    async def _get(self, reader: Reader, counter: int) -> bytes | None:
        try:
            async with asyncio.timeout(_CALL_SECONDS):
                return await self._core.blobstore.get(letter_name(reader.prefix, counter))
        except BlobMissing:
            return None

    async def _missing(self, reader: Reader, counter: int) -> float | None:
        """The next letter is not there. If a later one is, wait for it a while, then tell and ask."""
        site, router_id = reader.acceptance.site, reader.acceptance.router_id
        later = next((raw for number, raw in sorted(reader.early.items()) if number > counter), None)
        if later is None and reader.announced < counter:
            reader.gap = 0
            self._core.alerts.clear(site, "withheld")
            return None
        now = self._core.clock.monotonic()
        if reader.gap != counter:
            reader.gap, reader.gap_since = counter, now
        if now - reader.gap_since < GRACE_SECONDS:
            return min(_SOON_MOST, _SOON + (now - reader.gap_since) / 4)
        if later is None:
            later = await self._get_quietly(reader, counter + 1)
        if later is not None and self._is_later(router_id, later, counter):
            self._core.alerts.raise_(
                site,
                "withheld",
                f"letter {counter} of site {site} is missing, though later ones are there; if that stays so, {RENEW}"
                f" {site} mends it",
            )
        await ask_for(self._core, router_id, counter)
        reader.announced = counter if later is not None else 0
        return GRACE_SECONDS

    async def _get_quietly(self, reader: Reader, counter: int) -> bytes | None:
        try:
            return await self._get(reader, counter)
        except (ProviderTrouble, TimeoutError):
            return None

    def _is_later(self, router_id: RouterId, raw: bytes, counter: int) -> bool:
        try:
            public = self._core.directory.pinned_key(router_id)
            return verify_letter(raw, sender_public=public, own=self._core.identity.router_id).counter > counter
        except (Untrusted, SealBroken):
            return False

    # -- one letter

    async def _take(self, reader: Reader, counter: int, previous: bytes, raw: bytes, *, tell: bool) -> bool:
        """Read a letter; False if it is not the one that belongs here. Then nothing of it counts."""
        site, router_id = reader.acceptance.site, reader.acceptance.router_id
        try:
            opened = await asyncio.to_thread(self._open, router_id, raw, counter, previous)
        except (Untrusted, SealBroken, ValueError) as error:
            if tell:
                why = "it is not understood" if isinstance(error, ValueError) else str(error)
                self._core.alerts.raise_(
                    site,
                    "mailbox",
                    f"letter {counter} of site {site} is not read, nor any after it: {why}; {RENEW} {site} mends that",
                )
            return False
        refused = "" if not isinstance(opened.content, Manifest) else self._refused(router_id, opened.content)
        outcome = await self._core.ledger.run(
            partial(self._write, reader=reader, opened=opened, hash_=letter_hash(raw), refused=refused)
        )
        if not outcome.fresh:
            return True
        self._core.alerts.clear(site, "mailbox")
        self._core.alerts.clear(site, "withheld")
        self._after(reader, opened, outcome, refused)
        return True

    def _open(self, router_id: RouterId, raw: bytes, counter: int, previous: bytes) -> _Opened:
        try:
            letter: Letter = open_from(self._core, router_id, raw)
        except PrekeyGone as gone:
            gone.header.check_place(counter, previous)
            return _Opened(gone.header, None)
        letter.check_place(counter, previous)
        if letter.kind is LetterKind.ENVELOPE:
            return _Opened(letter, Manifest.parse(letter.body), len(letter.body))
        return _Opened(letter, Receipts.parse(letter.body))

    def _refused(self, router_id: RouterId, manifest: Manifest) -> str:
        """Return why the objects of an envelope may not reach the device, or an empty text."""
        try:
            services = self._core.directory.admit(router_id, manifest.calling, manifest.called).services
        except AssociationRefused as refused:
            # a device that is disabled now may be enabled tomorrow; what it is granted is asked again at delivery
            return "" if refused.result == _TRANSIENT else str(refused)
        needed = {
            Service.COMMITMENT.value if item.kind is ObjectKind.COMMIT else Service.STORE.value
            for item in manifest.objects
        }
        if Service.ANY.value in services or needed <= services:
            return ""
        return f"{manifest.called} is not granted to {manifest.calling} for {', '.join(sorted(needed - services))}"

    def _write(
        self, connection: sqlite3.Connection, *, reader: Reader, opened: _Opened, hash_: bytes, refused: str
    ) -> _Outcome:
        router_id, header, content = reader.acceptance.router_id, opened.header, opened.content
        if not incoming.advance(connection, router_id, reader.prefix, header.counter, hash_):
            return _Outcome(False, [], True)
        now = self._core.clock.now()
        applied, known = None, None
        letters: list[PostedLetter] = []
        replaced: list[str] = []
        if content is None:
            incoming.owe_unreadable(connection, router_id, header.counter)
        elif isinstance(content, Manifest):
            known = self._write_envelope(connection, router_id, content, header.counter, refused, now)
        else:
            applied = incoming.apply_receipts(
                connection, router_id, content.receipts, protect=self._core.local.seal_local
            )
            letters, replaced = self._seal_anew(connection, router_id, content.unreadable, header.acked, now)
        names, truthful = outgoing.acknowledge(connection, router_id, header.acked)
        return _Outcome(True, [*replaced, *names], truthful, known, applied, letters)

    def _seal_anew(
        self, connection: sqlite3.Connection, router_id: RouterId, counters: list[int], acked: int, now: float
    ) -> tuple[list[PostedLetter], list[str]]:
        """Put new letters in the place of those that the far Router cannot read; return them, and what is gone."""
        far = far_mailbox(self._core, router_id) if counters else None
        if far is None or not outgoing.counts_in_ours(connection, router_id, acked):
            return [], []
        again = [outgoing.seal_anew(connection, router_id, far, number, now=now) for number in counters]
        return [letter for letters, _ in again for letter in letters], [name for _, names in again for name in names]

    def _write_envelope(
        self,
        connection: sqlite3.Connection,
        router_id: RouterId,
        manifest: Manifest,
        counter: int,
        refused: str,
        now: float,
    ) -> str | None:
        known = incoming.begin(connection, router_id, manifest, counter, protect=self._core.local.seal_local)
        receipt = None
        if known is None and refused:
            incoming.finish(connection, manifest.envelope_id, 0, "held")
            receipt = Receipt(envelope_id=manifest.envelope_id, state=ReceiptState.HELD, comment=refused, at=now)
        elif known == "received":
            receipt = Receipt(envelope_id=manifest.envelope_id, state=ReceiptState.RECEIVED, at=now)
        if receipt is not None:
            incoming.owe_receipt(connection, router_id, receipt)
        return known

    def _after(self, reader: Reader, opened: _Opened, outcome: _Outcome, refused: str) -> None:
        """Do what the ledger now says is to be done; a crash before this is mended at the start or by looking again."""
        site, router_id, content = reader.acceptance.site, reader.acceptance.router_id, opened.content
        if not outcome.truthful:
            self._core.alerts.raise_(
                site,
                "acknowledged",
                f"site {site} has read letters that are not written: was this Router, or its ledger, lost? Then each of"
                f" the two sites needs {RENEW}",
            )
        if outcome.names:
            self._tasks.spawn(self._letters.acknowledged(router_id, outcome.names), name="delete read letters")
        if content is None or (isinstance(content, Receipts) and content.unreadable):
            self._core.alerts.raise_(site, "unreadable", f"letters with site {site} were sealed to a key that is gone")
        if not isinstance(content, Receipts) or content.receipts or content.unreadable:
            self._receipts.read(router_id)
        for letter in outcome.letters:
            self._letters.put(site, letter)
        if isinstance(content, Manifest):
            if outcome.envelope == "foreign":
                self._core.alerts.raise_(site, "envelope", f"site {site} sent an envelope that is not its own")
            elif refused:
                self._core.alerts.raise_(site, "refused", f"objects of site {site} are not taken: {refused}")
            elif outcome.envelope is None:
                self._downloads.start(router_id, content, opened.header.counter, opened.size)
            self._receipts.due()
        elif content is None:
            self._receipts.due()
        if outcome.applied is not None:
            self._applied(reader, outcome.applied)

    def _applied(self, reader: Reader, applied: incoming.Applied) -> None:
        site = reader.acceptance.site
        if applied.foreign:
            self._core.alerts.raise_(
                site, "receipts", f"site {site} sent receipts for what it never got; they change nothing"
            )
        if applied.damaged:
            self._core.alerts.raise_(site, "damaged", f"what was sent to site {site} does not verify there; once more")
        if applied.damaged or applied.received:
            self._tasks.spawn(self._forget([*applied.damaged, *applied.received]), name="delete blobs")
        for bundle_id in applied.done:
            self._tasks.spawn(self._let_go(bundle_id), name="let a bundle go")
        self._changed()

    async def _let_go(self, bundle_id: int) -> None:
        await self._release(bundle_id)
