"""The Router's ends of the built-in services, through the suites that every provider passes."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from isthmus.adapters.blobstore.bridge import BridgeBlobstore
from isthmus.adapters.signalling.websocket import WebSocket
from isthmus.bridge import gate
from isthmus.bridge.rates import Rate
from isthmus.bridge.signalling.socket import MOST_CONNECTIONS
from isthmus.contract.notices import PREFIX_BYTES, NoticeKind, pack
from isthmus.errors import Problem, ProviderTrouble, Retry
from isthmus.kit.tasks import Tasks
from isthmus.ports.blobstore import Blobstore
from isthmus.ports.signalling import Signalling
from isthmus.testing.blobstore_suite import BlobstoreSuite
from isthmus.testing.bridge import BridgeUnderTest, Member, running_bridge
from isthmus.testing.network import until
from isthmus.testing.signalling_suite import SignallingSuite


class TestBlobstore(BlobstoreSuite):
    @pytest.fixture
    async def store(self, bridge: BridgeUnderTest) -> AsyncIterator[Blobstore]:
        member = await bridge.join("clinic")
        store = BridgeBlobstore(member.client)
        yield store
        await store.close()

    async def test_a_list_of_many_blobs_comes_in_pages(self, bridge: BridgeUnderTest) -> None:
        member = await bridge.join("hospital")
        store = BridgeBlobstore(member.client)
        names = [f"many/{index:04}" for index in range(1001)]

        async def nothing() -> AsyncIterator[bytes]:
            yield b""

        for name in names:
            await bridge.parts.blobs.put(member.site, name, nothing(), 0, bytes(32))
        assert [blob.name async for blob in store.list("many/")] == names


class InSession:
    """A Router's signalling as its sessions use it: every notice belongs to the session with the other Router."""

    def __init__(self, member: Member, sessions: dict[str, bytes]) -> None:
        inner = member.signalling.traits
        self.traits = replace(inner, max_notice_bytes=inner.max_notice_bytes - PREFIX_BYTES)
        self._member = member
        self._sessions = sessions

    async def publish(self, to: str, notice: bytes) -> None:
        await self._member.signalling.publish(to, pack(NoticeKind.DATA, self._sessions[to], notice))

    async def listen(self, at: str) -> AsyncIterator[bytes]:
        async for notice in self._member.signalling.listen(at):
            if notice[0] == NoticeKind.DATA:
                yield notice[PREFIX_BYTES:]

    async def close(self) -> None:
        await self._member.signalling.close()


class BridgeSignallingSuite(SignallingSuite):
    """The publisher is one Router, and the three listeners are others, each in a session with it."""

    listeners: dict[str, InSession]

    @pytest.fixture
    async def signalling(self, bridge: BridgeUnderTest) -> Signalling:
        publisher, *others = [await bridge.join(site) for site in ("publisher", "one", "two", "three")]
        sessions = {other.mailbox: secrets.token_bytes(16) for other in others}
        for other in others:
            bridge.parts.hub.link(sessions[other.mailbox], publisher.identity.router_id, other.identity.router_id)
        type(self).listeners = {other.mailbox: InSession(other, sessions) for other in others}
        return InSession(publisher, sessions)

    def mailbox(self, index: int) -> str:
        return list(self.listeners)[index]

    def listener(self, signalling: Signalling, at: str) -> Signalling:
        return self.listeners[at]


class TestSignalling(BridgeSignallingSuite):
    """By WebSocket."""


