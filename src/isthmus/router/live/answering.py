"""Answering another site's offer: verify it, ask the tables, call the device, return its own answer.

Whatever is wrong with an offer is logged here and costs its sender the answer; a refusal of the tables is answered
with the A-ASSOCIATE-RJ that the caller's device is to hear.
"""

import asyncio
import contextlib
import functools
import sqlite3
from collections.abc import Callable, Coroutine
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Final

import structlog

from isthmus.contract.notices import PREFIX_BYTES, NoticeKind, pack_fields, unpack_fields
from isthmus.dicom.associate import AssociateAccept, AssociateRequest, build_all_refused_accept
from isthmus.dicom.services import Service, allowed_contexts
from isthmus.envelope.offers import Decision, OpenedOffer, open_offer, peek_offer
from isthmus.errors import AssociationRefused, ProviderTrouble, RemoteMisuse, SealBroken, Untrusted
from isthmus.relay.policy import CommandPolicy
from isthmus.router.live.called_device import as_reject, call_device
from isthmus.router.live.hollow import HollowSession
from isthmus.router.live.registry import Live, first_credit, refusal
from isthmus.router.live.session import Parties, Session
from isthmus.router.live.translation import put_back, retitled, titles_for
from isthmus.router.providers.pair import CloudPair
from isthmus.router.routing.records import Admission, DeliveryMode

_log = structlog.get_logger()

PATIENCE_SECONDS: Final = 0.5  # a device that takes longer gets the caller told, each time, that it is being called
REFUSED_SECONDS: Final = 5.0  # for which a refusal is given again if the offer is
REPEAT_SECONDS: Final = (0.5, 1.0, 2.0, 4.0, 8.0)  # an accept that nobody seems to have heard


@dataclass(slots=True)
class _Answering:
    """An offer in hand: `again` sends the accept once more, once there is one, for an offer that comes again."""

    pair: CloudPair
    task: asyncio.Task[None] | None = None
    again: Callable[[], Coroutine[None, None, None]] | None = None


