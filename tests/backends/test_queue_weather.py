"""Both queue services behind something that fails: what heals by itself, what is told, and how often one asks."""

import asyncio
import datetime as dt
import json
import random
import secrets
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.backends.meter import Counts
from tests.backends.servers.azurite import ACCOUNT, ACCOUNT_KEY, AzuriteServer
from tests.backends.servers.azurite import azurite as azurite
from tests.backends.servers.connect_proxy import connect_proxy
from tests.backends.servers.front import Front, Mishap, running_front
from tests.backends.servers.moto import MotoServer
from tests.backends.servers.moto import moto as moto

from isthmus.adapters.blobstore.memory import MemoryBlobstore
from isthmus.bridge.tls import make_certificate
from isthmus.cloudio.options import MIB
from isthmus.cloudio.pool import Pool
from isthmus.cloudio.providers import signalling_provider
from isthmus.cloudio.stream import Cloud, Duplex
from isthmus.envelope.keys import SessionKeys
from isthmus.errors import ProviderTrouble, Retry
from isthmus.kit.clock import SystemClock
from isthmus.kit.tasks import Tasks
from isthmus.ports.provider import GivenKeys, Loan, Surroundings, Way
from isthmus.ports.signalling import Signalling
from isthmus.testing.recorder import Recorder

ONE, TWO = "A" * 36, "B2" * 18
SERVICES = ("sqs", "azqueue")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a service is, and the operator's keys there; `{}` stands for the port."""

    port: int
    url: str
    operator: Mapping[str, str]
    fields: Mapping[str, str]

    async def opened(self, front: Front, counts: Counts, way: Way = Way(), *, tls: bool = False) -> Signalling:  # noqa: B008 - frozen
        """Return the service behind `front`, with a queue for each of two mailboxes."""
        url = self.url.format(front.port, "yes" if tls else "no")
        provider = signalling_provider(url)
        for mailbox in (ONE, TWO):
            await provider.lend(url, self.operator, mailbox, way)
        return provider.open(url, Surroundings(GivenKeys(Loan(self.fields)), way, counts))


@pytest.fixture(params=SERVICES)
def place(request: pytest.FixtureRequest, moto: MotoServer, azurite: AzuriteServer) -> Place:
    namespace = secrets.token_hex(6)
    if request.param == "sqs":
        operator = {"access_key_id": "AKIATEST", "secret_access_key": "test"}
        url = f"sqs://127.0.0.1:{{}}/{namespace}?tls={{}}"
        return Place(moto.port, url, operator, {**operator, "account": "123456789012"})
    operator = {"account_key": ACCOUNT_KEY}
    return Place(azurite.queue_port, f"azqueue://127.0.0.1:{{}}/{ACCOUNT}/{namespace}?tls={{}}", operator, operator)


@dataclass(slots=True)
class Setting:
    """A service, what is in front of it, and what was counted."""

    service: Signalling
    front: Front
    counts: Counts

    async def heard(self, mailbox: str) -> bytes:
        return await heard(self.service, mailbox)


async def heard(service: Signalling, mailbox: str) -> bytes:
    async with asyncio.timeout(20):
        return await anext(aiter(service.listen(mailbox)))


@pytest.fixture
async def setting(place: Place) -> AsyncIterator[Setting]:
    counts = Counts()
    async with running_front(place.port) as front:
        service = await place.opened(front, counts)
        yield Setting(service, front, counts)
        await service.close()


@pytest.mark.parametrize("mishap", Mishap)
async def test_one_mishap_is_nobodys_trouble_and_counted(setting: Setting, mishap: Mishap) -> None:
    setting.front.ahead.append(mishap)
    await setting.service.publish(ONE, b"again")
    assert await setting.heard(ONE) == b"again"
    assert setting.counts.requests["publish"] == 2


@pytest.mark.parametrize("mishap", [Mishap.BUSY, Mishap.BROKEN, Mishap.THROTTLED, Mishap.CUT])
async def test_a_service_that_stays_in_trouble_is_told_to_who_publishes(setting: Setting, mishap: Mishap) -> None:
    setting.front.ahead.extend([mishap] * 2)
    with pytest.raises(ProviderTrouble) as trouble:
        await setting.service.publish(ONE, b"x")
    assert trouble.value.retry is Retry.LATER
    assert "\n" not in str(trouble.value)
    await setting.service.publish(ONE, b"afterwards")
    assert await setting.heard(ONE) == b"afterwards"


async def test_a_listener_outlives_a_service_in_trouble(setting: Setting) -> None:
    setting.front.ahead.extend([Mishap.BUSY, Mishap.CUT, Mishap.THROTTLED, Mishap.BROKEN])
    setting.front.calm.clear()
    listening = aiter(setting.service.listen(ONE))

    async def publish_when_it_works() -> None:
        await setting.front.calm.wait()
        await setting.service.publish(ONE, b"still there?")

    tasks = Tasks("test")
    tasks.spawn(publish_when_it_works(), name="publish")
    async with asyncio.timeout(20):
        assert await anext(listening) == b"still there?"
    assert not setting.front.ahead
    await tasks.close()


