"""Mailboxes between this Router and the accepted ones: who reads where, how letters are sealed, put and announced.

A letter is in the ledger before it is put, and stays there until the far Router acknowledges it. Putting and ringing
the doorbell go side by side: a small letter rides along with the doorbell, so that no round trip is lost, and the one
in the store is there for a Router that was away.
"""

import asyncio
import secrets
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Protocol

import structlog

from isthmus.contract.documents import Prekey
from isthmus.contract.letters import LetterKind
from isthmus.contract.notices import NO_SESSION, NoticeKind, pack
from isthmus.envelope.identity import Identity, Random, RouterId
from isthmus.envelope.letters import Letter, open_letter, seal_letter
from isthmus.envelope.prekeys import PrekeyPair, check_prekey
from isthmus.errors import BlobExists, IsthmusError, ProviderTrouble, Retry, SealBroken, Untrusted
from isthmus.kit.backoff import delays
from isthmus.kit.clock import Clock
from isthmus.kit.names import SiteName
from isthmus.kit.tasks import Tasks
from isthmus.ports.blobstore import Blobstore
from isthmus.ports.signalling import Signalling
from isthmus.router.queued.ledger import outgoing
from isthmus.router.queued.ledger.database import Ledger
from isthmus.router.queued.ledger.outgoing import PostedLetter
from isthmus.router.queued.post.alerts import Alerts
from isthmus.router.routing.directory import Directory
from isthmus.router.routing.records import Acceptance

_log = structlog.get_logger()

COUNTER_BYTES: Final = 8
ROUTER_ID_BYTES: Final = 36
_MOST_RIDING: Final = 256 * 1024  # bytes of a letter that goes with its doorbell
_FIRST_WAIT: Final = 0.2
_MOST_WAIT: Final = 60.0
_RINGS: Final = 3
_AT_ONCE: Final = 8  # letters of one site that are put at the same time
_CALL_SECONDS: Final = 60.0
_SLOWEST: Final = 32 * 1024  # bytes a second below which a call is given up


class EnvelopeStores(Protocol):
    """Where the blobs of envelopes go: the pairs of cloud services, by name. Letters are always with the Bridge."""

    def chosen_for(self, router_id: str) -> str:
        """Return the best pair for what goes to a Router now. Raises ProviderTrouble if none works."""
        ...

    def queued_store(self, name: str) -> Blobstore:
        """Return a pair's blobstore. Raises ProviderTrouble if the pair is not open here."""
        ...


class LocalSeal(Protocol):
    """Seals what is kept in the ledger: `isthmus.router.queued.spool.secrets.SpoolSecrets`."""

    def seal_local(self, label: str, content: bytes) -> bytes:
        """Return `content` sealed for this spool only."""
        ...

    def open_local(self, label: str, sealed: bytes) -> bytes:
        """Return what was sealed under the same label. Raises SealBroken."""
        ...


@dataclass(frozen=True, slots=True)
class PostCore:
    """What every part of the post works with.

    Attributes:
        prekeys: ours, by prekey id, those of the past months too.
        blobstore: the Bridge's own, where letters lie.
    """

    identity: Identity
    prekeys: Callable[[], Mapping[bytes, PrekeyPair]]
    directory: Directory
    signalling: Signalling
    blobstore: Blobstore
    stores: EnvelopeStores
    ledger: Ledger
    local: LocalSeal
    clock: Clock
    tasks: Tasks
    alerts: Alerts
    random: Random = secrets.token_bytes

    def accepted(self) -> list[Acceptance]:
        """Return the sites that are accepted here now."""
        return [row for row in self.directory.acceptances.values() if row.accepted]

    def site_of(self, router_id: str) -> SiteName:
        """Return the site of a Router, for people."""
        for row in self.directory.acceptances.values():
            if row.router_id == router_id:
                return row.site
        return SiteName("unknown")