class Answering:
    """Answers the offers of accepted sites."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._answering: dict[bytes, _Answering] = {}

    def offer(self, session_id: bytes, notice: bytes) -> None:
        """Take an OFFER notice; one that comes again gets the same answer again."""
        if (known := self._answering.get(session_id)) is not None:
            if known.again is not None:
                self._live.core.tasks.spawn(known.again(), name="answer again")
            return
        state = self._answering[session_id] = _Answering(self._live.core.pairs.built_in)
        state.task = self._live.core.tasks.spawn(self._answer(session_id, notice, state), name="answer an offer")

        def answered(_: object) -> None:  # not in the task, which never begins if it is cancelled at once
            # While it can still be repeated, the link or a timer remembers it; then the seen-set on disk does.
            if state.again is None:
                self._answering.pop(session_id, None)

        state.task.add_done_callback(answered)

    def withdrawn(self, session_id: bytes) -> bool:
        """The far Router gave up before the answer; return whether there was something to give up."""
        state = self._answering.get(session_id)
        if state is None or state.task is None or state.task.done():
            return False
        return state.task.cancel()

    async def _answer(self, session_id: bytes, notice: bytes, state: _Answering) -> None:
        core = self._live.core
        try:
            opened = self._verify(session_id, notice)
            await self._call(opened, state)
        except (Untrusted, SealBroken, RemoteMisuse) as error:
            _log.warning("an offer was dropped", session=session_id.hex()[:8], why=str(error), hint=error.hint)
            core.metrics.refused("offer dropped")

    def forget(self, session_id: bytes) -> None:
        """The session is over."""
        self._answering.pop(session_id, None)

    def _verify(self, session_id: bytes, notice: bytes) -> OpenedOffer:
        core = self._live.core
        offer, signature, request_box, _initiator = unpack_fields(memoryview(notice)[PREFIX_BYTES:], 4)
        fields = peek_offer(offer)
        if fields.session_id != session_id:
            raise SealBroken("an offer came under another session's id")
        return open_offer(
            offer,
            signature,
            request_box,
            initiator_public=core.directory.pinned_key(fields.initiator),
            own=core.identity.router_id,
            prekeys=core.prekeys(),
            now=core.clock.now(),
        )

    async def _call(self, opened: OpenedOffer, state: _Answering) -> None:
        live, core = self._live, self._live.core
        session = Session(live, core.clock)
        session.device_asks = False
        with contextlib.suppress(ProviderTrouble):  # else the built-in pair carries the refusal
            state.pair = core.pairs.named(opened.provider)
        with state.pair.held():
            patience = core.tasks.spawn(self._say_dialling(opened, state), name="say that a device is being called")
            try:
                await self._decide(opened, session, state)
            except AssociationRefused as refused:
                live.note_refusal(opened.calling, opened.called, refused)
                await self._reply_refusal(opened, as_reject(refused), state)
            finally:
                patience.cancel()

    async def _decide(self, opened: OpenedOffer, session: Session, state: _Answering) -> None:
        if state.pair.name != opened.provider:
            raise refusal(
                f"a session over the cloud pair {opened.provider}, which is not in use here", hint="isthmus egress list"
            )
        admission = await self._admit(opened)
        self._live.demand_room(session)
        await self._relay(opened, admission, session, state)

    async def _admit(self, opened: OpenedOffer) -> Admission:
        """Return what the tables say, once the offer is on disk: from then on it can never be answered again."""
        directory = self._live.core.directory
        try:
            if not await asyncio.to_thread(directory.remember_offer, opened.session_id, opened.forget_after):
                raise SealBroken("an offer was repeated")
            return directory.admit(opened.initiator, opened.calling, opened.called, mode=DeliveryMode.LIVE)
        except sqlite3.Error as error:
            raise refusal(
                f"the tables of this Router cannot be written: {error}",
                reason=2,
                hint="is the disk full? isthmus doctor says so",
            ) from error

    async def _relay(self, opened: OpenedOffer, admission: Admission, session: Session, state: _Answering) -> None:
        live = self._live
        try:
            request = AssociateRequest.parse(opened.request)
        except RemoteMisuse as error:
            raise SealBroken(f"the A-ASSOCIATE-RQ in an offer is malformed: {error}") from error
        services = frozenset(Service(name) for name in admission.services if name in Service._value2member_map_)
        decision = allowed_contexts(request, services)
        session.parties = Parties(opened.calling, opened.called, admission.site, opened.initiator)
        session.services = tuple(sorted(admission.services))
        session.return_ok = admission.return_ok
        if not decision.kept:
            accept = build_all_refused_accept(request)
            self._accept(opened, accept.raw, HollowSession(), state)
            return
        wire = request.without_contexts(decision.refused) if decision.refused else request
        wire = retitled(wire, called=admission.called_as, calling=admission.calling_as)
        if admission.device.options.strip_async:
            wire = wire.without_async_operations()
        policy = CommandPolicy(decision.requests)
        titles = titles_for(live.core.directory, admission.device, requestor=session.parties.calling)
        raw, accept_view = await call_device(live, admission.device, session, wire, policy, titles)
        if accept_view is None:
            await self._reply_refusal(opened, raw, state)
            return
        try:
            live.core.directory.admit(opened.initiator, opened.calling, opened.called)  # still, as the device took time
            self._accept(opened, _restored(accept_view, request, wire, decision.refused).raw, session, state)
        except BaseException:
            session.let_go()
            raise

    def _accept(self, opened: OpenedOffer, raw: bytes, session: Session | HollowSession, state: _Answering) -> None:
        live, core = self._live, self._live.core
        window = first_credit(state.pair)
        acceptance = opened.accept(
            core.identity, decision=Decision.ACCEPTED, answer=raw, window=window, random=core.random
        )
        reply = pack_fields((acceptance.accept, acceptance.signature, acceptance.answer_box))
        state.again = functools.partial(
            live.tell, opened.initiator, NoticeKind.ACCEPT, opened.session_id, reply, pair=state.pair
        )
        session.session_id = opened.session_id
        if isinstance(session, Session):
            session.pair = state.pair.name
        session.link = live.join(
            session, opened.session_id, opened.initiator, acceptance.keys, pair=state.pair, credit_out=opened.window
        )
        repeat = core.tasks.spawn(self._reply(state.again), name="say that a device accepted")
        session.on_heard = repeat.cancel
        if isinstance(session, Session):
            live.established(session)
            _log.info(
                "association open", calling=opened.calling, called=opened.called,
                session=opened.session_id.hex()[:8],
            )  # fmt: skip
            assert session.connection is not None
            session.connection.establish()
        else:
            live.linger(opened.session_id)  # nothing can happen in it but its end

    @staticmethod
    async def _reply(send: Callable[[], Coroutine[None, None, None]]) -> None:
        """Send the accept, and again until the caller's Router is heard: a notice may be lost."""
        for delay in REPEAT_SECONDS:
            await send()
            await asyncio.sleep(delay)

    async def _reply_refusal(self, opened: OpenedOffer, raw: bytes, state: _Answering) -> None:
        core = self._live.core
        rejection = opened.accept(core.identity, decision=Decision.REJECTED, answer=raw, window=0, random=core.random)
        body = pack_fields((rejection.accept, rejection.signature, rejection.answer_box))
        state.again = functools.partial(
            self._live.tell, opened.initiator, NoticeKind.ACCEPT, opened.session_id, body, pair=state.pair
        )
        asyncio.get_running_loop().call_later(REFUSED_SECONDS, self.forget, opened.session_id)
        await state.again()

    async def _say_dialling(self, opened: OpenedOffer, state: _Answering) -> None:
        while True:  # until there is an answer: a notice may be lost
            await asyncio.sleep(PATIENCE_SECONDS)
            await self._live.tell(opened.initiator, NoticeKind.DIALLING, opened.session_id, pair=state.pair)


def _restored(
    accept: AssociateAccept, request: AssociateRequest, wire: AssociateRequest, refused: AbstractSet[int]
) -> AssociateAccept:
    """Return the device's answer to `wire` as the answer to `request`: refused contexts and titles put back."""
    if refused:
        syntaxes = {context.id: context.transfer_syntaxes[0] for context in request.contexts}
        accept = accept.with_refused_contexts([(id_, syntaxes[id_]) for id_ in sorted(refused)])
    return put_back(accept, asked=request, sent=wire)
