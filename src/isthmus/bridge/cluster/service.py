"""One of several Bridges: tells the others what happens here, and does here what happened there.

What is durable is read from the database, whose version each beat names. What is not, sessions, presence, revisions, is
told as it happens, and whole to a Bridge that is new or has missed something.
"""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

import structlog
from sqlalchemy.exc import SQLAlchemyError

from isthmus.bridge.accounts.service import Account
from isthmus.bridge.blobs.shared import SharedBlobStore
from isthmus.bridge.blobs.store import Entry
from isthmus.bridge.cluster.bus import Bus
from isthmus.bridge.cluster.forms import (
    COUNTS,
    column_fields,
    column_of,
    pack_json,
    session_fields,
    session_of,
    touch_fields,
    touch_of,
)
from isthmus.bridge.cluster.packets import Kind, Seals
from isthmus.bridge.cluster.peers import SILENCE_SECONDS, Peer, Peers
from isthmus.bridge.cluster.presence import Presence
from isthmus.bridge.directory.changes import Touch
from isthmus.bridge.sessions.service import Session
from isthmus.contract.rest import SessionCount, SessionEnd
from isthmus.envelope.identity import RouterId
from isthmus.errors import ProviderTrouble
from isthmus.kit.tasks import Tasks

if TYPE_CHECKING:
    from isthmus.bridge.parts import Parts

_log = structlog.get_logger()
SPREAD_SECONDS: Final = 2.0
"""For how long a change waits to be known at every Bridge before it is answered all the same."""
MOVE_SECONDS: Final = 3.0
"""Within which the Routers of a Bridge that stops are expected at another."""
_MEET_SECONDS: Final = 0.5
_REFRESH_SECONDS: Final = 2.0  # after which the database is asked even if no Bridge says that it changed


