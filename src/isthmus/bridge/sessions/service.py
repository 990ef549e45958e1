"""Live sessions: memory only, plus an audit row written behind.

A session is opened by one Router and offered to another; either keeps it alive with heartbeats. After a restart of
the Bridge a session comes back when both of its Routers name it. With several Bridges each has all sessions in memory:
what a Router says of one to a Bridge is repeated to the others, and has the same effect there (`elsewhere`).
"""

import asyncio
import hashlib
import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from isthmus.bridge.accounts.service import Account, Accounts
from isthmus.bridge.audit.service import Audit, AuditEntry
from isthmus.bridge.directory.service import Directory
from isthmus.bridge.signalling.hub import Hub
from isthmus.contract.documents import Statement
from isthmus.contract.notices import SESSION_ID_BYTES, NoticeKind, pack_fields
from isthmus.contract.rest import LEASE_SECONDS, SessionCount, SessionEnd, SessionRequest
from isthmus.envelope.identity import RouterId
from isthmus.envelope.offers import OfferFields, peek_offer
from isthmus.errors import Problem, SealBroken
from isthmus.kit.clock import Clock

MEMORY_SECONDS: Final = 60.0  # for which an ended session may still be the parent of another, and cannot come back
MOST_OPEN: Final = 4000
"""Live sessions that one Router opened, and as many that it named after a restart: it relays 2,000 at the most."""
ARRIVAL_SECONDS: Final = 2.0
"""For how long a Bridge waits to hear of a session from the one at which it was opened."""
_MOST_TITLE: Final = 16
_FULL_SECONDS: Final = 5  # after which a Router with too many sessions may ask again
_MOST_BYTES: Final = 2**63 - 1  # what the database holds
_OUTCOME: Final = re.compile(r"[a-z0-9 ,.:_-]{1,64}")
LIVE: Final = "live"
LOST: Final = "lost"


@dataclass(slots=True)
class Session:
    """One live relayed association, as far as the Bridge knows it. Bytes are payload, as seen by the initiator.

    `offer` is the SHA-256 of what was offered, so that the same offer may come again and no other. `provider` names the
    cloud pair that it goes over, or is empty if that was forgotten by a restart.
    """

    session_id: bytes
    initiator: Account
    responder: Account
    calling: str
    called: str
    started: float
    lease_until: float
    offer: bytes = b""
    provider: str = ""
    bytes_out: int = 0
    bytes_in: int = 0
    ended: float | None = None
    outcome: str = LIVE
    said_end: set[RouterId] = field(default_factory=set)

    def count(self, speaker: Account, bytes_out: int, bytes_in: int) -> None:
        """Take what one of the two Routers has counted; counts never shrink."""
        if speaker.router_id != self.initiator.router_id:
            bytes_out, bytes_in = bytes_in, bytes_out
        self.bytes_out = min(max(self.bytes_out, bytes_out), _MOST_BYTES)
        self.bytes_in = min(max(self.bytes_in, bytes_in), _MOST_BYTES)

    def is_of(self, router_id: str) -> bool:
        """Return whether a Router is one of the two."""
        return router_id in {self.initiator.router_id, self.responder.router_id}

    def to_audit(self) -> AuditEntry:
        """Return the row that remains."""
        return AuditEntry(
            session_id=self.session_id,
            from_site=self.initiator.site,
            to_site=self.responder.site,
            calling=self.calling,
            called=self.called,
            started=self.started,
            ended=self.ended,
            outcome=self.outcome,
            bytes_out=self.bytes_out,
            bytes_in=self.bytes_in,
            provider=self.provider,
        )


@dataclass(frozen=True, slots=True)
class _Announced:
    """What one Router said after a restart about a session that the Bridge does not know."""

    speaker: Account
    count: SessionCount
    until: float


class Word(Protocol):
    """Takes what a Router said of its sessions, to be repeated to the other Bridges."""

    def opened(self, session: Session) -> None:
        """A Router opened a session, or asked for it again."""
        ...

    def ended(self, caller: Account, session_id: bytes, end: SessionEnd) -> None:
        """A Router said that a session is over."""
        ...

    def counted(self, caller: Account, counts: list[SessionCount]) -> None:
        """A Router named its sessions."""
        ...


