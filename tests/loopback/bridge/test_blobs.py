"""Blobs over real connections: large ones, broken ones, and what stands in a Router's environment."""

import asyncio
import base64
import hashlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from isthmus.adapters.blobstore.bridge import BridgeBlobstore
from isthmus.bridge import gathering
from isthmus.bridge.gate import MAX_BLOB_BYTES
from isthmus.envelope.requests import NONCE_BYTES, sign_request
from isthmus.errors import BlobMissing, Problem, ProviderTrouble
from isthmus.kit.platform import new_event_loop
from isthmus.kit.tasks import Tasks
from isthmus.testing.bridge import BridgeUnderTest, Member, running_bridge
from isthmus.testing.network import until


def _head(member: Member, bridge: BridgeUnderTest, name: str, body: bytes) -> bytes:
    """Return the head of a signed request to put a blob."""
    target = f"/api/v1/blobs/{name}"
    digest = hashlib.sha256(body).digest()
    authorization = sign_request(
        member.identity,
        bridge.address.identity,
        "PUT",
        target,
        digest,
        bridge.parts.clock.now(),
        secrets.token_bytes(NONCE_BYTES),
    )
    fields = {
        "Host": "bridge",
        "Authorization": authorization,
        "Content-Digest": f"sha-256=:{base64.b64encode(digest).decode()}:",
        "Content-Length": str(len(body)),
    }
    lines = [f"PUT {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode()


@pytest.mark.parametrize("size", [0, 1, gathering.GATHERED_BYTES, gathering.GATHERED_BYTES + 1, MAX_BLOB_BYTES])
async def test_a_blob_of_any_size_comes_back_as_it_was(bridge: BridgeUnderTest, size: int) -> None:
    member = await bridge.join("clinic")
    store = BridgeBlobstore(member.client)
    body = secrets.token_bytes(size)
    await store.put("whole/1", body)
    assert await store.get("whole/1") == body


async def test_sixteen_large_blobs_at_once_are_not_mixed_up(bridge: BridgeUnderTest) -> None:
    member = await bridge.join("clinic")
    store = BridgeBlobstore(member.client)
    bodies = [secrets.token_bytes(1024 * 1024 + index) for index in range(16)]
    await asyncio.gather(*(store.put(f"many/{index}", body) for index, body in enumerate(bodies)))
    assert await asyncio.gather(*(store.get(f"many/{index}") for index in range(16))) == bodies


async def test_a_body_that_comes_byte_by_byte_at_its_end_is_stored_whole(bridge: BridgeUnderTest) -> None:
    member = await bridge.join("clinic")
    body = secrets.token_bytes(1_500_000)
    reader, writer = await asyncio.open_connection("127.0.0.1", bridge.address.listen.port)
    writer.write(_head(member, bridge, "slow/1", body) + body[:-3])
    for byte in body[-3:]:
        await writer.drain()
        writer.write(bytes((byte,)))
    assert (await reader.readline()).split()[1] == b"201"
    writer.close()
    await writer.wait_closed()
    assert await BridgeBlobstore(member.client).get("slow/1") == body


async def test_a_connection_that_ends_inside_a_body_leaves_nothing(bridge: BridgeUnderTest) -> None:
    member = await bridge.join("clinic")
    body = secrets.token_bytes(6_000_000)
    _, writer = await asyncio.open_connection("127.0.0.1", bridge.address.listen.port)
    writer.write(_head(member, bridge, "torn/1", body) + body[:5_000_000])
    await writer.drain()
    folder = bridge.config.data / "blobs"
    await until(lambda: any(folder.iterdir()))  # a part of it is on disk
    writer.transport.abort()
    await until(lambda: not any(folder.iterdir()))
    with pytest.raises(BlobMissing):
        await BridgeBlobstore(member.client).get("torn/1")
    assert bridge.parts.blobs.used == 0


async def test_another_method_on_a_blob_is_answered_by_the_api(bridge: BridgeUnderTest) -> None:
    member = await bridge.join("clinic")
    with pytest.raises(Problem) as refused:
        await member.client.request("POST", "/blobs/a", b"body")
    assert refused.value.status == 405


async def _reading_along(
    bridge: BridgeUnderTest, one: Member, other: Member, name: str, body: bytes, first: int
) -> tuple[asyncio.Task[bytes], asyncio.StreamWriter]:
    """Have `other` wait for a blob of which `one` has put the `first` bytes; return the reading, and the putting."""
    reading = Tasks("test").spawn(BridgeBlobstore(other.client).get(name, wait=10), name="read along")
    await until(lambda: name in bridge.parts.blobs._awaited, 5)
    _, writer = await asyncio.open_connection("127.0.0.1", bridge.address.listen.port)
    writer.write(_head(one, bridge, name, body) + body[:first])
    await writer.drain()
    return reading, writer


async def test_who_waits_for_a_blob_reads_it_while_it_is_put(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.join("clinic"), await bridge.join("hospital")
    body = secrets.token_bytes(3_000_000)
    reading, writer = await _reading_along(bridge, one, other, "along/1", body, 2_000_000)
    growing = bridge.parts.blobs._growing
    await until(lambda: "along/1" in growing and growing["along/1"][0]._readers > 0, 5)
    await until(lambda: growing["along/1"][0].received > 1_000_000, 5)
    assert not reading.done()
    writer.write(body[2_000_000:])
    await writer.drain()
    assert await reading == body
    assert await BridgeBlobstore(other.client).get("along/1") == body
    writer.close()
    await writer.wait_closed()


async def test_who_reads_along_is_told_that_the_blob_did_not_become_whole(bridge: BridgeUnderTest) -> None:
    one, other = await bridge.join("clinic"), await bridge.join("hospital")
    body = secrets.token_bytes(3_000_000)
    reading, writer = await _reading_along(bridge, one, other, "along/2", body, len(body) - 1)
    await until(lambda: "along/2" in bridge.parts.blobs._growing, 5)
    writer.write(b"?" if body[-1:] != b"?" else b"!")  # all of it came, and is not what was signed
    await writer.drain()
    with pytest.raises(ProviderTrouble):
        await reading
    writer.close()
    await writer.wait_closed()
    with pytest.raises(BlobMissing):
        await BridgeBlobstore(other.client).get("along/2")


async def test_who_waits_in_vain_is_told_that_there_is_no_blob(bridge: BridgeUnderTest) -> None:
    member = await bridge.join("clinic")
    with pytest.raises(BlobMissing):
        await BridgeBlobstore(member.client).get("never", wait=1)
    assert not bridge.parts.blobs._awaited


@pytest.mark.parametrize("query", ["wait=11", "wait=-1", "wait=soon", "wait=nan"])
async def test_a_wait_that_is_none_is_refused(bridge: BridgeUnderTest, query: str) -> None:
    member = await bridge.join("clinic")
    with pytest.raises(Problem) as refused:
        await member.client.request("GET", "/blobs/a", query=query)
    assert refused.value.status == 422


async def test_many_blobs_are_deleted_with_one_request(bridge: BridgeUnderTest) -> None:
    member = await bridge.join("clinic")
    store = BridgeBlobstore(member.client)
    names = [f"many/{number}" for number in range(20)]
    await asyncio.gather(*(store.put(name, b"body") for name in names))
    await store.delete(*names[:-1], "many/that-is-not-there")
    assert [blob.name async for blob in store.list("many/")] == names[-1:]
    assert len(list((bridge.config.data / "blobs").iterdir())) == 1


async def test_a_fault_on_the_short_way_is_answered_as_a_problem(
    bridge: BridgeUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_name: str, _wait: float) -> tuple[int, AsyncIterator[bytes]]:
        raise ZeroDivisionError

    member = await bridge.join("clinic")
    monkeypatch.setattr(bridge.parts.blobs, "read", fail)
    with pytest.raises(ProviderTrouble):
        await BridgeBlobstore(member.client).get("a")


async def test_a_netrc_that_names_the_bridge_changes_nothing(
    bridge: BridgeUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password something\n")
    monkeypatch.setenv("NETRC", str(netrc))
    member = await bridge.join("clinic")
    await BridgeBlobstore(member.client).put("a", b"body")


async def _give_up_a_put(bridge: BridgeUnderTest) -> None:
    member = await bridge.join("clinic")
    wanted, over, lost = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def nobody_reads(*_: object) -> bool:
        wanted.set()
        await over.wait()
        return True

    bridge.parts.blobs.put = nobody_reads  # type: ignore[method-assign, assignment]
    putting = Tasks("test").spawn(BridgeBlobstore(member.client).put("given/up", bytes(8_000_000)), name="put")
    try:
        await wanted.wait()
        connector = member.client._session.connector  # type: ignore[union-attr]  # it is open
        (used,) = connector._acquired  # type: ignore[union-attr]
        used.connection_lost = lambda _: lost.set()  # type: ignore[method-assign]
        await until(lambda: used.transport.get_write_buffer_size() > 0, 5)  # type: ignore[union-attr]
        putting.cancel()
        async with asyncio.timeout(5):
            await lost.wait()
    finally:
        over.set()


@pytest.mark.parametrize("tls", [False, True])
def test_a_put_that_is_given_up_lets_go_of_its_connection_without_sending_the_rest(tmp_path: Path, tls: bool) -> None:
    async def give_up() -> None:
        async with running_bridge(tmp_path / "bridge", tls=tls) as bridge:
            await _give_up_a_put(bridge)

    with asyncio.Runner(loop_factory=new_event_loop) as runner:  # the product's loop closes in a way of its own
        runner.run(give_up())