@dataclass(frozen=True, slots=True)
class FarMailbox:
    """Where and how to write to an accepted site now (`outgoing.LetterSealer`)."""

    core: PostCore = field(repr=False)
    router_id: RouterId
    site: SiteName
    prefix: str
    prekey: Prekey

    def seal(self, kind: LetterKind, counter: int, previous: bytes, acked: int, body: bytes) -> bytes:
        """Return the letter. Raises Untrusted if the prekey is over its time."""
        return seal_letter(
            self.core.identity,
            kind=kind,
            receiver=self.router_id,
            counter=counter,
            previous=previous,
            acked=acked,
            prekey=self.prekey,
            body=body,
            now=self.core.clock.now(),
            random=self.core.random,
        )

    def protect(self, label: str, content: bytes) -> bytes:
        """Seal for the ledger."""
        return self.core.local.seal_local(label, content)

    def reveal(self, label: str, sealed: bytes) -> bytes:
        """Return what `protect` sealed."""
        return self.core.local.open_local(label, sealed)


def far_mailbox(core: PostCore, router_id: str) -> FarMailbox | None:
    """Return how to write to a Router, or None, with an alert, if that cannot be done now: it need not be online."""
    directory = core.directory
    acceptance = next((row for row in core.accepted() if row.router_id == router_id), None)
    if acceptance is None:
        return None
    site = acceptance.site
    try:
        directory.pinned_key(acceptance.router_id)
    except Untrusted:
        return None  # the directory has told of it
    verified = directory.verified.get(acceptance.router_id)
    prefix = directory.mailbox_of(acceptance.router_id)
    if verified is None or verified.prekey is None or prefix is None:
        return None  # it has not accepted us yet, or cannot do this yet
    if verified.prekey.not_after <= core.clock.now():
        core.alerts.raise_(
            site, "prekey", f"nothing can be sealed for site {site}: its Router has not renewed its key for 30 days"
        )
        return None
    if not _usable(verified.prekey):
        core.alerts.raise_(
            site, "prekey", f"nothing can be sealed for site {site}: the key that its Router signed is not usable"
        )
        return None
    core.alerts.clear(site, "prekey")
    return FarMailbox(core, acceptance.router_id, site, prefix, verified.prekey)


@lru_cache(maxsize=256)
def _usable(prekey: Prekey) -> bool:
    """Return whether letters can be sealed to a prekey: one that an older release believed may be unusable."""
    try:
        check_prekey(prekey)
    except Untrusted:
        return False
    return True


def tell_unsealed(core: PostCore, router_id: str, error: IsthmusError) -> None:
    """Tell a person that nothing can be written to one site now; the others are not concerned."""
    site = core.site_of(router_id)
    core.alerts.raise_(site, "prekey", f"nothing can be sealed for site {site}: {error}")


def open_from(core: PostCore, router_id: RouterId, raw: bytes) -> Letter:
    """Return a letter of an accepted Router. Raises Untrusted, SealBroken or PrekeyGone. Any thread."""
    return open_letter(
        raw,
        sender_public=core.directory.pinned_key(router_id),
        own=core.identity.router_id,
        prekeys=core.prekeys(),
    )


