"""What a Router trusts: the identity that its invite pins, whatever certificate it endorses."""

import asyncio
import contextlib
import itertools
import secrets
import shutil
from pathlib import Path

import pytest

from isthmus.adapters.bridge_http import BridgeConnection
from isthmus.contract.notices import NoticeKind, pack
from isthmus.errors import ProviderTrouble, Untrusted
from isthmus.kit.names import HostPort
from isthmus.testing.bridge import running_bridge


async def test_a_router_joins_and_talks_over_the_self_made_certificate(tmp_path: Path) -> None:
    async with running_bridge(tmp_path, tls=True) as bridge:
        assert bridge.address.url.startswith("https://")
        one, other = await bridge.pair()
        session_id = await one.open(other)
        body = secrets.token_bytes(300_000)
        await one.signalling.publish(other.mailbox, pack(NoticeKind.DATA, session_id, body))
        assert (await other.next(NoticeKind.DATA)).endswith(body)


async def test_another_identity_is_refused_before_any_secret_is_sent(tmp_path: Path) -> None:
    async with running_bridge(tmp_path, tls=True) as bridge:
        member = bridge.member("clinic")
        invite = await bridge.invite("clinic")
        wrong = BridgeConnection(bridge.address.url, secrets.token_bytes(32), member.identity)
        with pytest.raises(Untrusted):
            await wrong.enrol(invite, member.prekey_document())
        assert (await bridge.administration.invites())[0]["open"]
        await wrong.close()


async def test_another_bridge_without_tls_is_refused(tmp_path: Path) -> None:
    async with running_bridge(tmp_path) as bridge:
        client = BridgeConnection(bridge.address.url, secrets.token_bytes(32), bridge.member("clinic").identity)
        with pytest.raises(Untrusted, match="not the Bridge"):
            await client.network()
        await client.close()


async def test_a_renewed_certificate_is_accepted_by_those_who_know_the_identity(tmp_path: Path) -> None:
    async with running_bridge(tmp_path, tls=True) as bridge:
        member = await bridge.join("clinic")
        first = (await member.client.identity()).certificate_sha256
        assert bridge.parts.tls is not None
        bridge.parts.tls.certificate_file.unlink()
        assert bridge.parts.tls.refresh()
        assert not bridge.parts.tls.refresh()
        await member.client._session.close()  # type: ignore[union-attr]  # the warm connection saw the old one
        member.client._session = None
        assert (await member.client.network()).site == "clinic"
        assert (await member.client.identity()).certificate_sha256 != first


async def test_a_certificate_that_changes_under_a_warm_pin_is_checked_again(tmp_path: Path) -> None:
    listen = HostPort("127.0.0.1", 0)
    async with running_bridge(tmp_path / "bridge", tls=True, listen=listen) as bridge:
        member = await bridge.join("clinic")
        bridge.members.clear()
        listen = bridge.address.listen
    (tmp_path / "bridge" / "tls.crt").unlink()
    async with running_bridge(tmp_path / "bridge", tls=True, listen=listen):
        assert (await member.client.network()).site == "clinic"
    async with running_bridge(tmp_path / "impostor", tls=True, listen=listen):
        with pytest.raises(Untrusted):
            await member.client.network()
    with pytest.raises(ProviderTrouble):
        await member.client.network()
    await member.close()


async def test_everything_goes_through_the_proxy_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bytes] = []

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        host, port = asked[-1].split()[1].decode().split(":")
        onward_reader, onward_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await asyncio.gather(carry(reader, onward_writer), carry(onward_reader, writer))

    server = await asyncio.start_server(proxy, "127.0.0.1", 0)
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    async with running_bridge(tmp_path, tls=True) as bridge:
        one, other = await bridge.pair()
        session_id = await one.open(other)
        await one.signalling.publish(other.mailbox, pack(NoticeKind.DATA, session_id, bytes(200_000)))
        assert len(await other.next(NoticeKind.DATA)) > 200_000
        to_bridge = f"CONNECT 127.0.0.1:{bridge.address.listen.port} ".encode()
    assert len(asked) >= 4  # at the least: each of two Routers' requests and its signalling
    assert all(head.startswith(to_bridge) for head in asked)
    server.close()
    await server.wait_closed()


async def test_bridges_behind_one_address_may_each_have_a_certificate_of_their_own(tmp_path: Path) -> None:
    """Connections go to two Bridges of one identity in turns, as a balancer does."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir(mode=0o700)
    async with running_bridge(tmp_path / "one", tls=True) as one:
        shutil.copy(tmp_path / "one" / "identity.key", tmp_path / "two" / "identity.key")
        async with running_bridge(tmp_path / "two", tls=True) as two:
            assert one.address.identity == two.address.identity
            ports = itertools.cycle((one.address.listen.port, two.address.listen.port))

            async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                with contextlib.suppress(ConnectionError):
                    while data := await reader.read(65536):
                        writer.write(data)
                        await writer.drain()
                writer.close()

            async def balance(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                onward = await asyncio.open_connection("127.0.0.1", next(ports))
                await asyncio.gather(carry(reader, onward[1]), carry(onward[0], writer))

            server = await asyncio.start_server(balance, "127.0.0.1", 0)
            url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            client = BridgeConnection(url, one.address.identity, one.member("x").identity)
            for _ in range(4):
                assert (await client.identity()).version
            await client.close()
            server.close()
            await server.wait_closed()