class Cluster:
    """The other Bridges, as the parts of this one see them."""

    def __init__(self, parts: "Parts", bus: Bus) -> None:
        self._parts = parts
        self._bus = bus
        self._tasks = Tasks("cluster")
        self._name = parts.changes.column.run
        self._presence = Presence(parts.hub, parts.clock)
        self._peers = Peers(self._name, Seals(parts.identity, self._name), bus, self, parts.clock)
        self._presence.peers = self._peers
        self._later: list[tuple[int, Callable[[], None]]] = []  # what is to be done once that version is here
        self._stale = asyncio.Event()
        self._spread = asyncio.Event()
        parts.register.on_change = self._changed_here
        parts.changes.on_touch = self._touched_here
        parts.sessions.word = self
        parts.guard.on_used = self._used_here
        if isinstance(parts.blobs, SharedBlobStore):
            parts.blobs.on_kept, parts.blobs.on_deleted = self._kept_here, self._deleted_here

    def __repr__(self) -> str:
        return f"<Cluster {self._peers!r}>"

    @property
    def bridges(self) -> int:
        """How many Bridges there are, this one included."""
        return 1 + len(self._peers.live)

    async def open(self) -> None:
        """Meet the others. Raises OperatorError if the bus cannot be had."""
        await self._peers.open()
        self._tasks.spawn(self._peers.run(), name="keeping in touch")
        self._tasks.spawn(self._keep_fresh(), name="reading what changed")
        await asyncio.sleep(_MEET_SECONDS)  # so that it knows their sessions before a Router asks for one

    async def meets_others(self) -> bool:
        """Return whether there are other Bridges. One that is busy is given the time for which it may be silent."""
        waited = 0.0
        while not self._peers.live and waited < SILENCE_SECONDS:
            await asyncio.sleep(_MEET_SECONDS)
            waited += _MEET_SECONDS
        return bool(self._peers.live)

    def leave(self) -> None:
        """Say that this Bridge stops, before its Routers lose their connections."""
        self._presence.leave()
        self._peers.tell(Kind.LEAVING)

    async def close(self) -> None:
        """Let go of the bus."""
        self._peers.flush()
        await self._tasks.close()
        await self._bus.close()
        await self._tasks.close()  # what came in until then may have begun to read the database

    async def spread(self) -> None:
        """Wait until what was changed here is known at every Bridge; who is late reads it by itself."""
        version = self._parts.register.version
        try:
            async with asyncio.timeout(SPREAD_SECONDS):
                while any(peer.version < version and not peer.leaving for peer in self._peers.live):
                    self._spread.clear()
                    await self._spread.wait()
        except TimeoutError:
            _log.warning("another Bridge is slow to take a change")

    # what happens here

    def providers_changed(self) -> None:
        """The list of cloud pairs was changed here."""
        self._peers.tell(Kind.PROVIDERS)

    def certificate_renewed(self) -> None:
        """The certificate that all show was renewed here."""
        self._peers.tell(Kind.RENEWED)

    def heard_of(self, account: Account) -> None:
        """A Router says that it runs another release, or can use other cloud pairs."""
        self._peers.tell(Kind.HEARD, pack_json({account.router_id: self._said_by(account)}))

    def opened(self, session: Session) -> None:
        """A Router opened a session here."""
        self._peers.tell(Kind.OPENED, pack_json(session_fields(session, self._parts.clock.now())))

    def ended(self, caller: Account, session_id: bytes, end: SessionEnd) -> None:
        """A Router said here that a session is over."""
        fields = {"by": caller.router_id, "id": session_id.hex(), "end": end.model_dump()}
        self._peers.tell(Kind.ENDED, pack_json(fields))

    def counted(self, caller: Account, counts: list[SessionCount]) -> None:
        """A Router named its sessions here."""
        self._peers.tell(Kind.COUNTED, bytes((len(caller.mailbox),)), caller.mailbox, COUNTS.dump_json(counts))

    def _changed_here(self) -> None:
        self._peers.beat()

    def _touched_here(self, touch: Touch) -> None:
        self._peers.tell(
            Kind.TOUCHED, pack_json({"version": self._parts.register.version, "touch": touch_fields(touch)})
        )

    def _used_here(self, router_id: str, nonce: bytes) -> None:
        self._peers.tell(Kind.NONCE, bytes((len(nonce),)), nonce, router_id.encode())

    def _kept_here(self, entry: Entry) -> None:
        self._peers.tell(Kind.BLOB, pack_json({**asdict(entry), "digest": entry.digest.hex()}))

    def _deleted_here(self, names: Sequence[str]) -> None:
        self._peers.tell(Kind.NO_BLOBS, pack_json(list(names)))

    def _said_by(self, account: Account) -> list[Any]:
        return [account.version, self._parts.providers.usable_by(account.router_id)]

    # what other Bridges say (Listener)

    def version(self) -> int:
        """Return which version of the network this Bridge has."""
        return self._parts.register.version

    def state(self) -> bytes:
        """Return all that this Bridge knows."""
        parts, now = self._parts, self._parts.clock.now()
        return pack_json(
            {
                "version": parts.register.version,
                "presence": {mailbox.decode(): stamp for mailbox, stamp in self._presence.here.items()},
                "column": column_fields(parts.changes.column),
                "sessions": [session_fields(session, now) for session in parts.sessions.all],
                "heard": {account.router_id: self._said_by(account) for account in parts.accounts.all},
            }
        )

    def met(self, peer: Peer, state: memoryview) -> None:
        """Take all that another Bridge knows."""
        fields = json.loads(bytes(state))
        column = column_of(peer.name, fields["column"])
        peer.version = fields["version"]
        self._presence.met(peer, {name.encode(): stamp for name, stamp in fields["presence"].items()})

        def take() -> None:
            parts, now = self._parts, self._parts.clock.now()
            parts.changes.set_column(column)
            for said in fields["sessions"]:
                if (session := session_of(said, parts.accounts, now)) is not None:
                    parts.sessions.opened_elsewhere(session)
            self._take_heard(fields["heard"])

        self._after(fields["version"], take)
        self._tasks.spawn(self._reload_providers(), name="reading the cloud pairs")
        self._peers.say(peer, Kind.BEAT, max(self.version(), 0).to_bytes(8, "big"))

    def gone(self, peer: Peer) -> None:
        """Forget a Bridge."""
        self._spread.set()
        self._parts.changes.forget_column(peer.name)
        self._presence.forget(peer)

    def heard(self, peer: Peer, kind: int, body: memoryview) -> None:
        """Take a word of another Bridge."""
        match kind:
            case Kind.NOTICE:
                end = 1 + body[0]
                self._parts.hub.deliver_here(bytes(body[1:end]), body[end:])
            case Kind.BEAT:
                peer.version = int.from_bytes(body, "big")
                self._spread.set()
                if peer.version > self.version():
                    self._stale.set()
            case Kind.PRESENCE:
                self._presence.heard(peer, body)
            case Kind.NONCE:
                end = 1 + body[0]
                self._parts.guard.used_elsewhere(bytes(body[end:]).decode(), bytes(body[1:end]))
            case Kind.LEAVING:
                peer.leaving = True
                self._spread.set()
                asyncio.get_running_loop().call_later(MOVE_SECONDS, self._peers.forget, peer)
            case Kind.PROVIDERS:
                self._tasks.spawn(self._reload_providers(), name="reading the cloud pairs")
            case Kind.RENEWED:
                self._tasks.spawn(self._parts.refresh_certificate(), name="taking the new certificate")
            case _:
                self._heard_more(peer, kind, body)

    def _heard_more(self, peer: Peer, kind: int, body: memoryview) -> None:
        parts = self._parts
        match kind:
            case Kind.OPENED:
                session = session_of(json.loads(bytes(body)), parts.accounts, parts.clock.now())
                if session is not None:
                    parts.sessions.opened_elsewhere(session)
            case Kind.ENDED:
                fields = json.loads(bytes(body))
                if (caller := parts.accounts.of_router(fields["by"])) is not None:
                    end = SessionEnd(**fields["end"])
                    parts.sessions.ended_elsewhere(caller, bytes.fromhex(fields["id"]), end)
            case Kind.COUNTED:
                end_of_name = 1 + body[0]
                caller = parts.accounts.of_router(bytes(body[1:end_of_name]).decode())
                if caller is not None:
                    parts.sessions.counted_elsewhere(caller, COUNTS.validate_json(bytes(body[end_of_name:])))
            case Kind.TOUCHED:
                fields = json.loads(bytes(body))
                touch = touch_of(fields["touch"])
                self._after(fields["version"], lambda: parts.changes.touched(peer.name, touch))
            case Kind.HEARD:
                self._take_heard(json.loads(bytes(body)))
            case Kind.BLOB if isinstance(parts.blobs, SharedBlobStore):
                fields = json.loads(bytes(body))
                parts.blobs.kept_elsewhere(Entry(**{**fields, "digest": bytes.fromhex(fields["digest"])}))
            case Kind.NO_BLOBS if isinstance(parts.blobs, SharedBlobStore):
                parts.blobs.deleted_elsewhere(json.loads(bytes(body)))
            case _:
                pass  # a newer Bridge says more

    def _take_heard(self, said: dict[str, list[Any]]) -> None:
        for name, (version, usable) in said.items():
            account = self._parts.accounts.of_router(name)
            if account is not None:
                self._parts.accounts.heard_version(account, version)
                self._parts.providers.heard(RouterId(name), usable)

    # keeping up with the database

    def _after(self, version: int, work: Callable[[], None]) -> None:
        """Do something once a version of the network is here: never tell a Router of what it cannot see yet."""
        if version <= self.version() and not self._later:
            work()
        else:
            self._later.append((version, work))
            self._stale.set()

    async def _keep_fresh(self) -> None:
        while True:
            try:
                async with asyncio.timeout(_REFRESH_SECONDS):
                    await self._stale.wait()
            except TimeoutError:
                pass
            self._stale.clear()
            before = self.version()
            try:
                await self._parts.register.refresh()
            except (SQLAlchemyError, ProviderTrouble) as error:
                _log.warning("what changed cannot be read", error=repr(error))
                await asyncio.sleep(_MEET_SECONDS)
                self._stale.set()
                continue
            self._catch_up()
            if self.version() > before:
                self._peers.beat()

    def _catch_up(self) -> None:
        while self._later and self._later[0][0] <= self.version():
            try:
                self._later.pop(0)[1]()
            except (KeyError, ValueError, TypeError) as error:
                _log.error("another Bridge is not understood", error=repr(error))

    async def _reload_providers(self) -> None:
        try:
            if await self._parts.providers.load():
                self._parts.changes.touch_all()
        except (SQLAlchemyError, ProviderTrouble) as error:
            _log.warning("the cloud pairs cannot be read", error=repr(error))
