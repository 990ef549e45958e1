"""Bridges that meet, miss something, and fall silent, on a bus that a test can cut."""

import secrets
from collections.abc import Callable

import pytest

from isthmus.bridge.cluster.bus import EVERYBODY
from isthmus.bridge.cluster.packets import Kind, Seals
from isthmus.bridge.cluster.peers import SILENCE_SECONDS, Peer, Peers
from isthmus.envelope.identity import Identity
from isthmus.testing.clock import FakeClock

IDENTITY = Identity.generate(secrets.token_bytes)


class Wire:
    """Carries packets when it is told to; those of a Bridge that is cut off are lost."""

    def __init__(self) -> None:
        self.takers: dict[str, Callable[[bytes], None]] = {}
        self.waiting: list[tuple[str, bytes]] = []
        self.carried: list[tuple[str, bytes]] = []
        self.is_cut = False
        self.on_packet: Callable[[], None] = lambda: None

    async def open(self, name: str, take: Callable[[bytes], None]) -> None:
        self.takers[name] = take

    def send(self, to: str, packet: bytes) -> None:
        if not self.is_cut:
            self.waiting.append((to, packet))

    async def close(self) -> None:
        """Nothing to let go of."""

    def deliver(self, to: str, packet: bytes) -> None:
        self.carried.append((to, packet))
        for name, take in self.takers.items():
            if to in {name, EVERYBODY}:
                take(packet)
        self.on_packet()


class Bridge:
    """What one Bridge is told."""

    def __init__(self, name: str, wire: Wire, clock: FakeClock, identity: Identity = IDENTITY) -> None:
        self.peers = Peers(name, Seals(identity, name), wire, self, clock)
        self.met_with: list[bytes] = []
        self.said: list[tuple[int, bytes]] = []
        self.lost: list[str] = []
        self.knows = b"nothing"

    def state(self) -> bytes:
        return self.knows

    def version(self) -> int:
        return 1

    def heard(self, peer: Peer, kind: int, body: memoryview) -> None:
        if kind != Kind.BEAT:
            self.said.append((kind, bytes(body)))

    def met(self, peer: Peer, state: memoryview) -> None:
        self.met_with.append(bytes(state))

    def gone(self, peer: Peer) -> None:
        self.lost.append(peer.name)


class Scene:
    """Two Bridges, and a third if one is added."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.clock = FakeClock()
        self.bridges: list[Bridge] = []

    async def add(self, name: str, identity: Identity = IDENTITY) -> Bridge:
        bridge = Bridge(name * 16, self.wire, self.clock, identity)
        self.bridges.append(bridge)
        await bridge.peers.open()
        self.settle()
        return bridge

    def settle(self) -> None:
        """Carry everything, until nothing more is said."""
        for _ in range(20):
            for bridge in self.bridges:
                bridge.peers.flush()
            packets, self.wire.waiting = self.wire.waiting, []
            for to, packet in packets:
                self.wire.deliver(to, packet)

    def pass_time(self, seconds: float, *bridges: Bridge) -> None:
        """Let time pass, a second at a time, for these Bridges."""
        for _ in range(round(seconds)):
            self.clock.advance(1)
            for bridge in bridges:
                bridge.peers.turn()
            self.settle()


@pytest.fixture
def scene() -> Scene:
    return Scene()


async def test_two_bridges_meet_and_tell_each_other_what_they_know(scene: Scene) -> None:
    one = await scene.add("a")
    one.knows = b"all of it"
    other = await scene.add("b")
    assert (one.met_with, other.met_with) == ([b"nothing"], [b"all of it"])
    one.peers.tell(Kind.PROVIDERS)
    other.peers.tell(Kind.HEARD, b"{", b"}")
    scene.settle()
    assert (one.said, other.said) == ([(Kind.HEARD, b"{}")], [(Kind.PROVIDERS, b"")])


async def test_nothing_is_missed_between_what_a_bridge_knows_and_what_happens_next(scene: Scene) -> None:
    one = await scene.add("a")
    happened = 0

    def happens() -> None:
        nonlocal happened
        if happened < 20:
            happened += 1
            one.knows = str(happened).encode()
            one.peers.tell(Kind.HEARD, one.knows)
            one.peers.flush()

    scene.wire.on_packet = happens
    other = await scene.add("b")
    scene.settle()
    assert happened == 20
    first = int(other.met_with[0])
    assert [int(body) for _, body in other.said] == list(range(first + 1, 21))


async def test_a_bridge_that_missed_something_asks_for_all_of_it(scene: Scene) -> None:
    one, other = await scene.add("a"), await scene.add("b")
    scene.wire.is_cut = True
    one.peers.tell(Kind.PROVIDERS)
    scene.settle()
    scene.wire.is_cut = False
    one.knows = b"what was missed, too"
    scene.pass_time(2, one, other)
    assert other.met_with[-1] == b"what was missed, too"
    assert (one.lost, other.lost) == ([], [])


async def test_a_bridge_that_falls_silent_is_gone_and_comes_back(scene: Scene) -> None:
    one, other = await scene.add("a"), await scene.add("b")
    scene.pass_time(SILENCE_SECONDS + 1, one)
    assert one.lost == [other.peers.name]
    assert one.peers.live == []
    scene.pass_time(2, one, other)
    assert len(one.peers.live) == len(other.peers.live) == 1


async def test_nothing_that_was_said_is_taken_twice(scene: Scene) -> None:
    one, other = await scene.add("a"), await scene.add("b")
    one.peers.tell(Kind.PROVIDERS)
    scene.settle()
    for to, packet in list(scene.wire.carried):
        scene.wire.deliver(to, packet)
    scene.settle()
    assert other.said == [(Kind.PROVIDERS, b"")]
    scene.pass_time(SILENCE_SECONDS + 1, other)
    for to, packet in list(scene.wire.carried):
        scene.wire.deliver(to, packet)
    assert other.peers.live == []
    assert other.said == [(Kind.PROVIDERS, b"")]


async def test_bridges_of_another_network_on_the_same_bus_are_not_there(scene: Scene) -> None:
    one = await scene.add("a")
    stranger = await scene.add("b", Identity.generate(secrets.token_bytes))
    scene.pass_time(3, one, stranger)
    assert one.peers.live == stranger.peers.live == []


async def test_a_bridge_that_leaves_is_not_met_again(scene: Scene) -> None:
    one, other = await scene.add("a"), await scene.add("b")
    (peer,) = one.peers.live
    peer.leaving = True
    one.peers.forget(peer)
    scene.pass_time(3, one, other)
    assert one.peers.live == []
