"""The outbox: bundles that wait for other sites, cut into blobs, put side by side, and told of in a letter.

An envelope is what of one bundle goes to one device of another site, and is uploaded for it alone: a group of two
devices at one site costs two uploads, and each can be late, held or cancelled without the other. The receiving site
need not be there: its pinned key, its mailbox and a prekey are enough.
"""

import asyncio
import contextlib
import sqlite3
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

import structlog

from isthmus.contract.letters import LetterKind, Manifest, ManifestObject, ObjectKind
from isthmus.envelope.letters import MAX_BODY_BYTES
from isthmus.envelope.mailboxes import envelope_blob_name, envelope_blob_names
from isthmus.errors import BlobExists, IsthmusError, ProviderTrouble, Retry, SealBroken, Untrusted
from isthmus.kit.backoff import delays
from isthmus.ports.blobstore import BlobstoreTraits
from isthmus.router.queued.ledger import outgoing
from isthmus.router.queued.ledger.outgoing import Envelope, PostedLetter, SealedObject
from isthmus.router.queued.post.lanes import MOST, Lanes
from isthmus.router.queued.post.mailbox import FarMailbox, Letters, PostCore, delete_quietly, far_mailbox, tell_unsealed
from isthmus.router.queued.post.stragglers import Stragglers
from isthmus.router.queued.spool.header import Route
from isthmus.router.queued.trouble import NoRoom, SpoolFailed

_log = structlog.get_logger()

SMALL_BLOB: Final = 1024 * 1024
LARGE_BLOB: Final = 4 * 1024 * 1024
BILLED_BLOB: Final = 8 * 1024 * 1024
_TAIL_BYTES: Final = 16 * 1024 * 1024  # of an envelope: its end goes in small blobs, so that no lane idles
_LAST: Final = 3  # envelopes: about as much as is under way at once
_AT_ONCE: Final = 8  # envelopes
_LOOK_SECONDS: Final = 60.0
_FIRST_WAIT: Final = 0.2
_MOST_WAIT: Final = 60.0
_TELL_AFTER: Final = 8  # tries
_CALL_SECONDS: Final = 60.0
_SLOWEST: Final = 32 * 1024  # bytes a second below which a put is given up
_SOON_SECONDS: Final = 2.0  # a letter that goes before its blobs keeps the reader waiting no longer than that
NO_ANSWER_SECONDS: Final = 600.0
_MOST_AGAIN: Final = 4  # envelopes that are put again at the same time
_PROMISE_SECONDS: Final = 0.25
_BILLED_PAUSE: Final = 10.0
_ENOUGH: Final = 2  # envelopes under way with which the outbox looks for more
_ASKED_SECONDS: Final = 30.0
_KEY_BYTES: Final = 32
_ID_BYTES: Final = 16


class OutSpool(Protocol):
    """What the outbox asks of the spool."""

    async def read(self, name: str, start: int, end: int) -> bytes:
        """Return bytes of a bundle's file."""
        ...

    async def verified(self, bundle_id: int) -> None:
        """Return when nothing damaged is waiting in a bundle any more: what was there before a start may be."""
        ...

    def object_secret(self, object_id: bytes) -> bytes:
        """Return what opens an object that was sealed here."""
        ...

    def want(self, is_wanted: Callable[[Route], bool]) -> None:
        """Close what is open of these routes: the link is idle."""
        ...

    @property
    def filling(self) -> bool:
        """Whether an association is putting objects into a bundle: more comes."""
        ...


class _NameTaken(IsthmusError):
    """Something else lies under the name of a blob of ours."""


