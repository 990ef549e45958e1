"""The live sessions of this Router: which there are, and which notice belongs to which.

`opening` sets sessions up for local callers, `answering` for callers of other sites; both hand them to this registry,
and from then on the session runs by itself.
"""

import asyncio
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from isthmus.adapters.bridge_http import BridgeConnection
from isthmus.cloudio.pool import Pool
from isthmus.cloudio.stream import Duplex, DuplexObserver, StreamOptions
from isthmus.contract.notices import PREFIX_BYTES, NoticeKind, pack
from isthmus.contract.rest import SessionCount, SessionEnd
from isthmus.dicom.associate import AssociateAccept, AssociateRequest
from isthmus.envelope.identity import Identity, RouterId
from isthmus.envelope.keys import SessionKeys
from isthmus.envelope.prekeys import PrekeyPair
from isthmus.errors import AssociationRefused, IsthmusError, ProviderTrouble, Untrusted
from isthmus.kit.clock import Clock
from isthmus.kit.names import AETitle
from isthmus.kit.tasks import Tasks
from isthmus.relay.policy import ReturnWanted, Way
from isthmus.relay.side import Answered, Asked, Outcome, RefusedHere
from isthmus.router.audit import Audit
from isthmus.router.config import RouterLimits
from isthmus.router.live.forgotten import Forgotten
from isthmus.router.live.session import Session
from isthmus.router.metrics import Metrics
from isthmus.router.providers.pair import CloudPair
from isthmus.router.providers.pairs import CloudPairs
from isthmus.router.routing.directory import Directory
from isthmus.router.routing.records import DeliveryMode, LocalDevice

_log = structlog.get_logger()

FIRST_CREDIT: Final = 4 * 1024 * 1024
"""Stream bytes that each side may send before it hears from the other: several round trips' worth on most links."""
_SPARING_CREDIT: Final = 16 * 1024 * 1024  # of a service paid by the request: four segments of the largest size
RETURN_MEMORY_SECONDS: Final = 60.0
"""How long the far Router's published return grant may take to arrive here; until then the session vouches for it."""
LINGER_SECONDS: Final = 60.0
"""After an association: how long the last bytes and words of its stream may take. A far Router cannot keep it open."""
MOST_EXPECTED: Final = 100  # returns of one far Router: it names a destination with each C-MOVE, and need not mean it

_OF_SET_UP: Final = frozenset({NoticeKind.ACCEPT, NoticeKind.DIALLING})
_OF_STREAM: Final = frozenset({NoticeKind.DATA, NoticeKind.DATA_BLOB, NoticeKind.CONTROL})

Random = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class Core:
    """What every part of the live relay works with."""

    identity: Identity
    prekeys: Callable[[], Mapping[bytes, PrekeyPair]]
    directory: Directory
    bridge: BridgeConnection
    pairs: CloudPairs
    pool: Pool
    clock: Clock
    tasks: Tasks
    audit: Audit
    metrics: Metrics
    limits: RouterLimits
    stream: StreamOptions = field(default_factory=StreamOptions)
    random: Random = secrets.token_bytes


@dataclass(frozen=True, slots=True)
class ExpectedReturn:
    """A called device was asked to call back: the session that asked vouches for it."""

    router_id: RouterId
    parent: bytes
    until: float


@dataclass(slots=True)
class Waiting:
    """A session that this Router offered and the far one has not answered."""

    answer: asyncio.Future[bytes]
    dialling: asyncio.Event = field(default_factory=asyncio.Event)


class Opener(Protocol):
    """Sets up what local devices ask for."""

    def asked(self, session: Session, command: Asked) -> None:
        """A local device asks for an association."""
        ...


class Answerer(Protocol):
    """Answers what other sites offer."""

    def offer(self, session_id: bytes, notice: bytes) -> None:
        """An OFFER notice came, perhaps again."""
        ...

    def withdrawn(self, session_id: bytes) -> bool:
        """The far Router gave up before it had an answer."""
        ...

    def forget(self, session_id: bytes) -> None:
        """The session is over."""
        ...


