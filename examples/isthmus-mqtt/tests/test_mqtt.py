"""MQTT against the suite of Isthmus, and what is particular to it, at a real broker."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence

import pytest

from isthmus.cloudio.providers import signalling_provider
from isthmus.errors import OperatorError, ProviderTrouble, Retry
from isthmus.kit.tasks import Tasks
from isthmus.ports.provider import Loan, Surroundings, Way
from isthmus.ports.signalling import Signalling
from isthmus.testing.signalling_suite import Inbox, Publisher, SignallingSuite
from mosquitto import PASSWORD, Mosquitto, running_mosquitto


class Keys:
    """The keys of one Router."""

    def __init__(self, user: str, password: str) -> None:
        self._fields = {"user": user, "password": password}

    async def loan(self) -> Loan:
        return Loan(self._fields)

    async def urls(self, method: str, names: Sequence[str]) -> list[str]:
        raise NotImplementedError


class Meter:
    """Counts nothing: nobody pays for this broker."""

    def count(self, kind: str, *, up: int = 0, down: int = 0) -> None: ...


def opened(url: str, user: str = "all", password: str = PASSWORD, way: Way | None = None) -> Signalling:
    """Return the service that the entry point of the URL's scheme opens."""
    return signalling_provider(url).open(url, Surroundings(Keys(user, password), way or Way(), Meter()))


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with running_mosquitto(tmp_path_factory.mktemp("broker"), "R1", "R2") as running:
        yield running


class TestMqtt(SignallingSuite):
    """What every signalling service must do."""

    @pytest.fixture
    async def signalling(self, broker: Mosquitto) -> AsyncIterator[Signalling]:
        service = opened(broker.url)
        yield service
        await service.close()


async def test_a_user_that_the_broker_does_not_know_is_refused_for_good(broker: Mosquitto) -> None:
    service = opened(broker.url, "all", "another word")
    with pytest.raises(ProviderTrouble, match="does not accept this user") as refused:
        await service.publish("R1", b"x")
    assert refused.value.retry is Retry.NEVER
    await service.close()


async def test_a_site_with_a_user_of_its_own_reads_its_own_mailbox_only(broker: Mosquitto) -> None:
    mine, theirs, tasks = opened(broker.url, "R1"), opened(broker.url, "R2"), Tasks("test")
    own = Inbox(tasks, mine.listen("R1"))
    await own.wait_for({b"for R1"}, Publisher(theirs, "R1"))
    stolen = Inbox(tasks, mine.listen("R2"))
    read = Inbox(tasks, theirs.listen("R2"))
    await read.wait_for({b"for R2"}, Publisher(mine, "R2"))
    await own.wait_for({b"later"}, Publisher(theirs, "R1"))  # so that the other would have come, too
    assert stolen.notices == []
    await tasks.close()
    await mine.close()
    await theirs.close()


async def test_a_broker_that_was_killed_is_found_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    with running_mosquitto(tmp_path_factory.mktemp("killed")) as broker:
        service, tasks = opened(broker.url), Tasks("test")
        inbox = Inbox(tasks, service.listen("R1"))
        await inbox.wait_for({b"before"}, Publisher(service, "R1"))
        broker.kill()
        broker.start()
        async with asyncio.timeout(20):
            while b"after" not in inbox.notices:
                inbox.arrived.clear()
                with contextlib.suppress(ProviderTrouble):
                    await service.publish("R1", b"after")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(inbox.arrived.wait(), 0.2)
        await tasks.close()
        await service.close()


async def test_a_broker_that_is_not_there_is_a_passing_trouble() -> None:
    service = opened("mqtt://127.0.0.1:1")
    with pytest.raises(ProviderTrouble, match="out of reach") as trouble:
        await service.publish("R1", b"x")
    assert trouble.value.retry is Retry.LATER
    await service.close()


async def test_a_proxy_is_said_to_be_no_way(broker: Mosquitto) -> None:
    service = opened(broker.url, way=Way(proxy="http://127.0.0.1:1"))
    with pytest.raises(ProviderTrouble, match="no proxy"):
        await service.publish("R1", b"x")
    await service.close()


async def test_what_is_lent_and_set_up_is_said(broker: Mosquitto) -> None:
    provider = signalling_provider(broker.url)
    loan = await provider.lend(broker.url, {"user": "u", "password": "p"}, "R1", Way())
    assert dict(loan.fields) == {"user": "u", "password": "p"}
    assert "p" not in repr(loan).replace("expires", "")
    with pytest.raises(ProviderTrouble):
        await provider.lend(broker.url, {}, "R1", Way())
    assert await provider.set_up(broker.url, {}, Way(), keep_days=7)


def test_urls_name_the_broker_or_are_refused() -> None:
    provider = signalling_provider("mqtts://h")
    assert [str(at) for at in provider.hosts("mqtts://broker.example.org")] == ["broker.example.org:8883"]
    assert [str(at) for at in provider.hosts("mqtt://h:1?prefix=x")] == ["h:1"]
    for url in ("mqtts://u:p@h", "mqtts://h/path", "mqtts://", "mqtts://h?x=1", "mqtts://h?prefix=a/b"):
        with pytest.raises(OperatorError):
            provider.hosts(url)
