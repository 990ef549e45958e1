"""Keeping this Router and its Bridge of one mind: heartbeats, the local copy of the network, our own documents.

Everything heals by itself: a lost notice by the revision in the next heartbeat's answer, a Bridge that lost documents
by publishing them again, a Bridge that was away by the sessions that each heartbeat names.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import structlog

from isthmus.contract.documents import SignedDocument
from isthmus.contract.rest import HEARTBEAT_SECONDS, REVOKED, HeartbeatAnswer, Network, SessionCount, Usage
from isthmus.errors import IsthmusError, Problem
from isthmus.kit.backoff import delays
from isthmus.kit.clock import Clock, SystemClock
from isthmus.kit.tasks import Tasks
from isthmus.router.audit import Audit
from isthmus.router.keys import Keys
from isthmus.router.metrics import Metrics
from isthmus.router.routing.directory import Directory
from isthmus.router.routing.records import DAY

_log = structlog.get_logger()

MOST_OFFSET: Final = 3600.0
"""Seconds by which the Bridge may correct our clock. It is not trusted with more: offers are remembered for longer."""
_NOTICEABLE: Final = 1.0  # a smaller difference may be the network's delay
_SLOWEST_MEASURE: Final = 5.0
_NAMES_SECONDS: Final = 60.0
_ROTATION_SECONDS: Final = 3600.0
_MOST_DOCUMENTS: Final = 1000  # in one publication (contract.rest.Publication)
_REFUSED_SECONDS: Final = 60.0  # until a document that the Bridge refused is offered again unchanged
_NOT_ABOUT_DOCUMENTS: Final = frozenset({401, 408, 429})
_LONGEST_WAIT: Final = 20.0  # between tries to reach a Bridge: sessions hold on for 25 s


class BridgePort(Protocol):
    """What this room asks of the Bridge. Each call raises ProviderTrouble or Problem."""

    async def network(self) -> Network:
        """Return all that the Bridge tells this Router."""
        ...

    async def publish(self, documents: Sequence[SignedDocument]) -> None:
        """Give the Bridge documents to keep; all or none."""
        ...

    async def heartbeat(
        self, counts: Sequence[SessionCount], *, pairs: Sequence[str], usage: Usage | None
    ) -> HeartbeatAnswer:
        """Name the live sessions and the cloud pairs that can be used here, and hear time and revision."""
        ...


class Clouds(Protocol):
    """The cloud pairs of this Router: `isthmus.router.providers.pairs.CloudPairs`."""

    @property
    def usable(self) -> list[str]:
        """Those that work here."""
        ...

    @property
    def usage(self) -> Usage | None:
        """What was asked of them."""
        ...

    def apply(self, network: Network) -> None:
        """Take the Bridge's list."""
        ...


