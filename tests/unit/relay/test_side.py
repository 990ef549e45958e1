"""Two devices, two Sides and the stream between them, without a socket: what happens to one happens to the other."""

from collections import deque
from collections.abc import Iterable

import pytest

from isthmus.association.machine import UpperLayer
from isthmus.association.primitives import (
    Abort,
    AbortIndication,
    AcceptPrimitive,
    AssociateConfirmed,
    AssociateIndication,
    AssociateRequestPrimitive,
    ConnectionLost,
    DataIndication,
    Event,
    Primitive,
    ReleaseConfirmed,
    ReleaseIndication,
    ReleaseRequest,
    ReleaseResponse,
    SendData,
    ShouldClose,
)
from isthmus.association.states import Role
from isthmus.dicom.command import CommandField
from isthmus.dicom.pdus import message, p_data
from isthmus.kit.names import AETitle
from isthmus.relay.ending import Ending, EndKind
from isthmus.relay.policy import CommandPolicy, ReturnWanted, Way
from isthmus.relay.side import (
    GRACE_SECONDS,
    Answered,
    Asked,
    CloseDevice,
    Ended,
    FinishFar,
    Outcome,
    Side,
    SideCommand,
    TellFar,
    ToDevice,
    ToFar,
)
from isthmus.testing.dicom import associate_ac, associate_rq, echo_rq, move_command, store_rq

ECHO = echo_rq(message_id=7)


class Device:
    """A device: an upper layer of its own, and what it heard."""

    def __init__(self, role: Role) -> None:
        self.upper = UpperLayer(role)
        self.heard: list[Event] = []
        self.data = bytearray()
        self.cut = False
        self.on_the_way = bytearray()

    def take(self, events: Iterable[Event]) -> None:
        for event in events:
            if isinstance(event, DataIndication):
                self.data += event.run
            else:
                self.heard.append(event)

    def kinds(self) -> list[type[Event]]:
        return [type(event) for event in self.heard]


class Network:
    """A requestor device, its Router's Side, the other Side, and the acceptor device; time stands until it is moved."""

    def __init__(self, policy: CommandPolicy | None = None) -> None:
        self.now = 0.0
        self.a = Device(Role.REQUESTOR)
        self.b = Device(Role.ACCEPTOR)
        self.side_a = Side(UpperLayer(Role.ACCEPTOR), device_asks=True)
        self.side_b = Side(UpperLayer(Role.REQUESTOR), device_asks=False, policy=policy)
        self.outcomes: dict[Side, Outcome] = {}
        self.finished: set[Side] = set()
        self.ways: list[tuple[Side, ReturnWanted]] = []
        self.hold: set[Side] = set()
        self.held: deque[tuple[Side, bytes]] = deque()
        self.answer: Answered | None = None
        self.slow: Device | None = None

    def other(self, side: Side) -> Side:
        return self.side_b if side is self.side_a else self.side_a

    def device(self, side: Side) -> Device:
        return self.a if side is self.side_a else self.b

    def do(self, side: Side, commands: Iterable[SideCommand]) -> None:
        for command in commands:
            match command:
                case ToFar(data=data):
                    assert side not in self.finished
                    if side in self.hold:
                        self.held.append((side, bytes(data)))
                    else:
                        self.deliver(side, bytes(data))
                case ToDevice(chunks=chunks):
                    device = self.device(side)
                    if device is self.slow:
                        device.on_the_way += b"".join(chunks)
                        continue
                    device.take(device.upper.receive(b"".join(chunks), self.now))
                    self.flush(side)
                case TellFar(ending=ending):
                    far = self.other(side)
                    self.do(far, far.far_ending(Ending.decode(ending.encode()), self.now))
                case FinishFar():
                    self.finished.add(side)
                case CloseDevice(reset=reset):
                    device = self.device(side)
                    device.cut = reset
                    device.take(device.upper.connection_lost(self.now))
                    self.do(side, side.device_lost(self.now))
                case Asked(request=request):
                    self.do(self.side_b, self.side_b.call(request.raw, self.now))
                    self.b.upper.connection_made(self.now)
                    self.do(self.side_b, self.side_b.connected(self.now))
                case Answered(accept=accept, raw=raw):
                    self.answer = command
                    if accept is not None and raw is not None:
                        self.do(self.side_a, self.side_a.accept(raw, self.now))
                        self.do(self.side_b, self.side_b.establish(self.now))
                case Ended(outcome=outcome):
                    assert side not in self.outcomes
                    self.outcomes[side] = outcome
                case ReturnWanted():
                    self.ways.append((side, command))

    def deliver(self, sender: Side, data: bytes) -> None:
        far = self.other(sender)
        self.do(far, far.from_far(data, self.now))

    def let_through(self) -> None:
        self.hold.clear()
        while self.held:
            self.deliver(*self.held.popleft())

    def ask(self, device: Device, primitive: Primitive) -> None:
        side = self.side_a if device is self.a else self.side_b
        device.take(device.upper.request(primitive, self.now))
        self.flush(side)

    def flush(self, side: Side) -> None:
        device = self.device(side)
        if out := b"".join(device.upper.take_bytes()):
            self.do(side, side.from_device(out, self.now))
        for event in list(device.heard):
            if isinstance(event, ShouldClose):
                device.heard.remove(event)
                self.do(side, side.device_lost(self.now))

    def advance(self, seconds: float) -> None:
        self.now += seconds
        for side in (self.side_a, self.side_b):
            self.do(side, side.tick(self.now))

    def associate(self) -> None:
        self.ask(self.a, AssociateRequestPrimitive(associate_rq()))
        self.a.heard.clear()
        self.a.upper.connection_made(self.now)
        self.side_a.connected(self.now)
        self.flush(self.side_a)
        indication = self.b.heard.pop()
        assert isinstance(indication, AssociateIndication)
        self.ask(self.b, AcceptPrimitive(associate_ac(indication.request.raw)))
        assert isinstance(self.a.heard.pop(), AssociateConfirmed)


