"""Calling a local device on behalf of somebody: dial, ask, and return its answer as it came."""

import asyncio

from isthmus.association.machine import UpperLayer
from isthmus.association.states import Role
from isthmus.dicom.associate import AssociateAccept, AssociateRequest
from isthmus.errors import AssociationRefused
from isthmus.relay.policy import CommandPolicy
from isthmus.relay.side import Answered, Side
from isthmus.relay.titles import Titles
from isthmus.router.lan.connection import DeviceConnection
from isthmus.router.lan.dialling import dial, unreachable
from isthmus.router.live.registry import Live, refusal
from isthmus.router.live.session import Session
from isthmus.router.routing.records import DeliveryMode, LocalDevice


async def call_device(
    live: Live,
    device: LocalDevice,
    session: Session,
    request: AssociateRequest,
    policy: CommandPolicy | None = None,
    titles: Titles | None = None,
) -> tuple[bytes, AssociateAccept | None]:
    """Return the device's answer to this A-ASSOCIATE-RQ: the PDU as it came, and the AC if it is one.

    From then on `session.connection` is the open connection, if the device accepted. Raises AssociationRefused with
    the transient answer if it has no room for one more, is not reachable or does not answer in time.
    """
    limit = device.options.max_associations
    if limit and live.of_device(device.network_title) >= limit:
        if session.mode is DeliveryMode.LIVE:
            live.crowded(device)
        raise refusal(
            f"{device.title} has its {limit} associations",
            reason=2,
            hint=f"`isthmus device set {device.network_title} --max-associations N` changes the limit",
        )
    upper = UpperLayer(Role.REQUESTOR, idle=live.core.directory.settings.idle_seconds)
    side = Side(upper, device_asks=False, policy=policy)
    if titles is not None:
        side.translate(titles)
    connection = DeviceConnection(side, session, live.core.clock)
    session.connection = connection
    answered: asyncio.Future[Answered] = asyncio.get_running_loop().create_future()

    def heard(answer: Answered) -> None:
        if not answered.done():
            # What the device sends next waits until there is a link to carry it.
            connection.pause()
            answered.set_result(answer)

    live.on_answer(session, heard)
    connection.do(side.call(request.raw, live.core.clock.monotonic()))
    accepted = False
    try:
        await dial(device, connection)
        async with asyncio.timeout(device.options.associate_timeout):
            answer = await answered
        accepted = answer.accept is not None
    except TimeoutError as error:
        raise unreachable(device, f"no answer within {device.options.associate_timeout:g} s") from error
    finally:
        live.gone(session)
        if not accepted:
            session.connection = None
            connection.do(side.let_go(live.core.clock.monotonic()))  # nothing, where the device has ended it
    if answer.accept is not None:
        live.accepted(device, request, answer.accept)
    if answer.raw is None:
        raise unreachable(device, "it closed the connection without an answer")
    return answer.raw, answer.accept


def as_reject(refused: AssociationRefused) -> bytes:
    """Return the A-ASSOCIATE-RJ of a refusal (PS3.8 section 9.3.4)."""
    return bytes((3, 0, 0, 0, 0, 4, 0, refused.result, refused.source, refused.reason))
