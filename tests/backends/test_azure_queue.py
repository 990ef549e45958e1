"""Azure queues as signalling service, against azurite."""

import asyncio
import base64
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime

import pytest
from azure.storage.queue import generate_queue_sas
from tests.backends.meter import Counts
from tests.backends.servers.azurite import ACCOUNT, ACCOUNT_KEY, AzuriteServer
from tests.backends.servers.azurite import azurite as azurite

from isthmus.adapters.signalling.azure import PROVIDER
from isthmus.adapters.signalling.azure.place import Place
from isthmus.adapters.signalling.azure.provider import AzureQueueProvider
from isthmus.errors import ProviderTrouble, Retry
from isthmus.ports.provider import GivenKeys, Loan, Surroundings, Way
from isthmus.ports.signalling import Signalling
from isthmus.testing.signalling_suite import SignallingSuite

OPERATOR = {"account_key": ACCOUNT_KEY}
ONE, TWO = "A" * 36, "B2" * 18


class Renewed:
    """Keys that are another loan each time, until the last."""

    def __init__(self, loans: list[Loan]) -> None:
        self._loans = loans
        self.asked = 0

    async def loan(self) -> Loan:
        self.asked += 1
        return self._loans.pop(0) if len(self._loans) > 1 else self._loans[0]

    async def urls(self, method: str, names: Sequence[str]) -> list[str]:
        raise AssertionError


def queues(azurite: AzuriteServer, namespace: str, *, port: int | None = None) -> str:
    """Return by what the provider is listed; `port` is that of something in front of the server."""
    return f"azqueue://127.0.0.1:{port or azurite.queue_port}/{ACCOUNT}/{namespace}?tls=no"


def signed_for(namespace: str, mailbox: str) -> str:
    queue = Place.parse(f"azqueue://{ACCOUNT}/{namespace}").queue(mailbox)
    until = datetime.fromtimestamp(time.time() + 300, UTC)
    return generate_queue_sas(ACCOUNT, queue, ACCOUNT_KEY, permission="p", expiry=until)


@pytest.fixture
def namespace() -> str:
    return secrets.token_hex(6)


@pytest.fixture
def counts() -> Counts:
    return Counts()


def opened(url: str, counts: Counts, loan: Loan = Loan(OPERATOR)) -> Signalling:  # noqa: B008 - frozen
    return PROVIDER.open(url, Surroundings(GivenKeys(loan), Way(), counts))


class TestAzureQueue(SignallingSuite):
    @pytest.fixture
    async def signalling(self, azurite: AzuriteServer, namespace: str, counts: Counts) -> AsyncIterator[Signalling]:
        service = opened(queues(azurite, namespace), counts)
        yield service
        await service.close()


async def heard(service: Signalling, mailbox: str) -> bytes:
    async with asyncio.timeout(20):
        return await anext(aiter(service.listen(mailbox)))


async def test_what_the_bridge_lends_carries_a_notice_between_two_routers(
    azurite: AzuriteServer, namespace: str, counts: Counts
) -> None:
    url, other = queues(azurite, namespace), Counts()
    loans = [await PROVIDER.lend(url, OPERATOR, mailbox, Way()) for mailbox in (ONE, TWO)]
    assert all(loan.expires is not None and 3500 < loan.expires - time.time() < 3601 for loan in loans)
    sender, receiver = opened(url, counts, loans[0]), opened(url, other, loans[1])
    try:
        await sender.publish(TWO, b"are you there?")
        assert await heard(receiver, TWO) == b"are you there?"
    finally:
        await sender.close()
        await receiver.close()
    assert counts.requests == {"publish": 1}
    assert other.requests == {"receive": 1}


async def test_with_lent_keys_no_router_can_read_anothers_mailbox(
    azurite: AzuriteServer, namespace: str, counts: Counts
) -> None:
    url = queues(azurite, namespace)
    loans = [await PROVIDER.lend(url, OPERATOR, mailbox, Way()) for mailbox in (ONE, TWO)]
    turned = Loan({"receive_sas": loans[0].fields["send_sas"], "send_sas": loans[0].fields["receive_sas"]})
    for loan in (loans[0], turned):
        service = opened(url, counts, loan)
        try:
            with pytest.raises(ProviderTrouble) as refused:
                await heard(service, TWO)
            assert refused.value.retry is Retry.NEVER
        finally:
            await service.close()
    service = opened(url, counts, turned)
    with pytest.raises(ProviderTrouble) as refused:
        await service.publish(TWO, b"with a signature to receive")
    assert refused.value.retry is Retry.NEVER
    await service.close()


