"""A lane: one association at a time with one destination, filled with object after object.

What the device answered to one object is in the journal before the last fragment of the next one leaves: however this
process ends, the device has at most one object whose answer nobody remembers.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final, NamedTuple

import structlog

from isthmus.contract.letters import ObjectKind
from isthmus.dicom.command import CommandField, CommandSet
from isthmus.dicom.pdv import Command
from isthmus.dicom.uids import STORAGE_COMMITMENT_PUSH_MODEL
from isthmus.envelope.records import ObjectMeta
from isthmus.errors import IsthmusError, RemoteMisuse, SealBroken
from isthmus.relay.titles import renamed
from isthmus.router.live.session import Parties
from isthmus.router.queued.delivery.destinations import Claim, Destination
from isthmus.router.queued.delivery.judging import answered
from isthmus.router.queued.delivery.reading import OpenedObject
from isthmus.router.queued.delivery.senders import Sender
from isthmus.router.queued.delivery.sending import Association, DeviceLost, DeviceRefused, Pair
from isthmus.router.queued.ledger.deliveries import DueCopy, Outcome, held
from isthmus.router.queued.ledger.records import DAMAGED
from isthmus.router.queued.trouble import SpoolFailed

_log = structlog.get_logger()

LINGER_SECONDS: Final = 2.0
"""How long a lane without work keeps its association, so that what arrives bit by bit needs no new one each time."""


class Lane:
    """Delivers until nothing is due, or the destination is in an outage."""

    def __init__(self, destination: Destination) -> None:
        self._destination = destination
        self._means = destination.means
        self._association: Association | None = None
        self._shown_as = ""
        self._proposed: frozenset[Pair] = frozenset()

    async def run(self) -> None:
        """Deliver. Raises NoRoom or SpoolFailed if the ledger cannot be written: nothing more is sent then."""
        destination = self._destination
        try:
            while not destination.stopping and destination.seconds_to_attempt <= 0:
                claim = await destination.claim()
                if claim is not None:
                    await self._deliver(claim)
                elif not await self._linger():
                    break
        except DeviceRefused as refused:
            await destination.failed(refused)
        finally:
            await self._release()

    async def _linger(self) -> bool:
        """Keep the association for what comes soon; return whether to look again."""
        if self._association is None or self._destination.stopping:
            return False
        return await self._destination.wait(LINGER_SECONDS)

    async def _deliver(self, claim: Claim) -> None:
        destination = self._destination
        left = list(claim.copies)
        try:
            association = await self._associate(claim)
            if association is None:
                return
            missing = [copy for copy in left if copy.pair not in association.agreed]
            left = [copy for copy in left if copy.pair in association.agreed]
            await self._send_all(association, claim.sender, left)
            if missing and destination.seconds_to_attempt <= 0:
                await self._release()  # one association at a time
                await destination.ask_again(claim, missing)
        except DeviceLost as lost:
            self._association = None
            await destination.failed(lost)
        except _Unreadable:
            self._association = None
        finally:
            destination.give_back(claim.copies)

    # -- the association -------------------------------------------------------------------------------------------

    async def _associate(self, claim: Claim) -> Association | None:
        """Return an association for the claim; None if the device does not take this caller."""
        pairs = list(dict.fromkeys(copy.pair for copy in claim.copies))
        sender = claim.sender
        if self._association is not None and self._shown_as == sender.shown_as and self._proposed.issuperset(pairs):
            return self._association
        await self._release()
        parties = Parties(sender.calling, claim.device.network_title, None, sender.far_router)
        try:
            self._association = await self._means.associate(claim.device, sender, pairs, parties)
        except DeviceRefused as refused:
            if not refused.caller:
                raise
            await self._destination.failed(refused, calling=sender.calling)
            return None
        self._shown_as, self._proposed = sender.shown_as, frozenset(pairs)
        return self._association

    async def _release(self) -> None:
        association, self._association = self._association, None
        if association is not None:
            await association.release()

    # -- object after object ---------------------------------------------------------------------------------------

    async def _send_all(self, association: Association, sender: Sender, copies: Sequence[DueCopy]) -> None:
        """Send these, each read while the one before is being sent.

        Raises DeviceLost, DeviceRefused if the device takes none, and _Unreadable if one could not be read to its end.
        """
        destination, spawn = self._destination, self._means.tasks.spawn
        ahead: asyncio.Task[_Ready | Outcome] | None = None
        try:
            for number, copy in enumerate(copies):
                ready = await (ahead or self._open(sender, copy))
                ahead = None
                if number + 1 < len(copies):
                    ahead = spawn(self._open(sender, copies[number + 1]), name="read an object")
                if isinstance(ready, Outcome):
                    destination.ended(ready)
                    continue
                outcome = await self._send(association, copy, ready)
                destination.ended(outcome)
                await destination.answered(outcome)
                await destination.recorder.room()
                if destination.stopping or destination.seconds_to_attempt > 0:
                    break
        finally:
            if ahead is not None:
                ahead.cancel()

    async def _open(self, sender: Sender, copy: DueCopy) -> "_Ready | Outcome":
        """Return the object and its request, or that its copy is held."""
        try:
            opened = await self._means.source.open(copy)
            return _Ready(opened, _command(opened.meta, sender, copy))
        except (SealBroken, SpoolFailed) as error:
            return self._unreadable(copy, error)
        except RemoteMisuse as error:
            _log.error("a queued request is not sent", destination=self._destination.title, reason=str(error))
            return held(copy, self._means.clock.now(), str(error))

    async def _send(self, association: Association, copy: DueCopy, ready: "_Ready") -> Outcome:
        """Send one object; return what the device said. Raises NoRoom or SpoolFailed if it cannot be noted."""
        destination = self._destination
        failures: list[SpoolFailed] = []

        async def pieces() -> AsyncIterator[bytes]:
            try:
                async for piece in ready.opened.pieces():
                    yield piece
            except SpoolFailed as error:
                failures.append(error)
                raise

        try:
            response = await association.send(
                association.agreed[copy.pair], ready.command, pieces(), lambda: destination.recorder.starting(copy)
            )
        except DeviceLost as lost:
            destination.ended(destination.lost(copy, lost))
            raise
        except (SealBroken, SpoolFailed) as error:
            association.abort()
            if isinstance(error, SpoolFailed) and error not in failures:
                raise  # it is the journal that cannot be written: the object is as it was
            destination.ended(self._unreadable(copy, error))
            raise _Unreadable from error
        return answered(copy, response, self._means.clock.now())

    def _unreadable(self, copy: DueCopy, error: IsthmusError) -> Outcome:
        _log.error("a queued object cannot be read", destination=self._destination.title, reason=str(error))
        return held(copy, self._means.clock.now(), DAMAGED)


class _Ready(NamedTuple):
    """An object that can be sent, with its request."""

    opened: OpenedObject
    command: CommandSet


class _Unreadable(IsthmusError):
    """An association was ended since the rest of an object cannot be read."""

    def __init__(self) -> None:
        super().__init__("the rest of an object cannot be read")


def _command(meta: ObjectMeta, sender: Sender, copy: DueCopy) -> CommandSet:
    """Return the command set to send: as it came, but for a title in it that the device knows otherwise.

    Raises RemoteMisuse if it is not the request that its sender's grant was looked up for: nothing but a C-STORE-RQ,
    or an N-ACTION-RQ for storage commitment, of the class of its context.
    """
    raw = meta.command
    if sender.titles is not None:
        raw = renamed(Command(0, raw), sender.titles.to_device) or raw
    command = CommandSet.parse(raw)
    if command.message_id is None:
        raise RemoteMisuse("the queued command set has no Message ID")
    if not command.data_set_present:
        raise RemoteMisuse("the queued command set says that no data set follows")
    abstract, _ = copy.pair
    commits = abstract == STORAGE_COMMITMENT_PUSH_MODEL
    field, named = (
        (CommandField.N_ACTION_RQ, command.requested_sop_class)
        if commits
        else (CommandField.C_STORE_RQ, command.affected_sop_class)
    )
    if command.command_field is not field or commits != (copy.kind == ObjectKind.COMMIT):
        raise RemoteMisuse(
            "the queued command set is not that of a C-STORE, or of storage commitment where that is due"
        )
    if (named or abstract) != abstract:  # some leave it out
        raise RemoteMisuse("the SOP class of the queued command set is not that of its presentation context")
    return command
