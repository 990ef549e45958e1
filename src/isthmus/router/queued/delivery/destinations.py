"""One device of ours as a destination: its queue, its lanes, and the outages that stop it.

A lane is one association at a time. While the device is in an outage a single lane tries; it ends with the first
response to an object. What is claimed is known here only: after a crash it simply waits in the ledger again.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Final, Protocol

import structlog

from isthmus.dicom.storage_classes import STORAGE_CLASSES
from isthmus.errors import AssociationRefused, IsthmusError
from isthmus.kit.clock import Clock
from isthmus.kit.tasks import Tasks
from isthmus.router.live.session import Parties
from isthmus.router.queued.delivery.judging import broken
from isthmus.router.queued.delivery.outage import Outage
from isthmus.router.queued.delivery.reading import Source
from isthmus.router.queued.delivery.recording import Recorder
from isthmus.router.queued.delivery.senders import Sender, find_device, find_sender
from isthmus.router.queued.delivery.sending import MOST_CONTEXTS, Association, DeviceLost, DeviceRefused, Pair
from isthmus.router.queued.ledger import deliveries
from isthmus.router.queued.ledger.database import Ledger
from isthmus.router.queued.ledger.deliveries import DestinationState, DueCopy, Outcome, held
from isthmus.router.queued.ledger.records import COMMENT_LABEL, CopyState
from isthmus.router.routing.directory import Directory
from isthmus.router.routing.records import LocalDevice

_log = structlog.get_logger()

BATCH_COPIES: Final = 256
BATCH_BYTES: Final = 128 * 1024 * 1024
MOST_TRANSIENT: Final = 10
"""So many transient answers in a row are an outage too: an archive whose disk is full need not see every object."""
ASIDE_SECONDS: Final = 30.0
"""How long a device that takes one association is left to a live caller that found it taken: callers try again."""
_PERMANENT: Final = 1  # result of an A-ASSOCIATE-RJ


class Associate(Protocol):
    """Opens associations."""

    async def __call__(
        self, device: LocalDevice, sender: Sender, pairs: Sequence[Pair], parties: Parties
    ) -> Association:
        """Return an association. Raises DeviceRefused."""
        ...


class Prober(Protocol):
    """Asks a device what it takes."""

    async def again(self, device: LocalDevice, sender: Sender, pairs: Sequence[Pair]) -> set[Pair]:
        """Return which of the pairs it takes now, and remember that. Raises DeviceRefused."""
        ...


class Observer(Protocol):
    """Who hears of what became of copies, after it is durable."""

    def recorded(self, outcomes: Sequence[Outcome]) -> None:
        """These are in the ledger; a receipt is due for those that came in an envelope and are not waiting."""
        ...

    def finished(self, bundle_id: int, name: str) -> None:
        """Every copy in a bundle is done: its file is needed no more."""
        ...


@dataclass(frozen=True, slots=True)
class Means:
    """What every destination works with."""

    ledger: Ledger
    source: Source
    directory: Directory
    associate: Associate
    prober: Prober
    observer: Observer
    seal: Callable[[str, bytes], bytes]
    clock: Clock
    tasks: Tasks


@dataclass(slots=True)
class Claim:
    """Copies of one sender that a lane has taken."""

    device: LocalDevice
    sender: Sender
    copies: list[DueCopy] = field(default_factory=list)


class Destination:
    """One device of ours."""

    def __init__(self, title: str, means: Means, recorder: Recorder) -> None:
        self.title: Final = title
        self.means: Final = means
        self.recorder: Final = recorder
        self.outage: Outage | None = None
        self.callers: dict[str, Outage] = {}  # those that the device does not take, by network title
        self.answers = 0  # responses of the device
        self.crowded = asyncio.Event()
        """Set when there is more than one lane has taken."""
        self.stopping = False
        self._aside_until = 0.0
        self._breaks: dict[int, tuple[int, int]] = {}  # copy -> how often the association ended under it, answers then
        self._asked_again: set[Pair] = set()  # refused in an association, taken when asked again
        self._transient = 0  # such answers in a row
        self._taken: set[int] = set()
        self._claiming = asyncio.Lock()
        self._wake = asyncio.Event()
        self._kept = DestinationState(title, down=False, since=0.0, next_probe=0.0, failures=0, reason="")

    def __repr__(self) -> str:
        return f"<Destination {self.title}: {len(self._taken)} copies taken, {self.outage}>"

    # -- waking ----------------------------------------------------------------------------------------------------

    def wake(self) -> None:
        """Look again: something may be due."""
        self._wake.set()

    def stop(self) -> None:
        """Begin nothing more; what is under way ends with its object."""
        self.stopping = True
        self._wake.set()

    def step_aside(self) -> None:
        """Let go of the device after the object that is being sent, and stay away from it for a moment."""
        self._aside_until = self.means.clock.monotonic() + ASIDE_SECONDS
        self._wake.set()

    def heard(self) -> None:
        """The device gave somebody a good answer."""
        if self.outage is not None:
            self.outage.heard(self.means.clock.monotonic())
            self.wake()

    async def wait(self, seconds: float) -> bool:
        """Wait until woken, or so long; return whether it was woken since the last `wait`. Not while stopping."""
        if self.stopping:
            return True
        try:
            async with asyncio.timeout(None if seconds == inf else max(seconds, 0.001)):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    # -- what is due -----------------------------------------------------------------------------------------------

    @property
    def seconds_to_attempt(self) -> float:
        """How long nothing is to be tried, for an outage or since others come first."""
        next_probe = 0.0 if self.outage is None else self.outage.next_probe
        return max(next_probe, self._aside_until) - self.means.clock.monotonic()

    async def seconds_to_next(self) -> float:
        """Return how long until a copy that is not due now may be."""
        now = self.means.clock.now()
        due = await self.means.ledger.read(lambda connection: deliveries.next_try(connection, self.title, now))
        monotonic = self.means.clock.monotonic()
        waits = [outage.next_probe - monotonic for outage in self.callers.values() if outage.next_probe > monotonic]
        return min([*waits, inf if due is None else due - now])

    async def claim(self) -> Claim | None:
        """Take the copies that come next, of one sender and with few enough kinds for one association; None: none.

        What its sender is not granted any more is held. Raises DeviceRefused if the device is not to be called now.
        """
        async with self._claiming:
            while not self.stopping:
                due = await self._due(self._stopped_callers())
                if not due:
                    return None
                device = find_device(self.means.directory, self.title)
                if device is None:
                    raise DeviceRefused(f"this site has no device {self.title} any more", hint="isthmus device list")
                copies = _batch(due)
                claim = await self._judge(device, copies)
                if claim is not None:
                    self._taken.update(copy.copy_id for copy in claim.copies)
                    if len(copies) == BATCH_COPIES or sum(copy.payload for copy in copies) >= BATCH_BYTES // 2:
                        self.crowded.set()
                    return claim
        return None

    def give_back(self, copies: Iterable[DueCopy]) -> None:
        """Take no longer what was not sent; not what was, as long as the ledger does not know what became of it."""
        self._taken.difference_update({copy.copy_id for copy in copies} - self.recorder.behind())

    def _stopped_callers(self) -> list[str]:
        now = self.means.clock.monotonic()
        return [calling for calling, outage in self.callers.items() if outage.next_probe > now]

    async def _due(self, but: Sequence[str]) -> list[DueCopy]:
        """Return the copy that comes next, of a sender that is none of `but`, and those of the same sender after it."""
        now, taken = self.means.clock.now(), frozenset(self._taken)

        def ask(connection: sqlite3.Connection) -> list[DueCopy]:
            head = deliveries.due(connection, self.title, now, but=but, taken=taken, most=1)
            if not head:
                return []
            calling = head[0].calling
            return deliveries.due(connection, self.title, now, calling=calling, taken=taken, most=BATCH_COPIES)

        return await self.means.ledger.read(ask)

    async def _judge(self, device: LocalDevice, copies: list[DueCopy]) -> Claim | None:
        """Return the claim on what may be sent; hold the rest. None if nothing may."""
        first = copies[0]
        if device.disabled:
            raise DeviceRefused(f"{device.title} is disabled", hint=f"isthmus device enable {device.title}")
        try:
            sender = find_sender(self.means.directory, device, first.calling, first.far_router)
        except AssociationRefused as refused:
            if refused.result != _PERMANENT:
                raise DeviceRefused(str(refused), hint=refused.hint) from refused
            await self.hold(copies, str(refused))
            return None
        try:
            granted = sender.granted(device, {copy.pair for copy in copies})
        except Exception as error:  # noqa: BLE001 - whatever one object has, the others go on
            if len(copies) > 1:
                return await self._judge(device, copies[:1])
            await self.hold(copies, f"it cannot be proposed to {device.title}: {type(error).__name__}")
            return None
        if refused_copies := [copy for copy in copies if copy.pair not in granted]:
            await self.hold(refused_copies, f"{device.network_title} is not granted to {sender.calling} for this")
        kept = [copy for copy in copies if copy.pair in granted]
        return Claim(device, sender, kept) if kept else None

    # -- what became of it -----------------------------------------------------------------------------------------

    async def hold(self, copies: Sequence[DueCopy], reason: str) -> None:
        """Hold copies for a reason of ours. Raises NoRoom or SpoolFailed."""
        _log.warning("held", destination=self.title, count=len(copies), reason=reason)
        now = self.means.clock.now()
        outcomes = [held(copy, now, reason) for copy in copies]
        await self.means.ledger.run(lambda connection: deliveries.save(connection, outcomes))
        self.give_back(copies)
        self.means.observer.recorded(outcomes)

    def ended(self, outcome: Outcome) -> None:
        """Note what became of a copy; the ledger follows, and then it is taken no longer."""
        if outcome.comment:
            outcome = replace(outcome, sealed=self.means.seal(COMMENT_LABEL, outcome.comment.encode()))
        self.recorder.ended(outcome)

    def recorded(self, outcomes: Iterable[Outcome]) -> None:
        """These are in the ledger: what waited for them may be due."""
        self._taken.difference_update(outcome.copy.copy_id for outcome in outcomes)
        self.wake()

    # -- the state of the device -----------------------------------------------------------------------------------

    async def answered(self, outcome: Outcome) -> None:
        """Note a response: it ends the outage, unless it is one more transient answer of many."""
        copy = outcome.copy
        self.answers += 1
        self._breaks.pop(copy.copy_id, None)
        self._asked_again.discard(copy.pair)
        self.callers.pop(copy.calling, None)
        if outcome.state is CopyState.WAITING:
            self._transient += 1
            if self._transient >= MOST_TRANSIENT or self.outage is not None:
                raise DeviceRefused(f"it answers {outcome.reason} each time")
            return
        self._transient = 0
        if self.outage is not None:
            _log.info("destination takes objects again", destination=self.title, failures=self.outage.failures)
            self.outage = None
            await self._keep()
            self.wake()  # for the other lanes

    def lost(self, copy: DueCopy, why: DeviceLost) -> Outcome:
        """Return what the end of the association under this copy means for it."""
        count, answers = self._breaks.get(copy.copy_id, (0, self.answers))
        others_went = count > 0 and self.answers > answers
        self._breaks[copy.copy_id] = count + 1, self.answers
        now = self.means.clock.now()
        return broken(copy, now, sent=why.sent, breaks=count + 1, others_went=others_went, why=str(why))

    async def failed(self, why: IsthmusError, calling: str | None = None) -> None:
        """Note that the device gave no association, or ended it; `calling`: only for this caller."""
        clock = self.means.clock
        outage = self.outage if calling is None else self.callers.get(calling)
        if outage is not None and outage.next_probe > clock.monotonic():
            return  # another lane has said so already
        if outage is None:
            outage = Outage(clock.now())
            _log.warning(
                "destination takes no objects: they wait",
                destination=self.title, calling=calling or "all", reason=str(why), hint=why.hint,
            )  # fmt: skip
        outage.failed(str(why), clock.monotonic())
        if calling is not None:
            self.callers[calling] = outage
            return
        self.outage = outage
        await self._keep()

    async def ask_again(self, claim: Claim, copies: Sequence[DueCopy]) -> None:
        """Deal with copies whose pair the device refused: ask it once more, then hold. Raises DeviceRefused."""
        pairs = sorted({copy.pair for copy in copies} - self._asked_again)
        taken = await self.means.prober.again(claim.device, claim.sender, pairs) if pairs else set[Pair]()
        self._asked_again |= taken
        for pair in sorted({copy.pair for copy in copies}):
            of_pair = [copy for copy in copies if copy.pair == pair]
            if pair in taken:
                self.give_back(of_pair)
            else:
                self._asked_again.discard(pair)
                abstract, transfer = pair
                name = STORAGE_CLASSES.get(abstract, abstract)
                await self.hold(of_pair, f"{claim.device.title} does not take {name} as {transfer}")

    def restore(self, state: DestinationState) -> None:
        """Take over an outage from before the last stop; it is tried at once."""
        self._kept = state
        if state.down:
            self.outage = Outage(state.since)
            self.outage.reason, self.outage.failures = state.reason, state.failures

    async def _keep(self) -> None:
        """Write what changed of the outage, for those who ask, and for the next start."""
        outage, clock = self.outage, self.means.clock
        if outage is None:
            state = DestinationState(self.title, down=False, since=clock.now(), next_probe=0.0, failures=0, reason="")
        else:
            next_probe = clock.now() + outage.next_probe - clock.monotonic()
            state = DestinationState(
                self.title, down=True, since=outage.since, next_probe=next_probe, failures=outage.failures,
                reason=outage.reason,
            )  # fmt: skip
        self._kept = state
        await self.means.ledger.run(lambda connection: deliveries.save_destination(connection, state))


def _batch(copies: Sequence[DueCopy]) -> list[DueCopy]:
    """Return the first of these, as many as one association has contexts for and not too many bytes; at least one."""
    pairs: set[Pair] = set()
    taken: list[DueCopy] = []
    left = BATCH_BYTES
    for copy in copies:
        pairs.add(copy.pair)
        if taken and (len(pairs) > MOST_CONTEXTS or copy.payload > left):
            break
        taken.append(copy)
        left -= copy.payload
    return taken
