"""Which other Bridges there are, and a way to each that notices what was lost.

Every Bridge says to everybody, now and then, that it is here. Two that have met speak to each other by name from then
on: a word at least every second, and whoever is silent for a few is gone. Packets are numbered: after a gap a Bridge
asks the other for all that it knows.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

import structlog

from isthmus.bridge.cluster.bus import EVERYBODY, Bus
from isthmus.bridge.cluster.packets import Kind, Seals, Word, make_word, words_of
from isthmus.kit.clock import Clock

_log = structlog.get_logger()
BEAT_SECONDS: Final = 1.0
SILENCE_SECONDS: Final = 4.0
_ASK_SECONDS: Final = 0.5  # between two questions to the same Bridge
_REMEMBERED: Final = 1000  # Bridges that are gone
_PACKET_BYTES: Final = 256 * 1024  # above this it does not wait for the end of the loop's turn


@dataclass(slots=True, eq=False)
class Peer:
    """Another Bridge. It is live from when it has said what it knows until it falls silent.

    Attributes:
        name: of its run.
        told: whether it was told what this one knows, and so is told whatever happens from then on.
        version: of the network that it has.
        leaving: whether it has said that it stops.
        presence: the Routers that are connected there, and since when, by a stamp that the Bridges agree upon.
    """

    name: str
    live: bool = False
    told: bool = False
    leaving: bool = False
    version: int = -1
    presence: dict[bytes, int] = field(default_factory=dict)
    heard: float = 0.0
    number: int = 0
    asked: float = 0.0
    out: list[Word] = field(default_factory=list)
    out_bytes: int = 0


class Listener(Protocol):
    """What is done with what other Bridges say."""

    def state(self) -> bytes:
        """Return all that this Bridge knows."""
        ...

    def version(self) -> int:
        """Return which version of the network this Bridge has."""
        ...

    def heard(self, peer: Peer, kind: int, body: memoryview) -> None:
        """Take a word of a Bridge that is live."""
        ...

    def met(self, peer: Peer, state: memoryview) -> None:
        """Take all that a Bridge knows, at first, or after a gap."""
        ...

    def gone(self, peer: Peer) -> None:
        """Forget a Bridge that fell silent."""
        ...


class Peers:
    """The other Bridges."""

    def __init__(self, name: str, seals: Seals, bus: Bus, listener: Listener, clock: Clock) -> None:
        self.name = name
        self._seals = seals
        self._bus = bus
        self._listener = listener
        self._clock = clock
        self._peers: dict[str, Peer] = {}
        self._to_flush: set[Peer] = set()
        self._flushing = False

    def __repr__(self) -> str:
        return f"<Peers of {self.name}: {len(self.live)} live>"

    @property
    def live(self) -> list[Peer]:
        """Those that are there."""
        return [peer for peer in self._peers.values() if peer.live]

    async def open(self) -> None:
        """Listen, and say that this Bridge is here. Raises OperatorError."""
        await self._bus.open(self.name, self._came)
        self.call()

    def call(self) -> None:
        """Say to everybody that this Bridge is here."""
        self._bus.send(EVERYBODY, self._seals.seal(EVERYBODY, [make_word(Kind.HERE)]))

    def beat(self) -> None:
        """Say to each Bridge that this one lives, and which version of the network it has."""
        self.tell(Kind.BEAT, max(self._listener.version(), 0).to_bytes(8, "big"))

    def tell(self, kind: Kind, *body: bytes | memoryview) -> None:
        """Say something to every other Bridge."""
        word = make_word(kind, *body)
        for peer in self._peers.values():
            if peer.told:
                self._say(peer, word)

    def say(self, peer: Peer, kind: Kind, *body: bytes | memoryview) -> None:
        """Say something to one Bridge."""
        self._say(peer, make_word(kind, *body))

    async def run(self) -> None:
        """Keep in touch until cancelled."""
        while True:
            await asyncio.sleep(BEAT_SECONDS)
            self.turn()

    def turn(self) -> None:
        """Let go of Bridges that fell silent, and say that this one is there."""
        now = self._clock.monotonic()
        for peer in list(self._peers.values()):
            if (peer.live or peer.told) and now - peer.heard > SILENCE_SECONDS:
                _log.warning("another Bridge fell silent", bridge=peer.name)
                self.forget(peer)
        self.call()
        self.beat()

    def forget(self, peer: Peer) -> None:
        """Count a Bridge as gone. Its last number is kept, so that nothing it said is taken twice."""
        peer.told = False
        if peer.live:
            peer.live = False
            peer.version = -1
            self._listener.gone(peer)
            peer.presence.clear()
        for name in list(self._peers)[:-_REMEMBERED]:
            if not self._peers[name].live:
                del self._peers[name]

    def flush(self) -> None:
        """Send what was said since the last turn of the loop."""
        self._flushing = False
        to_flush, self._to_flush = self._to_flush, set()
        for peer in to_flush:
            self._send(peer)

    # inside

    def _say(self, peer: Peer, word: Word) -> None:
        peer.out.append(word)
        peer.out_bytes += sum(map(len, word))
        if peer.out_bytes >= _PACKET_BYTES:
            self._send(peer)
            return
        self._to_flush.add(peer)
        if not self._flushing:
            self._flushing = True
            asyncio.get_running_loop().call_soon(self.flush)

    def _send(self, peer: Peer) -> None:
        words, peer.out, peer.out_bytes = peer.out, [], 0
        if words:
            self._bus.send(peer.name, self._seals.seal(peer.name, words))

    def _came(self, packet: bytes) -> None:
        opened = self._seals.open(self.name, packet)
        if opened is None:
            if (called := self._seals.open(EVERYBODY, packet)) is not None and called[0] != self.name:
                self._called(called[0])
            return
        sender, number, content = opened
        peer = self._peer(sender)
        if number <= peer.number:
            return
        whole = number == peer.number + 1
        peer.number = number
        peer.heard = self._clock.monotonic()
        self._take(peer, words_of(content), whole=whole)

    def _take(self, peer: Peer, words: Iterable[tuple[int, memoryview]], *, whole: bool) -> None:
        for kind, body in words:
            if kind == Kind.HELLO:
                self._answer(peer)
            elif kind == Kind.STATE and not peer.leaving:
                whole = True  # what was lost before is in it
                if not peer.live:
                    peer.live = True
                    _log.info("another Bridge is there", bridge=peer.name)
                self._hand_on(self._listener.met, peer, body)
            elif peer.live:
                self._hand_on(self._listener.heard, peer, kind, body)
        if not peer.leaving and not (peer.live and whole):
            self._ask(peer)

    @staticmethod
    def _hand_on(work: Callable[..., None], *arguments: object) -> None:
        """Have a word taken; one of another release may say something else than is understood here."""
        try:
            work(*arguments)
        except (KeyError, ValueError, TypeError, IndexError) as error:
            _log.error("another Bridge is not understood", error=repr(error))

    def _called(self, name: str) -> None:
        peer = self._peer(name)
        if not peer.live:
            self._ask(peer)

    def _ask(self, peer: Peer) -> None:
        now = self._clock.monotonic()
        if now - peer.asked >= _ASK_SECONDS:
            peer.asked = now
            self.say(peer, Kind.HELLO)

    def _answer(self, peer: Peer) -> None:
        """Say all that is known here; what is said later comes after it."""
        self.say(peer, Kind.STATE, self._listener.state())
        peer.told = True
        if not peer.live:
            self._ask(peer)

    def _peer(self, name: str) -> Peer:
        peer = self._peers.get(name)
        if peer is None:
            peer = self._peers[name] = Peer(name, asked=-_ASK_SECONDS)
        return peer
