"""`provider test`: what is found of a pair that works, and in what words the rest is said."""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from tests.interop.certificates import Authority
from tests.loopback.bridge.clouds import SECRETS, FakeCloud, install

from isthmus.adapters.blobstore.memory import MemoryBlobstore
from isthmus.adapters.signalling.memory import MemorySignalling
from isthmus.bridge.providers import trial
from isthmus.bridge.providers.reach import look
from isthmus.bridge.providers.trial import Step
from isthmus.errors import OperatorError, ProviderTrouble, Retry
from isthmus.kit.names import HostPort
from isthmus.ports.provider import Way
from isthmus.testing.bridge import BridgeUnderTest

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]
ONE = {"name": "one", "signalling": "fake://a/b", "blobstore": "fake://a/c", "secrets": SECRETS}


@pytest.fixture
async def cloud(monkeypatch: pytest.MonkeyPatch, bridge: BridgeUnderTest) -> FakeCloud:
    monkeypatch.delenv("HTTPS_PROXY", raising=False)
    monkeypatch.delenv("https_proxy", raising=False)
    monkeypatch.setattr(trial, "_TRIES", (0.02, 0.02))
    cloud = install(monkeypatch)
    await bridge.administration.run("provider_add", ONE)
    return cloud


async def tried(bridge: BridgeUnderTest, *steps: Step) -> list[tuple[str, str, str]]:
    found: list[tuple[str, str, str]] = []
    for step in steps or Step:
        rows = await bridge.administration.run("provider_test", {"name": "one", "step": step})
        found += [(row["level"], row["what"], f"{row['found']} -> {row['advice']}") for row in rows]
    return found


@asynccontextmanager
async def host(serve: Serve, **options: Any) -> AsyncIterator[int]:
    server = await asyncio.start_server(serve, "127.0.0.1", 0, **options)
    async with server:
        yield server.sockets[0].getsockname()[1]


def speaks_http(offset: float = 0.0) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.read(4096)
        if head.startswith(b"HEAD"):
            date = formatdate(time.time() + offset, usegmt=True)
            writer.write(f"HTTP/1.1 403 Forbidden\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n".encode())
        writer.close()

    return serve


async def test_a_pair_that_works_is_measured(bridge: BridgeUnderTest, cloud: FakeCloud) -> None:
    found = await tried(bridge)
    assert {level for level, _, _ in found} <= {"ok", "warn"}
    words = " | ".join(text for _, _, text in found)
    for part in ("put ", "get ", "delete ", "there and back in", "MB/s up", "MB/s down", "do not end by themselves"):
        assert part in words
    assert isinstance(cloud.store, MemoryBlobstore)
    assert len(cloud.store) == 0


async def test_the_keys_are_those_that_a_router_would_be_lent(bridge: BridgeUnderTest, cloud: FakeCloud) -> None:
    cloud.expires = time.time() + 3600
    assert await tried(bridge, Step.KEYS) == [
        ("ok", "signalling keys", "lent for 60 min -> "),
        ("ok", "blobstore keys", "lent for 60 min -> "),
    ]
    assert {router for _, router in cloud.lent} == {bridge.parts.identity.router_id}


@pytest.mark.parametrize(
    "trouble",
    [
        ProviderTrouble("the key was refused", retry=Retry.NEVER, hint="enter it anew"),
        OperatorError("the seed is mistyped", hint="enter it anew"),
    ],
)
async def test_refused_keys_are_said_in_the_providers_words(
    bridge: BridgeUnderTest, cloud: FakeCloud, trouble: Any
) -> None:
    cloud.trouble = trouble
    assert await tried(bridge, Step.KEYS) == [("bad", "keys", f"signalling: {trouble} -> enter it anew")]


