"""A Bridge on loopback and members of its network without a Router behind them, for tests of what lies between."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isthmus.adapters.bridge_http import BridgeConnection
from isthmus.adapters.signalling.bridge import BridgeSignalling
from isthmus.bridge.accounts.service import Account
from isthmus.bridge.administration import Administration
from isthmus.bridge.app import run_bridge
from isthmus.bridge.config import BridgeAddress, BridgeConfig
from isthmus.bridge.parts import Parts
from isthmus.contract.documents import DocumentKind, GrantedDevice, ReturnGrant, SignedDocument, Statement, Titles
from isthmus.contract.invites import Invite
from isthmus.contract.notices import SESSION_ID_BYTES, NoticeKind
from isthmus.contract.rest import Enrolment, SessionRequest
from isthmus.envelope.documents import sign_document
from isthmus.envelope.identity import Identity, RouterId
from isthmus.envelope.offers import OfferDraft, make_offer
from isthmus.envelope.prekeys import PrekeyPair
from isthmus.kit.clock import Clock, SystemClock
from isthmus.kit.names import HostPort
from isthmus.kit.tasks import Tasks
from isthmus.testing.clock import FakeClock

_YEAR = 365 * 86_400.0


class Member:
    """A site's keys and its ways to the Bridge."""

    def __init__(self, site: str, url: str, bridge_identity: bytes, clock: Clock | None = None) -> None:
        self.site = site
        self.clock = clock or SystemClock()
        self.identity = Identity.generate(secrets.token_bytes)
        self.bridge_identity = bridge_identity
        self.prekey = PrekeyPair.generate(secrets.token_bytes, self.clock.now())
        self.client = BridgeConnection(url, bridge_identity, self.identity, clock=self.clock)
        self.signalling = BridgeSignalling(self.client)
        self.notices: asyncio.Queue[bytes] = asyncio.Queue()
        self._counter = 0
        self._tasks = Tasks(site)

    def __repr__(self) -> str:
        return f"<Member {self.site}>"

    @property
    def mailbox(self) -> str:
        """The Router ID, to which notices go."""
        return self.identity.router_id

    def signed(self, kind: DocumentKind, payload: bytes) -> SignedDocument:
        """Return a document of this member."""
        return sign_document(self.identity, kind, payload)

    def prekey_document(self) -> SignedDocument:
        """Return the prekey, signed."""
        return self.signed(DocumentKind.PREKEY, self.prekey.published().to_payload())

    def titles(self, *titles: str, counter: int | None = None) -> SignedDocument:
        """Return a claim to network AE titles."""
        said = Titles(counter=self._count(counter), titles=list(titles))
        return self.signed(DocumentKind.TITLES, said.to_payload())

    def statement(
        self,
        to: "Member",
        *devices: GrantedDevice,
        returns: Sequence[ReturnGrant] = (),
        accepted: bool = True,
        counter: int | None = None,
        to_router_id: str | None = None,
        valid: float = _YEAR,
    ) -> SignedDocument:
        """Return a statement to another member that grants devices."""
        said = Statement(
            site=self.site,
            to_site=to.site,
            to_router_id=to_router_id or to.identity.router_id,
            counter=self._count(counter),
            not_after=self.clock.now() + valid,
            accepted=accepted,
            devices=list(devices),
            returns=list(returns),
        )
        return self.signed(DocumentKind.STATEMENT, said.to_payload())

    def listen(self) -> None:
        """Take notices from now on."""
        self._tasks.spawn(self._listen(), name="listening")

    async def next(self, kind: NoticeKind) -> bytes:
        """Return the next notice of a kind; others are thrown away."""
        async with asyncio.timeout(20):
            while True:
                notice = await self.notices.get()
                if notice[0] == kind:
                    return notice

    def request(
        self, to: "Member", *, calling: str = "CALLER", called: str = "PACS", parent: bytes | None = None
    ) -> tuple[SessionRequest, OfferDraft]:
        """Return a session to ask for, with its offer."""
        session_id = secrets.token_bytes(SESSION_ID_BYTES)
        draft = make_offer(
            self.identity,
            session_id=session_id,
            responder=to.identity.router_id,
            prekey=to.prekey.published(),
            calling=calling,
            called=called,
            request=b"an A-ASSOCIATE-RQ",
            window=1024,
            now=self.clock.now(),
            random=secrets.token_bytes,
        )
        request = SessionRequest(
            session_id=session_id,
            to_router_id=to.identity.router_id,
            calling=calling,
            called=called,
            offer=draft.offer,
            signature=draft.signature,
            request=draft.request_box,
            parent=parent,
        )
        return request, draft

    async def open(self, to: "Member", **options: Any) -> bytes:
        """Open a session; return its id."""
        request, _ = self.request(to, **options)
        await self.client.open_session(request)
        return request.session_id

    async def close(self) -> None:
        """Let go of everything."""
        await self.signalling.close()
        await self._tasks.close()
        await self.client.close()

    def _count(self, counter: int | None) -> int:
        self._counter = self._counter + 1 if counter is None else counter
        return self._counter

    async def _listen(self) -> None:
        async for notice in self.signalling.listen(self.mailbox):
            self.notices.put_nowait(notice)


