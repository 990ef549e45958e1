"""SQS as signalling service, against moto."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator

import pytest
from tests.backends.meter import Counts
from tests.backends.servers.moto import MotoServer, StrictMoto
from tests.backends.servers.moto import moto as moto
from tests.backends.servers.moto import strict_moto as strict_moto

from isthmus.adapters.signalling.sqs import PROVIDER
from isthmus.errors import ProviderTrouble, Retry
from isthmus.ports.provider import GivenKeys, Loan, Surroundings, Way
from isthmus.ports.signalling import Signalling
from isthmus.testing.signalling_suite import SignallingSuite

OPERATOR = {"access_key_id": "AKIATESTTESTTEST", "secret_access_key": "test"}
ACCOUNT = "123456789012"  # moto's


ONE, TWO = "A" * 36, "B2" * 18


async def heard(service: Signalling, mailbox: str) -> bytes:
    async with asyncio.timeout(20):
        return await anext(aiter(service.listen(mailbox)))


@pytest.fixture
def namespace() -> str:
    return secrets.token_hex(6)


@pytest.fixture
def counts() -> Counts:
    return Counts()


def opened(url: str, counts: Counts, fields: dict[str, str] | None = None) -> Signalling:
    loan = Loan(fields or {**OPERATOR, "account": ACCOUNT})
    return PROVIDER.open(url, Surroundings(GivenKeys(loan), Way(), counts))


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


async def test_lent_keys_are_signed_with_where_signatures_are_checked(strict_moto: StrictMoto, counts: Counts) -> None:
    url = strict_moto.server.url("strict")
    loan = await PROVIDER.lend(url, strict_moto.operator, ONE, Way())
    assert loan.fields["access_key_id"] != strict_moto.operator["access_key_id"]
    service = opened(url, counts, dict(loan.fields))
    try:
        await service.publish(ONE, b"signed")
        assert await heard(service, ONE) == b"signed"
    finally:
        await service.close()


async def test_wrong_keys_are_refused_for_good_and_not_repeated_in_the_message(
    strict_moto: StrictMoto, counts: Counts
) -> None:
    url, right = strict_moto.server.url("strict"), strict_moto.operator
    wrong_secret = {**right, "secret_access_key": "not-the-secret"}
    unknown_key = {**right, "access_key_id": "AKIANOBODY"}
    for secrets_ in (wrong_secret, unknown_key):
        with pytest.raises(ProviderTrouble) as refused:
            await PROVIDER.lend(url, secrets_, ONE, Way())
        assert refused.value.retry is Retry.NEVER
        assert refused.value.hint
        assert not any(secret in str(refused.value) for secret in secrets_.values())
        service = opened(url, counts, {**secrets_, "account": ACCOUNT})
        with pytest.raises(ProviderTrouble) as refused:
            await service.publish(ONE, b"x")
        assert refused.value.retry is Retry.NEVER
        with pytest.raises(ProviderTrouble) as refused:
            await heard(service, ONE)
        assert refused.value.retry is Retry.NEVER
        await service.close()


async def test_a_permission_that_lacks_is_named(strict_moto: StrictMoto) -> None:
    with pytest.raises(ProviderTrouble, match="sqs:CreateQueue") as refused:
        await PROVIDER.set_up(strict_moto.server.url("strict"), strict_moto.poor, Way(), keep_days=7)
    assert refused.value.retry is Retry.NEVER
    assert "sqs:CreateQueue" in refused.value.hint


async def test_without_keys_an_operator_is_told_what_to_give(moto: MotoServer) -> None:
    for lacking in ({}, {"access_key_id": "AKIA"}, {"secret_access_key": "x", "role": "arn:aws:iam::1:role/x"}):
        with pytest.raises(ProviderTrouble) as refused:
            await PROVIDER.lend(moto.url("ns"), lacking, ONE, Way())
        assert refused.value.retry is Retry.NEVER
        assert "access_key_id" in refused.value.hint


async def test_without_a_queue_publishing_is_no_error(moto: MotoServer, namespace: str, counts: Counts) -> None:
    service = opened(moto.url(namespace), counts)
    await service.publish(TWO, b"x")
    await service.close()


async def test_a_listener_whose_lent_keys_make_no_queue_says_that_there_is_none(
    strict_moto: StrictMoto, counts: Counts
) -> None:
    keys = {**strict_moto.poor, "account": ACCOUNT}
    service = opened(strict_moto.server.url("strict"), counts, keys)
    try:
        with pytest.raises(ProviderTrouble):
            await heard(service, ONE)
    finally:
        await service.close()


async def test_what_is_published_while_a_batch_is_under_way_goes_together(
    moto: MotoServer, namespace: str, counts: Counts
) -> None:
    service = opened(moto.url(namespace), counts)
    await service.publish(ONE, b"first")  # and the connection is there
    before = counts.requests["publish"]
    await asyncio.gather(*(service.publish(ONE, b"%d" % number) for number in range(1000)))
    assert counts.requests["publish"] - before <= 102
    await service.close()


async def test_each_64_kib_are_billed_as_a_request(moto: MotoServer, namespace: str, counts: Counts) -> None:
    service = opened(moto.url(namespace), counts)
    await service.publish(ONE, bytes(48 * 1024))
    assert counts.requests == {"publish": 1}
    await service.publish(ONE, bytes(192 * 1024))
    assert counts.requests == {"publish": 5}
    await service.close()
