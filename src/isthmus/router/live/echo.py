"""C-ECHO by the Router itself (PS3.4 annex A): to a local device, or to a remote one through the relay, leg by leg."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from isthmus.association.negotiation import agreed_contexts
from isthmus.contract.notices import NoticeKind
from isthmus.dicom.associate import AssociateAccept, AssociateRequest, build_request
from isthmus.dicom.command import c_echo_rq
from isthmus.dicom.framing import Data, Framer, PduType
from isthmus.dicom.pdus import RELEASE_RQ, Abort, Reject, message
from isthmus.dicom.status import status_name
from isthmus.dicom.uids import IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION
from isthmus.envelope.offers import Decision
from isthmus.errors import AssociationRefused, IsthmusError, OperatorError
from isthmus.kit.names import AETitle
from isthmus.router.live.called_device import call_device
from isthmus.router.live.opening import Opening
from isthmus.router.live.registry import Live
from isthmus.router.live.session import Session
from isthmus.router.routing.records import LocalDevice, RemoteDevice

_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Leg:
    """One part of an echo and how long it took, in seconds."""

    name: str
    seconds: float


@dataclass(frozen=True, slots=True)
class EchoResult:
    """What came back, and the legs in order."""

    called: str
    site: str | None
    ok: bool
    status: str
    legs: tuple[Leg, ...]


class _Conversation:
    """Takes the bytes that the called device sends; is the observer of a stream and the link of a local session."""

    def __init__(self) -> None:
        self._framer = Framer()
        loop = asyncio.get_running_loop()
        self.status: asyncio.Future[int] = loop.create_future()
        self.released: asyncio.Future[None] = loop.create_future()

    def on_data(self, payload: bytes) -> None:
        for frame in self._framer.feed(payload):
            if isinstance(frame, Data):
                for command in frame.commands:
                    if not self.status.done():
                        status = command.parse().status
                        self.status.set_result(0x0110 if status is None else status)
            elif frame.type is PduType.RELEASE_RP and not self.released.done():
                self.released.set_result(None)

    def on_final(self) -> None:
        pass

    def on_signal(self, payload: bytes) -> None:
        del payload
        self.on_broken(OperatorError("the called device ended the association"))

    def on_writable(self) -> None:
        pass

    def on_broken(self, error: IsthmusError) -> None:
        for future in (self.status, self.released):
            if not future.done():
                future.set_exception(OperatorError(f"the association was lost: {error}"))
                future.exception()  # whoever waits for it sees it; nobody else needs to

    # -- as the link of a local session

    def write(self, data: bytes | bytearray | memoryview, *, flush: bool) -> bool:
        del flush
        self.on_data(bytes(data))
        return True

    def finish(self) -> None:
        pass

    def consumed(self, count: int) -> None:
        pass

    def signal(self, payload: bytes) -> None:
        self.on_signal(payload)

    def close(self) -> None:
        pass


class Echo:
    """Verifies that a device answers."""

    def __init__(self, live: Live, opening: Opening) -> None:
        self._live = live
        self._opening = opening

    async def through_the_relay(self, called: AETitle, caller: LocalDevice) -> EchoResult:
        """C-ECHO `called` as `caller` would, leg by leg. Raises OperatorError with what the caller would hear."""
        started = time.perf_counter()
        try:
            target = self._live.core.directory.resolve(caller, called)
            routed = time.perf_counter()
            if isinstance(target, LocalDevice):
                return await self.of_device(target, caller.title)
            return await self._remote(target, caller, routed - started)
        except AssociationRefused as refused:
            raise OperatorError(
                f"{caller.title} would be refused ({refused.result}/{refused.source}/{refused.reason}): {refused}",
                hint=refused.hint,
            ) from refused

    async def of_device(self, device: LocalDevice, calling: AETitle) -> EchoResult:
        """C-ECHO a device of this site. Raises OperatorError saying what is wrong."""
        started = time.perf_counter()
        live = self._live
        conversation = _Conversation()
        session = Session(live, live.core.clock)
        session.device_asks = False
        session.link = conversation
        request = _request(device.title, calling)
        try:
            raw, accept = await call_device(live, device, session, request)
        except AssociationRefused as refused:
            raise OperatorError(str(refused), hint=refused.hint) from refused
        _demand_accepted(raw, accept is not None, device.title)
        assert session.connection is not None
        connection = session.connection
        connection.establish()
        legs = [Leg("connect and negotiate", time.perf_counter() - started)]

        def send(data: bytes) -> None:
            connection.do(connection.side.from_far(data, live.core.clock.monotonic()))

        try:
            status = await _converse(conversation, send, _context(request, raw), legs)
        except BaseException:
            session.let_go()
            raise
        return EchoResult(device.title, None, status == 0, status_name(status), tuple(legs))

    async def _remote(self, target: RemoteDevice, caller: LocalDevice, routed: float) -> EchoResult:
        live = self._live
        started = time.perf_counter()
        request = _request(target.title, caller.network_title)
        session_id, answer, pair = await self._opening.offer(caller, target, request)
        _demand_accepted(answer.answer, answer.decision is Decision.ACCEPTED, target.title)
        conversation = _Conversation()
        link = live.join(conversation, session_id, target.router_id, answer.keys, pair=pair, credit_out=answer.window)
        legs = [
            Leg("look up in the directory", routed),
            Leg("session through the Bridge, device connects and negotiates", time.perf_counter() - started),
        ]

        def send(data: bytes) -> None:
            link.write(data, flush=True)

        try:
            status = await _converse(conversation, send, _context(request, answer.answer), legs)
        except BaseException:
            await live.tell(target.router_id, NoticeKind.GONE, session_id, pair=pair)
            link.close()
            raise
        link.finish()
        return EchoResult(target.title, target.site, status == 0, status_name(status), tuple(legs))


async def _converse(
    conversation: _Conversation, send: Callable[[bytes], None], context_id: int, legs: list[Leg]
) -> int:
    try:
        async with asyncio.timeout(_SECONDS):
            for name, data, answer in (
                ("C-ECHO", message(context_id, c_echo_rq(1)), conversation.status),
                ("release", RELEASE_RQ, conversation.released),
            ):
                started = time.perf_counter()
                send(data)
                await answer
                legs.append(Leg(name, time.perf_counter() - started))
    except TimeoutError as error:
        raise OperatorError(f"no answer to the {name} within {_SECONDS:g} s") from error
    return conversation.status.result()


def _request(called: AETitle, calling: AETitle) -> AssociateRequest:
    return build_request(called, calling, [(VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN,))])


def _context(request: AssociateRequest, accept: bytes) -> int:
    agreed = agreed_contexts(request, AssociateAccept.parse(accept))
    if not agreed:
        raise OperatorError("the device does not take C-ECHO", hint="it is reachable, though")
    return next(iter(agreed))


def _demand_accepted(raw: bytes, accepted: bool, title: AETitle) -> None:
    if accepted:
        return
    answer = f"A-ABORT {Abort.parse(raw)}" if raw[0] == PduType.ABORT else f"A-ASSOCIATE-RJ {Reject.parse(raw)}"
    raise OperatorError(f"{title} answered {answer}", hint="does it know the calling AE title?")
