"""The lane of a Router that polls: nothing is lost while answers are, and nothing is kept for one that is gone."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from isthmus.bridge.accounts.service import Account
from isthmus.bridge.signalling import poll
from isthmus.bridge.signalling.hub import MAX_WAITING_BYTES, Hub
from isthmus.bridge.signalling.poll import Polls
from isthmus.contract.batches import BATCH_BYTES, LANE_BYTES, TAG_BYTES, pack_batch, unpack_batch
from isthmus.contract.notices import NoticeKind
from isthmus.envelope.identity import Identity
from isthmus.errors import Problem, RemoteMisuse
from isthmus.kit.names import SiteName
from isthmus.kit.tasks import Tasks

NOBODY: frozenset[bytes] = frozenset()


@pytest.fixture
def account() -> Account:
    identity = Identity.generate(bytes)
    return Account(SiteName("north"), identity.router_id, identity.public, "1", 0.0, identity.router_id.encode())


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def polls(hub: Hub) -> Polls:
    return Polls(hub)


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    tasks = Tasks("test")
    yield tasks
    await tasks.close()


async def join(polls: Polls, account: Account) -> None:
    """Poll for the first time, which lists the Router as listening."""
    assert not messages(await polls.poll(account, 0, NOBODY, 0.001, BATCH_BYTES))


def messages(body: bytes) -> list[bytes]:
    return list(unpack_batch(body, TAG_BYTES))


def tags(*bodies: bytes) -> frozenset[bytes]:
    return frozenset(body[:TAG_BYTES] for body in bodies)


def notice(body: bytes) -> bytes:
    return bytes((NoticeKind.REVOKED,)) + bytes(16) + body


async def test_a_notice_wakes_the_poll_that_waits(polls: Polls, hub: Hub, account: Account, tasks: Tasks) -> None:
    waiting = tasks.spawn(polls.poll(account, 0, NOBODY, 20.0, BATCH_BYTES), name="poll")
    await asyncio.sleep(0)
    hub.tell(account.router_id, NoticeKind.REVOKED, body=b"one")
    hub.tell(account.router_id, NoticeKind.REVOKED, body=b"two")
    assert messages(await waiting) == [notice(b"one"), notice(b"two")]


async def test_an_answer_that_was_lost_is_given_again_until_it_is_named(
    polls: Polls, hub: Hub, account: Account
) -> None:
    await join(polls, account)
    hub.tell(account.router_id, NoticeKind.REVOKED, body=b"one")
    lost = await polls.poll(account, 0, NOBODY, 20.0, BATCH_BYTES)
    hub.tell(account.router_id, NoticeKind.REVOKED, body=b"two")
    assert await polls.poll(account, 0, NOBODY, 20.0, BATCH_BYTES) == lost
    after = await polls.poll(account, 0, tags(lost), 20.0, BATCH_BYTES)
    assert messages(after) == [notice(b"two")]
    assert not messages(await polls.poll(account, 0, tags(after), 0.0, BATCH_BYTES))


async def test_slots_do_not_wait_for_each_other(polls: Polls, hub: Hub, account: Account) -> None:
    await join(polls, account)
    hub.tell(account.router_id, NoticeKind.REVOKED, body=b"one")
    under_way = await polls.poll(account, 0, NOBODY, 20.0, BATCH_BYTES)
    hub.tell(account.router_id, NoticeKind.REVOKED, body=b"two")
    assert messages(await polls.poll(account, 1, NOBODY, 20.0, BATCH_BYTES)) == [notice(b"two")]
    assert await polls.poll(account, 0, NOBODY, 20.0, BATCH_BYTES) == under_way


async def test_a_newer_poll_of_a_slot_takes_the_place_of_one_whose_connection_is_gone(
    polls: Polls, hub: Hub, account: Account, tasks: Tasks
) -> None:
    gone = tasks.spawn(polls.poll(account, 0, NOBODY, 20.0, BATCH_BYTES), name="gone")
    await asyncio.sleep(0)
    newer = tasks.spawn(polls.poll(account, 0, NOBODY, 20.0, BATCH_BYTES), name="newer")
    assert not messages(await gone)
    hub.tell(account.router_id, NoticeKind.REVOKED, body=b"one")
    assert messages(await newer) == [notice(b"one")]


async def test_a_batch_is_as_long_as_was_asked_for_but_holds_one_notice_at_least(
    polls: Polls, hub: Hub, account: Account
) -> None:
    await join(polls, account)
    for size in (300_000, 300_000, 900_000, 10):
        hub.tell(account.router_id, NoticeKind.REVOKED, body=bytes(size))
    got: frozenset[bytes] = NOBODY
    sizes = []
    for _ in range(3):
        body = await polls.poll(account, 0, got, 0.0, 650_000)
        got = tags(body)
        sizes.append([len(message) - 17 for message in messages(body)])
    assert sizes == [[300_000, 300_000], [900_000], [10]]


async def test_what_is_not_fetched_is_bounded(polls: Polls, hub: Hub, account: Account) -> None:
    await join(polls, account)
    for _ in range(MAX_WAITING_BYTES // 2**20 + 5):
        hub.tell(account.router_id, NoticeKind.REVOKED, body=bytes(2**20))
    (lane,) = hub._lanes[account.mailbox]
    assert MAX_WAITING_BYTES - 2**21 < lane.waiting <= MAX_WAITING_BYTES
    assert hub.dropped_bytes["full"] >= 5 * 2**20


async def test_what_was_sent_counts_as_waiting_until_it_is_known_to_have_come(
    polls: Polls, hub: Hub, account: Account
) -> None:
    await join(polls, account)
    hub.tell(account.router_id, NoticeKind.REVOKED, body=bytes(1000))
    (lane,) = hub._lanes[account.mailbox]
    body = await polls.poll(account, 0, NOBODY, 1.0, BATCH_BYTES)
    assert lane.waiting == 1017
    await polls.poll(account, 0, tags(body), 0.0, BATCH_BYTES)
    assert lane.waiting == 0


async def test_who_polls_no_more_is_gone_after_a_grace(
    polls: Polls, hub: Hub, account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    left = asyncio.Event()

    def on_presence(_: object, online: bool) -> None:
        seen.append(online)
        if not online:
            left.set()

    hub.on_presence = on_presence
    monkeypatch.setattr(poll, "GRACE_SECONDS", 0.05)
    await join(polls, account)
    await join(polls, account)
    assert seen == [True]
    async with asyncio.timeout(10):
        await left.wait()
    assert polls._lanes == {}


async def test_who_leaves_can_still_fetch_what_waits(polls: Polls, hub: Hub, account: Account) -> None:
    await join(polls, account)
    hub.tell(account.router_id, NoticeKind.REVOKED, body=b"last")
    polls.leave(account)
    assert not hub.is_online(account.router_id)
    assert messages(await polls.poll(account, 0, NOBODY, 0.0, BATCH_BYTES)) == [notice(b"last")]
    assert not hub.is_online(account.router_id)


async def test_a_revoked_router_hears_it_in_the_poll_that_waits(
    polls: Polls, hub: Hub, account: Account, tasks: Tasks
) -> None:
    waiting = tasks.spawn(polls.poll(account, 0, NOBODY, 20.0, BATCH_BYTES), name="poll")
    await asyncio.sleep(0)
    hub.close(account.router_id)
    with pytest.raises(Problem) as refused:
        await waiting
    assert refused.value.status == 401
    assert polls._lanes == {}
    assert not hub.is_online(account.router_id)


async def test_a_bridge_that_stops_lets_no_poll_wait(polls: Polls, account: Account, tasks: Tasks) -> None:
    waiting = tasks.spawn(polls.poll(account, 0, NOBODY, 20.0, BATCH_BYTES), name="poll")
    await asyncio.sleep(0)
    polls.stop()
    assert not messages(await waiting)
    assert not messages(await polls.poll(account, 0, NOBODY, 20.0, BATCH_BYTES))


async def test_polls_that_two_bridges_take_in_turns_repeat_nothing(account: Account) -> None:
    """Each Bridge has a lane of its own, and finds its own tag among those that the Router names."""
    hubs = [Hub(), Hub()]
    bridges = [Polls(hub) for hub in hubs]
    for bridge in bridges:
        await join(bridge, account)
    came: list[bytes] = []
    bodies: list[bytes] = []
    for number in range(6):
        at = number % 2
        hubs[at].tell(account.router_id, NoticeKind.REVOKED, body=bytes((number,)))
        bodies.append(await bridges[at].poll(account, 0, tags(*bodies), 20.0, BATCH_BYTES))
        came += messages(bodies[-1])
    assert came == [notice(bytes((number,))) for number in range(6)]
    assert len({body[:LANE_BYTES] for body in bodies}) == 2


@pytest.mark.parametrize("body", [b"\0", b"\0\0\0\x05abc", pack_batch([(b"abc",)]) + b"\0\0"])
def test_what_is_no_batch_is_misuse(body: bytes) -> None:
    with pytest.raises(RemoteMisuse):
        list(unpack_batch(body))
