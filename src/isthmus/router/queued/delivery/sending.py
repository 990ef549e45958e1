"""An association with one of our devices in which the Router itself is the sender: it stores what is queued.

The same Session, Side and connection as in the live relay, so that limits, timers and TLS are the same; only the far
side of the session is not another site but this.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Final, Protocol, Self

import structlog

from isthmus.association.negotiation import AgreedContext, agreed_contexts
from isthmus.contract.notices import SESSION_ID_BYTES
from isthmus.dicom.associate import AssociateRequest, build_request
from isthmus.dicom.command import CommandField, CommandSet, Tag, response
from isthmus.dicom.framing import Data, Framer, PduType
from isthmus.dicom.pdus import RELEASE_RQ, Abort, Reject, message
from isthmus.dicom.pdv import Command
from isthmus.dicom.status import PROCESSING_FAILURE
from isthmus.errors import AssociationRefused, IsthmusError, RemoteMisuse
from isthmus.kit.names import AETitle
from isthmus.router.live.called_device import call_device
from isthmus.router.live.registry import Live
from isthmus.router.live.session import Parties, Session
from isthmus.router.queued.delivery.fragments import FragmentWriter, room_for
from isthmus.router.routing.records import DeliveryMode, LocalDevice

_log = structlog.get_logger()

RESPONSE_SECONDS: Final = 300.0
"""How long a device may take to answer, or to read on: archives give themselves as long to store one object."""
RELEASE_SECONDS: Final = 10.0
MOST_CONTEXTS: Final = 128
_WINDOW: Final = 2 * 1024 * 1024  # bytes that wait in our socket for a device that reads slowly

Pair = tuple[str, str]
"""An abstract syntax and a transfer syntax."""


class DeviceLost(IsthmusError):
    """The association ended before the answer came. `sent`: the whole object may have arrived."""

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent: Final = sent


class DeviceRefused(IsthmusError):
    """The device, or the way to it, gave no association. `caller`: it does not take this calling title."""

    def __init__(self, message: str, *, caller: bool = False, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.caller: Final = caller


class Association(Protocol):
    """An association that was accepted, as `Lane` needs it."""

    @property
    def agreed(self) -> Mapping[Pair, int]:
        """The pairs that may flow, and on which context."""
        ...

    async def send(
        self, context_id: int, command: CommandSet, pieces: AsyncIterator[bytes], note: Callable[[], None]
    ) -> CommandSet:
        """Send one message and return its response. Raises DeviceLost.

        `note` is called just before the device can have all of it; what it or `pieces` raises ends the association.
        """
        ...

    async def release(self) -> None:
        """End the association in order, or by force if the device does not answer."""
        ...

    def abort(self) -> None:
        """End the association at once."""
        ...


class DeviceAssociation:
    """The link of a session whose far side is the Router itself."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._framer = Framer()
        self._message_id = 0
        self._room = room_for(0)
        self._under_way = 0
        self._more = asyncio.Event()
        self._more.set()
        self._answer: asyncio.Future[CommandSet] | None = None
        self._released: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lost = ""
        self.agreed: Mapping[Pair, int] = {}
        self.results: Mapping[Pair, int] = {}
        """What the device answered to each pair (PS3.8 table 9-18)."""

    def __repr__(self) -> str:
        return f"<DeviceAssociation {self._session!r}>"

    @classmethod
    async def open(
        cls,
        live: Live,
        device: LocalDevice,
        calling: AETitle,
        pairs: Sequence[Pair],
        *,
        parties: Parties,
        services: tuple[str, ...],
        listed: bool = True,
    ) -> Self:
        """Associate with `device` as `calling`, one context for each pair. Raises DeviceRefused.

        `listed`: among the live associations, in the audit and in the metrics.
        """
        session = Session(live, live.core.clock)
        session.device_asks = False
        session.mode = DeliveryMode.QUEUED
        session.parties = parties
        session.services = services
        association = cls(session)
        session.link = association
        request = request_for(device, calling, pairs)
        try:
            raw, accept = await call_device(live, device, session, request)
        except AssociationRefused as refused:
            raise DeviceRefused(str(refused), hint=refused.hint) from refused
        if accept is None:
            raise _refusal(device, raw)
        association.agreed = _by_pair(agreed_contexts(request, accept))
        association.results = {
            pairs[context.id // 2]: context.result for context in accept.contexts if context.id < 2 * len(pairs)
        }
        association._room = room_for(accept.max_pdu_length)
        session.session_id = live.core.random(SESSION_ID_BYTES)
        if listed:
            live.established(session)
        assert session.connection is not None
        session.connection.establish()
        return association

    async def send(
        self, context_id: int, command: CommandSet, pieces: AsyncIterator[bytes], note: Callable[[], None]
    ) -> CommandSet:
        """Send one message and return its response. Raises DeviceLost; see `Association`."""
        sent = False
        self._message_id = self._message_id % 0xFFFF + 1
        command = command.with_number(Tag.MESSAGE_ID, self._message_id)
        self._answer = asyncio.get_running_loop().create_future()
        try:
            writer = FragmentWriter(context_id, self._room, command=True)
            head = writer.write(command.raw) + writer.finish()
            if command.data_set_present:
                self._write(head)
                writer = FragmentWriter(context_id, self._room)
                async for piece in pieces:
                    await self._room_to_write()
                    self._write(writer.write(piece))
                head = writer.finish()
            await self._room_to_write()
            note()
            sent = True
            self._write(head)
            async with asyncio.timeout(RESPONSE_SECONDS):
                return await self._answer
        except TimeoutError as error:
            self.abort()
            raise DeviceLost(f"no answer within {RESPONSE_SECONDS:g} s", sent=sent) from error
        except _Ended as ended:
            raise DeviceLost(str(ended), sent=sent) from ended
        except BaseException:
            self.abort()
            raise
        finally:
            self._answer = None

    async def release(self) -> None:
        """End the association in order, or by force if the device does not answer."""
        if self._lost:
            return
        try:
            self._write(RELEASE_RQ)
            async with asyncio.timeout(RELEASE_SECONDS):
                await self._released
        except (TimeoutError, _Ended):
            pass
        finally:
            self.abort()

    def abort(self) -> None:
        """End the association at once; nothing, where it is over."""
        self._session.let_go()

    # -- as the link of the session: what the device says ----------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview, *, flush: bool) -> bool:
        """Take what the device sends: answers, its own requests, its release."""
        del flush
        for frame in self._framer.feed(data):
            if isinstance(frame, Data):
                for command in frame.commands:
                    self._heard(command)
            elif frame.type is PduType.RELEASE_RP:
                if not self._released.done():
                    self._released.set_result(None)
            elif frame.type is PduType.RELEASE_RQ:
                self._end("the device released the association")
                asyncio.get_running_loop().call_soon(self.abort)
        return True

    def finish(self) -> None:
        """The device says nothing more."""

    def consumed(self, count: int) -> None:
        """The device's socket has taken that many bytes."""
        self._under_way -= count
        if self._under_way < _WINDOW:
            self._more.set()

    def signal(self, payload: bytes) -> None:
        """The association ended otherwise than by release."""
        del payload
        outcome = self._session.outcome
        self._end("the association ended" if outcome is None else f"the association was {outcome.value}")

    def close(self) -> None:
        """Nothing is held here."""

    # -- inside ----------------------------------------------------------------------------------------------------

    def _heard(self, command: Command) -> None:
        try:
            fields = command.parse()
        except RemoteMisuse as error:
            self._end(f"a response that cannot be read: {error}")
            self.abort()
            return
        if not fields.is_response:
            self._decline(command.context_id, fields)
        elif (
            fields.number(Tag.MESSAGE_ID_BEING_RESPONDED_TO) == self._message_id
            and self._answer is not None
            and not self._answer.done()
        ):
            self._answer.set_result(fields)

    def _decline(self, context_id: int, request: CommandSet) -> None:
        """Answer a request of the device, such as a commitment report: it belongs on an association of its own."""
        if request.command_field is CommandField.C_CANCEL_RQ:
            return
        try:
            answer = response(request, PROCESSING_FAILURE, comment="ask on an association of your own")
        except RemoteMisuse:
            return
        run = message(context_id, answer, max_pdu_length=self._room + 6)
        # Not while it is inside its own PDU's event, and never between our fragments of one command set.
        asyncio.get_running_loop().call_soon(self._write_unless_lost, run)

    def _write_unless_lost(self, run: bytes) -> None:
        if not self._lost:
            self._write(run)

    def _write(self, run: bytes) -> None:
        if self._lost:
            raise _Ended(self._lost)
        if run:
            self._under_way += len(run)
            if self._under_way >= _WINDOW:
                self._more.clear()
            self._session.on_data(run)

    async def _room_to_write(self) -> None:
        if self._lost:
            raise _Ended(self._lost)
        if not self._more.is_set():
            async with asyncio.timeout(RESPONSE_SECONDS):
                await self._more.wait()

    def _end(self, why: str) -> None:
        if self._lost:
            return
        self._lost = why
        self._more.set()
        for future in (self._answer, self._released):
            if future is not None and not future.done():
                future.set_exception(_Ended(why))
                future.exception()  # whoever waits for it sees it; nobody else needs to


class _Ended(IsthmusError):
    """The association is over."""


def request_for(device: LocalDevice, calling: AETitle, pairs: Sequence[Pair]) -> AssociateRequest:
    """Return the A-ASSOCIATE-RQ to `device` with one context for each of at most MOST_CONTEXTS pairs."""
    contexts = [(abstract, (transfer,)) for abstract, transfer in pairs]
    return build_request(device.title, calling, contexts, max_pdu_length=_OWN_PDU_LENGTH)


_OWN_PDU_LENGTH: Final = 64 * 1024  # what a device may send: answers of some hundred bytes


def _by_pair(agreed: Mapping[int, AgreedContext]) -> dict[Pair, int]:
    return {(one.abstract_syntax, one.transfer_syntax): id_ for id_, one in agreed.items()}


def _refusal(device: LocalDevice, raw: bytes) -> DeviceRefused:
    if raw[0] == PduType.ABORT:
        return DeviceRefused(f"{device.title} answered with an A-ABORT: {Abort.parse(raw)}")
    reject = Reject.parse(raw)
    caller = (reject.result, reject.source, reject.reason) == (1, 1, 3)
    hint = "enter the calling AE title in the device, or choose one it knows: --callers-as" if caller else ""
    return DeviceRefused(f"{device.title} answered with an A-ASSOCIATE-RJ: {reject}", caller=caller, hint=hint)
