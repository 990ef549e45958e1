"""The hub: from the socket a notice came in by straight to the socket it goes out by.

A mailbox is a Router's ID. Notices for an absent Router, or for one that takes them too slowly, are dropped:
signalling may lose notices, and every stream heals that by itself. A Router that is connected to another Bridge is
reached through that one, if there is one (`isthmus.bridge.cluster`).
"""

from collections.abc import Callable
from typing import Final, Protocol

from isthmus.contract.notices import FIRST_ROUTER_KIND, NO_SESSION, PREFIX_BYTES, WITHOUT_SESSION, NoticeKind, pack
from isthmus.envelope.identity import RouterId

MAX_WAITING_BYTES: Final = 64 * 1024 * 1024  # of one mailbox: two streams' windows; what is beyond would come too late


class Lane(Protocol):
    """One connection of a Router."""

    @property
    def waiting(self) -> int:
        """Bytes that are still to be sent."""
        ...

    def send(self, *parts: bytes | memoryview) -> None:
        """Send one message."""
        ...

    def revoke(self) -> None:
        """Close the connection: its Router no longer belongs to the network."""
        ...


Carry = Callable[[bytes, bytes | memoryview], None]
"""Takes mailbox and notice to the Bridge that a Router is connected to."""


class Hub:
    """Mailboxes, the lanes to them, and who may write to whom in which session.

    `on_presence` is told when a Router comes or goes, wherever it is connected; `on_lanes` when it does so here.
    """

    def __init__(self) -> None:
        self._lanes: dict[bytes, list[Lane]] = {}
        self._links: dict[bytes, bytes] = {}
        self._away: dict[bytes, Carry] = {}
        self.on_lanes: Callable[[bytes, bool], None] = _nothing
        self.on_presence: Callable[[RouterId, bool], None] = _ignore
        self.may_ring: Callable[[RouterId, RouterId], bool] = _nobody
        self.forwarded_notices = 0
        self.forwarded_bytes = 0
        self.dropped_bytes = {"refused": 0, "absent": 0, "full": 0}

    def __repr__(self) -> str:
        return f"<Hub: {len(self._lanes)} Routers, {len(self._links) // 2} sessions>"

    # who may write to whom

    def link(self, session_id: bytes, one: RouterId, other: RouterId) -> None:
        """Let two Routers exchange notices of a session."""
        self._links[session_id + one.encode()] = other.encode()
        self._links[session_id + other.encode()] = one.encode()

    def unlink(self, session_id: bytes, one: RouterId, other: RouterId) -> None:
        """Carry no more notices of a session."""
        self._links.pop(session_id + one.encode(), None)
        self._links.pop(session_id + other.encode(), None)

    # who is there

    def attach(self, mailbox: bytes, lane: Lane) -> None:
        """Deliver to this lane too."""
        lanes = self._lanes.setdefault(mailbox, [])
        lanes.append(lane)
        if len(lanes) == 1:
            was_away = self._away.pop(mailbox, None) is not None
            self.on_lanes(mailbox, True)
            if not was_away:
                self.on_presence(RouterId(mailbox.decode("ascii")), True)

    def detach(self, mailbox: bytes, lane: Lane) -> None:
        """Deliver to this lane no more."""
        lanes = self._lanes.get(mailbox, [])
        if lane in lanes:
            lanes.remove(lane)
            if not lanes:
                del self._lanes[mailbox]
                self.on_lanes(mailbox, False)
                if mailbox not in self._away:
                    self.on_presence(RouterId(mailbox.decode("ascii")), False)

    def is_online(self, router_id: RouterId) -> bool:
        """Return whether a Router listens now."""
        mailbox = router_id.encode()
        return mailbox in self._lanes or mailbox in self._away

    def is_here(self, router_id: RouterId) -> bool:
        """Return whether a Router listens at this very Bridge."""
        return router_id.encode() in self._lanes

    @property
    def online(self) -> frozenset[RouterId]:
        """The Routers that listen now."""
        return frozenset(RouterId(mailbox.decode("ascii")) for mailbox in self._lanes.keys() | self._away.keys())

    @property
    def here(self) -> list[bytes]:
        """The mailboxes of Routers that listen at this very Bridge."""
        return list(self._lanes)

    def set_away(self, mailbox: bytes, carry: Carry | None) -> None:
        """From now on a Router is reached through another Bridge, even if a lane of it is here; None: no more."""
        if carry is None:
            self._away.pop(mailbox, None)
        else:
            self._away[mailbox] = carry

    def close(self, router_id: RouterId) -> None:
        """Close every lane of a Router that was revoked."""
        for lane in tuple(self._lanes.get(router_id.encode(), ())):
            lane.revoke()

    def claim(self, mailbox: bytes) -> None:
        """Have a Router that is connected here reached here again: it was heard of here last."""
        if mailbox in self._away and mailbox in self._lanes:
            del self._away[mailbox]
            self.on_lanes(mailbox, True)

    # notices

    def forward(self, sender: bytes, message: bytes) -> None:
        """Carry a Router's message: length of the mailbox (1 byte), mailbox, notice.

        Dropped unless its kind is one that Routers send and the session named in it is theirs; one that belongs to no
        session passes between Routers that accepted each other.
        """
        start = 1 + message[0] if message else 0
        end = start + PREFIX_BYTES
        if len(message) < end or message[start] < FIRST_ROUTER_KIND or start == 0:
            self.dropped_bytes["refused"] += len(message)
            return
        to, session_id = message[1:start], message[start + 1 : end]
        if self._links.get(session_id + sender) != to and not (
            session_id == NO_SESSION and message[start] in WITHOUT_SESSION and self._may_ring(sender, to)
        ):
            self.dropped_bytes["refused"] += len(message)
            return
        self._deliver(to, memoryview(message)[start:])

    def _may_ring(self, sender: bytes, to: bytes) -> bool:
        return self.may_ring(RouterId(sender.decode("ascii", "replace")), RouterId(to.decode("ascii", "replace")))

    def tell(self, router_id: RouterId, kind: NoticeKind, session_id: bytes = NO_SESSION, body: bytes = b"") -> None:
        """Send a notice of the Bridge's own."""
        self._deliver(router_id.encode(), pack(kind, session_id, body))

    def _deliver(self, to: bytes, notice: bytes | memoryview) -> None:
        carry = self._away.get(to)
        if carry is None:
            self.deliver_here(to, notice)
        else:
            carry(to, notice)

    def deliver_here(self, to: bytes, notice: bytes | memoryview) -> None:
        """Send a notice to a Router that listens at this very Bridge."""
        lanes = self._lanes.get(to)
        if not lanes:
            self.dropped_bytes["absent"] += len(notice)
            return
        lane = lanes[0] if len(lanes) == 1 else min(lanes, key=_waiting)
        if lane.waiting + len(notice) > MAX_WAITING_BYTES:
            self.dropped_bytes["full"] += len(notice)
            return
        self.forwarded_notices += 1
        self.forwarded_bytes += len(notice)
        lane.send(notice)


def _waiting(lane: Lane) -> int:
    return lane.waiting


def _nobody(_sender: RouterId, _to: RouterId) -> bool:
    """Say that no two Routers are known to have accepted each other."""
    return False


def _nothing(_mailbox: bytes, _here: bool) -> None:
    """Nobody listens to connections yet."""


def _ignore(_router_id: RouterId, _online: bool) -> None:
    """Nobody listens to presence yet."""
