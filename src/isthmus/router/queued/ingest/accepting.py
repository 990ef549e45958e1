"""Accepting associations whose objects are queued: for one device that this site chose so, or for a group.

The tables refuse here whom they refuse live, with the same A-ASSOCIATE-RJ; that a site is away, or a device off, is
what the queue is for.
"""

from collections.abc import Sequence
from typing import Final

import structlog

from isthmus.association.negotiation import agreed_contexts
from isthmus.contract.notices import SESSION_ID_BYTES
from isthmus.dicom.associate import AssociateRequest
from isthmus.dicom.services import Service, service_of
from isthmus.envelope.records import ObjectMeta
from isthmus.errors import AssociationRefused
from isthmus.kit.complaint import Complaint
from isthmus.kit.names import AETitle
from isthmus.router.live.registry import Core, Live, refusal
from isthmus.router.live.session import Parties, Session
from isthmus.router.live.translation import titles_for
from isthmus.router.queued.ingest.negotiation import answer, commits, unknown
from isthmus.router.queued.ingest.receiving import Receiving
from isthmus.router.queued.ingest.requests import Request
from isthmus.router.queued.spool.bundles import Spool
from isthmus.router.queued.spool.header import Destination, Route
from isthmus.router.queued.spool.writing import OpenBundle
from isthmus.router.queued.trouble import NoRoom, SpoolFailed
from isthmus.router.routing.modes import Modes, QueuedDevice, QueuedDevices
from isthmus.router.routing.records import DeliveryMode, LocalDevice

_log = structlog.get_logger()

_MOST_NAMED: Final = 10  # classes in a line of the log
_COMMITMENT: Final = frozenset({Service.COMMITMENT.value})


class Ingest:
    """Accepts what is to be queued; `Opening` asks it before it relays."""

    def __init__(self, live: Live, spool: Spool) -> None:
        self.modes: Final = Modes(live.core.directory)
        self._live = live
        self._spool = spool
        self._complaint = Complaint()

    async def open(self, session: Session, request: AssociateRequest, caller: LocalDevice, called: AETitle) -> bool:
        """Accept the association, all set up when this returns; False if it is to be relayed.

        Raises AssociationRefused: as `Modes`; 2/3/1 if nobody knows what a device takes; 2/3/2 if there is no room.
        """
        if self._goes_live(caller, called):
            return False
        to = self.modes.devices(caller, called)
        if (device := unknown(to.devices)) is not None:
            raise _unknown(device)
        route = route_of(caller, to.called, to.devices)
        try:
            bundle = await self._spool.take(route)
        except (NoRoom, SpoolFailed) as error:
            raise refusal(f"nothing can be queued now: {error}", reason=2, hint=error.hint) from error
        try:
            self._accept(session, request, caller, called, to, route, bundle)
        except BaseException:
            self._spool.give_back(bundle)
            raise
        return True

    def refused(self, route: Route, error: Exception) -> None:
        """Say why an object was not kept; the same reason now and then only."""
        if self._complaint.is_news(f"{type(error).__name__}: {error}", self._live.core.clock.monotonic()):
            hint = error.hint if isinstance(error, NoRoom | SpoolFailed) else "this is a fault of Isthmus: report it"
            _log.error(
                "an object was not queued", calling=route.calling, called=route.called, why=str(error), hint=hint
            )

    def _goes_live(self, caller: LocalDevice, called: AETitle) -> bool:
        if self._live.core.directory.group(called) is not None:
            return False
        if self._live.is_moving(caller.network_title, called):
            return True
        return self.modes.mode(caller, called) is DeliveryMode.LIVE

    def _accept(
        self,
        session: Session,
        request: AssociateRequest,
        caller: LocalDevice,
        called: AETitle,
        to: QueuedDevices,
        route: Route,
        bundle: OpenBundle,
    ) -> None:
        live, core = self._live, self._live.core
        connection = session.connection
        assert connection is not None
        accept = answer(request, to.devices)
        agreed = agreed_contexts(request, accept)
        only = to.devices[0] if len(to.devices) == 1 else None
        session.mode = DeliveryMode.QUEUED
        session.parties = Parties(
            route.calling, route.called, only.site if only else None, (only.router_id if only else None) or ""
        )
        services = {service_of(context.abstract_syntax) or Service.ANY for context in agreed.values()}
        session.services = tuple(sorted(service.value for service in services))
        session.session_id = core.random(SESSION_ID_BYTES)
        session.still_allowed = lambda: self.modes.devices(caller, called)
        keeping = Association(self, self._spool, core, session, caller, route, bundle, commits(to.devices))
        if (titles := titles_for(core.directory, caller)) is not None:
            connection.side.translate(titles)
        session.link = Receiving(session, agreed, bundle, keeping, core.tasks, max_pdu_length=request.max_pdu_length)
        live.established(session)
        _log.info(
            "association open", calling=request.calling, called=request.called, mode=session.mode,
            session=session.session_id.hex()[:8], contexts=len(agreed),
        )  # fmt: skip
        refused = sorted({context.abstract_syntax for context in request.contexts if context.id not in agreed})
        if refused:
            _log.info(
                "contexts refused: not granted, or not known to be taken", session=session.session_id.hex()[:8],
                classes=refused[:_MOST_NAMED], count=len(request.contexts) - len(agreed), hint=_probes(to.devices),
            )  # fmt: skip
        connection.do(connection.side.accept(accept.raw, core.clock.monotonic()))