class DeafLane:
    """A lane of the hub at whose end nobody listens."""

    waiting = 0

    def send(self, *parts: bytes | memoryview) -> None:
        """Take a notice and forget it."""

    def revoke(self) -> None:
        """Nobody is revoked here."""


@dataclass(slots=True)
class Bench:
    """A Bridge that nobody can connect to, and those who would."""

    parts: Parts
    clock: FakeClock
    administration: Administration

    def enrolment(self, member: Member, invite: Invite) -> Enrolment:
        """Return what a member sends to enrol."""
        return Enrolment(
            site=member.site,
            secret=invite.secret,
            public_key=member.identity.public,
            prekey=member.prekey_document(),
            version="1",
        )

    async def invite(self, site: str, **options: float) -> Invite:
        """Return an invite."""
        return Invite.parse((await self.administration.invite(site, **options))["invite"])

    async def join(self, site: str) -> Member:
        """Return a member that has enrolled and will never connect."""
        member = Member(site, "http://127.0.0.1", bytes(32), self.clock)
        _, account = await self.parts.accounts.enrol(self.enrolment(member, await self.invite(site)))
        assert account is not None
        await self.parts.directory.publish(account, [member.prekey_document()])
        return member

    def account(self, member: Member) -> Account:
        """Return the account of a member that has enrolled."""
        account = self.parts.accounts.of_site(member.site)
        assert account is not None
        return account

    async def pair(self) -> tuple[Member, Member, Account, Account]:
        """Return two members that accepted each other, and their accounts; the second grants PACS and is online."""
        one, other = await self.join("one"), await self.join("other")
        first, second = self.account(one), self.account(other)
        pacs = GrantedDevice(title="PACS", services=["store"])
        await self.parts.directory.publish(first, [one.statement(other)])
        await self.parts.directory.publish(second, [other.statement(one, pacs)])
        self.parts.hub.attach(second.mailbox, DeafLane())
        return one, other, first, second


@dataclass(slots=True)
class BridgeUnderTest:
    """A running Bridge with its parts in reach."""

    config: BridgeConfig
    address: BridgeAddress
    parts: Parts
    administration: Administration
    members: list[Member]
    presence: asyncio.Event

    def member(self, site: str, clock: Clock | None = None) -> Member:
        """Return somebody who has not enrolled yet."""
        member = Member(site, self.address.url, self.address.identity, clock or self.parts.clock)
        self.members.append(member)
        return member

    async def invite(self, site: str, **options: Any) -> Invite:
        """Return an invite."""
        return Invite.parse((await self.administration.invite(site, **options))["invite"])

    async def join(self, site: str) -> Member:
        """Return a member that has enrolled."""
        member = self.member(site)
        await member.client.enrol(await self.invite(site), member.prekey_document())
        return member

    async def pair(self, *devices: GrantedDevice) -> tuple[Member, Member]:
        """Return two members that accepted each other; the second grants `devices`, PACS by default; both listen."""
        one, other = await self.join("clinic"), await self.join("hospital")
        granted = devices or (GrantedDevice(title="PACS", services=["store"]),)
        await one.client.publish([one.statement(other)])
        await other.client.publish([other.statement(one, *granted)])
        one.listen()
        other.listen()
        await self.all_online(one, other)
        return one, other

    async def all_online(self, *members: Member) -> None:
        """Wait until the hub delivers to all of them."""
        await self._presence(lambda: all(self._is_online(member) for member in members))

    async def offline(self, member: Member) -> None:
        """Wait until the hub knows that a member is gone."""
        await self._presence(lambda: not self._is_online(member))

    def _is_online(self, member: Member) -> bool:
        return self.parts.hub.is_online(member.identity.router_id)

    async def _presence(self, wanted: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not wanted():
                self.presence.clear()
                await self.presence.wait()


@asynccontextmanager
async def running_bridge(
    data: Path, *, listen: HostPort | None = None, clock: Clock | None = None, **settings: Any
) -> AsyncIterator[BridgeUnderTest]:
    """Run a Bridge on loopback, without TLS unless `tls=True`, and everybody who joins it."""
    config = BridgeConfig(data=data, listen=listen or HostPort("127.0.0.1", 0), **{"tls": False, **settings})
    tasks = Tasks("bridge under test")
    stop = asyncio.Event()
    ready: asyncio.Future[tuple[BridgeAddress, Parts]] = asyncio.get_running_loop().create_future()
    members: list[Member] = []
    running = tasks.spawn(
        run_bridge(config, stop, lambda _: None, clock=clock, joined=lambda *both: ready.set_result(both)), name="run"
    )
    try:
        running.add_done_callback(lambda _: ready.done() or ready.cancel())
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(ready)
        if running.done():
            await running
        address, parts = ready.result()
        presence, tell_others = asyncio.Event(), parts.hub.on_presence

        def note(router_id: RouterId, online: bool) -> None:
            tell_others(router_id, online)
            presence.set()

        parts.hub.on_presence = note
        yield BridgeUnderTest(config, address, parts, Administration(parts, address), members, presence)
    finally:
        for member in members:
            await member.close()
        stop.set()
        await running
