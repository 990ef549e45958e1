"""Setting a session up for a local caller: route it, offer it to the far Router, bring its device's answer back.

A refusal of ours is an A-ASSOCIATE-RJ as docs/conformance.md lists them, with one line in the log that names what
lacks and the command that would mend it.
"""

import asyncio
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

import structlog

from isthmus.contract.notices import SESSION_ID_BYTES, NoticeKind, unpack_fields
from isthmus.contract.rest import SessionEnd, SessionRequest
from isthmus.dicom.associate import AssociateAccept, AssociateRequest
from isthmus.dicom.framing import PduType
from isthmus.dicom.pdus import Abort, Reject
from isthmus.envelope.offers import Answer, Decision, OfferDraft, make_offer
from isthmus.errors import AssociationRefused, IsthmusError, Problem, ProviderTrouble, RemoteMisuse
from isthmus.kit.names import AETitle
from isthmus.relay.side import Answered, Asked
from isthmus.relay.titles import Titles
from isthmus.router.live.called_device import call_device
from isthmus.router.live.link import LocalLink
from isthmus.router.live.registry import Live, Waiting, first_credit, refusal
from isthmus.router.live.session import Parties, Session
from isthmus.router.live.translation import put_back, retitled, titles_for
from isthmus.router.providers.pair import CloudPair
from isthmus.router.routing.records import LocalDevice, RemoteDevice

_log = structlog.get_logger()

HEARD_SECONDS: Final = 4.0
"""Without a word from the far Router for so long the caller is refused: devices' own timers start at 5 s."""
ANSWER_SECONDS: Final = 60.0
"""The most that a far device may take to answer, whatever its site configured; callers rarely wait longer than 30."""
ASK_AGAIN_SECONDS: Final = (1.0, 2.0, 4.0, 8.0)
WITHDRAW_AGAIN_SECONDS: Final = (0.25, 0.5, 0.0)


class Queued(Protocol):
    """Takes associations whose objects are queued, instead of relaying them."""

    async def open(self, session: Session, request: AssociateRequest, caller: LocalDevice, called: AETitle) -> bool:
        """Accept the association, all set up when this returns; False if it is to be relayed.

        Raises AssociationRefused if it can be neither.
        """
        ...


class Offered(NamedTuple):
    """A session that was offered: its id, the far device's answer, and the pair of clouds that it named."""

    session_id: bytes
    answer: Answer
    pair: CloudPair


