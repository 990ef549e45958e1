"""The mirror: which pairs of abstract and transfer syntax a device of ours takes, so that its objects can be queued.

It is asked gently: one syntax a context, at most 100 contexts an association, one association at a time, a second
apart. What it accepts of others' associations is noted too, and a person can declare what it takes.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import structlog

from isthmus.dicom.associate import AssociateAccept, AssociateRequest, ContextResult
from isthmus.dicom.services import Service, service_of
from isthmus.dicom.storage_classes import STORAGE_CLASSES
from isthmus.dicom.transfer_syntaxes import sensible_syntaxes
from isthmus.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, STORAGE_COMMITMENT_PUSH_MODEL
from isthmus.errors import OperatorError
from isthmus.kit.names import AETitle
from isthmus.router.live.registry import Live
from isthmus.router.live.session import Parties
from isthmus.router.queued.delivery.outage import Outage
from isthmus.router.queued.delivery.senders import Sender
from isthmus.router.queued.delivery.sending import DeviceAssociation, DeviceRefused, Pair
from isthmus.router.routing.directory import Directory
from isthmus.router.routing.records import DeliveryMode, LocalDevice
from isthmus.router.routing.store import Store

_log = structlog.get_logger()

MOST_CONTEXTS: Final = 100
APART_SECONDS: Final = 1.0
CHECK_SECONDS: Final = 30.0
MOST_SEEN: Final = 1000
"""Pairs of one device that are kept from live associations; a device that takes everything need not fill a disk."""
_NOTE_SECONDS: Final = 2.0  # what is seen is written together, since each time the tables are read and published anew
_OWN_TITLE: Final = AETitle("ISTHMUS")
_MIRRORED: Final = frozenset({Service.STORE, Service.COMMITMENT})


class Source(StrEnum):
    """How a pair is known."""

    PROBE = "probe"
    SEEN = "seen"
    DECLARED = "declared"


@dataclass(slots=True)
class Probing:
    """A probe under way or done.

    Attributes:
        calling: as whom it asks.
        left: contexts of this part of it that are not asked for yet.
        refused: why it ended early.
    """

    device: LocalDevice
    calling: AETitle
    found: set[Pair] = field(default_factory=set)
    left: int = 0
    refused: DeviceRefused | None = None
    task: asyncio.Task[None] | None = None

    @property
    def done(self) -> bool:
        """Whether it is over."""
        return self.task is not None and self.task.done()

    async def wait(self, seconds: float | None = None) -> None:
        """Wait until it is over, or so long."""
        assert self.task is not None
        await asyncio.wait({self.task}, timeout=seconds)


class Mirror:
    """What the devices of this site take. The pairs are published with the grants (`routing.statements`)."""

    def __init__(self, live: Live, store: Store) -> None:
        self._live = live
        self._store = store
        self._probes: dict[int, Probing] = {}
        self._one_at_a_time = asyncio.Lock()
        self._outages: dict[int, Outage] = {}
        self._seen: set[tuple[int, Pair]] = set()
        self._look = asyncio.Event()
        self.apart_seconds = APART_SECONDS

    @property
    def _directory(self) -> Directory:
        return self._live.core.directory

    # -- asking ----------------------------------------------------------------------------------------------------

    def probe(self, device: LocalDevice, calling: AETitle | None = None, *, everything: bool = False) -> Probing:
        """Ask a device what it takes, in the background; the probe that is under way, if one is.

        `everything`: also what no accepted site may send. Raises OperatorError if there is nothing to ask.
        """
        under_way = self._probes.get(device.device_id)
        if under_way is not None and not under_way.done:
            return under_way
        classes = self._classes(device, everything=everything)
        if device.port is None:
            raise OperatorError(f"{device.title} only calls: it has no port", hint="isthmus device set --port PORT")
        if not classes:
            raise OperatorError(
                f"no accepted site may send anything to {device.title}",
                hint="grant store first (isthmus grant add), or ask for all classes with --all",
            )
        probing = Probing(device, calling or self._calling(device))
        probing.task = self._live.core.tasks.spawn(self._probe(probing, classes), name=f"probe {device.title}")
        self._probes[device.device_id] = probing
        return probing

    async def again(self, device: LocalDevice, sender: Sender, pairs: Sequence[Pair]) -> set[Pair]:
        """Return which of these pairs the device takes now from this sender; it is remembered. Raises DeviceRefused."""
        results: dict[Pair, int] = {}
        async with self._one_at_a_time:
            for start in range(0, len(pairs), MOST_CONTEXTS):
                results |= await self._ask(device, sender.shown_as, pairs[start : start + MOST_CONTEXTS])
        taken = {pair for pair, result in results.items() if result == ContextResult.ACCEPTANCE}
        self._forget(device, set(pairs) - taken)
        self._add(device, taken, Source.PROBE)
        return taken

    async def _probe(self, probing: Probing, classes: Sequence[str]) -> None:
        """Ask first for each class once: one that is not supported at all is not asked for in other syntaxes."""
        device = probing.device
        first = [(abstract, EXPLICIT_VR_LITTLE_ENDIAN) for abstract in classes]
        async with self._one_at_a_time:
            try:
                probing.left = len(first)
                results = await self._ask_all(probing, first)
                known = {
                    abstract
                    for (abstract, _), result in results.items()
                    if result != ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED
                }
                rest = [
                    (abstract, transfer)
                    for abstract in classes
                    if abstract in known
                    for transfer in _syntaxes(abstract)
                    if transfer != EXPLICIT_VR_LITTLE_ENDIAN
                ]
                probing.left = len(rest)
                await self._ask_all(probing, rest)
            except DeviceRefused as refused:
                probing.refused = refused
                self._add(device, probing.found, Source.PROBE)
                return
        self._replace(device, probing.found)
        _log.info(
            "probed", device=device.title, pairs=len(probing.found), classes=len({one for one, _ in probing.found})
        )

    async def _ask_all(self, probing: Probing, pairs: Sequence[Pair]) -> dict[Pair, int]:
        results: dict[Pair, int] = {}
        for start in range(0, len(pairs), MOST_CONTEXTS):
            if start or probing.found:
                await asyncio.sleep(self.apart_seconds)
            some = pairs[start : start + MOST_CONTEXTS]
            results |= await self._ask(probing.device, probing.calling, some)
            probing.left -= len(some)
            probing.found |= {pair for pair in some if results.get(pair) == ContextResult.ACCEPTANCE}
        return results

    async def _ask(self, device: LocalDevice, calling: AETitle, pairs: Sequence[Pair]) -> dict[Pair, int]:
        parties = Parties(calling, device.network_title, None, "")
        association = await DeviceAssociation.open(
            self._live, device, calling, pairs, parties=parties, services=(), listed=False
        )
        await association.release()
        return dict(association.results)

    def _classes(self, device: LocalDevice, *, everything: bool) -> list[str]:
        granted: set[str] = set()
        for grant in self._directory.grants:
            acceptance = self._directory.acceptances.get(grant.site)
            if grant.device_id == device.device_id and acceptance is not None and acceptance.accepted:
                granted |= grant.services
        if any(device.network_title in group.members for group in self._directory.groups):
            granted |= {Service.STORE.value, Service.COMMITMENT.value}
        every = everything or Service.ANY.value in granted
        classes = list(STORAGE_CLASSES) if every or Service.STORE.value in granted else []
        if every or Service.COMMITMENT.value in granted:
            classes.append(STORAGE_COMMITMENT_PUSH_MODEL)
        return classes

    def _calling(self, device: LocalDevice) -> AETitle:
        """Return the title that the device most likely knows."""
        if device.options.callers_as is not None:
            return device.options.callers_as
        for grant in self._directory.grants:
            if grant.device_id == device.device_id and grant.caller is not None:
                return self._directory.alias_of(grant.caller) or grant.caller
        return _OWN_TITLE

    # -- by itself -------------------------------------------------------------------------------------------------

    async def keep_probing(self) -> None:
        """Probe each device that may be sent to and is not known yet, again and again while it is off."""
        self._directory.on_change(self._look.set)
        while True:
            self._look.clear()
            for device in list(self._directory.devices):
                if self._wants_probe(device):
                    await self._first_probe(device)
            try:
                async with asyncio.timeout(CHECK_SECONDS):
                    await self._look.wait()
            except TimeoutError:
                pass

    def _wants_probe(self, device: LocalDevice) -> bool:
        outage = self._outages.get(device.device_id)
        return (
            device.port is not None
            and not device.disabled
            and DeliveryMode.QUEUED in device.options.modes
            and not self._directory.mirror.get(device.device_id)
            and bool(self._classes(device, everything=False))
            and (outage is None or outage.next_probe <= self._live.core.clock.monotonic())
        )

    async def _first_probe(self, device: LocalDevice) -> None:
        clock = self._live.core.clock
        outage = self._outages.setdefault(device.device_id, Outage(clock.now()))
        try:
            probing = self.probe(device)
            await probing.wait()
            if probing.refused is not None:
                outage.failed(str(probing.refused), clock.monotonic())
            elif not self._directory.mirror.get(device.device_id):
                outage.failed("it takes nothing of what was asked", clock.monotonic())
            else:
                del self._outages[device.device_id]
        except OperatorError as error:
            outage.failed(str(error), clock.monotonic())

    def seen(self, device: LocalDevice, request: AssociateRequest, accept: AssociateAccept) -> None:
        """Note what a device accepted of an association, whosever it was."""
        proposed = {context.id: context.abstract_syntax for context in request.contexts}
        known = self._directory.mirror.get(device.device_id, frozenset())
        if device.device_id in self._outages:
            self._outages[device.device_id].heard(self._live.core.clock.monotonic())
            self._look.set()
        pairs = {
            (proposed[answer.id], answer.transfer_syntax)
            for answer in accept.contexts
            if answer.accepted and answer.id in proposed and service_of(proposed[answer.id]) in _MIRRORED
        } - known
        if not pairs or len(known) >= MOST_SEEN + len(pairs) or self._is_probed(device):
            return
        if not self._seen:
            self._live.core.tasks.spawn(self._note_seen(), name="note what devices take")
        self._seen |= {(device.device_id, pair) for pair in pairs}

    def _is_probed(self, device: LocalDevice) -> bool:
        probing = self._probes.get(device.device_id)
        return probing is not None and not probing.done

    async def _note_seen(self) -> None:
        await asyncio.sleep(_NOTE_SECONDS)
        seen, self._seen = self._seen, set()
        by_id = {device.device_id: device for device in self._directory.devices}
        for device_id in {device_id for device_id, _ in seen} & set(by_id):
            self._add(by_id[device_id], {pair for of, pair in seen if of == device_id}, Source.SEEN)

    # -- by hand ---------------------------------------------------------------------------------------------------

    def declare(self, device: LocalDevice, pairs: Iterable[Pair]) -> None:
        """Remember that a device takes these pairs, whatever it answers to a probe."""
        self._add(device, set(pairs), Source.DECLARED)

    def forget(self, device: LocalDevice) -> None:
        """Forget all that is known of what a device takes; it is probed anew by itself."""
        with self._store.transaction() as connection:
            connection.execute("DELETE FROM mirror WHERE device_id = ?", (device.device_id,))
        self._directory.reload()

    def pairs(self, device: LocalDevice) -> list[tuple[str, str, Source]]:
        """Return what a device is known to take, and from where that is known."""
        with self._store.transaction() as connection:
            rows = connection.execute(
                "SELECT abstract, transfer, source FROM mirror WHERE device_id = ? ORDER BY abstract, transfer, source",
                (device.device_id,),
            ).fetchall()
        return [(abstract, transfer, Source(source)) for abstract, transfer, source in rows]

    # -- the table -------------------------------------------------------------------------------------------------

    def _replace(self, device: LocalDevice, pairs: set[Pair]) -> None:
        """Put the outcome of a whole probe in the place of that of the last one, and of what was seen before it."""
        with self._store.transaction() as connection:
            connection.execute(
                "DELETE FROM mirror WHERE device_id = ? AND source <> ?", (device.device_id, Source.DECLARED)
            )
        self._add(device, pairs, Source.PROBE)

    def _add(self, device: LocalDevice, pairs: set[Pair], source: Source) -> None:
        now = self._live.core.clock.now()
        with self._store.transaction() as connection:
            if connection.execute("SELECT 1 FROM devices WHERE device_id = ?", (device.device_id,)).fetchone() is None:
                return  # it was removed meanwhile
            connection.executemany(
                "REPLACE INTO mirror (device_id, abstract, transfer, source, seen) VALUES (?, ?, ?, ?, ?)",
                [(device.device_id, abstract, transfer, source, now) for abstract, transfer in sorted(pairs)],
            )
        self._directory.reload()

    def _forget(self, device: LocalDevice, pairs: set[Pair]) -> None:
        """Forget pairs that a device has just refused; what a person declared stays."""
        with self._store.transaction() as connection:
            connection.executemany(
                "DELETE FROM mirror WHERE device_id = ? AND abstract = ? AND transfer = ? AND source <> ?",
                [(device.device_id, abstract, transfer, Source.DECLARED) for abstract, transfer in sorted(pairs)],
            )
        if pairs:
            self._directory.reload()


def _syntaxes(abstract: str) -> tuple[str, ...]:
    if abstract == STORAGE_COMMITMENT_PUSH_MODEL:
        return IMPLICIT_VR_LITTLE_ENDIAN, EXPLICIT_VR_LITTLE_ENDIAN
    return sensible_syntaxes(abstract)