class Association:
    """One association whose objects are queued: what is known of them, and where they go."""

    def __init__(
        self,
        ingest: Ingest,
        spool: Spool,
        core: Core,
        session: Session,
        caller: LocalDevice,
        route: Route,
        bundle: OpenBundle,
        commit: QueuedDevice | None,
    ) -> None:
        self._ingest = ingest
        self._spool = spool
        self._core = core
        self._session = session
        self._caller = caller
        self._route = route
        self._bundle = bundle
        self._commit = commit

    def meta(self, request: Request) -> ObjectMeta:
        """Return what is to be known of an object: titles as the network knows them, since another site reads it."""
        return ObjectMeta(
            kind=request.kind,
            calling=self._route.calling,
            called=self._route.called,
            association=self._session.session_id[:16],
            command=request.command.raw,
            sop_class=request.sop_class,
            sop_instance=request.sop_instance,
            transfer_syntax=request.context.transfer_syntax,
            received=self._core.clock.now(),
        )

    async def commit(self, meta: ObjectMeta, data_set: Sequence[bytes]) -> None:
        """Make a request for storage commitment durable, and let the archive's report in, which may come in days.

        Raises NoRoom or SpoolFailed.
        """
        device = self._commit
        assert device is not None  # or its context would have been refused
        bundle = await self._spool.take(route_of(self._caller, self._route.called, [device]))
        try:
            writer = bundle.begin(meta)
            for part in data_set:
                writer.write(part)
            await writer.finish()
        finally:
            self._spool.give_back(bundle)
        if device.router_id is not None:
            self._core.directory.open_return(device.router_id, device.title, self._route.calling, _COMMITMENT)

    def refused(self, request: Request, error: Exception) -> None:
        """An object is not kept."""
        del request
        self._ingest.refused(self._route, error)

    def ended(self) -> None:
        """The association is over."""
        self._spool.give_back(self._bundle)


def route_of(caller: LocalDevice, called: AETitle, devices: Sequence[QueuedDevice]) -> Route:
    """Return the way of what `caller` queues for these devices."""
    places = tuple(Destination(device.title, device.site, device.router_id) for device in devices)
    return Route(caller.network_title, called, places)


def _unknown(device: QueuedDevice) -> AssociationRefused:
    where = "this site" if device.site is None else f"site {device.site}"
    return refusal(
        f"it is not known what {device.title} of {where} takes, so that nothing can be queued for it",
        hint=_probes([device]),
    )


def _probes(devices: Sequence[QueuedDevice]) -> str:
    """Return what makes known what devices take."""
    return "; ".join(
        f"{'' if device.site is None else f'at site {device.site}: '}isthmus device probe {device.title}"
        for device in devices
    )
