"""NATS as signalling service, against a real nats-server: nothing here is played."""

import asyncio
import contextlib
import datetime as dt
import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
from tests.backends.on_nats import NOWHERE, SECONDS, Counter, LentKeys, ask, router, tasks_of
from tests.backends.servers.connect_proxy import connect_proxy
from tests.backends.servers.nats import NatsServer, nats_server, running_nats

from isthmus.adapters.signalling.nats.accounts import Nkey, Role, _statement, operator_statement
from isthmus.adapters.signalling.nats.provider import NatsProvider
from isthmus.adapters.signalling.nats.service import _MOST_WAITING_BYTES, NatsSignalling
from isthmus.adapters.signalling.nats.way import Place
from isthmus.bridge.tls import make_certificate
from isthmus.cloudio.providers import signalling_provider
from isthmus.errors import OperatorError, ProviderTrouble, Retry
from isthmus.ports.provider import Surroundings, Way
from isthmus.ports.signalling import PromptSignalling, Signalling
from isthmus.testing.signalling_suite import Inbox, Publisher, SignallingSuite

__all__ = ["nats_server"]  # a fixture


class ByTcp(SignallingSuite):
    """The suite, with a connection and with keys of its own for each mailbox, as Routers have them."""

    routers: dict[str, NatsSignalling]

    def url(self, server: NatsServer) -> str:
        return server.url

    @pytest.fixture
    async def signalling(self, nats_server: NatsServer) -> AsyncIterator[Signalling]:
        self.routers = {
            name: router(nats_server, name, url=self.url(nats_server)) for name in map(self.mailbox, range(3))
        }
        yield self.routers[self.mailbox(0)]
        for service in self.routers.values():
            await service.close()

    def listener(self, signalling: Signalling, at: str) -> Signalling:
        return self.routers[at]


class TestByTcp(ByTcp):
    """The suite over nats://."""


class TestByWebSocket(ByTcp):
    """The suite over nats+ws://."""

    def url(self, server: NatsServer) -> str:
        return server.websocket_url


class TestByPlugIn(SignallingSuite):
    """The suite over what the scheme's entry point opens, with a user that the server's configuration knows."""

    @pytest.fixture
    async def signalling(self) -> AsyncIterator[Signalling]:
        with running_nats(in_operator_mode=False, options='authorization { user: "u", password: "p w" }') as server:
            provider = signalling_provider(server.url)
            keys = LentKeys(server.url, {"user": "u", "password": "p w"}, "anybody")
            service = provider.open(server.url, Surroundings(keys, NOWHERE, Counter()))
            yield service
            await service.close()


async def test_a_server_that_was_killed_is_found_again() -> None:
    with running_nats() as server:
        service = router(server, "R1")
        async with tasks_of("test") as tasks:
            inbox = await ask(service, "R1", tasks)
            server.kill()
            server.start()
            with contextlib.suppress(ProviderTrouble):  # it may not be back at the first try
                await service.publish("R1", b"too early")

            async def publish(notice: bytes) -> None:
                with contextlib.suppress(ProviderTrouble):
                    await service.publish("R1", notice)

            await inbox.wait_for({b"after"}, publish)  # type: ignore[arg-type]  # a publisher that waits for the server
        await service.close()


async def test_while_a_server_is_away_publishing_says_so() -> None:
    with running_nats() as server:
        service = router(server, "R1")
        await service.publish("R1", b"x")
        server.kill()
        line = service._line
        assert line is not None
        async with asyncio.timeout(SECONDS):
            while service.is_connected:
                with contextlib.suppress(ProviderTrouble):
                    await line.settle()
        with pytest.raises(ProviderTrouble, match="out of reach: Connection refused") as trouble:
            await service.publish("R1", b"x")
        assert trouble.value.retry is Retry.LATER
        await service.close()


async def test_of_several_servers_one_that_is_away_is_passed_over(nats_server: NatsServer) -> None:
    url = f"nats://127.0.0.1:1,127.0.0.1:{nats_server.port}"
    service = router(nats_server, "R1", url=url)
    assert [at.port for at in NatsProvider().hosts(url)] == [1, nats_server.port]
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                await service.publish("R1", b"x")
            except ProviderTrouble:
                await asyncio.sleep(0)
            else:
                break
    await service.close()


