"""The built-in signalling service where no WebSocket gets through: the same suite, and what is its own."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from tests.loopback.bridge.test_adapters import BridgeSignallingSuite

from isthmus.adapters.bridge_http import BridgeConnection, RefusedOnTheWay
from isthmus.adapters.signalling import polling
from isthmus.contract.notices import NO_SESSION, PREFIX_BYTES, NoticeKind, pack
from isthmus.contract.rest import BlobJoin
from isthmus.errors import Problem, ProviderTrouble
from isthmus.kit.names import HostPort
from isthmus.testing.bridge import BridgeUnderTest, running_bridge
from isthmus.testing.network import until


@pytest.fixture(autouse=True)
def no_websockets(monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(*_: object) -> Any:
        raise RefusedOnTheWay(403)

    monkeypatch.setattr(BridgeConnection, "upgrade", refuse)


class TestSignalling(BridgeSignallingSuite):
    """By long poll."""


async def test_who_stops_is_gone_at_once_and_not_after_the_grace(bridge: BridgeUnderTest) -> None:
    one, _ = await bridge.pair()
    await until(lambda: one.signalling.by_polling)
    await one.signalling.close()
    assert not bridge.parts.hub.is_online(one.identity.router_id)


async def test_a_router_that_polls_cannot_write_into_a_session_that_is_not_its_own(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.pair()
    session_id = await one.open(other)
    third = await bridge.join("third")
    third.listen()
    await third.signalling.publish(other.mailbox, pack(NoticeKind.DATA, session_id, b"injected"))
    await third.signalling.publish(other.mailbox, pack(NoticeKind.OFFER, NO_SESSION, b"injected"))
    await until(lambda: bridge.parts.hub.dropped_bytes["refused"] >= 2 * PREFIX_BYTES)
    await one.signalling.publish(other.mailbox, pack(NoticeKind.DATA, session_id, b"rightful"))
    assert (await other.next(NoticeKind.DATA)).endswith(b"rightful")


async def test_a_bridge_that_comes_back_is_polled_again_and_the_gap_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "LOST_SECONDS", 60.0)
    told = 0

    def connected() -> None:
        nonlocal told
        told += 1

    async with running_bridge(tmp_path) as first:
        one, _ = await first.pair()
        one.signalling.on_connected = connected
        members, first.members[:] = list(first.members), []
        listen = first.address.listen
    async with running_bridge(tmp_path, listen=HostPort("127.0.0.1", listen.port)) as bridge:
        bridge.members.extend(members)
        await bridge.all_online(*members)
        await until(lambda: told == 1)


async def test_a_bridge_that_stays_away_is_a_lost_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = 0

    def gone() -> None:
        nonlocal lost
        lost += 1

    async with running_bridge(tmp_path) as bridge:
        one, other = await bridge.pair()
        one.signalling.on_lost = gone
        members, bridge.members[:] = list(bridge.members), []
        monkeypatch.setattr(polling, "LOST_SECONDS", 0.3)  # not before: a busy Bridge has its time
    await until(lambda: lost == 1)
    assert not one.signalling.is_connected
    with pytest.raises(ProviderTrouble):
        await one.signalling.publish(other.mailbox, b"x" * 32)
    for member in members:
        await member.close()


@pytest.mark.parametrize("body", [b"\0", b"\0\0\0\x05abc"])
async def test_what_is_no_batch_is_refused(bridge: BridgeUnderTest, body: bytes) -> None:
    one = await bridge.join("one")
    with pytest.raises(Problem) as refused:
        await one.client.request("POST", "/notices", body)
    assert (refused.value.status, refused.value.title) == (422, "Not a batch")


@pytest.mark.parametrize("query", ["got=xyz", "slot=4", "slot=-1", "wait=26", "most=1", f"got={'0' * 33}"])
async def test_a_poll_that_asks_for_what_there_is_not_is_refused(bridge: BridgeUnderTest, query: str) -> None:
    one = await bridge.join("one")
    with pytest.raises(Problem) as refused:
        await one.client.request("GET", "/notices", query=query)
    assert refused.value.status == 422


async def test_the_parts_of_a_blob_are_joined_once_and_only_to_what_was_announced(bridge: BridgeUnderTest) -> None:
    one = await bridge.join("one")
    for part in ("w/0", "w/1"):
        await one.client.request("PUT", f"/blobs/{part}", b"half")
    join: dict[str, Any] = {"name": "w", "parts": ["w/0", "w/1"]}
    with pytest.raises(Problem) as refused:
        await one.client.request("POST", "/blobs/joins", _join(join, b"something else"))
    assert refused.value.status == 422
    for _ in range(2):  # the answer may have been lost
        await one.client.request("POST", "/blobs/joins", _join(join, b"halfhalf"))
    assert await one.client.request("GET", "/blobs/w") == b"halfhalf"
    with pytest.raises(Problem) as missing:
        await one.client.request("GET", "/blobs/w/0")
    assert missing.value.status == 404
    with pytest.raises(Problem) as missing:
        await one.client.request("POST", "/blobs/joins", _join(join | {"name": "v"}, b"halfhalf"))
    assert missing.value.status == 404


def _join(fields: dict[str, Any], whole: bytes) -> BlobJoin:
    return BlobJoin(**fields, sha256=hashlib.sha256(whole).digest())
