"""The hub: who gets what, and what is dropped."""

from hypothesis import given
from hypothesis import strategies as st

from isthmus.bridge.signalling.hub import MAX_WAITING_BYTES, Hub
from isthmus.contract.notices import NO_SESSION, NoticeKind, pack
from isthmus.envelope.identity import RouterId

ONE, OTHER, THIRD = (RouterId(letter * 36) for letter in "ABC")
SESSION = bytes(range(16))


class Lane:
    """Keeps what was sent to it."""

    def __init__(self, waiting: int = 0) -> None:
        self.waiting = waiting
        self.sent: list[bytes] = []
        self.revoked = False

    def send(self, *parts: bytes | memoryview) -> None:
        self.sent.append(b"".join(parts))

    def revoke(self) -> None:
        self.revoked = True


def message(to: RouterId, notice: bytes) -> bytes:
    return bytes((len(to),)) + to.encode() + notice


def hub_of_three() -> tuple[Hub, dict[RouterId, Lane]]:
    hub, lanes = Hub(), {ONE: Lane(), OTHER: Lane(), THIRD: Lane()}
    for router, lane in lanes.items():
        hub.attach(router.encode(), lane)
    hub.link(SESSION, ONE, OTHER)
    return hub, lanes


def test_a_notice_goes_to_the_other_router_of_its_session_as_it_came() -> None:
    hub, lanes = hub_of_three()
    notice = pack(NoticeKind.DATA, SESSION, b"sealed")
    hub.forward(ONE.encode(), message(OTHER, notice))
    hub.forward(OTHER.encode(), message(ONE, notice))
    assert (lanes[OTHER].sent, lanes[ONE].sent) == ([notice], [notice])
    assert hub.forwarded_bytes == 2 * len(notice)


def test_a_letter_is_announced_only_between_routers_that_accepted_each_other() -> None:
    hub, lanes = hub_of_three()
    hub.may_ring = lambda sender, to: {sender, to} == {ONE, OTHER}
    notice = pack(NoticeKind.LETTER, NO_SESSION, b"counter")
    hub.forward(ONE.encode(), message(OTHER, notice))
    hub.forward(THIRD.encode(), message(OTHER, notice))
    hub.forward(ONE.encode(), message(OTHER, pack(NoticeKind.DATA, NO_SESSION, b"no session")))
    assert lanes[OTHER].sent == [notice]


@given(st.binary(max_size=200), st.booleans())
def test_no_message_of_a_third_router_reaches_anybody(noise: bytes, aimed: bool) -> None:
    hub, lanes = hub_of_three()
    hub.forward(THIRD.encode(), message(ONE, bytes((17,)) + SESSION + noise) if aimed else noise)
    assert [lane.sent for lane in lanes.values()] == [[], [], []]
    assert hub.dropped_bytes["refused"] >= len(noise)


@given(st.integers(0, 15), st.binary(max_size=50))
def test_no_kind_of_the_bridges_is_forwarded(kind: int, body: bytes) -> None:
    hub, lanes = hub_of_three()
    hub.forward(ONE.encode(), message(OTHER, bytes((kind,)) + SESSION + body))
    assert lanes[OTHER].sent == []


def test_an_unlinked_session_carries_nothing() -> None:
    hub, lanes = hub_of_three()
    hub.unlink(SESSION, ONE, OTHER)
    hub.forward(ONE.encode(), message(OTHER, pack(NoticeKind.DATA, SESSION)))
    assert lanes[OTHER].sent == []


def test_a_mailbox_that_is_not_emptied_takes_only_so_much() -> None:
    hub, lanes = hub_of_three()
    lanes[OTHER].waiting = MAX_WAITING_BYTES - 20
    hub.forward(ONE.encode(), message(OTHER, pack(NoticeKind.DATA, SESSION, b"123")))
    hub.forward(ONE.encode(), message(OTHER, pack(NoticeKind.DATA, SESSION, b"1234")))
    assert len(lanes[OTHER].sent) == 1
    assert hub.dropped_bytes["full"] == 21


def test_of_several_lanes_the_emptiest_is_taken() -> None:
    hub, lanes = hub_of_three()
    lanes[OTHER].waiting = 1000
    second = Lane()
    hub.attach(OTHER.encode(), second)
    hub.tell(OTHER, NoticeKind.NETWORK_CHANGED)
    assert (len(lanes[OTHER].sent), len(second.sent)) == (0, 1)


def test_a_router_is_online_while_it_has_a_lane() -> None:
    hub, seen, lanes = Hub(), list[tuple[str, bool]](), [Lane(), Lane()]
    hub.on_presence = lambda router, online: seen.append((router, online))
    for lane in lanes:
        hub.attach(ONE.encode(), lane)
    for lane in (*lanes, *lanes):
        hub.detach(ONE.encode(), lane)
    assert seen == [(ONE, True), (ONE, False)]
    hub.tell(ONE, NoticeKind.NETWORK_CHANGED)
    assert hub.dropped_bytes["absent"] == 17


def test_revoking_closes_every_lane() -> None:
    hub, lanes = hub_of_three()
    second = Lane()
    hub.attach(ONE.encode(), second)
    hub.close(ONE)
    assert (lanes[ONE].revoked, second.revoked, lanes[OTHER].revoked) == (True, True, False)


def test_a_router_that_is_connected_elsewhere_is_reached_through_there() -> None:
    hub, lanes = hub_of_three()
    seen, carried = list[tuple[str, bool]](), list[tuple[bytes, bytes]]()
    hub.on_presence = lambda router, online: seen.append((router, online))
    hub.set_away(OTHER.encode(), lambda to, notice: carried.append((to, bytes(notice))))
    notice = pack(NoticeKind.DATA, SESSION, b"sealed")
    hub.forward(ONE.encode(), message(OTHER, notice))
    assert (lanes[OTHER].sent, carried) == ([], [(OTHER.encode(), notice)])
    hub.detach(OTHER.encode(), lanes[OTHER])
    assert hub.is_online(OTHER)
    assert not hub.is_here(OTHER)
    hub.attach(OTHER.encode(), lanes[OTHER])
    hub.forward(ONE.encode(), message(OTHER, notice))
    assert (lanes[OTHER].sent, len(carried), seen) == ([notice], 1, [])


def test_a_router_that_is_heard_of_here_again_is_reached_here_again() -> None:
    hub, lanes = hub_of_three()
    hub.set_away(OTHER.encode(), lambda to, notice: None)
    hub.claim(OTHER.encode())
    hub.tell(OTHER, NoticeKind.NETWORK_CHANGED)
    assert len(lanes[OTHER].sent) == 1