class Outbox:
    """Sends what waits for other sites. Every step may be repeated; what was done is found in the ledger."""

    def __init__(self, core: PostCore, letters: Letters, spool: OutSpool, *, lanes: Lanes | None = None) -> None:
        self.lanes = lanes or Lanes(core.clock)
        self._stragglers = Stragglers(core.clock, core.tasks, lambda: self.lanes.quiet)
        self._core = core
        self._letters = letters
        self._spool = spool
        self._wake = asyncio.Event()
        self._active: dict[bytes, asyncio.Task[None]] = {}
        self._again: set[bytes] = set()
        self._asked: dict[bytes, float] = {}
        self._ownerless = False
        self._hungry = False
        self._promised = -1.0
        self._billed: frozenset[str] = frozenset()  # sites to which blobs go by a store that is paid for by the request
        self._closed_early = -_BILLED_PAUSE

    def __repr__(self) -> str:
        return f"<Outbox: {len(self._active)} envelopes, {self.lanes!r}>"

    def wake(self) -> None:
        """A bundle was closed, a person changed something, or an order of storage commitment may go now."""
        self._wake.set()

    def wants(self, route: Route) -> bool:
        """Return whether there is nothing else to send, so that an open bundle of this route should close. Any thread.

        Says so once for each bundle that follows: one promised bundle is enough until it has come.
        """
        if not self._hungry or not any(place.site is not None for place in route.destinations):
            return False
        if self._is_billed(route):
            return self._may_close(route)
        now = self._core.clock.monotonic()
        if now - self._promised < _PROMISE_SECONDS:
            return False
        self._promised = now
        return True

    def _may_close(self, route: Route) -> bool:
        """Return whether a bundle may close before it is full. Where each blob is paid for, that is not often so."""
        if not self._is_billed(route):
            return True
        now = self._core.clock.monotonic()
        if now - self._closed_early < _BILLED_PAUSE:
            return False
        self._closed_early = now
        return True

    def _is_billed(self, route: Route) -> bool:
        return any(place.site in self._billed for place in route.destinations)

    async def run(self) -> None:
        """Send until cancelled."""
        await self._core.ledger.run(outgoing.repair)
        self._ownerless = True
        self._core.tasks.spawn(self._put_announced(), name="put what was announced")
        try:
            while True:
                self._wake.clear()
                try:
                    await self._turn()
                except (NoRoom, SpoolFailed) as error:
                    _log.error("nothing can be sent to other sites", reason=str(error))
                    await asyncio.sleep(1.0)
                await _wait(self._wake, _LOOK_SECONDS)
        finally:
            for task in self._active.values():
                task.cancel()
            if self._active:
                await asyncio.wait(self._active.values())

    # -- envelopes

    async def _turn(self) -> None:
        if self._ownerless:  # here, where nothing is begun meanwhile
            known = set(self._active)
            for envelope in await self._core.ledger.read(partial(outgoing.envelopes, state="uploading")):
                if envelope.envelope_id not in known:
                    self._start(envelope, 0)
            self._ownerless = False
        free = _AT_ONCE - len(self._active)
        if free <= 0:
            return
        fars: dict[str, FarMailbox] = {
            far.site: far for row in self._core.accepted() if (far := far_mailbox(self._core, row.router_id))
        }
        stores = {site: store for site, far in fars.items() if (store := self._store_for(far)) is not None}
        fars = {site: far for site, far in fars.items() if site in stores}
        self._billed = frozenset(site for site, (_, traits) in stores.items() if traits.billed)
        begin = partial(self._begin, fars=fars, stores=stores, most=free, ends=not self._spool.filling)
        begun, more = await self._core.ledger.run(begin)
        for envelope, priority in begun:
            self._start(envelope, priority)
        self._promised = -1.0 if begun else self._promised
        self._hungry = not more and len(self._active) <= _ENOUGH
        if self._hungry:  # also what an association has just left behind
            self._spool.want(self._may_close)

    def _begin(
        self,
        connection: sqlite3.Connection,
        fars: dict[str, FarMailbox],
        stores: dict[str, tuple[str, BlobstoreTraits]],
        most: int,
        *,
        ends: bool,
    ) -> tuple[list[tuple[Envelope, int]], bool]:
        items = outgoing.waiting(connection, fars, most=most + _LAST)
        begun = []
        for place, item in enumerate(items[:most], start=1):
            envelope_id = self._core.random(_ID_BYTES)
            provider, traits = stores[item.site]
            envelope = outgoing.begin_envelope(
                connection,
                item,
                envelope_id=envelope_id,
                router_id=fars[item.site].router_id,
                secret=self._core.local.seal_local(_key_label(envelope_id), self._core.random(_KEY_BYTES)),
                provider=provider,
                cut=partial(_cut, traits=traits, last=ends and len(items) - place < _LAST),
            )
            if envelope is not None:
                begun.append((envelope, item.priority))
        return begun, len(items) > most

    def _store_for(self, far: FarMailbox) -> tuple[str, BlobstoreTraits] | None:
        """Return the pair for a new envelope, and what its blobstore can do; None, with an alert, if none works."""
        try:
            name = self._core.stores.chosen_for(far.router_id)
            traits = self._core.stores.queued_store(name).traits
        except ProviderTrouble as trouble:
            self._core.alerts.raise_(far.site, "clouds", f"objects for site {far.site} wait here: {trouble}")
            return None
        self._core.alerts.clear(far.site, "clouds")
        return name, traits

    def _is_moved(self, envelope: Envelope) -> bool:
        """Return whether another pair of clouds is to carry what this envelope holds: its own fails."""
        try:
            return self._core.stores.chosen_for(envelope.router_id) != envelope.provider
        except ProviderTrouble:
            return False

    def _start(self, envelope: Envelope, priority: int) -> None:
        self._stragglers.more()
        task = self._core.tasks.spawn(self._send(envelope, priority), name="send an envelope")
        self._active[envelope.envelope_id] = task

        def ended(_: object) -> None:
            self._active.pop(envelope.envelope_id, None)
            self._wake.set()

        task.add_done_callback(ended)

    async def _send(self, envelope: Envelope, priority: int) -> None:
        site = self._core.site_of(envelope.router_id)
        name_key = self._core.local.open_local(_key_label(envelope.envelope_id), envelope.secret)
        waits = delays(1.0, _MOST_WAIT)
        first, taken, posted = envelope.uploaded, False, False
        while True:
            try:
                if taken:
                    await self._drop(envelope, name_key)
                    return
                await self._spool.verified(envelope.bundle_id)
                if not posted and self._is_soon_there(envelope):
                    if not await self._post(envelope, name_key, announced=True):
                        return
                    posted = True
                await self._upload(envelope, name_key, priority, first=first)
                first = len(envelope.blobs)
                if not posted:
                    await self._post(envelope, name_key, announced=False)
                return
            except _NameTaken:
                self._core.alerts.raise_(site, "blob", f"something else lies where a blob for site {site} belongs")
                if posted:
                    return  # it will not verify there, and is asked for anew
                taken = True
                continue
            except (ProviderTrouble, NoRoom, SpoolFailed) as error:
                if not posted and isinstance(error, ProviderTrouble) and self._is_moved(envelope):
                    taken = True
                    continue
                self._core.alerts.raise_(site, "upload", f"objects for site {site} cannot be put: {error}")
            except (Untrusted, SealBroken) as error:  # what is uploaded stays, and is told of when that can be
                tell_unsealed(self._core, envelope.router_id, error)
            await asyncio.sleep(next(waits))

    def _is_soon_there(self, envelope: Envelope) -> bool:
        """Return whether the letter may go before the blobs: the reader waits for them, and that will not be long.

        While nobody knows how fast the line is, the letters go first, too: a reader that waits in vain asks again.
        """
        seconds = self.lanes.seconds_for(sum(envelope.blobs))
        relays = self._core.stores.queued_store(envelope.provider).traits.relays
        return relays and (seconds is None or seconds < _SOON_SECONDS)

    async def _post(self, envelope: Envelope, name_key: bytes, *, announced: bool) -> bool:
        """Post the letter, `announced` before the blobs; return whether it is posted.

        If nothing of the envelope is wanted, or nothing can be written to that site now, it is dropped.
        """
        far = far_mailbox(self._core, envelope.router_id)
        if far is None:
            await self._drop(envelope, name_key)
            return False
        write = partial(self._write, envelope=envelope, name_key=name_key, far=far, announced=announced)
        posted = await self._letters.send(far, write)
        self._core.alerts.clear(far.site, "upload")
        if not posted:
            self._core.tasks.spawn(self._delete(envelope, name_key), name="delete blobs")
        return bool(posted)

    async def _drop(self, envelope: Envelope, name_key: bytes) -> None:
        """Let what of an envelope still waits go in another, when that can be."""
        await self._core.ledger.run(partial(outgoing.drop_envelope, envelope_id=envelope.envelope_id))
        self._core.tasks.spawn(self._delete(envelope, name_key), name="delete blobs")

    def _write(
        self, connection: sqlite3.Connection, *, envelope: Envelope, name_key: bytes, far: FarMailbox, announced: bool
    ) -> list[PostedLetter]:
        known = outgoing.envelope(connection, envelope.envelope_id)
        if known is None or known.state != "uploading":
            return []
        copies = outgoing.contents(connection, envelope.envelope_id)
        if not copies:
            outgoing.drop_envelope(connection, envelope.envelope_id)
            return []
        now = self._core.clock.now()
        shared = outgoing.is_shared(connection, envelope.envelope_id)
        body = self._manifest(envelope, name_key, copies, shared=shared, now=now).to_payload()
        if len(body) > MAX_BODY_BYTES:
            raise SpoolFailed(f"bundle {envelope.bundle} holds more objects than a letter can name")
        letters = outgoing.add_letter(connection, far.router_id, far, LetterKind.ENVELOPE, body, now=now)
        outgoing.envelope_posted(
            connection, envelope.envelope_id, copies, letters[-1].counter, announced=announced, now=now
        )
        return letters

    def _manifest(
        self, envelope: Envelope, name_key: bytes, copies: list[SealedObject], *, shared: bool, now: float
    ) -> Manifest:
        return Manifest(
            envelope_id=envelope.envelope_id,
            calling=envelope.calling,
            called=envelope.destination,
            sent=now,
            size=sum(envelope.blobs),
            blobs=list(envelope.blobs),
            name_key=name_key,
            provider=envelope.provider,
            shared=shared,
            objects=[
                ManifestObject(
                    object_id=item.object_id,
                    secret=self._spool.object_secret(item.object_id),
                    offset=item.position - envelope.base,
                    length=item.length,
                    digest=item.digest,
                    kind=ObjectKind(item.kind),
                )
                for item in copies
            ],
        )

    # -- blobs

    async def _upload(self, envelope: Envelope, name_key: bytes, priority: int, *, first: int) -> None:
        """Put the blobs from `first` on, many at a time."""
        starts = [envelope.base]
        for size in envelope.blobs:
            starts.append(starts[-1] + size)
        done: set[int] = set()
        through = first
        running: set[asyncio.Task[int]] = set()
        waiting = iter(range(first, len(envelope.blobs)))
        try:
            while True:
                while len(running) < MOST and (index := next(waiting, None)) is not None:
                    put = self._put(envelope, name_key, index, starts[index], starts[index + 1], priority)
                    running.add(self._core.tasks.spawn(put, name="put a blob", awaited=True))
                if not running:
                    return
                ended, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                done |= {task.result() for task in ended}
                before = through
                while through in done:
                    through += 1
                if through // MOST > before // MOST:  # a crash costs no more than a few blobs again
                    save = partial(outgoing.save_progress, envelope_id=envelope.envelope_id, uploaded=through)
                    await self._core.ledger.run(save)
        finally:
            for task in running:
                task.cancel()
            if running:
                await asyncio.wait(running)

    async def _put(self, envelope: Envelope, name_key: bytes, index: int, start: int, end: int, priority: int) -> int:
        name, size = envelope_blob_name(name_key, index), end - start
        rank = (-priority, envelope.bundle_id, index)
        waits = delays(_FIRST_WAIT, _MOST_WAIT)
        tries = 0
        while True:
            try:
                async with self.lanes.lane(rank, size), asyncio.timeout(_CALL_SECONDS + size / _SLOWEST):
                    body = await self._spool.read(envelope.bundle, start, end)
                    store = self._core.stores.queued_store(envelope.provider)
                    if store.traits.billed:
                        await store.put(name, body)
                    else:
                        await self._stragglers.call(partial(store.put, name, body))
                return index
            except BlobExists as error:
                raise _NameTaken(str(error)) from error
            except (ProviderTrouble, TimeoutError) as trouble:
                if isinstance(trouble, ProviderTrouble) and (trouble.retry is Retry.NEVER or self._is_moved(envelope)):
                    raise
                tries += 1
                if tries == _TELL_AFTER:
                    site = self._core.site_of(envelope.router_id)
                    why = str(trouble) or "the store does not answer"
                    self._core.alerts.raise_(site, "upload", f"objects for site {site} wait here: {why}")
            await asyncio.sleep(next(waits))

    async def _delete(self, envelope: Envelope, name_key: bytes) -> None:
        names = envelope_blob_names(name_key, len(envelope.blobs))
        with contextlib.suppress(ProviderTrouble):  # a pair that is not in use here any more: its own rule sweeps
            await delete_quietly(self._core.stores.queued_store(envelope.provider), *names)

    async def forget(self, envelope_ids: list[bytes]) -> None:
        """Take the blobs of these envelopes out of the store: nobody reads them any more."""
        names: defaultdict[str, list[str]] = defaultdict(list)
        for envelope_id in envelope_ids:
            envelope = await self._core.ledger.read(partial(outgoing.envelope, envelope_id=envelope_id))
            if envelope is not None:
                name_key = self._core.local.open_local(_key_label(envelope_id), envelope.secret)
                names[envelope.provider] += envelope_blob_names(name_key, len(envelope.blobs))
        for provider, of_pair in names.items():
            with contextlib.suppress(ProviderTrouble):
                await delete_quietly(self._core.stores.queued_store(provider), *of_pair)

    # -- once more

    async def watch(self) -> None:
        """Put again what a site that is there has not confirmed for ten minutes, then 20, 40 and so on; and tell.

        An envelope whose task failed is gone on with at the next turn.
        """
        self._ownerless = True
        now = self._core.clock.now()
        posted = partial(outgoing.envelopes, state="posted", before=now - NO_ANSWER_SECONDS)
        late: dict[str, list[Envelope]] = {}
        for envelope in await self._core.ledger.read(posted):
            if self._core.directory.is_online(envelope.router_id):  # type: ignore[arg-type]  # written as a RouterId
                late.setdefault(envelope.router_id, []).append(envelope)
        for row in self._core.accepted():
            envelopes = late.get(row.router_id, [])
            if not envelopes:
                self._core.alerts.clear(row.site, "no answer")
                continue
            self._core.alerts.raise_(
                row.site, "no answer", f"site {row.site} is there, but has not confirmed what was sent to it"
            )
            due = [item for item in envelopes if _overdue(item, now)]
            await asyncio.gather(*(self.put_again(item) for item in due[:_MOST_AGAIN]))

    async def _put_announced(self) -> None:
        """Put what an earlier run may have announced and not put."""
        for envelope in await self._core.ledger.read(partial(outgoing.envelopes, state="posted")):
            if envelope.uploaded == outgoing.ANNOUNCED:
                await self.put_again(envelope)

    async def missing(self, router_id: str, counter: int) -> None:
        """The far Router misses the blobs that a letter is about."""
        of_letter = partial(outgoing.envelope_of_letter, router_id=router_id, counter=counter)
        envelope = await self._core.ledger.read(of_letter)
        now = self._core.clock.monotonic()
        if envelope is None or envelope.state != "posted" or now < self._asked.get(envelope.envelope_id, now):
            return
        self._asked = {key: until for key, until in self._asked.items() if until > now}
        self._asked[envelope.envelope_id] = now + _ASKED_SECONDS
        await self.put_again(envelope)

    async def put_again(self, envelope: Envelope) -> None:
        """Put the same blobs and the same letter once more."""
        if envelope.envelope_id in self._again:
            return
        self._again.add(envelope.envelope_id)
        try:
            name_key = self._core.local.open_local(_key_label(envelope.envelope_id), envelope.secret)
            mark = partial(outgoing.posted_again, envelope_id=envelope.envelope_id, now=self._core.clock.now())
            await self._core.ledger.run(mark)
            await self._upload(envelope, name_key, 0, first=0)
            await self._letters.put_again(envelope.router_id, start=envelope.counter or 0)
        except (IsthmusError, OSError) as error:
            _log.warning("an envelope could not be put again", reason=str(error))
        finally:
            self._again.discard(envelope.envelope_id)


def _cut(size: int, *, traits: BlobstoreTraits, last: bool) -> list[int]:
    """Return the sizes of an envelope's blobs: few where each is paid for, else many at the end, for all lanes.

    `last`: hardly more waits than what is under way.
    """
    most = traits.max_blob_bytes
    if traits.billed:
        return _pieces(size, BILLED_BLOB, most)
    tail = min(size, _TAIL_BYTES) if last else 0
    return [*_pieces(size - tail, LARGE_BLOB, most), *_pieces(tail, SMALL_BLOB, most)]


def _pieces(size: int, usual: int, most: int) -> list[int]:
    """Return equal parts of about the usual size: a bundle is a little larger than its limit, which makes no blob."""
    if not size:
        return []
    count = max(1, round(size / usual), -(-size // most))
    return [size * (number + 1) // count - size * number // count for number in range(count)]


def _overdue(envelope: Envelope, now: float) -> bool:
    wait: float = NO_ANSWER_SECONDS * 2 ** max(0, min(envelope.uploaded, 6))
    return envelope.posted is not None and now - envelope.posted >= wait


def _key_label(envelope_id: bytes) -> str:
    return f"name key/{envelope_id.hex()}"


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