async def test_who_takes_nothing_holds_a_bounded_heap_of_notices_and_nobody_up(nats_server: NatsServer) -> None:
    mailbox = secrets.token_hex(8)
    slow, fast = router(nats_server, mailbox), router(nats_server, "R7")
    again = Publisher(fast, mailbox)
    async with tasks_of("test") as tasks, asyncio.timeout(60):
        await slow.publish(mailbox, b"")  # connected
        notices = slow.listen(mailbox)

        async def take_one() -> None:
            await anext(notices)

        first = tasks.spawn(take_one(), name="the only one that is taken")
        while not first.done():
            await again(b"wake")
            await fast._line.settle()  # type: ignore[union-attr]  # it is open
        notice = bytes(128 * 1024)
        async with asyncio.timeout(8):  # below the 10 s for which a server waits for one who reads nothing
            for _ in range(1600):
                await again(notice)
                assert slow.waiting_bytes <= _MOST_WAITING_BYTES
            await fast._line.settle()  # type: ignore[union-attr]  # it is open
        assert slow.waiting_bytes > _MOST_WAITING_BYTES - len(notice)
        await Inbox(tasks, notices).wait_for({b"last"}, again)
    await slow.close()
    await fast.close()


async def test_a_smaller_limit_of_the_server_is_kept() -> None:
    with running_nats(options="max_payload: 65536") as server:
        service = router(server, "R1")
        with pytest.raises(ProviderTrouble, match="at most 65536 bytes") as refused:
            await service.publish("R1", bytes(65537))
        assert refused.value.retry is Retry.NEVER
        assert service.traits.max_notice_bytes == 65536
        await service.publish("R1", bytes(65536))
        await service._line.settle()  # type: ignore[union-attr]  # it is open
        await service.close()


async def test_prompt_publishing_waits_for_nothing(nats_server: NatsServer) -> None:
    service = router(nats_server, "R1")
    assert isinstance(service, PromptSignalling)
    assert service.publish_at_once("R1", b"not yet connected") is False
    arrived: list[bytes] = []
    service.attach("R1", arrived.append)
    await service.publish("R1", b"first")
    assert service.publish_at_once("R1", b"second") is True
    await service._line.settle()  # type: ignore[union-attr]  # it is open
    assert arrived[-2:] == [b"first", b"second"]
    with pytest.raises(ProviderTrouble):
        service.publish_at_once("R1", bytes(service.traits.max_notice_bytes + 1))
    await service.close()


@pytest.fixture(scope="session")
def secure_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    folder = tmp_path_factory.mktemp("nats-tls")
    certificate, key = make_certificate(["localhost", "127.0.0.1"], dt.datetime.now(dt.UTC))  # noqa: TID251 - of tests
    (folder / "cert.pem").write_bytes(certificate)
    (folder / "key.pem").write_bytes(key)
    with running_nats(certificate=(folder / "cert.pem", folder / "key.pem")) as server:
        yield server


@pytest.mark.parametrize("by_websocket", [False, True])
@pytest.mark.parametrize("by_proxy", [False, True])
async def test_tls_goes_through_a_proxy_and_trusts_a_ca_of_ones_own(
    secure_nats: NatsServer, by_websocket: bool, by_proxy: bool
) -> None:
    assert secure_nats.certificate is not None
    url = secure_nats.websocket_url if by_websocket else secure_nats.url
    async with connect_proxy("u:p w") as proxy:
        way = Way(f"http://u:p%20w@127.0.0.1:{proxy.port}" if by_proxy else None, secure_nats.certificate[0])
        service = router(secure_nats, "R1", url=url, way=way)
        async with tasks_of("test") as tasks:
            inbox = await ask(service, "R1", tasks)
            largest = secrets.token_bytes(service.traits.max_notice_bytes)
            await inbox.wait_for({largest}, Publisher(service, "R1"))
        await service.close()
        assert proxy.asked == ([f"127.0.0.1:{url.rpartition(':')[2]}"] if by_proxy else [])


@pytest.mark.parametrize("by_websocket", [False, True])
async def test_a_certificate_of_nobody_is_not_trusted(secure_nats: NatsServer, by_websocket: bool) -> None:
    service = router(secure_nats, "R1", url=secure_nats.websocket_url if by_websocket else secure_nats.url)
    with pytest.raises(ProviderTrouble, match="certificate is not trusted"):
        await service.publish("R1", b"x")
    await service.close()


async def test_tls_that_was_asked_for_is_not_done_without(nats_server: NatsServer) -> None:
    service = router(nats_server, "R1", url=nats_server.url.replace("nats:", "nats+tls:"))
    with pytest.raises(ProviderTrouble, match="offers no TLS"):
        await service.publish("R1", b"x")
    await service.close()


