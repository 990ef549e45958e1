"""Where each Router is connected: at the Bridge that it reached last."""

from collections.abc import Iterable
from typing import Final

from isthmus.bridge.cluster.packets import Kind
from isthmus.bridge.cluster.peers import Peer, Peers
from isthmus.bridge.signalling.hub import Hub
from isthmus.envelope.identity import RouterId
from isthmus.kit.clock import Clock

_GONE: Final = bytes(8)


class Presence:
    """Tells the others who is connected here, and the hub who is connected there."""

    def __init__(self, hub: Hub, clock: Clock) -> None:
        self._hub = hub
        self._clock = clock
        self._here: dict[bytes, int] = {}
        self._stamp = 0
        self._leaving = False
        self.peers: Peers | None = None
        hub.on_lanes = self._lanes_changed

    @property
    def here(self) -> dict[bytes, int]:
        """The Routers that are connected here, and since when."""
        return self._here

    def leave(self) -> None:
        """This Bridge stops: its Routers are about to connect to another, which says so itself."""
        self._leaving = True

    def heard(self, peer: Peer, body: memoryview) -> None:
        """Take that a Router came to another Bridge, or left it."""
        stamp, mailbox = int.from_bytes(body[:8], "big"), bytes(body[8:])
        if stamp:
            self._stamp = max(self._stamp, stamp)
            peer.presence[mailbox] = stamp
        else:
            peer.presence.pop(mailbox, None)
        self._route(mailbox)

    def met(self, peer: Peer, presence: dict[bytes, int]) -> None:
        """Take all who are connected to another Bridge."""
        before, peer.presence = peer.presence, presence
        self._stamp = max(self._stamp, *presence.values(), 0)
        for mailbox in before.keys() | presence.keys():
            self._route(mailbox)

    def forget(self, peer: Peer) -> None:
        """Forget a Bridge that is gone; who was connected there and is nowhere else is offline."""
        mailboxes = list(peer.presence)
        peer.presence = {}
        for mailbox in mailboxes:
            self._route(mailbox)
        for router_id in _ids(mailboxes):
            if not self._hub.is_online(router_id):
                self._hub.on_presence(router_id, False)

    def _lanes_changed(self, mailbox: bytes, here: bool) -> None:
        if here:
            self._stamp = max(self._stamp + 1, round(self._clock.now() * 1_000_000))
            self._here[mailbox] = self._stamp
        else:
            self._here.pop(mailbox, None)
            self._route(mailbox)
        if self.peers is not None and (here or not self._leaving):
            self.peers.tell(Kind.PRESENCE, self._stamp.to_bytes(8, "big") if here else _GONE, mailbox)

    def _route(self, mailbox: bytes) -> None:
        """Have the hub reach a Router where it connected last."""
        assert self.peers is not None
        best, at = self._here.get(mailbox, 0), None
        for peer in self.peers.live:
            if (stamp := peer.presence.get(mailbox, 0)) > best:
                best, at = stamp, peer
        if at is None:
            self._hub.set_away(mailbox, None)
            return
        peers, there = self.peers, at

        def carry(to: bytes, notice: bytes | memoryview) -> None:
            peers.say(there, Kind.NOTICE, bytes((len(to),)), to, notice)

        self._hub.set_away(mailbox, carry)


def _ids(mailboxes: Iterable[bytes]) -> Iterable[RouterId]:
    return (RouterId(mailbox.decode("ascii")) for mailbox in mailboxes)