class Live:
    """The registry of live sessions; performs what is the same for both sides of one."""

    def __init__(self, core: Core) -> None:
        self.core: Final = core
        self.sessions: Final[dict[bytes, Session]] = {}
        self.links: Final[dict[bytes, Duplex]] = {}
        self.waiting: Final[dict[bytes, Waiting]] = {}
        self.paused = False
        self._expected: dict[tuple[AETitle, AETitle], ExpectedReturn] = {}
        self._opener: Opener | None = None
        self._answerer: Answerer | None = None
        self._on_answer: dict[Session, Callable[[Answered], None]] = {}
        self._accepted: list[Callable[[LocalDevice, AssociateRequest, AssociateAccept], None]] = []
        self._crowded: list[Callable[[LocalDevice], None]] = []
        self._forgotten = Forgotten()
        self._lingering: dict[bytes, asyncio.TimerHandle] = {}
        self.idle = asyncio.Event()
        self.idle.set()

    def __repr__(self) -> str:
        return f"<Live: {len(self.sessions)} sessions, {len(self.waiting)} offered>"

    def handle(self, opener: "Opener", answerer: "Answerer") -> None:
        """Name who sets sessions up: for local callers, and for offers of other sites."""
        self._opener = opener
        self._answerer = answerer

    def when_accepted(self, listener: Callable[[LocalDevice, AssociateRequest, AssociateAccept], None]) -> None:
        """Have `listener` told of each association that a device of ours, called by this Router, accepted."""
        self._accepted.append(listener)

    def accepted(self, device: LocalDevice, request: AssociateRequest, accept: AssociateAccept) -> None:
        """A device of ours accepted an association: with what was asked, and its answer."""
        for listener in self._accepted:
            listener(device, request, accept)

    def when_crowded(self, listener: Callable[[LocalDevice], None]) -> None:
        """Have `listener` told of each live caller that was refused since a device of ours takes no more at once."""
        self._crowded.append(listener)

    def crowded(self, device: LocalDevice) -> None:
        """A device of ours has all its associations, and a live caller was refused."""
        for listener in self._crowded:
            listener(device)

    # -- notices ---------------------------------------------------------------------------------------------------

    def notice(self, notice: bytes) -> None:
        """Take a session's notice from the signalling service: whatever is wrong with it stays here."""
        if len(notice) < PREFIX_BYTES:
            return
        kind = notice[0]
        session_id = notice[1:PREFIX_BYTES]
        if (link := self.links.get(session_id)) is not None and kind != NoticeKind.OFFER:
            if kind not in _OF_SET_UP:  # an accept that is repeated has been heard already
                self._give(link, session_id, notice)
        elif (waiting := self.waiting.get(session_id)) is not None:
            self._answer_came(kind, notice, waiting)
        elif self._answerer is None:
            return
        elif kind == NoticeKind.OFFER:
            self._answerer.offer(session_id, notice)
        elif kind == NoticeKind.GONE:
            self._answerer.withdrawn(session_id)
        elif kind in _OF_STREAM and (over := self._forgotten.whom_to_tell(session_id, self.core.clock.monotonic())):
            telling = self.tell(over.far_router, NoticeKind.GONE, session_id, pair=over.pair)
            self.core.tasks.spawn(telling, name="say that a session is over")

    @staticmethod
    def _give(link: Duplex, session_id: bytes, notice: bytes) -> None:
        try:
            link.receive(notice)
        except Exception:  # noqa: BLE001 - a fault of ours; all other sessions hear through the same connection
            _log.exception("a session is ended by a fault of Isthmus", session=session_id.hex()[:8])
            link.close()

    @staticmethod
    def _answer_came(kind: int, notice: bytes, waiting: Waiting) -> None:
        if kind == NoticeKind.ACCEPT and not waiting.answer.done():
            waiting.answer.set_result(notice[PREFIX_BYTES:])
        elif kind == NoticeKind.DIALLING:
            waiting.dialling.set()

    async def tell(
        self, router_id: str, kind: NoticeKind, session_id: bytes, body: bytes = b"", *, pair: CloudPair
    ) -> None:
        """Send a small notice over a pair; if the service is down, whoever waits for it will ask again."""
        try:
            await pair.cloud.signalling.publish(router_id, pack(kind, session_id, body))
            pair.cloud.expect()
        except ProviderTrouble as trouble:
            _log.warning("notice not sent", kind=kind.name, session=session_id.hex()[:8], reason=str(trouble))

    # -- sessions --------------------------------------------------------------------------------------------------

    def join(
        self,
        observer: DuplexObserver,
        session_id: bytes,
        far_router: str,
        keys: SessionKeys,
        *,
        pair: CloudPair,
        credit_out: int,
    ) -> Duplex:
        """Open the session's stream over `pair`, run it, and route its notices to it; `observer` hears of it.

        Raises ProviderTrouble if the pair was closed meanwhile.
        """
        core = self.core
        link = Duplex(
            session_id=session_id,
            keys=keys,
            cloud=pair.cloud,
            to=far_router,
            pool=core.pool,
            clock=core.clock,
            first_credit_out=credit_out,
            first_credit_in=first_credit(pair),
            observer=observer,
            options=core.stream,
        )
        self.links[session_id] = link
        running = self._run(link, session_id, far_router, observer, pair)
        core.tasks.spawn(running, name=f"stream of {session_id.hex()[:8]}")
        return link

    async def _run(
        self, link: Duplex, session_id: bytes, far_router: str, observer: DuplexObserver, pair: CloudPair
    ) -> None:
        try:
            with pair.held():
                await link.run()
        except Exception:  # noqa: BLE001 - a fault of ours: the device must not wait for a stream that is no more
            _log.exception("a session is ended by a fault of Isthmus", session=session_id.hex()[:8])
        finally:
            self.links.pop(session_id, None)
            if (timer := self._lingering.pop(session_id, None)) is not None:
                timer.cancel()
            self._forgotten.add(session_id, far_router, pair, self.core.clock.monotonic())
            self.core.metrics.resent(link.stats.resent)
            if self._answerer is not None:
                self._answerer.forget(session_id)
        if isinstance(observer, Session) and observer.outcome is None:
            observer.on_broken(StreamEnded())

    def linger(self, session_id: bytes) -> None:
        """Let the session's stream end by itself, but not for ever."""
        link = self.links.get(session_id)
        if link is not None and session_id not in self._lingering:
            self._lingering[session_id] = asyncio.get_running_loop().call_later(LINGER_SECONDS, link.close)

    def established(self, session: Session) -> None:
        """A session relays from now on."""
        self.sessions[session.session_id] = session
        self.idle.clear()
        self.core.audit.opened(session)
        self.core.metrics.opened(seconds=self.core.clock.now() - session.started)

    # -- the sessions' owner ---------------------------------------------------------------------------------------

    def asked(self, session: Session, command: Asked) -> None:
        """A local device asks for an association."""
        assert self._opener is not None
        self._opener.asked(session, command)

    def refused_here(self, session: Session, command: RefusedHere) -> None:
        """A device asked for what no DICOM association can be."""
        answer = command.answer
        refused = AssociationRefused(
            "not the DICOM application context, or another protocol version",
            result=answer.result,
            source=answer.source,
            reason=answer.reason,
        )
        self.note_refusal(command.request.calling, command.request.called, refused, address=session.address)

    def note_refusal(self, calling: str, called: str, refused: AssociationRefused, *, address: str = "") -> None:
        """Log, count and audit a refusal of ours: one line with what lacks and what would mend it."""
        answer = f"{refused.result}/{refused.source}/{refused.reason}"
        _log.info(
            "association refused",
            calling=calling,
            called=called,
            address=address,
            answer=answer,
            why=str(refused),
            hint=refused.hint,
        )
        self.core.metrics.refused(answer)
        self.core.audit.refused(calling=calling, called=called, outcome=str(refused))

    def on_answer(self, session: Session, answer: Callable[[Answered], None]) -> None:
        """Name who waits for the device's answer, or for its end before one."""
        self._on_answer[session] = answer

    def answered(self, session: Session, command: Answered) -> None:
        """A device answered, or is gone before that."""
        if (answer := self._on_answer.get(session)) is not None:
            answer(command)

    def way_back(self, session: Session, wanted: ReturnWanted) -> None:
        """A C-MOVE or N-ACTION went through: let the associations in that it causes."""
        parties = session.parties
        if session.mode is DeliveryMode.QUEUED:
            return  # nothing is asked of a device yet
        if wanted.way is Way.STORE:
            session.moves_to = wanted.title
        if parties is None or parties.far_site is None or not session.return_ok:
            return
        target = wanted.title or parties.calling
        services = frozenset({"store" if wanted.way is Way.STORE else "commitment"})
        if session.device_asks:
            self.core.directory.open_return(RouterId(parties.far_router), parties.called, target, services)
        else:
            self._expect(RouterId(parties.far_router), session.session_id, parties.called, target)

    def _expect(self, router_id: RouterId, parent: bytes, calling: AETitle, called: AETitle) -> None:
        now = self.core.clock.monotonic()
        self._expected = {key: row for key, row in self._expected.items() if row.until >= now}
        held = self._expected.pop((calling, called), None)
        if held is not None and held.router_id != router_id:
            self._expected[calling, called] = held  # whoever names a destination first: nobody takes it over
            return
        of_router = [key for key, row in self._expected.items() if row.router_id == router_id]
        if len(of_router) >= MOST_EXPECTED:
            del self._expected[of_router[0]]
        self._expected[calling, called] = ExpectedReturn(router_id, parent, now + RETURN_MEMORY_SECONDS)

    def moved_by(self, archive: AETitle) -> list[Session]:
        """Return the live associations in which another site asked this archive of ours, by C-MOVE, to send."""
        return [
            session
            for session in self.sessions.values()
            if session.parties is not None
            and session.parties.called == archive
            and not session.device_asks
            and session.moves_to is not None
        ]

    def is_moving(self, archive: AETitle, destination: AETitle) -> bool:
        """Return whether a C-MOVE that is relayed to this archive of ours names `destination`, a title as it calls it.

        Whoever asked counts what arrives, so that the sub-operations must reach the destination itself.
        """
        directory = self.core.directory
        wanted = directory.fold(directory.title_of(destination))
        return any(
            session.moves_to is not None
            and session.parties is not None
            and session.parties.called == archive
            and directory.fold(directory.title_of(session.moves_to)) == wanted
            for session in self.sessions.values()
        )

    def expected_return(self, calling: AETitle, called: AETitle) -> ExpectedReturn | None:
        """Return the session that vouches for `calling` of ours to reach `called` elsewhere, if one does.

        None too if `called` belongs to another site than asked: a C-MOVE can name any title as its destination.
        """
        expected = self._expected.get((calling, called))
        if expected is None or expected.until < self.core.clock.monotonic():
            return None
        return expected if self.core.directory.owner_of(called) in {None, expected.router_id} else None

    def ended(self, session: Session) -> None:
        """An association is over: count it and tell the Bridge."""
        if self.sessions.pop(session.session_id, None) is None:
            return
        if not self.sessions:
            self.idle.set()
        self.linger(session.session_id)
        outcome = session.outcome or Outcome.BROKEN
        self.core.audit.association(session, outcome=outcome.value)
        self.core.metrics.ended(outcome=outcome.name.lower(), bytes_out=session.bytes_out, bytes_in=session.bytes_in)
        _log.info(
            "association ended",
            session=session.session_id.hex()[:8],
            outcome=outcome.value,
            bytes_out=session.bytes_out,
            bytes_in=session.bytes_in,
        )
        # The caller's Router tells the Bridge; where that one is lost, the other does.
        tells = session.device_asks or outcome is Outcome.BROKEN
        if tells and _is_of_two_sites(session):
            end = SessionEnd(outcome=outcome.value, bytes_out=session.bytes_out, bytes_in=session.bytes_in)
            self.core.tasks.spawn(self.report_end(session.session_id, end), name="report the end of a session")

    async def report_end(self, session_id: bytes, end: SessionEnd) -> None:
        """Tell the Bridge that a session is over; its lease tells it too, if it cannot be told now."""
        try:
            await self.core.bridge.end_session(session_id, end)
        except IsthmusError as error:
            _log.info("the Bridge was not told of an end", session=session_id.hex()[:8], reason=str(error))

    def gone(self, session: Session) -> None:
        """Nobody waits for this device's answer any more."""
        self._on_answer.pop(session, None)

    # -- what others ask -------------------------------------------------------------------------------------------

    def counts(self) -> list[SessionCount]:
        """Return the sessions with other sites, for the heartbeat."""
        return [
            SessionCount(
                session_id=session.session_id,
                other_router_id=session.parties.far_router,
                calling=session.parties.calling,
                called=session.parties.called,
                started=session.started,
                bytes_out=session.bytes_out,
                bytes_in=session.bytes_in,
            )
            for session in self.sessions.values()
            if session.parties is not None and _is_of_two_sites(session)
        ]

    @property
    def setting_up(self) -> int:
        """How many associations wait for a device, or for another site."""
        return len(self._on_answer)

    def demand_room(self, asking: Session) -> None:
        """Raise AssociationRefused (2/3/2) if this Router, or the caller's address, has its number of associations.

        Those that are being set up count too, or many that ask at once would all find room.
        """
        limits = self.core.limits
        if self.paused:
            raise refusal("this Router is paused or stopping", reason=2, hint="isthmus router pause --off")
        others = [session for session in (*self.sessions.values(), *self._on_answer) if session is not asking]
        if len(others) >= limits.live:
            raise refusal(f"this Router relays its {limits.live} associations", reason=2)
        address = asking.address
        if address and sum(session.address == address for session in others) >= limits.live_per_address:
            raise refusal(f"{address} has its {limits.live_per_address} associations", reason=2)

    def of_device(self, network_title: AETitle) -> int:
        """Return how many associations a device of ours has now as the called one, or is being asked for."""
        relayed = [row for row in self.sessions.values() if not row.device_asks or _within_site(row)]
        asked = [row for row in self._on_answer if not row.device_asks]
        return sum(row.parties is not None and row.parties.called == network_title for row in (*relayed, *asked))

    def let_go_of_router(self, router_id: str) -> None:
        """End every session with a Router that the network, or this site, no longer knows."""
        for session in list(self.sessions.values()):
            if session.parties is not None and session.parties.far_router == router_id:
                session.let_go()

    async def keep_checking(self) -> None:
        """Recheck now and then: grants run out by themselves, and a session may be set up while one is withdrawn."""
        while True:
            await asyncio.sleep(self.core.limits.recheck_seconds)
            self.recheck()

    def recheck(self) -> None:
        """End the sessions that the tables allow no more: a site removed, a grant withdrawn, a device disabled.

        One whose grant has lost a service ends too: which of its contexts that concerns is for a new one to find out.
        """
        directory = self.core.directory
        for session in list(self.sessions.values()):
            parties = session.parties
            if parties is None:
                continue
            try:
                if session.device_asks:
                    directory.demand_enabled(parties.calling)
                if session.still_allowed is not None:
                    session.still_allowed()
                    continue
                if parties.far_site is None:
                    directory.demand_enabled(parties.called)
                    continue
                router_id = RouterId(parties.far_router)
                directory.pinned_key(router_id)
                if not session.device_asks:
                    admission = directory.admit(router_id, parties.calling, parties.called)
                    if not admission.services.issuperset(session.services):
                        raise Untrusted("a service that it was granted is granted no more")
            except (Untrusted, AssociationRefused) as error:
                _log.warning(
                    "association ended: it is allowed no more", session=session.session_id.hex()[:8], why=str(error)
                )
                session.let_go()

    async def drain(self, seconds: float) -> None:
        """Take no more associations; wait for those there are, then end the rest."""
        self.paused = True
        try:
            async with asyncio.timeout(seconds):
                await self.idle.wait()
        except TimeoutError:
            _log.warning("associations ended by the stop of this Router", count=len(self.sessions))
            for session in list(self.sessions.values()):
                session.let_go()


def _within_site(session: Session) -> bool:
    """Return whether both devices are of this site, and wait for each other."""
    return session.mode is DeliveryMode.LIVE and session.parties is not None and session.parties.far_site is None


def _is_of_two_sites(session: Session) -> bool:
    """Return whether it is one that the Bridge knows of."""
    return session.mode is DeliveryMode.LIVE and session.parties is not None and session.parties.far_site is not None


class StreamEnded(IsthmusError):
    """The stream ended before the association did."""

    def __init__(self) -> None:
        super().__init__("the stream ended before the association did")


def first_credit(pair: CloudPair) -> int:
    """Return how many bytes of a stream over `pair` the far side may send at first. Raises ProviderTrouble."""
    return _SPARING_CREDIT if pair.cloud.signalling.traits.billed else FIRST_CREDIT


def refusal(message: str, *, hint: str = "", reason: int = 1) -> AssociationRefused:
    """Return the transient refusal 2/3/reason: 1 for an outage, 2 for a limit."""
    return AssociationRefused(message, result=2, source=3, reason=reason, hint=hint)
