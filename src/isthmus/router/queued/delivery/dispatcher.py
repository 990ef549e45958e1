"""Delivers what waits for the devices of this site: one destination beside the other, none waiting for another."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

import structlog

from isthmus.dicom.associate import AssociateAccept, AssociateRequest
from isthmus.kit.complaint import Complaint
from isthmus.kit.tasks import Tasks
from isthmus.router.live.registry import Live
from isthmus.router.live.session import Parties
from isthmus.router.queued.delivery.destinations import Destination, Means
from isthmus.router.queued.delivery.lane import Lane
from isthmus.router.queued.delivery.recording import Journal, Recorder
from isthmus.router.queued.delivery.senders import Sender, find_device
from isthmus.router.queued.delivery.sending import Association, DeviceAssociation, Pair
from isthmus.router.queued.ledger import deliveries
from isthmus.router.queued.ledger.deliveries import JOURNAL, Outcome
from isthmus.router.queued.trouble import NoRoom, SpoolFailed
from isthmus.router.routing.records import DAY, LocalDevice

_log = structlog.get_logger()

KEEP_SECONDS: Final = 14 * DAY
"""The offline limit: how long an object waits for a device that is in an outage before it is held."""
ALERT_SECONDS: Final = DAY
MOST_LANES: Final = 4
TROUBLE_SECONDS: Final = 5.0
"""How long to wait when the ledger cannot be written."""
CHECK_SECONDS: Final = 60.0
STOP_SECONDS: Final = 10.0
"""How long what is being sent may take to end when the Router stops."""
_HELD_TOGETHER: Final = 500


class Dispatcher:
    """The deliveries of one Router."""

    def __init__(self, means: Means, *, alert: Callable[[str, str], None], keep_seconds: float = KEEP_SECONDS) -> None:
        self._means = means
        self._alert = alert
        self._keep_seconds = keep_seconds
        self._destinations: dict[str, Destination] = {}
        self._stopping = False
        self._runners: dict[str, asyncio.Task[None]] = {}
        self._tasks = Tasks("deliveries")
        journal = Journal(means.ledger.path.with_name(JOURNAL))
        self._recorder = Recorder(means.ledger, journal, self._recorded)

    def __repr__(self) -> str:
        return f"<Dispatcher: {list(self._destinations.values())}>"

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Deliver while the block runs; at its end, what is being sent has STOP_SECONDS to end."""
        await self._recorder.replay()
        for state in await self._means.ledger.read(deliveries.destinations):
            self._destination(state.title).restore(state)
        await self.look()
        self._tasks.spawn(self._recorder.run(), name="record what became of objects")
        self._tasks.spawn(self._keep_checking(), name="check what waits")
        try:
            yield
        finally:
            self.stop()
            if self._runners:
                await asyncio.wait(self._runners.values(), timeout=STOP_SECONDS)
            await self._tasks.close()
            with contextlib.suppress(NoRoom, SpoolFailed):  # the journal has it, for the next start
                await self._recorder.flush()

    def stop(self) -> None:
        """Begin no more objects: associations are released when the ones that are being sent have their answers."""
        self._stopping = True
        for destination in self._destinations.values():
            destination.stop()

    def wake(self, title: str) -> None:
        """Something may be due for the device of ours with this network title."""
        if self._stopping:
            return
        destination = self._destination(title)
        runner = self._runners.get(title)
        if runner is None or runner.done():
            self._runners[title] = self._tasks.spawn(self._run(destination), name=f"deliver to {title}")
        destination.wake()

    async def look(self) -> None:
        """Wake every destination that something waits for."""
        for title in await self._means.ledger.read(deliveries.waiting_titles):
            self.wake(title)

    def heard(self, device: LocalDevice, request: AssociateRequest, accept: AssociateAccept) -> None:
        """A device of ours accepted somebody's association: an outage of it is soon over."""
        del request, accept
        if (destination := self._destinations.get(device.network_title)) is not None:
            destination.heard()

    def crowded(self, device: LocalDevice) -> None:
        """A live caller was refused since a device of ours has all its associations.

        Where it takes more than one, the lanes leave one to live callers always.
        """
        destination = self._destinations.get(device.network_title)
        if destination is not None and device.options.max_associations == 1:
            destination.step_aside()

    async def check(self) -> None:
        """Alert of outages that last, hold what has waited for too long, and look at all there is."""
        now = self._means.clock.now()
        for destination in self._destinations.values():
            outages = [("", destination.outage), *destination.callers.items()]
            for calling, outage in outages:
                if outage is not None and now - outage.since >= ALERT_SECONDS and not outage.alerted:
                    outage.alerted = True
                    count = await self._means.ledger.read(_counting(destination.title))
                    whose = f" of {calling}" if calling else ""
                    self._alert("", f"{destination.title} has taken nothing{whose} for a day, and {count} objects"
                                f" wait for it: {outage.reason}")  # fmt: skip
            if any(outage is not None for _, outage in outages):
                await self._hold_expired(destination, now)
        await self.look()

    # -- inside ----------------------------------------------------------------------------------------------------

    def _destination(self, title: str) -> Destination:
        held = self._destinations.get(title)
        if held is None:
            held = self._destinations[title] = Destination(title, self._means, self._recorder)
        return held

    def _recorded(self, outcomes: Sequence[Outcome], finished: Sequence[tuple[int, str]]) -> None:
        for destination in self._destinations.values():
            destination.recorded(outcomes)
        if outcomes:
            self._means.observer.recorded(outcomes)
        for bundle_id, name in finished:
            self._means.observer.finished(bundle_id, name)

    async def _run(self, destination: Destination) -> None:
        complaint = Complaint()
        while not destination.stopping:
            try:
                wait = await self._turn(destination)
            except (NoRoom, SpoolFailed) as trouble:
                if complaint.is_news(str(trouble), self._means.clock.monotonic()):
                    _log.error("deliveries wait for the ledger", destination=destination.title, reason=str(trouble))
                wait = TROUBLE_SECONDS
            except Exception as fault:  # noqa: BLE001 - the queue of a device outlives a fault of ours
                if complaint.is_news(repr(fault), self._means.clock.monotonic()):
                    _log.exception("a fault of Isthmus in a delivery: report it", destination=destination.title)
                wait = TROUBLE_SECONDS
            await destination.wait(wait)

    async def _turn(self, destination: Destination) -> float:
        """Deliver what is due; return how long to wait. Raises NoRoom or SpoolFailed if that cannot be noted."""
        await self._recorder.room()
        if destination.seconds_to_attempt <= 0:
            await self._run_lanes(destination)
        blocked = destination.seconds_to_attempt
        return blocked if blocked > 0 else await destination.seconds_to_next()

    async def _run_lanes(self, destination: Destination) -> None:
        """Run one lane, and more where there is much to do and the device takes more than one association."""
        lanes = {self._tasks.spawn(Lane(destination).run(), name=f"lane to {destination.title}")}
        failure: Exception | None = None
        while lanes:
            crowded = self._tasks.spawn(destination.crowded.wait(), name="wait for more to do")
            done, _ = await asyncio.wait({*lanes, crowded}, return_when=asyncio.FIRST_COMPLETED)
            crowded.cancel()
            for lane in lanes & done:
                try:
                    lane.result()
                except Exception as trouble:  # noqa: BLE001 - raised below, when the other lanes have ended
                    failure = trouble
            lanes = {lane for lane in lanes if not lane.done()}
            if destination.crowded.is_set():
                destination.crowded.clear()
                if lanes and destination.outage is None and len(lanes) < self._most_lanes(destination.title):
                    lanes.add(self._tasks.spawn(Lane(destination).run(), name=f"lane to {destination.title}"))
        if failure is not None:
            raise failure

    def _most_lanes(self, title: str) -> int:
        """Return how many lanes a device gets: one association is left to live callers, where it takes several."""
        device = find_device(self._means.directory, title)
        return 1 if device is None else max(1, min(device.options.max_associations - 1, MOST_LANES))

    async def _hold_expired(self, destination: Destination, now: float) -> None:
        days = self._keep_seconds / DAY
        reason = f"it waited {days:g} days for a device that takes nothing"
        expired = await self._means.ledger.run(
            lambda connection: deliveries.hold_expired(
                connection, destination.title, now - self._keep_seconds, now, reason, most=_HELD_TOGETHER
            )
        )
        if expired:
            _log.error("held after the offline limit", destination=destination.title, count=len(expired))
            self._means.observer.recorded(expired)
            await self._hold_expired(destination, now)

    async def _keep_checking(self) -> None:
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            try:
                await self.check()
            except (NoRoom, SpoolFailed) as trouble:
                _log.error("what waits could not be checked", reason=str(trouble))


class LiveAssociate:
    """Opens associations through the live relay's own connections."""

    def __init__(self, live: Live) -> None:
        self._live = live

    async def __call__(
        self, device: LocalDevice, sender: Sender, pairs: Sequence[Pair], parties: Parties
    ) -> Association:
        """Return an association. Raises DeviceRefused."""
        services = ("store",)
        return await DeviceAssociation.open(
            self._live, device, sender.shown_as, pairs, parties=parties, services=services
        )


def _counting(title: str) -> "Callable[..., int]":
    return lambda connection: deliveries.how_many_wait(connection, title)