@pytest.fixture
def network() -> Network:
    network = Network()
    network.associate()
    return network


def test_data_leaves_the_other_side_as_it_came(network: Network) -> None:
    network.ask(network.a, SendData(ECHO))
    network.ask(network.b, SendData(ECHO + ECHO))
    assert bytes(network.b.data) == ECHO
    assert bytes(network.a.data) == ECHO + ECHO


@pytest.mark.parametrize("first", ["requestor", "acceptor"])
def test_a_release_is_mirrored_and_its_answer_comes_from_the_far_device(network: Network, first: str) -> None:
    one, two = (network.a, network.b) if first == "requestor" else (network.b, network.a)
    network.ask(one, ReleaseRequest())
    assert ReleaseIndication in two.kinds()
    assert ReleaseConfirmed not in one.kinds()
    network.ask(two, ReleaseResponse())
    assert ReleaseConfirmed in one.kinds()
    assert set(network.outcomes.values()) == {Outcome.RELEASED}
    assert network.finished == {network.side_a, network.side_b}


def test_releases_that_cross_in_the_stream_answer_each_other(network: Network) -> None:
    network.hold = {network.side_a, network.side_b}
    network.ask(network.a, ReleaseRequest())
    network.ask(network.b, ReleaseRequest())
    network.let_through()
    for device in (network.a, network.b):
        assert device.kinds() == [ReleaseConfirmed]
    assert set(network.outcomes.values()) == {Outcome.RELEASED}


@pytest.mark.parametrize("late", ["requestor", "acceptor"])
def test_a_release_that_crosses_the_mirrored_one_at_the_device_is_a_collision_there_only(
    network: Network, late: str
) -> None:
    first, second = (network.b, network.a) if late == "requestor" else (network.a, network.b)
    side = network.side_a if second is network.a else network.side_b
    network.slow = second
    network.ask(first, ReleaseRequest())
    network.ask(second, ReleaseRequest())
    network.slow = None
    second.take(second.upper.receive(bytes(second.on_the_way), network.now))
    network.flush(side)
    if second.upper.allows(ReleaseResponse):
        network.ask(second, ReleaseResponse())
    assert ReleaseConfirmed in first.kinds()
    assert ReleaseConfirmed in second.kinds()
    assert set(network.outcomes.values()) == {Outcome.RELEASED}


def test_data_before_a_release_is_delivered_before_it(network: Network) -> None:
    network.hold = {network.side_a}
    network.ask(network.a, SendData(ECHO))
    network.ask(network.a, ReleaseRequest())
    network.let_through()
    assert bytes(network.b.data) == ECHO
    assert ReleaseIndication in network.b.kinds()


def test_an_abort_arrives_with_its_source_and_reason(network: Network) -> None:
    network.ask(network.b, Abort(2, 5))
    abort = next(event for event in network.a.heard if isinstance(event, AbortIndication))
    assert (abort.source, abort.reason) == (2, 5)
    assert network.outcomes == {network.side_a: Outcome.ABORTED_THERE, network.side_b: Outcome.ABORTED_HERE}