class Broken(MemoryBlobstore):
    """A store with one fault."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    async def put(self, name: str, body: bytes) -> None:
        if self.fault == "no bucket":
            raise ProviderTrouble("there is no bucket x", retry=Retry.NEVER, hint="isthmus provider setup makes it")
        if self.fault == "overwrites":
            await super().delete(name)
        await super().put(name, body)

    async def get(self, name: str, *, wait: float = 0.0) -> bytes:
        body = await super().get(name, wait=wait)
        return body[::-1] if self.fault == "changes" else body

    async def delete(self, *names: str) -> None:
        if self.fault != "keeps":
            await super().delete(*names)


@pytest.mark.parametrize(
    ("fault", "level", "words"),
    [
        ("no bucket", "bad", "there is no bucket x -> isthmus provider setup makes it"),
        ("overwrites", "bad", "overwritten by another one"),
        ("changes", "bad", "a blob came back changed"),
        ("keeps", "warn", "a deleted blob can still be read"),
    ],
)
async def test_a_store_that_does_not_do_what_it_must_is_said_to(
    bridge: BridgeUnderTest, cloud: FakeCloud, fault: str, level: str, words: str
) -> None:
    cloud.store = Broken(fault)
    found = await tried(bridge, Step.BLOBS)
    assert any(row[0] == level and words in row[2] for row in found), found


async def test_notices_that_do_not_arrive_are_said_to(bridge: BridgeUnderTest, cloud: FakeCloud) -> None:
    class Deaf(MemorySignalling):
        async def publish(self, to: str, notice: bytes) -> None:
            pass

    cloud.service = Deaf()
    assert [row[:2] for row in await tried(bridge, Step.NOTICES)] == [("bad", "notices")]


async def test_a_listener_that_is_refused_is_said_to_be(bridge: BridgeUnderTest, cloud: FakeCloud) -> None:
    class Refusing(MemorySignalling):
        async def listen(self, at: str) -> AsyncIterator[bytes]:
            if at:
                raise ProviderTrouble("no permission to receive", retry=Retry.NEVER, hint="sqs:ReceiveMessage")
            yield b""

    cloud.service = Refusing()
    found = await tried(bridge, Step.NOTICES)
    assert found == [("bad", "notices", "no permission to receive -> sqs:ReceiveMessage")]


async def test_what_takes_too_long_is_given_up(
    bridge: BridgeUnderTest, cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Silent(MemoryBlobstore):
        async def put(self, name: str, body: bytes) -> None:
            await asyncio.Event().wait()

    monkeypatch.setattr(trial, "_STEP_SECONDS", 0.05)
    cloud.store = Silent()
    assert await tried(bridge, Step.BLOBS) == [("bad", "blobs", "no answer within 0.05 s -> ")]


async def test_the_built_in_pair_is_tried_elsewhere(bridge: BridgeUnderTest) -> None:
    with pytest.raises(OperatorError, match="needs no test") as refused:
        await bridge.administration.run("provider_test", {"name": "bridge", "step": "way"})
    assert "isthmus router check" in refused.value.hint


# the way there


async def test_a_host_that_answers_is_asked_for_its_time(bridge: BridgeUnderTest, cloud: FakeCloud) -> None:
    async with host(speaks_http()) as port:
        cloud.at = [HostPort("127.0.0.1", port)]
        found = await tried(bridge, Step.WAY)
    assert [level for level, _, _ in found] == ["ok", "ok"]
    assert "connects in" in found[0][2]
    assert "no TLS; this machine's clock goes as its clock" in found[1][2]


@pytest.mark.parametrize(("offset", "level", "words"), [(-90, "warn", "ahead of"), (1000, "bad", "behind")])
async def test_a_wrong_clock_is_called_that(
    bridge: BridgeUnderTest, cloud: FakeCloud, offset: float, level: str, words: str
) -> None:
    async with host(speaks_http(offset)) as port:
        cloud.at = [HostPort("127.0.0.1", port)]
        found = await tried(bridge, Step.WAY)
    assert found[-1][0] == level
    assert words in found[-1][2]
    assert "NTP" in found[-1][2]


async def test_a_host_that_speaks_something_else_is_let_be(bridge: BridgeUnderTest, cloud: FakeCloud) -> None:
    async def greets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'INFO {"server_id": "x"}\r\n')
        await reader.read(4096)
        writer.close()

    async with host(greets) as port:
        cloud.at = [HostPort("127.0.0.1", port)]
        found = await tried(bridge, Step.WAY)
    assert [level for level, _, _ in found] == ["ok", "ok"]
    assert "does not tell its time" in found[-1][2]


async def test_nobody_there_and_a_name_that_is_not_known_are_told_apart(
    bridge: BridgeUnderTest, cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        cloud.at = [HostPort("127.0.0.1", taken.getsockname()[1])]
        found = await tried(bridge, Step.WAY)
    assert "no connection: Connection refused" in found[0][2]

    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with monkeypatch.context() as patched:
        patched.setattr(socket, "create_connection", unknown)
        found = await tried(bridge, Step.WAY)
    assert "the name 127.0.0.1 is not known here" in found[0][2]
    assert "DNS" in found[0][2]


async def test_a_certificate_that_is_not_trusted_is_named_and_a_ca_mends_it(
    bridge: BridgeUnderTest, cloud: FakeCloud, tmp_path: Path
) -> None:
    authority = Authority(tmp_path)
    issued = authority.issue("cloud")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(issued.certificate, issued.key)
    async with host(speaks_http(), ssl=context) as port:
        cloud.at = [HostPort("127.0.0.1", port)]
        found = await tried(bridge, Step.WAY)
        assert found[1][0] == "bad"
        assert "TLS is not trusted" in found[1][2]
        assert "isthmus provider set one --ca FILE" in found[1][2]
        await bridge.administration.run("provider_set", {"name": "one", "ca": authority.certificate.read_text()})
        found = await tried(bridge, Step.WAY)
        assert [level for level, _, _ in found] == ["ok", "ok", "ok"]
        assert "with a certificate that is trusted" in found[1][2]
        assert "clock goes as its clock" in found[2][2]
    assert cloud.ways == []
    await bridge.parts.lender.lend(bridge.parts.providers.demand("one"), bridge.parts.identity.router_id)
    assert cloud.ways[0].ca is not None
    assert cloud.ways[0].ca.read_text() == authority.certificate.read_text()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("407 Proxy Authentication Required", "give an account in HTTPS_PROXY"),
        ("403 Forbidden", "ask those who run the proxy to allow 192.0.2.1:443"),
        ("502 Bad Gateway", "is HTTPS_PROXY right?"),
    ],
)
async def test_a_proxy_that_forbids_is_named(
    bridge: BridgeUnderTest, cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch, answer: str, words: str
) -> None:
    async def refuses(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {answer}\r\n\r\n".encode())
        writer.close()

    async with host(refuses) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:hush@127.0.0.1:{port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        cloud.at = [HostPort("192.0.2.1", 443)]
        found = await tried(bridge, Step.WAY)
    assert found[0][:2] == ("bad", f"proxy 127.0.0.1:{port}")
    assert words in found[0][2]
    assert "hush" not in str(found)


async def test_the_way_through_a_proxy_leads_to_the_host() -> None:
    async def leads(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        assert asked.startswith(b"CONNECT cloud.example:80 HTTP/1.1\r\n")
        assert b"Proxy-Authorization: Basic dTpwQA==" in asked
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await speaks_http()(reader, writer)

    async with host(leads) as port:
        way = Way(f"http://u:p%40@127.0.0.1:{port}")
        found = await asyncio.to_thread(look, "one", HostPort("cloud.example", 80), way)
    assert [row.level.value for row in found] == ["ok", "ok"]
    assert f"through the proxy 127.0.0.1:{port}" in found[0].found
