"""Keys for NATS: what they open, and that they are renewed in time."""

import asyncio
import contextlib
import secrets
from pathlib import Path
from typing import Any

import nats
import nkeys  # type: ignore[import-untyped]  # has no types
import pytest
from tests.backends.on_nats import NOWHERE, SECONDS, Counter, LentKeys, ask, router, tasks_of
from tests.backends.servers.nats import NatsServer, nats_server, running_nats

from isthmus.adapters.signalling.nats import service as service_module
from isthmus.adapters.signalling.nats.accounts import Nkey, Role, operator_of
from isthmus.adapters.signalling.nats.line import Line
from isthmus.adapters.signalling.nats.provider import NatsProvider
from isthmus.adapters.signalling.nats.service import NatsSignalling
from isthmus.adapters.signalling.nats.way import Place
from isthmus.errors import OperatorError, ProviderTrouble, Retry
from isthmus.kit.clock import SystemClock
from isthmus.ports.provider import Loan, Surroundings

__all__ = ["nats_server"]  # a fixture


def test_keys_are_spelt_as_nats_spells_them() -> None:
    for role, letters in ((Role.ACCOUNT, "SA"), (Role.OPERATOR, "SO"), (Role.USER, "SU")):
        made = Nkey.make(role)
        theirs = nkeys.from_seed(bytearray(made.seed.encode()))
        assert made.seed.startswith(letters)
        assert theirs.public_key.decode() == made.public
        assert theirs.verify(b"content", made.sign(b"content"))
        assert Nkey.parse(made.seed, role) == made
        assert made.seed not in repr(made)


@pytest.mark.parametrize("damage", ["", "SA", "x" * 58, "S" * 58])
def test_a_mistyped_seed_is_refused_with_what_it_should_look_like(damage: str) -> None:
    with pytest.raises(OperatorError) as refused:
        Nkey.parse(damage, Role.ACCOUNT)
    assert "SA" in refused.value.hint
    with pytest.raises(OperatorError):
        Nkey.parse(Nkey.make(Role.USER).seed, Role.ACCOUNT)


def test_the_operator_of_an_account_is_always_the_same() -> None:
    account = Nkey.make(Role.ACCOUNT)
    assert operator_of(account) == operator_of(account)
    assert operator_of(account).public != operator_of(Nkey.make(Role.ACCOUNT)).public


async def test_another_implementation_comes_in_with_what_was_lent(nats_server: NatsServer, tmp_path: Path) -> None:
    loan = await NatsProvider().lend(nats_server.url, {"account_seed": nats_server.account.seed}, "R1", NOWHERE)
    path = tmp_path / "user.creds"
    path.write_text(
        f"-----BEGIN NATS USER JWT-----\n{loan.fields['jwt']}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{loan.fields['seed']}\n------END USER NKEY SEED------\n"
    )
    other = await nats.connect(nats_server.url, user_credentials=str(path), allow_reconnect=False)
    ours = router(nats_server, "R2")
    async with tasks_of("test") as tasks:
        inbox = await ask(ours, "R2", tasks)
        await other.publish("isthmus.R2", b"from another implementation")
        await other.flush()
        async with asyncio.timeout(SECONDS):
            while b"from another implementation" not in inbox.notices:
                inbox.arrived.clear()
                await inbox.arrived.wait()
    await other.close()
    await ours.close()


async def test_a_credential_reads_its_own_mailbox_and_nobody_elses(nats_server: NatsServer) -> None:
    mine, theirs = secrets.token_hex(8), secrets.token_hex(8)
    service, other = router(nats_server, mine), router(nats_server, theirs)
    async with tasks_of("test") as tasks:
        await ask(other, theirs, tasks)
        await ask(service, mine, tasks)
        stolen = service.listen(theirs)
        with pytest.raises(ProviderTrouble) as refused:
            async with asyncio.timeout(SECONDS):
                await anext(stolen)
        assert refused.value.retry is Retry.NEVER
    await service.close()
    await other.close()


@pytest.mark.parametrize("subject", ["isthmus.>", "isthmus.*", ">", "_INBOX.x"])
async def test_a_credential_listens_at_no_pattern(nats_server: NatsServer, subject: str) -> None:
    complaints = await complained(nats_server, f"SUB {subject} 1\r\n".encode())
    assert complaints == [f'Permissions Violation for Subscription to "{subject}"']


@pytest.mark.parametrize("subject", ["elsewhere", "$SYS.REQ.SERVER.PING", "isthmus.a.b", "$JS.API.INFO"])
async def test_a_credential_publishes_to_mailboxes_only(nats_server: NatsServer, subject: str) -> None:
    complaints = await complained(nats_server, f"PUB {subject} 1\r\nx\r\n".encode())
    assert complaints == [f'Permissions Violation for Publish to "{subject}"']


async def complained(server: NatsServer, raw: bytes) -> list[str]:
    """Return what the server complains of when somebody with a Router's keys says `raw`."""
    service = router(server, "R1")
    async with asyncio.timeout(SECONDS):
        await service.publish("R1", b"")
        line = service._line
        assert line is not None
        heard: list[str] = []
        line._on_error = heard.append
        line._write(raw)
        await line.settle()
    await service.close()
    return heard