class Sync:
    """The one conversation with the Bridge that is about no session."""

    def __init__(
        self,
        bridge: BridgePort,
        directory: Directory,
        keys: Keys,
        *,
        clock: Clock,
        system_clock: SystemClock | None,
        counts: Callable[[], list[SessionCount]],
        clouds: Clouds,
        audit: Audit,
        metrics: Metrics,
    ) -> None:
        self._bridge = bridge
        self._directory = directory
        self._keys = keys
        self._clock = clock
        self._system_clock = system_clock
        self._counts = counts
        self._clouds = clouds
        self._audit = audit
        self._metrics = metrics
        self._wake = asyncio.Event()
        self._want_network = True
        self._revision = ""
        self._next_beat = clock.monotonic()
        self._next_rotation = self._next_prune = clock.monotonic()
        self._new_names = asyncio.Event()
        self.connected = False
        self.trouble = ""
        self.refusal = ""
        self.offset = 0.0
        self._next_publication = clock.monotonic()
        directory.on_change(self._changed_here)

    def __repr__(self) -> str:
        return f"<Sync {'connected' if self.connected else 'not connected'}, revision {self._revision or 'unknown'}>"

    def network_changed(self) -> None:
        """The Bridge says that something is new: ask it what, at once."""
        self._want_network = True
        self._wake.set()

    def came_back(self) -> None:
        """The connection to the Bridge is new: name the live sessions and ask what is new, at once."""
        self._next_beat = self._clock.monotonic()
        self.network_changed()

    def pairs_changed(self) -> None:
        """Another list of cloud pairs can be used here: tell the Bridge at once, whom others ask."""
        self._next_beat = self._clock.monotonic()
        self._wake.set()

    def went_away(self) -> None:
        """The connection to the Bridge was lost: find out at once whether the Bridge is gone, or shut us out."""
        self._next_beat = self._clock.monotonic()
        self._wake.set()

    async def run(self) -> None:
        """Keep going until cancelled."""
        tasks = Tasks("sync")
        tasks.spawn(self._keep_names(), name="keep host names")
        try:
            await self._keep_step()
        finally:
            await tasks.close()

    async def _keep_step(self) -> None:
        waits = delays(most=_LONGEST_WAIT)
        while True:
            self._wake.clear()
            await self.turn()
            if self.connected:
                waits = delays(most=_LONGEST_WAIT)
                wait = max(0.0, self._next_beat - self._clock.monotonic())
            else:
                wait = next(waits)
            await _wait(self._wake, wait)

    async def _keep_names(self) -> None:
        """Look up the names of devices ahead of their associations: a name server may be slow, and waits for nobody."""
        while True:
            self._new_names.clear()
            await self._directory.hosts.refresh(device.host for device in self._directory.devices)
            await _wait(self._new_names, _NAMES_SECONDS)

    async def turn(self) -> None:
        """Do once all that is due now. Trouble with the Bridge is told in `trouble` and tried again next time."""
        try:
            await self._house_keeping()
            if self._clock.monotonic() >= self._next_beat or not self.connected:
                await self._beat()
            if self._want_network:
                await self._fetch()
            await self._publish()
        except (IsthmusError, sqlite3.Error) as error:
            self._lost(error)
        except Exception as error:  # noqa: BLE001 - a fault of ours; without this conversation the Router is lost for good
            _log.exception("a fault of Isthmus in its conversation with the Bridge")
            self._lost(error)
        else:
            if not self.connected:
                _log.info("connected to the Bridge", revision=self._revision)
            self.connected, self.trouble = True, ""
            self._metrics.bridge_connected(connected=True)

    async def _beat(self) -> None:
        before, began = self._clock.now(), self._clock.monotonic()
        answer = await self._bridge.heartbeat(self._counts(), pairs=self._clouds.usable, usage=self._clouds.usage)
        took = self._clock.monotonic() - began
        self._next_beat = began + HEARTBEAT_SECONDS
        if took <= _SLOWEST_MEASURE:
            self._learn_offset(answer.time - (before + took / 2))
        if answer.revision != self._revision:
            self._want_network = True

    async def _fetch(self) -> None:
        self._want_network = False
        try:
            network = await self._bridge.network()
            self._directory.apply(network, self._clock.now())
            self._clouds.apply(network)
        except BaseException:
            self._want_network = True
            raise
        self._revision = network.revision

    async def _publish(self) -> None:
        """Give the Bridge what is due; if it refuses that, one by one, so that one title does not hold up the rest."""
        if self._clock.monotonic() < self._next_publication:
            return
        now = self._clock.now()
        due = self._directory.own_documents(now)[:_MOST_DOCUMENTS]
        if not due:
            return
        self.refusal = ""
        try:
            await self._offer(due, now)
        except Problem as problem:
            if problem.status in _NOT_ABOUT_DOCUMENTS or problem.status >= 500:
                raise
            for document in due:
                await self._offer_one(document, now)

    async def _offer(self, documents: Sequence[SignedDocument], now: float) -> None:
        await self._bridge.publish(documents)
        for document in documents:
            self._directory.published(document, now)

    async def _offer_one(self, document: SignedDocument, now: float) -> None:
        try:
            await self._offer([document], now)
        except Problem as problem:
            if problem.status in _NOT_ABOUT_DOCUMENTS or problem.status >= 500:
                raise
            self._want_network |= problem.field == "counter"  # the Bridge has newer ones: go on above them
            self.refusal = str(problem)
            self._next_publication = self._clock.monotonic() + _REFUSED_SECONDS
            _log.error("the Bridge refuses a document", kind=document.kind.name, why=str(problem), hint=problem.hint)

    def _changed_here(self) -> None:
        self._next_publication = self._clock.monotonic()
        self._new_names.set()
        self._wake.set()

    async def _house_keeping(self) -> None:
        now = self._clock.monotonic()
        self._directory.unknown_callers.flush()
        if now >= self._next_rotation:
            self._next_rotation = now + _ROTATION_SECONDS
            self._keys.rotate(self._clock.now())
        if now >= self._next_prune:
            self._next_prune = now + DAY
            await asyncio.to_thread(self._audit.prune)

    def _learn_offset(self, difference: float) -> None:
        """Follow the Bridge's clock: leases and offers are judged by it. `difference` is what ours lacks now."""
        clock = self._system_clock
        if clock is None or abs(difference) < _NOTICEABLE:
            return
        offset = clock.offset + difference
        if abs(offset) > MOST_OFFSET:
            _log.error("the clocks of Bridge and Router differ by more than an hour", seconds=round(offset))
            self.offset = offset
            return
        _log.warning("this machine's clock is off; going by the Bridge's", seconds=round(offset, 1))
        clock.offset = self.offset = offset

    def _lost(self, error: Exception) -> None:
        text = str(error)
        hint = error.hint if isinstance(error, IsthmusError) else ""
        if isinstance(error, Problem) and error.status == 401 and error.title == REVOKED:
            text, hint = "revoked by the Bridge", "ask its operator; with a new invite, join from an empty data folder"
        if self.connected or text != self.trouble:
            _log.warning("no agreement with the Bridge", trouble=text, hint=hint)
        self.connected, self.trouble = False, text
        self._metrics.bridge_connected(connected=False)


async def _wait(event: asyncio.Event, seconds: float) -> None:
    """Wait for `event`, but no longer than that."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