async def test_a_proxy_that_refuses_is_named(nats_server: NatsServer) -> None:
    async with connect_proxy("u:right") as proxy:
        for account, said in (("", "wants to know who asks"), ("u:wrong@", "wants to know who asks")):
            service = router(nats_server, "R1", way=Way(f"http://{account}127.0.0.1:{proxy.port}"))
            with pytest.raises(ProviderTrouble, match=said):
                await service.publish("R1", b"x")
            await service.close()
    async with connect_proxy("", status="403 Forbidden") as proxy:
        service = router(nats_server, "R1", way=Way(f"http://127.0.0.1:{proxy.port}"))
        with pytest.raises(ProviderTrouble, match="does not let us through") as trouble:
            await service.publish("R1", b"x")
        assert "CONNECT" in trouble.value.hint
        await service.close()


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\n\r\n", b"SSH-2.0-OpenSSH\r\n", b"INFO {}\r\n", b"x" * 100_000]
)
@pytest.mark.parametrize("scheme", ["nats", "nats+ws"])
async def test_what_is_no_nats_server_is_told_so(answer: bytes, scheme: str) -> None:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    other = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = other.sockets[0].getsockname()[1]
    service = NatsSignalling(
        Place.parse(f"{scheme}://127.0.0.1:{port}"), LentKeys("nats://h", {"user": "u"}, "R1"), NOWHERE, Counter()
    )
    with pytest.raises(ProviderTrouble) as trouble:
        await service.publish("R1", b"x")
    assert trouble.value.retry is Retry.LATER
    await service.close()
    other.close()
    await other.wait_closed()


@pytest.mark.parametrize(
    "url",
    ["nats://", "nats://u:p@h", "nats+smoke://h", "nats://h/path", "nats://h?x=1", "nats+ws://h/a b", "nats://h?prefix=a.b",
     "nats://h:99999", "http://h"],
)  # fmt: skip
def test_a_url_that_is_none_of_nats_is_refused(url: str) -> None:
    with pytest.raises(OperatorError):
        NatsProvider().hosts(url)


def test_urls_name_the_hosts_that_are_connected_to() -> None:
    assert [str(at) for at in NatsProvider().hosts("nats+wss://a,b:8443/nats")] == ["a:443", "b:8443"]
    assert [str(at) for at in NatsProvider().hosts("nats+tls://[::1]:1?prefix=x")] == ["[::1]:1"]


async def test_set_up_makes_an_account_says_how_to_configure_and_then_finds_it_known() -> None:
    provider = NatsProvider()
    said = await provider.set_up("nats://127.0.0.1:1", {}, NOWHERE, keep_days=7)
    seed = said[2].rpartition(" ")[2]
    with running_nats() as server:
        server.kill()
        server.account = Nkey.parse(seed, Role.ACCOUNT)
        again = await provider.set_up(server.url, {"account_seed": seed}, NOWHERE, keep_days=7)
        assert "does not know the account yet" in again[0]
        for configuration in (said[-1], again[-1]):
            assert server.account.public in configuration
            assert seed not in configuration
        server.start()
        known = await provider.set_up(server.url, {"account_seed": seed}, NOWHERE, keep_days=7)
        assert known == [f"the server knows the account {server.account.public}"]


async def test_a_signing_key_of_an_account_that_somebody_else_keeps_is_enough() -> None:
    operator, account, signer = Nkey.make(Role.OPERATOR), Nkey.make(Role.ACCOUNT), Nkey.make(Role.ACCOUNT)
    limits = dict.fromkeys(("subs", "data", "payload", "imports", "exports", "conn", "leaf"), -1)
    known = _statement(
        operator,
        account.public,
        "ours",
        {"type": "account", "version": 2, "limits": {**limits, "wildcards": True}, "signing_keys": [signer.public]},
        now=1,
    )
    options = (
        f"operator: {operator_statement(operator, now=1)}\nresolver: MEMORY\n"
        f"resolver_preload: {{ {account.public}: {known} }}\n"
    )
    with running_nats(in_operator_mode=False, options=options) as server:
        keys = {"account_seed": signer.seed, "account": account.public}
        said = await NatsProvider().set_up(server.url, keys, NOWHERE, keep_days=1)
        assert said == [f"the server knows the account {account.public}"]
        with pytest.raises(ProviderTrouble, match="does not accept these keys"):
            await NatsProvider().set_up(
                server.url,
                {"account_seed": Nkey.make(Role.ACCOUNT).seed, "account": account.public},
                NOWHERE,
                keep_days=1,
            )


async def test_setting_up_with_a_user_says_that_isolation_is_the_servers() -> None:
    options = 'authorization { user: "u", password: "p" }'
    with running_nats(in_operator_mode=False, options=options) as server:
        said = await NatsProvider().set_up(server.url, {"user": "u", "password": "p"}, NOWHERE, keep_days=1)
        assert "up to the server" in said[1]
        with pytest.raises(ProviderTrouble, match="does not accept these keys"):
            await NatsProvider().set_up(server.url, {"user": "u", "password": "wrong"}, NOWHERE, keep_days=1)