class Opening:
    """Sets up what local devices ask for; `queued` may take it, else it is relayed."""

    def __init__(self, live: Live, queued: Queued | None = None) -> None:
        self._live = live
        self._queued = queued

    def asked(self, session: Session, command: Asked) -> None:
        """Begin; the device hears when it is decided."""
        task = self._live.core.tasks.spawn(self._open(session, command.request), name="open an association")

        def gone(_: Answered) -> None:
            task.cancel()

        self._live.on_answer(session, gone)

    async def _open(self, session: Session, request: AssociateRequest) -> None:
        connection = session.connection
        assert connection is not None
        core = self._live.core
        try:
            await self._route(session, request)
        except AssociationRefused as refused:
            self._live.note_refusal(request.calling, request.called, refused, address=session.address)
            now = core.clock.monotonic()
            connection.do(connection.side.reject(refused.result, refused.source, refused.reason, now))
        except IsthmusError as error:
            _log.error("association not opened", calling=request.calling, called=request.called, why=str(error))
            core.metrics.refused("2/3/1")
            connection.do(connection.side.reject(2, 3, 1, core.clock.monotonic()))
        finally:
            self._live.gone(session)
            if session.link is None:  # whatever went wrong here, the device is not left waiting for an answer
                connection.do(connection.side.reject(2, 3, 1, core.clock.monotonic()))

    async def _route(self, session: Session, request: AssociateRequest) -> None:
        live, core = self._live, self._live.core
        caller = core.directory.identify(request.calling, session.address, request.called, over_tls=session.over_tls)
        live.demand_room(session)
        called, originator = self._meant(caller, request.called)
        if self._queued is not None and await self._queued.open(session, request, caller, called):
            return
        target, parent = self._resolve(caller, called)
        if isinstance(target, LocalDevice):
            await self._open_locally(session, request, caller, target)
        else:
            titles = titles_for(core.directory, caller, originator=originator)
            await self._open_remotely(session, request, caller, target, parent, titles)

    def _meant(self, caller: LocalDevice, called: AETitle) -> tuple[AETitle, AETitle | None]:
        """Return whom `caller` means, and by whose C-MOVE, if it sees all devices of other sites under one title."""
        directory, callers_as = self._live.core.directory, caller.options.callers_as
        if callers_as is None or directory.fold(called) != directory.fold(callers_as):
            return called, None
        moving = self._live.moved_by(caller.network_title)
        targets = {session.moves_to for session in moving}
        if len(targets) != 1:
            raise refusal(
                f"{caller.title} calls {called}, which stands for every device of other sites, and"
                f" {len(targets) or 'no'} destinations of a C-MOVE are open: it cannot be told which is meant",
                hint=f"to show it the callers' own titles: isthmus device set {caller.title} --callers-as ''",
            )
        originators = {session.parties.calling for session in moving if session.parties is not None}
        (target,) = targets
        assert target is not None
        return target, originators.pop() if len(originators) == 1 else None

    def _resolve(self, caller: LocalDevice, called: AETitle) -> tuple[LocalDevice | RemoteDevice, bytes | None]:
        directory = self._live.core.directory
        try:
            return directory.resolve(caller, called), None
        except AssociationRefused:
            # The far Router opened the way back when the C-MOVE passed it; its word may still be on the way here.
            called = directory.title_of(called)
            expected = self._live.expected_return(caller.network_title, called)
            if expected is None:
                raise
            site, public_key, prekey = directory.remote_site(expected.router_id)
            device = RemoteDevice(
                called, called, site, expected.router_id, public_key, prekey, frozenset(), online=True, name=""
            )
            return device, expected.parent

    # -- to another site -------------------------------------------------------------------------------------------

    async def _open_remotely(
        self,
        session: Session,
        request: AssociateRequest,
        caller: LocalDevice,
        target: RemoteDevice,
        parent: bytes | None,
        titles: Titles | None,
    ) -> None:
        live, core = self._live, self._live.core
        session.parties = Parties(caller.network_title, target.title, target.site, target.router_id)
        session.services = tuple(sorted(target.services))
        wire = retitled(request, called=target.title, calling=caller.network_title)
        session_id, answer, pair = await self.offer(caller, target, wire, parent)
        session.session_id, session.pair = session_id, pair.name
        connection = session.connection
        assert connection is not None
        now = core.clock.monotonic()
        if answer.decision is Decision.REJECTED:
            self._report(session_id, "refused there")
            self._pass_refusal_on(session, answer.answer)
            return
        try:
            accept = put_back(AssociateAccept.parse(answer.answer), asked=request, sent=wire)
        except RemoteMisuse:
            core.tasks.spawn(self._withdraw(session_id, target), name="withdraw an offer")
            raise
        if titles is not None:
            connection.side.translate(titles)
        session.link = live.join(
            session, session_id, target.router_id, answer.keys, pair=pair, credit_out=answer.window
        )
        live.established(session)
        _log.info(
            "association open", calling=request.calling, called=request.called, site=target.site,
            session=session_id.hex()[:8], contexts=len(accept.accepted_ids),
        )  # fmt: skip
        connection.do(connection.side.accept(accept.raw, now))

    async def offer(
        self, caller: LocalDevice, target: RemoteDevice, request: AssociateRequest, parent: bytes | None = None
    ) -> Offered:
        """Offer a session to the far Router; return the far device's answer to `request`, among other things.

        Raises AssociationRefused; the far Router then lets its device go.
        """
        core = self._live.core
        session_id = core.random(SESSION_ID_BYTES)
        try:
            pair = core.pairs.choose(target.router_id)
            window = first_credit(pair)
        except ProviderTrouble as trouble:
            raise refusal(str(trouble), hint=trouble.hint) from trouble
        draft = make_offer(
            core.identity,
            session_id=session_id,
            responder=target.router_id,
            prekey=target.prekey,
            calling=caller.network_title,
            called=target.title,
            request=request.raw,
            window=window,
            now=core.clock.now(),
            random=core.random,
            provider=pair.name,
        )
        ask = SessionRequest(
            session_id=session_id,
            to_router_id=target.router_id,
            calling=caller.network_title,
            called=target.title,
            offer=draft.offer,
            signature=draft.signature,
            request=draft.request_box,
            parent=parent,
        )
        with pair.held():
            return Offered(session_id, await self._answer_to(session_id, ask, draft, target, pair), pair)

    async def _answer_to(
        self, session_id: bytes, ask: SessionRequest, draft: OfferDraft, target: RemoteDevice, pair: CloudPair
    ) -> Answer:
        live, core = self._live, self._live.core
        waiting = Waiting(asyncio.get_running_loop().create_future())
        live.waiting[session_id] = waiting
        asking = core.tasks.spawn(self._ask(ask, waiting, target), name="offer a session")
        started = asyncio.get_running_loop().time()
        try:
            while True:
                body = await self._wait(waiting, target, started, pair)
                try:
                    accept, signature, answer_box = unpack_fields(body, 3)
                    answer = draft.open_accept(accept, signature, answer_box, target.public_key)
                except IsthmusError as error:
                    _log.warning("an answer that does not verify", site=target.site, why=str(error))
                    waiting.answer = asyncio.get_running_loop().create_future()
                    continue
                return answer
        except BaseException:
            core.tasks.spawn(self._withdraw(session_id, target), name="withdraw an offer")
            raise
        finally:
            del live.waiting[session_id]
            asking.cancel()

    async def _withdraw(self, session_id: bytes, target: RemoteDevice) -> None:
        """Tell the far Router to let its device go, more than once since a notice may be lost; then the Bridge."""
        for delay in WITHDRAW_AGAIN_SECONDS:
            await self._live.tell(target.router_id, NoticeKind.GONE, session_id, pair=self._live.core.pairs.built_in)
            await asyncio.sleep(delay)
        self._report(session_id, "not answered")

    def _report(self, session_id: bytes, outcome: str) -> None:
        """Tell the Bridge that an offered session will not be."""
        end = SessionEnd(outcome=outcome, bytes_out=0, bytes_in=0)
        self._live.core.tasks.spawn(self._live.report_end(session_id, end), name="report that a session is not to be")

    @staticmethod
    async def _wait(waiting: Waiting, target: RemoteDevice, started: float, pair: CloudPair) -> bytes:
        with suppress(TimeoutError):
            async with asyncio.timeout_at(started + HEARD_SECONDS):
                return await asyncio.shield(waiting.answer)
        if waiting.dialling.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout_at(started + ANSWER_SECONDS):
                    return await asyncio.shield(waiting.answer)
            raise refusal(f"{target.title} at {target.site} did not answer within {ANSWER_SECONDS:g} s")
        pair.suspect(f"the Router of {target.site} was not heard over it")
        raise refusal(
            f"the Router of {target.site} did not answer within {HEARD_SECONDS:g} s",
            hint="ask that site to run `isthmus doctor`",
        )

    async def _ask(self, ask: SessionRequest, waiting: Waiting, target: RemoteDevice) -> None:
        """Ask the Bridge, and again while no answer comes: the offer or the accept may have been lost."""
        for delay in ASK_AGAIN_SECONDS:
            try:
                await self._live.core.bridge.open_session(ask)
            except IsthmusError as error:
                if not waiting.answer.done():
                    waiting.answer.set_exception(_refusal_of(error, target))
                return
            await asyncio.sleep(delay)

    def _pass_refusal_on(self, session: Session, raw: bytes) -> None:
        """Give the device the far device's own A-ASSOCIATE-RJ or A-ABORT, unchanged."""
        connection, core = session.connection, self._live.core
        assert connection is not None
        assert session.parties is not None
        now = core.clock.monotonic()
        parties = session.parties
        if raw[:1] == bytes((PduType.ABORT,)):
            abort = Abort.parse(raw)
            answer = f"A-ABORT {abort.source}/{abort.reason}"
            connection.do(connection.side.let_go(now, source=abort.source, reason=abort.reason))
        else:
            reject = Reject.parse(raw)
            answer = f"{reject.result}/{reject.source}/{reject.reason}"
            connection.do(connection.side.reject(reject.result, reject.source, reject.reason, now))
        _log.info(
            "association refused there",
            calling=parties.calling,
            called=parties.called,
            site=parties.far_site,
            answer=answer,
        )
        core.metrics.refused(answer)
        core.audit.refused(calling=parties.calling, called=parties.called, outcome=f"refused there: {answer}")

    # -- within this site ------------------------------------------------------------------------------------------

    async def _open_locally(
        self, session: Session, request: AssociateRequest, caller: LocalDevice, target: LocalDevice
    ) -> None:
        live, core = self._live, self._live.core
        wire = request if target.title == request.called else request.with_titles(called=target.title)
        other = Session(live, core.clock)
        other.parties = session.parties = Parties(caller.network_title, target.network_title, None, "")
        other.device_asks = False
        raw, accept = await call_device(live, target, other, wire)
        if accept is None:
            self._pass_refusal_on(session, raw)
            return
        session.session_id = other.session_id = core.random(SESSION_ID_BYTES)
        session.link, other.link = LocalLink.pair(session, other)
        connection, other_connection = session.connection, other.connection
        assert connection is not None
        assert other_connection is not None
        live.established(session)
        if wire is not request:
            accept = accept.with_titles(called=request.called)
        connection.do(connection.side.accept(accept.raw, core.clock.monotonic()))
        other_connection.establish()


def _refusal_of(error: IsthmusError, target: RemoteDevice) -> AssociationRefused:
    """Return what the caller hears for the Bridge's answer: only tables refuse permanently, outages never do."""
    if isinstance(error, Problem) and error.status == 403:
        return AssociationRefused(
            f"the Bridge refuses {target.title} at {target.site}: {error}",
            result=1,
            source=1,
            reason=3,
            hint=error.hint or f"ask {target.site} to run `isthmus grant list`",
        )
    if isinstance(error, ProviderTrouble):
        return refusal(f"the Bridge is not reachable: {error}", hint="`isthmus doctor` says why")
    full = isinstance(error, Problem) and error.status == 429
    return refusal(f"the Bridge did not open the session: {error}", hint=error.hint, reason=2 if full else 1)