class Letters:
    """Our letters: in the ledger, then in the store and announced, until they are acknowledged."""

    def __init__(self, core: PostCore) -> None:
        self._core = core
        self._putting: dict[tuple[str, str], asyncio.Task[None]] = {}
        self._turns: dict[str, asyncio.Semaphore] = {}
        self._asked: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<Letters: {len(self._putting)} being put>"

    async def send(
        self, far: FarMailbox, write: Callable[[sqlite3.Connection], list[PostedLetter]]
    ) -> list[PostedLetter]:
        """Run `write` in the ledger, and put and announce the letters that it returns once they are durable."""
        letters = await self._core.ledger.run(write)
        for letter in letters:
            self.put(far.site, letter)
        return letters

    async def put_again(self, router_id: str, *, start: int = 0) -> None:
        """Put every letter to a Router again that it has not acknowledged, from counter `start` on, and ring."""
        far = far_mailbox(self._core, router_id)
        if far is not None:  # it may have a mailbox that is new to us
            try:
                await self.send(
                    far, lambda connection: outgoing.start_anew(connection, router_id, far, now=self._core.clock.now())
                )
            except (Untrusted, SealBroken) as error:
                tell_unsealed(self._core, router_id, error)
                return
        site = self._core.site_of(router_id)
        while True:
            letters = await self._core.ledger.read(
                lambda connection, first=start: outgoing.letters(connection, router_id, start=first, most=_AT_ONCE)  # type: ignore[misc]  # a default binds the place
            )
            tasks = [self.put(site, letter) for letter in letters]
            if len(letters) < _AT_ONCE:
                return
            await asyncio.wait(tasks)
            start = letters[-1].counter + 1

    async def missing(self, router_id: str, counter: int) -> None:
        """The far Router misses a letter: put it, and all after it, again; not more often than every 5 seconds."""
        now = self._core.clock.monotonic()
        if now - self._asked.get(router_id, -60.0) < 5.0:
            return
        self._asked[router_id] = now
        await self.put_again(router_id, start=counter)

    async def acknowledged(self, router_id: str, names: list[str]) -> None:
        """Take letters out of the store that the far Router has read."""
        for name in names:
            if (task := self._putting.pop((router_id, name), None)) is not None:
                task.cancel()
                await asyncio.wait([task])
        await delete_quietly(self._core.blobstore, *names)

    def put(self, site: SiteName, letter: PostedLetter) -> "asyncio.Task[None]":
        """Put a letter that is durable, and ring the doorbell."""
        key = (letter.router_id, letter.name)
        running = self._putting.get(key)
        if running is not None:
            return running
        riding = len(letter.raw) <= min(_MOST_RIDING, self._core.signalling.traits.max_notice_bytes - 100)
        if riding:
            self._core.tasks.spawn(self._ring(letter, letter.raw), name="ring a doorbell")
        task = self._core.tasks.spawn(self._deliver(site, letter, ring=not riding), name="put a letter")
        self._putting[key] = task
        task.add_done_callback(lambda _: self._putting.pop(key, None))
        return task

    async def _deliver(self, site: SiteName, letter: PostedLetter, *, ring: bool) -> None:
        turns = self._turns.setdefault(letter.router_id, asyncio.Semaphore(_AT_ONCE))
        waits = delays(_FIRST_WAIT, _MOST_WAIT)
        while True:
            try:
                async with turns, asyncio.timeout(_CALL_SECONDS + len(letter.raw) / _SLOWEST):
                    await self._core.blobstore.put(letter.name, letter.raw)
                break
            except BlobExists:
                self._core.alerts.raise_(
                    site, "letter", f"something else lies where letter {letter.counter} to site {site} belongs"
                )
                return
            except (ProviderTrouble, TimeoutError) as trouble:
                if isinstance(trouble, ProviderTrouble) and trouble.retry is Retry.NEVER:
                    _log.error("a letter cannot be put", site=site, counter=letter.counter, why=str(trouble))
                    return  # and again in ten minutes
                await asyncio.sleep(next(waits))
        if ring:
            await self._ring(letter, b"")

    async def _ring(self, letter: PostedLetter, riding: bytes) -> None:
        body = letter.counter.to_bytes(COUNTER_BYTES, "big") + self._core.identity.router_id.encode() + riding
        await ring(self._core, letter.router_id, pack(NoticeKind.LETTER, NO_SESSION, body))


async def ask_for(core: PostCore, router_id: str, counter: int) -> None:
    """Ask a Router to put a letter, with what it is about, again."""
    body = counter.to_bytes(COUNTER_BYTES, "big") + core.identity.router_id.encode()
    await ring(core, router_id, pack(NoticeKind.LETTER_MISSING, NO_SESSION, body))


async def ring(core: PostCore, router_id: str, notice: bytes) -> None:
    """Send a notice, or let it be: whoever misses it looks by himself within minutes."""
    waits = delays(_FIRST_WAIT, 2.0)
    for _ in range(_RINGS):
        try:
            await core.signalling.publish(router_id, notice)
            return
        except ProviderTrouble as trouble:
            if trouble.retry is Retry.NEVER:
                return
        await asyncio.sleep(next(waits))


async def delete_quietly(blobstore: Blobstore, *names: str) -> None:
    """Delete blobs, or leave them to the sweeper."""
    waits = delays(_FIRST_WAIT, 2.0)
    for _ in range(_RINGS):
        try:
            await blobstore.delete(*names)
            return
        except IsthmusError:
            await asyncio.sleep(next(waits))