class Sessions:
    """The sessions of the network. `word` is None where there is one Bridge only."""

    def __init__(self, accounts: Accounts, directory: Directory, hub: Hub, audit: Audit, clock: Clock) -> None:
        self._accounts = accounts
        self._directory = directory
        self._hub = hub
        self._audit = audit
        self._clock = clock
        self._sessions: dict[bytes, Session] = {}
        self._open_of: Counter[RouterId] = Counter()
        self._announced: dict[bytes, _Announced] = {}
        self._announced_by: Counter[RouterId] = Counter()
        self._awaited: defaultdict[bytes, set[asyncio.Future[None]]] = defaultdict(set)
        self.outcomes: dict[str, int] = {}
        self.word: Word | None = None

    @property
    def live(self) -> list[Session]:
        """The sessions that are not over."""
        return [session for session in self._sessions.values() if session.ended is None]

    def open(self, caller: Account, request: SessionRequest) -> Session:
        """Record a session and offer it to the called site, or raise the Problem that says why not."""
        try:
            known = request.session_id in self._sessions
            session = self._open(caller, request)
        except Problem as problem:
            self._tally(problem.title)
            raise
        self._tally("offered again" if known else "offered")
        return session

    def _open(self, caller: Account, request: SessionRequest) -> Session:
        if len(request.session_id) != SESSION_ID_BYTES:
            raise Problem(422, "Not a session id", detail=f"It has {SESSION_ID_BYTES} bytes.", field="session_id")
        digest = hashlib.sha256(request.offer + request.signature + request.request).digest()
        known = self._sessions.get(request.session_id)
        if known is not None and not (known.initiator == caller and known.ended is None and known.offer == digest):
            raise Problem(409, "Session id used", detail="A session of this id exists or ended a moment ago.")
        target = self._accounts.of_router(request.to_router_id)
        if target is None or target == caller:
            raise Problem(404, "No such Router", detail="The called Router is not part of the network.")
        fields = self._check_offer(caller, target, request)
        self._check_grant(caller, target, request)
        if not self._hub.is_online(target.router_id):
            raise Problem(503, "Site offline", detail=f"The Router of {target.site} is not connected to the Bridge.")
        if known is None:
            if self._open_of[caller.router_id] >= MOST_OPEN:
                raise Problem(
                    429,
                    "Too many sessions",
                    detail=f"{caller.site} has {MOST_OPEN} sessions open.",
                    retry_after=_FULL_SECONDS,
                )
            now = self._clock.now()
            session = Session(
                session_id=request.session_id,
                initiator=caller,
                responder=target,
                calling=request.calling,
                called=request.called,
                started=now,
                lease_until=now + LEASE_SECONDS,
                offer=digest,
                provider=fields.provider,
            )
            self._begin(session)
        else:
            session = known  # asked again, since a notice may be lost: the offer goes out again, and nothing else
        if self.word is not None:
            self.word.opened(session)  # before the offer, so that the answer finds it known everywhere
        body = pack_fields((request.offer, request.signature, request.request, caller.mailbox))
        self._hub.tell(target.router_id, NoticeKind.OFFER, session.session_id, body)
        return session

    def end(self, caller: Account, session_id: bytes, end: SessionEnd) -> None:
        """Note that a session is over for one of its Routers; repeating that is harmless. Raises Problem 404."""
        if not self._end(caller, session_id, end, record=True):
            raise Problem(404, "No such session", detail="It is not one of yours, or ended a while ago.")
        if self.word is not None:
            self.word.ended(caller, session_id, end)

    def _end(self, caller: Account, session_id: bytes, end: SessionEnd, *, record: bool) -> bool:
        session = self._sessions.get(session_id)
        if session is None or not session.is_of(caller.router_id):
            return False
        session.count(caller, end.bytes_out, end.bytes_in)
        session.said_end.add(caller.router_id)
        self._finish(session, end.outcome if _OUTCOME.fullmatch(end.outcome) else "other", record=record)
        if len(session.said_end) == 2:
            self._hub.unlink(session.session_id, session.initiator.router_id, session.responder.router_id)
        return True

    async def arrival(self, session_id: bytes) -> None:
        """Wait until a session is known that was opened at another Bridge a moment ago; not for long."""
        if self.word is None or session_id in self._sessions:
            return
        awaited = asyncio.get_running_loop().create_future()
        self._awaited[session_id].add(awaited)
        try:
            async with asyncio.timeout(ARRIVAL_SECONDS):
                await awaited
        except TimeoutError:
            pass
        finally:
            self._awaited[session_id].discard(awaited)
            if not self._awaited[session_id]:
                del self._awaited[session_id]

    def heartbeat(self, caller: Account, counts: list[SessionCount]) -> None:
        """Renew the leases of a Router's sessions, and bring back those that a restart has lost."""
        self._renew(caller, counts)
        if self.word is not None and counts:
            self.word.counted(caller, counts)

    # what other Bridges were told

    @property
    def all(self) -> list[Session]:
        """The sessions that live, and those that ended a moment ago."""
        return list(self._sessions.values())

    def opened_elsewhere(self, session: Session) -> None:
        """Take a session that another Bridge knows; what both know of it is joined.

        That a lease ran out is no end if it did not at one of them: they may have lost sight of each other.
        """
        known = self._sessions.get(session.session_id)
        if known is None:
            known = replace(session, ended=None, outcome=LIVE)
            self._begin(known, record=False)
        elif not (known.is_of(session.initiator.router_id) and known.is_of(session.responder.router_id)):
            return
        known.lease_until = max(known.lease_until, session.lease_until)
        known.offer = known.offer or session.offer
        known.bytes_out = max(known.bytes_out, session.bytes_out)
        known.bytes_in = max(known.bytes_in, session.bytes_in)
        known.said_end |= session.said_end
        if session.ended is not None and session.outcome != LOST and known.ended is None:
            self._finish(known, session.outcome, record=False)
        elif session.ended is None and known.ended is not None and known.outcome == LOST:
            known.ended, known.outcome = None, LIVE
            self._open_of[known.initiator.router_id] += 1
        if len(known.said_end) == 2:
            self._hub.unlink(known.session_id, known.initiator.router_id, known.responder.router_id)

    def ended_elsewhere(self, caller: Account, session_id: bytes, end: SessionEnd) -> None:
        """Take what a Router told another Bridge of the end of a session."""
        self._end(caller, session_id, end, record=False)

    def counted_elsewhere(self, caller: Account, counts: list[SessionCount]) -> None:
        """Take which sessions a Router named to another Bridge."""
        self._renew(caller, counts)

    def _renew(self, caller: Account, counts: list[SessionCount]) -> None:
        now = self._clock.now()
        for count in counts:
            session = self._sessions.get(count.session_id)
            if session is None:
                self._announce(caller, count, now)
            elif session.is_of(caller.router_id) and session.ended is None:
                session.lease_until = now + LEASE_SECONDS
                session.count(caller, count.bytes_out, count.bytes_in)

    def end_all_of(self, router_id: RouterId, outcome: str) -> None:
        """End every session of a Router at once and carry no more of its notices."""
        for session in [session for session in self._sessions.values() if session.is_of(router_id)]:
            self._finish(session, outcome)
            self._hub.unlink(session.session_id, session.initiator.router_id, session.responder.router_id)

    def expire(self) -> None:
        """End sessions whose lease ran out, and forget those that ended a while ago."""
        now = self._clock.now()
        for session in list(self._sessions.values()):
            if session.ended is None and session.lease_until < now:
                self._finish(session, LOST)
            elif session.ended is not None and session.ended + MEMORY_SECONDS < now:
                self._hub.unlink(session.session_id, session.initiator.router_id, session.responder.router_id)
                del self._sessions[session.session_id]
        self._announced = {name: said for name, said in self._announced.items() if said.until > now}
        self._announced_by = Counter(said.speaker.router_id for said in self._announced.values())

    def _begin(self, session: Session, *, record: bool = True) -> None:
        self._sessions[session.session_id] = session
        self._open_of[session.initiator.router_id] += 1
        self._hub.link(session.session_id, session.initiator.router_id, session.responder.router_id)
        for awaited in self._awaited.get(session.session_id, ()):
            if not awaited.done():
                awaited.set_result(None)
        if record:
            self._audit.record(session.to_audit())

    def _finish(self, session: Session, outcome: str, *, record: bool = True) -> None:
        # bytes may still grow after the first word of the end, so the row is written again
        if session.ended is None:
            session.ended = self._clock.now()
            session.outcome = outcome
            self._open_of[session.initiator.router_id] -= 1
        if record:
            self._audit.record(session.to_audit())

    def _tally(self, outcome: str) -> None:
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def _check_offer(self, caller: Account, target: Account, request: SessionRequest) -> OfferFields:
        try:
            fields = peek_offer(request.offer)
        except SealBroken as error:
            raise Problem(422, "Not an offer", detail=str(error), field="offer") from error
        said = (fields.session_id, fields.initiator, fields.responder, fields.calling, fields.called)
        if said != (request.session_id, caller.router_id, target.router_id, request.calling, request.called):
            raise Problem(422, "The offer says otherwise", detail="Its fields are not those beside it.", field="offer")
        if fields.not_after < self._clock.now():
            raise Problem(422, "The offer is over its time", field="offer")
        return fields

    def _check_grant(self, caller: Account, target: Account, request: SessionRequest) -> None:
        if not self._directory.accepts(caller, target):
            raise Problem(403, "Not accepted", detail=f"{caller.site} has not accepted {target.site}.")
        said = self._directory.statement(target, caller)
        if said is None or not self._directory.accepts(target, caller):
            raise Problem(403, "Not accepted", detail=f"{target.site} has not accepted {caller.site}.")
        owner = self._directory.owner(request.calling)
        if owner is not None and owner != caller.router_id:
            raise Problem(403, "Not your title", detail=f"{request.calling} belongs to another site.", field="calling")
        now = self._clock.now()
        if not (
            _is_granted(said, request.calling, request.called, now)
            or _is_return(said, request.calling, request.called, now)
            or self._answers_parent(caller, target, request.parent)
        ):
            raise Problem(
                403, "Not granted", detail=f"{target.site} has not granted {request.called} to {request.calling}."
            )

    def _answers_parent(self, caller: Account, target: Account, parent_id: bytes | None) -> bool:
        parent = self._sessions.get(parent_id) if parent_id is not None else None
        return (
            parent is not None
            and parent.initiator.router_id == target.router_id
            and parent.responder.router_id == caller.router_id
            and (parent.ended is None or parent.ended + MEMORY_SECONDS > self._clock.now())
        )

    def _announce(self, caller: Account, count: SessionCount, now: float) -> None:
        other = self._accounts.of_router(count.other_router_id)
        if other is None or other == caller or len(count.session_id) != SESSION_ID_BYTES:
            return
        if not (self._directory.accepts(caller, other) and self._directory.accepts(other, caller)):
            return
        first = self._announced.get(count.session_id)
        if first is None or first.speaker.router_id != other.router_id:
            self._note(_Announced(caller, count, now + LEASE_SECONDS), first)
            return
        if first.count.other_router_id != caller.router_id or not _agree(first.count, count):
            return
        called_back = self._directory.owner(count.calling) == caller.router_id
        initiator, responder = (caller, other) if called_back else (other, caller)
        if self._open_of[initiator.router_id] >= MOST_OPEN:
            return
        del self._announced[count.session_id]
        self._announced_by[first.speaker.router_id] -= 1
        session = Session(
            session_id=count.session_id,
            initiator=initiator,
            responder=responder,
            calling=count.calling[:_MOST_TITLE],
            called=count.called[:_MOST_TITLE],
            started=_plausible(first.count.started, now),
            lease_until=now + LEASE_SECONDS,
        )
        session.count(first.speaker, first.count.bytes_out, first.count.bytes_in)
        session.count(caller, count.bytes_out, count.bytes_in)
        self._begin(session)
        self._tally("brought back")

    def _note(self, said: _Announced, before: _Announced | None) -> None:
        """Keep what one Router says until the other says it too."""
        speaker = said.speaker.router_id
        if before is not None and before.speaker.router_id == speaker:
            self._announced_by[speaker] -= 1
        elif self._announced_by[speaker] >= MOST_OPEN:
            return
        elif before is not None:
            self._announced_by[before.speaker.router_id] -= 1
        self._announced_by[speaker] += 1
        self._announced[said.count.session_id] = said


def _agree(one: SessionCount, other: SessionCount) -> bool:
    return (one.calling, one.called) == (other.calling, other.called)


def _plausible(started: float, now: float) -> float:
    return started if 0 <= started <= now else now  # this is a Router's word, and may even be no number


def _is_granted(said: Statement, calling: str, called: str, now: float) -> bool:
    return any(
        device.title == called
        and (device.callers is None or calling in device.callers)
        and (device.until is None or device.until > now)
        for device in said.devices
    )


def _is_return(said: Statement, calling: str, called: str, now: float) -> bool:
    return any(grant.title == called and grant.caller == calling and grant.until > now for grant in said.returns)
