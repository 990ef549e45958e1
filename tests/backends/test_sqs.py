"""SQS as signalling service, against moto."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator

import pytest
from tests.backends.meter import Counts
from tests.backends.servers.moto import MotoServer
from tests.backends.servers.moto import moto as moto

from isthmus.adapters.signalling.keys import KeysAtHand
from isthmus.adapters.signalling.sqs import PROVIDER
from isthmus.ports.provider import Loan, Surroundings, Way
from isthmus.ports.signalling import Signalling
from isthmus.testing.signalling_suite import SignallingSuite

OPERATOR = {"access_key_id": "AKIATESTTESTTEST", "secret_access_key": "test"}
ACCOUNT = "123456789012"  # moto's


@pytest.fixture
def namespace() -> str:
    return secrets.token_hex(6)


@pytest.fixture
def counts() -> Counts:
    return Counts()


def opened(url: str, counts: Counts, fields: dict[str, str] | None = None) -> Signalling:
    loan = Loan(fields or {**OPERATOR, "account": ACCOUNT})
    return PROVIDER.open(url, Surroundings(KeysAtHand(loan), Way(), counts))


class TestSqs(SignallingSuite):
    @pytest.fixture
    async def signalling(self, moto: MotoServer, namespace: str, counts: Counts) -> AsyncIterator[Signalling]:
        service = opened(moto.url(namespace), counts)
        yield service
        await service.close()


async def test_what_the_bridge_lends_carries_a_notice_between_two_routers(
    moto: MotoServer, namespace: str, counts: Counts
) -> None:
    url, other = moto.url(namespace), Counts()
    loans = [await PROVIDER.lend(url, OPERATOR, mailbox, Way()) for mailbox in ("A" * 36, "B" * 36)]
    assert all(loan.expires is not None and 3500 < loan.expires - time.time() < 3700 for loan in loans)
    sender, receiver = (
        opened(url, meter, dict(loan.fields)) for meter, loan in zip((counts, other), loans, strict=True)
    )
    try:
        await sender.publish("B" * 36, b"are you there?")
        async with asyncio.timeout(10):
            assert await anext(aiter(receiver.listen("B" * 36))) == b"are you there?"
    finally:
        await sender.close()
        await receiver.close()
    assert counts.requests == {"publish": 1}


async def test_set_up_tries_what_routers_do_and_says_that_this_service_heeds_no_policies(
    moto: MotoServer, namespace: str
) -> None:
    for _ in range(2):
        said = await PROVIDER.set_up(moto.url(namespace), OPERATOR, Way(), keep_days=7)
        assert said[-1].startswith("this service heeds no policies")
        assert any("send to every mailbox" in line for line in said)
