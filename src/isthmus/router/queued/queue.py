"""Queued delivery, put together: spool, ledger, post and deliveries of one Router, and who wakes whom."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import structlog

from isthmus.kit.files import make_private_folder
from isthmus.kit.tasks import Tasks
from isthmus.router.live.registry import Live
from isthmus.router.queued.delivery.destinations import Means
from isthmus.router.queued.delivery.dispatcher import Dispatcher, LiveAssociate
from isthmus.router.queued.delivery.reading import SpoolSource
from isthmus.router.queued.ingest.accepting import Ingest
from isthmus.router.queued.ledger.database import Ledger
from isthmus.router.queued.ledger.deliveries import Outcome
from isthmus.router.queued.ledger.studies import StudyBook, keep_erasing
from isthmus.router.queued.mirror import Mirror
from isthmus.router.queued.post.alerts import Alerts
from isthmus.router.queued.post.mailbox import PostCore
from isthmus.router.queued.post.office import Post
from isthmus.router.queued.spool.bundles import Spool
from isthmus.router.queued.spool.recovery import recover, verified, verify_doubtful
from isthmus.router.queued.spool.room import Room
from isthmus.router.queued.spool.secrets import load_secret
from isthmus.router.queued.studies import StudySealer
from isthmus.router.routing.store import Store

SPOOL: Final = "spool"
SECRET: Final = "spool.key"  # noqa: S105 - the name of a file
LEDGER: Final = "ledger.db"

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Queue:
    """The queue of a running Router."""

    spool: Spool
    post: Post
    dispatcher: Dispatcher
    mirror: Mirror
    ingest: Ingest
    sealer: StudySealer


@contextlib.asynccontextmanager
async def running(folder: Path, live: Live, store: Store, *, probes: bool) -> AsyncIterator[Queue]:
    """Run the queue whose spool, secret and ledger are in `folder` while the block runs.

    `probes`: devices are asked by themselves what they take. Raises OperatorError if the ledger is damaged or the
    spool's secret is missing, NoRoom or SpoolFailed if the disk does not do its part.
    """
    core = live.core
    async with contextlib.AsyncExitStack() as stack:
        spool, sealer = await _open_spool(folder, live, stack)
        tasks = Tasks("queue")
        mirror = Mirror(live, store)
        waking = _Waking(spool, tasks)
        post = Post(
            PostCore(
                identity=core.identity,
                prekeys=core.prekeys,
                directory=core.directory,
                signalling=core.pairs.built_in.cloud.signalling,
                blobstore=core.pairs.built_in.cloud.blobstore,
                stores=core.pairs,
                ledger=spool.ledger,
                local=spool,
                clock=core.clock,
                tasks=tasks,
                alerts=Alerts(core.audit.alert),
            ),
            spool,
            received=waking.received,
        )
        source = SpoolSource(spool.path, spool.secrets, partial(verified, spool), spool.fresh)
        stack.callback(source.close)
        means = Means(
            ledger=spool.ledger,
            source=source,
            directory=core.directory,
            associate=LiveAssociate(live),
            prober=mirror,
            observer=waking,
            seal=spool.seal_local,
            clock=core.clock,
            tasks=tasks,
        )
        dispatcher = Dispatcher(means, alert=core.audit.alert)
        waking.join(post, dispatcher)
        live.when_accepted(dispatcher.heard)
        live.when_crowded(dispatcher.crowded)
        live.when_accepted(mirror.seen)
        core.directory.on_change(post.connected)
        await stack.enter_async_context(spool.running())
        stack.push_async_callback(tasks.close)
        await stack.enter_async_context(dispatcher.running())
        tasks.spawn(post.run(), name="carry post")
        if probes:
            tasks.spawn(mirror.keep_probing(), name="ask devices what they take")
        tasks.spawn(verify_doubtful(spool), name="verify what was queued before")
        tasks.spawn(keep_erasing(spool.ledger, core.clock), name="erase what is known of delivered studies")
        yield Queue(spool, post, dispatcher, mirror, Ingest(live, spool), sealer)


async def _open_spool(folder: Path, live: Live, stack: contextlib.AsyncExitStack) -> tuple[Spool, StudySealer]:
    core = live.core
    place, ledger_file = make_private_folder(folder / SPOOL), folder / LEDGER
    in_use = any(place.iterdir())
    if in_use and not ledger_file.exists():
        _log.warning("the ledger of queued objects is gone, and is made anew from the spool")
    secret = load_secret(folder / SECRET, core.random, needed=in_use or ledger_file.exists())
    ledger = Ledger.open(ledger_file)
    stack.push_async_callback(ledger.close)
    sealer = StudySealer(secret)
    room = Room(place, core.clock)

    def limit() -> None:
        settings = core.directory.settings
        room.limit(quota=settings.spool_quota or None, floor=settings.spool_floor)

    limit()
    core.directory.on_change(limit)
    spool = Spool(place, secret, ledger, core.clock, room, core.random, study=StudyBook(sealer))
    await recover(spool)
    return spool, sealer


class _Waking:
    """Tells each part of the queue what another part has done for it."""

    def __init__(self, spool: Spool, tasks: Tasks) -> None:
        self._spool = spool
        self._tasks = tasks
        self._post: Post | None = None
        self._dispatcher: Dispatcher | None = None

    def join(self, post: Post, dispatcher: Dispatcher) -> None:
        """Know whom to tell."""
        self._post, self._dispatcher = post, dispatcher
        self._spool.when_ready(self._ready)
        self._spool.when_stored(self._stored)

    def received(self, title: str) -> None:
        """Objects came in for a device of ours."""
        assert self._dispatcher is not None
        self._dispatcher.wake(title)

    def recorded(self, outcomes: Sequence[Outcome]) -> None:
        """What became of copies is in the ledger: who sent them is told, and what waited for them may go."""
        assert self._post is not None
        if outcomes:
            self._post.receipts_due()
            self._post.outbox.wake()

    def finished(self, bundle_id: int, name: str) -> None:
        """All copies of a bundle are over."""
        del name
        self._tasks.spawn(self._spool.release(bundle_id), name="let a bundle go")

    def _ready(self, bundle_id: int) -> None:
        assert self._post is not None
        self._post.bundle_ready(bundle_id)
        self.finished(bundle_id, "")  # a device may have had all of it before it was closed

    def _stored(self, bundle_ids: frozenset[int]) -> None:
        del bundle_ids
        assert self._dispatcher is not None
        self._tasks.spawn(self._dispatcher.look(), name="look what waits")