async def test_set_up_tries_what_routers_do_and_may_be_repeated(azurite: AzuriteServer, namespace: str) -> None:
    for _ in range(2):
        said = await PROVIDER.set_up(queues(azurite, namespace), OPERATOR, Way(), keep_days=7)
        assert any("receive at its own only" in line for line in said)


@pytest.mark.parametrize("key", ["", "not a key", base64.b64encode(bytes(64)).decode()])
async def test_a_wrong_key_is_refused_for_good_and_not_repeated_in_the_message(
    azurite: AzuriteServer, namespace: str, counts: Counts, key: str
) -> None:
    url = queues(azurite, namespace)
    for act in (
        PROVIDER.lend(url, {"account_key": key}, ONE, Way()),
        PROVIDER.set_up(url, {"account_key": key}, Way(), keep_days=7),
    ):
        with pytest.raises(ProviderTrouble) as refused:
            await act
        assert refused.value.retry is Retry.NEVER
        assert refused.value.hint
        assert not key or key not in str(refused.value)
    service = opened(url, counts, Loan({"account_key": key}))
    with pytest.raises(ProviderTrouble) as refused:
        await service.publish(ONE, b"x")
    assert refused.value.retry is Retry.NEVER
    with pytest.raises(ProviderTrouble) as refused:
        await heard(service, ONE)
    assert refused.value.retry is Retry.NEVER
    await service.close()


async def test_a_loan_that_is_over_is_told_from_keys_that_are_wrong(
    azurite: AzuriteServer, namespace: str, counts: Counts
) -> None:
    url = queues(azurite, namespace)
    loan = await AzureQueueProvider(loan_seconds=-60.0).lend(url, OPERATOR, ONE, Way())
    service = opened(url, counts, loan)
    with pytest.raises(ProviderTrouble, match="expired") as refused:
        await service.publish(ONE, b"x")
    assert refused.value.retry is Retry.LATER
    await service.close()


async def test_a_listener_goes_on_with_the_next_loan(azurite: AzuriteServer, namespace: str, counts: Counts) -> None:
    url = queues(azurite, namespace)
    over = await AzureQueueProvider(loan_seconds=-60.0).lend(url, OPERATOR, ONE, Way())
    good = await PROVIDER.lend(url, OPERATOR, ONE, Way())
    keys = Renewed([over, good])
    service = PROVIDER.open(url, Surroundings(keys, Way(), counts))
    sender = opened(url, counts)
    try:
        await sender.publish(ONE, b"still there?")
        assert await heard(service, ONE) == b"still there?"
        assert keys.asked > 1
    finally:
        await service.close()
        await sender.close()


async def test_without_a_queue_publishing_is_no_error_and_listening_with_lent_keys_says_so(
    azurite: AzuriteServer, namespace: str, counts: Counts
) -> None:
    loan = await PROVIDER.lend(queues(azurite, namespace), OPERATOR, ONE, Way())
    elsewhere = queues(azurite, "other")
    service = opened(
        elsewhere, counts, Loan({"send_sas": loan.fields["send_sas"], "receive_sas": signed_for("other", TWO)})
    )
    try:
        await service.publish(TWO, b"x")
        with pytest.raises(ProviderTrouble, match="no queue") as missing:
            await heard(service, TWO)
        assert missing.value.retry is Retry.LATER
    finally:
        await service.close()


async def test_what_nobody_asked_for_goes_by_itself_and_costs_no_request_to_delete(
    azurite: AzuriteServer, namespace: str, counts: Counts
) -> None:
    url = queues(azurite, namespace)
    await PROVIDER.lend(url, OPERATOR, ONE, Way())
    service = opened(url, counts)
    listener = aiter(service.listen(ONE))
    try:
        async with asyncio.timeout(20):
            for number in range(5):
                await service.publish(ONE, b"%d" % number)
            assert {await anext(listener) for _ in range(5)} == {b"0", b"1", b"2", b"3", b"4"}
        assert counts.requests["publish"] == 5
        assert counts.requests["receive"] <= 5
        assert "delete" not in counts.requests
    finally:
        await service.close()