async def test_a_router_listens_at_its_own_mailbox_only(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.join("one"), await bridge.join("other")
    with pytest.raises(ProviderTrouble) as refused:
        async for _ in one.signalling.listen(other.mailbox):
            pass
    assert refused.value.retry is Retry.NEVER


async def test_publishing_without_a_bridge_is_trouble_that_passes(bridge: BridgeUnderTest) -> None:
    lonely = Member("lonely", "http://127.0.0.1:9", bridge.address.identity)
    with pytest.raises(ProviderTrouble) as trouble:
        await lonely.signalling.publish("SOMEBODY", b"x" * 32)
    assert trouble.value.retry is Retry.LATER
    await lonely.close()


async def test_a_lost_connection_is_made_again(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.pair()
    session_id = await one.open(other)
    for lane in tuple(bridge.parts.hub._lanes[one.mailbox.encode()]):
        lane._socket.abort()  # type: ignore[attr-defined]  # the lane is a SignallingSocket
    await bridge.offline(one)
    await bridge.all_online(one)
    await other.signalling.publish(one.mailbox, pack(NoticeKind.DATA, session_id, b"again"))
    assert (await one.next(NoticeKind.DATA)).endswith(b"again")


async def test_a_listener_that_does_not_take_its_notices_makes_the_others_wait_and_loses_none(
    bridge: BridgeUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    paused, pause = asyncio.Event(), WebSocket.pause_reading

    def note_and_pause(socket: WebSocket) -> None:
        pause(socket)
        paused.set()

    monkeypatch.setattr(WebSocket, "pause_reading", note_and_pause)
    one, other = await bridge.join("one"), await bridge.join("other")
    session_id = secrets.token_bytes(16)
    bridge.parts.hub.link(session_id, one.identity.router_id, other.identity.router_id)
    await until(lambda: not bridge.parts.changes._told_soon)  # that there are new sites, which would come in between
    notices = other.signalling.listen(other.mailbox)
    notice, count = pack(NoticeKind.DATA, session_id, bytes(256 * 1024)), 160
    tasks = Tasks("test")
    first = tasks.spawn(_next(notices), name="first")
    await bridge.all_online(other)
    for _ in range(count):
        await one.signalling.publish(other.mailbox, notice)
    assert await first == notice
    async with asyncio.timeout(20):
        await paused.wait()
    assert other.signalling._inbox_bytes < 20 * 1024 * 1024
    for _ in range(count - 1):
        assert await anext(notices) == notice


async def _next(notices: AsyncIterator[bytes]) -> bytes:
    return await anext(notices)


async def test_of_too_many_connections_of_one_router_the_oldest_gives_way(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.pair()
    session_id = await one.open(other)
    mailbox = one.mailbox.encode()
    (oldest,) = bridge.parts.hub._lanes[mailbox]
    newer = []
    for _ in range(MOST_CONNECTIONS):
        response, transport = await one.client.upgrade("/signalling")
        newer.append((response, WebSocket(masks=True, on_message=lambda _: None, on_lost=lambda _: None)))
        newer[-1][1].take_over(transport)
        newer[-1][1].ping()
    await until(lambda: oldest not in bridge.parts.hub._lanes[mailbox])
    assert bridge.parts.hub.is_online(one.identity.router_id)
    crowd = set(bridge.parts.hub._lanes[mailbox])
    assert len(crowd) <= MOST_CONNECTIONS
    for response, socket in newer:
        socket.abort()
        response.close()
    await until(lambda: (lanes := set(bridge.parts.hub._lanes.get(mailbox, ()))) and not lanes & crowd)
    await other.signalling.publish(one.mailbox, pack(NoticeKind.DATA, session_id, b"still there"))
    assert (await one.next(NoticeKind.DATA)).endswith(b"still there")


async def test_a_router_that_asks_too_often_hears_429_and_asks_again_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "REQUESTS", Rate(per_second=0.001, burst=6))
    async with running_bridge(tmp_path / "bridge") as bridge:
        one = await bridge.join("one")
        for _ in range(6):
            await one.client.network()
        with pytest.raises(Problem) as refused:
            await one.client.network()
        assert (refused.value.status, refused.value.title) == (429, "Too many requests")
        other = await bridge.join("other")
        await other.client.network()
        await one.client.request("PUT", "/blobs/abcdefgh", b"blobs are counted by themselves")