async def test_nobody_there_is_trouble_that_may_pass(setting: Setting) -> None:
    await setting.service.publish(ONE, b"x")
    setting.front.ahead.extend([Mishap.CUT] * 100)
    async with asyncio.timeout(20):
        with pytest.raises(ProviderTrouble, match="out of reach") as trouble:
            await setting.service.publish(ONE, b"x")
    assert trouble.value.retry is Retry.LATER


@pytest.mark.parametrize("place", ["sqs"], indirect=True)
async def test_an_idle_listener_at_sqs_asks_once_in_20_seconds_which_is_129600_a_month(setting: Setting) -> None:
    setting.front.bodies.clear()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(3):
            await anext(aiter(setting.service.listen(ONE)))
    assert [json.loads(body)["WaitTimeSeconds"] for body in setting.front.bodies] == [20]
    assert 30 * 24 * 3600 / 20 <= 150_000


class Shuffling:
    """A service whose notices come up to half a second late, one in three of them twice."""

    def __init__(self, inner: Signalling, tasks: Tasks) -> None:
        self._inner = inner
        self._tasks = tasks
        self._chance = random.Random(4)
        self.traits = inner.traits

    async def publish(self, to: str, notice: bytes) -> None:
        for _ in range(self._chance.choice((1, 1, 2))):
            self._tasks.spawn(self._late(to, notice, self._chance.random() / 2), name="late")

    async def _late(self, to: str, notice: bytes, wait: float) -> None:
        await asyncio.sleep(wait)
        await self._inner.publish(to, notice)

    def listen(self, at: str) -> AsyncIterator[bytes]:
        return self._inner.listen(at)

    async def close(self) -> None:
        await self._inner.close()


class Taker(Recorder):
    """Takes what comes and lets more come at once."""

    stream: Duplex

    def on_data(self, payload: bytes) -> None:
        super().on_data(payload)
        self.stream.consumed(len(payload))


async def test_a_stream_arrives_whole_though_notices_come_twice_and_late(setting: Setting) -> None:
    devices, tasks = (Taker(), Taker()), Tasks("test")
    cloud = Cloud(Shuffling(setting.service, tasks), MemoryBlobstore())
    sides = [
        Duplex(
            session_id=bytes(16),
            keys=SessionKeys.derive(bytes(32), initiator=index == 0),
            cloud=cloud,
            to=(TWO, ONE)[index],
            pool=Pool(),
            clock=SystemClock(),
            first_credit_out=8 * MIB,
            first_credit_in=8 * MIB,
            observer=devices[index],
        )
        for index in (0, 1)
    ]

    async def listen(index: int) -> None:
        async for notice in setting.service.listen((ONE, TWO)[index]):
            sides[index].receive(notice)

    for index, side in enumerate(sides):
        devices[index].stream = side
        tasks.spawn(listen(index), name="listen")
    runs = [tasks.spawn(side.run(), name="run") for side in sides]
    content = secrets.token_bytes(6 * MIB)
    for start in range(0, len(content), MIB // 3):
        sides[0].write(content[start : start + MIB // 3], flush=True)
        sides[1].write(content[start : start + 100], flush=True)
    for side in sides:
        side.finish()
    async with asyncio.timeout(60):
        await asyncio.gather(*runs)
    assert b"".join(devices[1].data) == content
    assert all(side.complete for side in sides)
    await tasks.close()


@pytest.fixture
def secure(tmp_path: Path) -> tuple[ssl.SSLContext, Path]:
    """Give a certificate that only who has its CA trusts."""
    certificate, key = make_certificate(["localhost", "127.0.0.1"], dt.datetime.now(dt.UTC))  # noqa: TID251 - of tests
    (tmp_path / "cert.pem").write_bytes(certificate)
    (tmp_path / "key.pem").write_bytes(key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    return context, tmp_path / "cert.pem"


@pytest.mark.parametrize("by_proxy", [False, True])
async def test_it_goes_by_tls_with_a_private_ca_and_through_a_proxy_with_an_account(
    place: Place, secure: tuple[ssl.SSLContext, Path], by_proxy: bool
) -> None:
    async with running_front(place.port, tls=secure[0]) as front, connect_proxy("u:p w") as proxy:
        way = Way(f"http://u:p%20w@127.0.0.1:{proxy.port}" if by_proxy else None, secure[1])
        service = await place.opened(front, Counts(), way, tls=True)
        try:
            await service.publish(ONE, b"hello")
            assert await heard(service, ONE) == b"hello"
        finally:
            await service.close()
        assert set(proxy.asked) == ({f"127.0.0.1:{front.port}"} if by_proxy else set())


async def test_a_certificate_of_nobody_is_not_trusted(place: Place, secure: tuple[ssl.SSLContext, Path]) -> None:
    async with running_front(place.port, tls=secure[0]) as front:
        with pytest.raises(ProviderTrouble, match="TLS") as refused:
            await place.opened(front, Counts(), tls=True)
        assert refused.value.retry is Retry.LATER
        assert refused.value.hint


async def test_a_proxy_that_refuses_is_named(place: Place) -> None:
    async with running_front(place.port) as front, connect_proxy(status="403 Forbidden") as proxy:
        with pytest.raises(ProviderTrouble, match="proxy") as refused:
            await place.opened(front, Counts(), Way(f"http://127.0.0.1:{proxy.port}"), tls=True)
        assert refused.value.retry is Retry.LATER
