"""Blobs over real connections: large ones, broken ones, and what stands in a Router's environment."""

import asyncio
import base64
import hashlib
import secrets
from pathlib import Path

import pytest

from isthmus.adapters.blobstore.bridge import BridgeBlobstore
from isthmus.bridge import gathering
from isthmus.bridge.gate import MAX_BLOB_BYTES
from isthmus.envelope.requests import NONCE_BYTES, sign_request
from isthmus.errors import BlobMissing, Problem, ProviderTrouble
from isthmus.testing.bridge import BridgeUnderTest, Member
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


async def test_a_fault_on_the_short_way_is_answered_as_a_problem(
    bridge: BridgeUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_name: str) -> bytes:
        raise ZeroDivisionError

    member = await bridge.join("clinic")
    monkeypatch.setattr(bridge.parts.blobs, "get", fail)
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