async def test_a_key_that_the_server_does_not_know_is_refused_in_a_plain_sentence(nats_server: NatsServer) -> None:
    service = router(nats_server, "R1", account_seed=Nkey.make(Role.ACCOUNT).seed)
    for _ in range(2):
        with pytest.raises(ProviderTrouble) as refused:
            await service.publish("R1", b"x")
        assert refused.value.retry is Retry.NEVER
        assert str(refused.value) == f"NATS at 127.0.0.1:{nats_server.port} does not accept these keys"
        assert "isthmus provider setup" in refused.value.hint
    with pytest.raises(ProviderTrouble):
        await anext(service.listen("R1"))
    await service.close()


async def test_a_seed_that_is_none_is_refused_where_it_is_used(nats_server: NatsServer) -> None:
    with pytest.raises(ProviderTrouble) as refused:
        await NatsProvider().lend(nats_server.url, {"account_seed": "SAXY"}, "R1", NOWHERE)
    assert refused.value.retry is Retry.NEVER
    with pytest.raises(ProviderTrouble):
        await NatsProvider().lend(nats_server.url, {}, "R1", NOWHERE)


class SlowClock(SystemClock):
    """A clock that is behind, so that what it lends is over."""

    def now(self) -> float:
        return super().now() - 7200


async def test_keys_that_are_over_are_told_from_wrong_ones(nats_server: NatsServer) -> None:
    keys = LentKeys(nats_server.url, {"account_seed": nats_server.account.seed}, "R1", NatsProvider(SlowClock()))
    service = NatsProvider().open(nats_server.url, Surroundings(keys, NOWHERE, Counter()))
    with pytest.raises(ProviderTrouble, match="no longer good") as refused:
        await service.publish("R1", b"x")
    assert refused.value.retry is Retry.LATER
    await service.close()


async def test_a_server_that_asks_nobody_is_not_given_a_mailbox() -> None:
    with running_nats(in_operator_mode=False) as server:
        service = router(server, "R1")
        with pytest.raises(ProviderTrouble, match="anybody could read") as refused:
            await service.publish("R1", b"x")
        assert refused.value.retry is Retry.NEVER
        await service.close()


async def test_keys_are_renewed_before_they_end_and_nothing_is_lost(nats_server: NatsServer) -> None:
    mailbox = secrets.token_hex(8)
    keys = LentKeys(
        nats_server.url, {"account_seed": nats_server.account.seed}, mailbox, NatsProvider(loan_seconds=3.5)
    )
    service = NatsSignalling(Place.parse(nats_server.url), keys, NOWHERE, Counter())
    sender = router(nats_server, "R9")
    arrived: list[bytes] = []
    service.attach(mailbox, arrived.append)
    async with asyncio.timeout(SECONDS):
        await service.publish(mailbox, b"begin")
        await service._line.settle()  # type: ignore[union-attr]  # it is open
        assert arrived == [b"begin"]
        sent = 0
        while len(keys.lent) < 4:
            await sender.publish(mailbox, sent.to_bytes(4, "big"))
            sent += 1
            await asyncio.sleep(0)
            if sent % 100 == 0:
                await sender._line.settle()  # type: ignore[union-attr]  # it is open
        await sender._line.settle()  # type: ignore[union-attr]  # it is open
        await service._line.settle()  # type: ignore[union-attr]  # it is open
        wanted = {number.to_bytes(4, "big") for number in range(sent)}
        assert not wanted.difference(arrived)
    await service.close()
    await sender.close()


async def test_no_connection_is_left_by_one_who_closes_while_keys_are_renewed(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[Line] = []
    renewing = asyncio.Event()

    class Counted(Line):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            lines.append(self)
            if len(lines) == 2:
                renewing.set()

    monkeypatch.setattr(service_module, "Line", Counted)
    monkeypatch.setattr(NatsSignalling, "_renewal", lambda *_: 0.01)  # again and again
    for turns in range(60):
        service = router(nats_server, "R1")
        async with asyncio.timeout(SECONDS):
            await service.publish("R1", b"begin")
            await renewing.wait()
            for _ in range(turns):  # of the loop, so that each moment of a renewal is met
                await asyncio.sleep(0)
            await service.close()
            await asyncio.sleep(0)  # what was ended at once is told in the next turn
        assert [line for line in lines if line._transport is not None] == []
        lines.clear()
        renewing.clear()


class UnreachableBridge(LentKeys):
    """Keys of a Bridge that answers once, and then not for a while."""

    async def loan(self) -> Loan:
        if 0 < len(self.lent) < 4:
            self.lent.append(Loan({}))
            raise ProviderTrouble("the Bridge is out of reach", retry=Retry.LATER)
        return await super().loan()


async def test_keys_that_ended_while_the_bridge_was_away_are_asked_for_again(nats_server: NatsServer) -> None:
    mailbox = secrets.token_hex(8)
    keys = UnreachableBridge(
        nats_server.url, {"account_seed": nats_server.account.seed}, mailbox, NatsProvider(loan_seconds=2.5)
    )
    service = NatsSignalling(Place.parse(nats_server.url), keys, NOWHERE, Counter())
    arrived = asyncio.Event()
    async with asyncio.timeout(SECONDS):
        await service.publish(mailbox, b"with the first keys")
        first = service._line
        assert first is not None
        await service._ends[first].wait()  # the server ended it
        service.attach(mailbox, lambda _: arrived.set())
        with pytest.raises(ProviderTrouble, match="the Bridge is out of reach") as trouble:
            await service.publish(mailbox, b"without any")
        assert trouble.value.retry is Retry.LATER
        while not arrived.is_set():
            with contextlib.suppress(ProviderTrouble):
                await service.publish(mailbox, b"with others")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await arrived.wait()
    await service.close()