def test_what_was_sent_before_an_abort_is_still_delivered_if_it_comes_in_time(network: Network) -> None:
    network.hold = {network.side_a}
    network.ask(network.a, SendData(ECHO))
    network.ask(network.a, Abort(0, 0))
    assert AbortIndication not in network.b.kinds()
    network.let_through()
    assert bytes(network.b.data) == ECHO
    assert AbortIndication in network.b.kinds()


def test_an_abort_does_not_wait_longer_than_the_grace_for_lost_bytes(network: Network) -> None:
    network.hold = {network.side_a}
    network.ask(network.a, SendData(ECHO))
    network.ask(network.a, Abort(0, 0))
    network.advance(GRACE_SECONDS / 2)
    assert AbortIndication not in network.b.kinds()
    network.advance(GRACE_SECONDS)
    assert AbortIndication in network.b.kinds()


def test_a_lost_device_is_an_abort_for_the_other_one(network: Network) -> None:
    network.do(network.side_a, network.side_a.device_lost(network.now))
    abort = next(event for event in network.b.heard if isinstance(event, AbortIndication))
    assert (abort.source, abort.reason) == (2, 0)
    assert network.outcomes == {network.side_a: Outcome.LOST_HERE, network.side_b: Outcome.LOST_THERE}


def test_a_device_that_got_half_a_pdu_is_reset_instead_of_sent_an_abort(network: Network) -> None:
    big = p_data(1, bytes(300 * 1024), command=False, last=True)
    network.deliver(network.side_a, big[: 280 * 1024])
    network.do(network.side_b, network.side_b.far_broken(network.now))
    assert network.b.cut
    assert ConnectionLost in network.b.kinds()
    assert AbortIndication not in network.b.kinds()


def test_a_pdu_up_to_the_threshold_leaves_only_when_whole_so_that_an_abort_can_follow(network: Network) -> None:
    pdu = p_data(1, bytes(100_000), command=False, last=True)
    network.deliver(network.side_a, pdu[:99_000])
    assert not network.b.data
    network.do(network.side_b, network.side_b.far_broken(network.now))
    assert AbortIndication in network.b.kinds()


def test_a_device_that_breaks_the_protocol_takes_the_other_one_with_it(network: Network) -> None:
    network.do(network.side_a, network.side_a.from_device(b"GET / HTTP/1.1\r\n", network.now))
    assert AbortIndication in network.b.kinds()
    assert network.outcomes == {network.side_a: Outcome.LET_GO_HERE, network.side_b: Outcome.LET_GO_THERE}


def test_a_far_router_that_sends_nonsense_ends_both_sides(network: Network) -> None:
    network.do(network.side_b, network.side_b.from_far(b"\x09nonsense", network.now))
    assert network.outcomes[network.side_b] is Outcome.LET_GO_HERE
    assert AbortIndication in network.a.kinds()


def test_a_store_under_a_grant_of_echo_alone_aborts_both_sides_and_does_not_reach_the_device() -> None:
    network = Network(CommandPolicy(frozenset({CommandField.C_ECHO_RQ})))
    network.associate()
    network.ask(network.a, SendData(store_rq(bytes(100))))
    assert AbortIndication in network.a.kinds()
    assert AbortIndication in network.b.kinds()
    assert not network.b.data


def test_a_c_move_opens_the_way_back_to_its_destination_on_both_sides(network: Network) -> None:
    network.ask(network.a, SendData(message(1, move_command("WS2"))))
    wanted = ReturnWanted(Way.STORE, AETitle("WS2"))
    assert sorted(network.ways, key=lambda way: way[0] is network.side_b) == [
        (network.side_a, wanted),
        (network.side_b, wanted),
    ]


def test_a_rejected_request_is_answered_with_the_far_devices_own_pdu() -> None:
    network = Network()
    side = network.side_b
    side.call(associate_rq(), 0.0)
    side.connected(0.0)
    commands = side.from_device(bytes((3, 0, 0, 0, 0, 4, 0, 2, 3, 1)), 0.0)
    assert commands[0] == Answered(None, bytes((3, 0, 0, 0, 0, 4, 0, 2, 3, 1)))


@pytest.mark.parametrize("kind", list(EndKind))
def test_an_ending_survives_the_wire(kind: EndKind) -> None:
    ending = Ending(kind, 2, 6, 2**40)
    assert Ending.decode(ending.encode() + b"more of a newer Router") == ending
