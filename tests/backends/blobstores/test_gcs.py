"""Google Cloud Storage as blobstore, against a double: never tried against the real service."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.backends.blobstores.opening import opened
from tests.backends.servers.gcs_double import GcsDouble

from isthmus.adapters.blobstore.gcs import PROVIDER
from isthmus.errors import ProviderTrouble, Retry
from isthmus.ports.blobstore import Blobstore
from isthmus.ports.provider import Loan, Way
from isthmus.testing.blobstore_suite import BlobstoreSuite


@pytest.fixture(scope="module")
def url(gcs_double: GcsDouble) -> str:
    address = gcs_double.url("suite/below")
    asyncio.run(PROVIDER.set_up(address, gcs_double.secrets, Way(), keep_days=3))
    return address


@pytest.fixture(scope="module")
def loan(url: str, gcs_double: GcsDouble) -> Loan:
    return asyncio.run(PROVIDER.lend(url, gcs_double.secrets, "R" * 36, Way()))


class TestWithAServiceAccountsKey(BlobstoreSuite):
    @pytest.fixture
    async def store(self, url: str, gcs_double: GcsDouble) -> AsyncIterator[Blobstore]:
        store = opened(PROVIDER, url, gcs_double.secrets)
        yield store
        await store.close()


class TestWithALentToken(BlobstoreSuite):
    lists = False

    @pytest.fixture
    async def store(self, url: str, loan: Loan) -> AsyncIterator[Blobstore]:
        store = opened(PROVIDER, url, loan.fields)
        yield store
        await store.close()


async def test_it_says_that_it_was_not_tried() -> None:
    assert PROVIDER.tried == ""


async def test_set_up_keeps_the_rules_of_others_and_repeats_without_harm(gcs_double: GcsDouble) -> None:
    url = gcs_double.url("kept/p")
    await PROVIDER.set_up(url, gcs_double.secrets, Way(), keep_days=3)
    theirs = {"action": {"type": "Delete"}, "condition": {"age": 900}}
    gcs_double.buckets["kept"]["lifecycle"]["rule"].append(theirs)
    for days in (5, 5):
        await PROVIDER.set_up(url, gcs_double.secrets, Way(), keep_days=days)
    ours = {"action": {"type": "Delete"}, "condition": {"age": 5, "matchesPrefix": ["p/"]}}
    assert gcs_double.buckets["kept"]["lifecycle"]["rule"] == [theirs, ours]


async def test_a_key_that_google_does_not_know_is_refused_for_good(url: str, gcs_double: GcsDouble) -> None:
    stranger = GcsDouble(port=gcs_double.port)
    with pytest.raises(ProviderTrouble, match="Google refuses the key") as refused:
        await PROVIDER.lend(url, stranger.secrets, "R" * 36, Way())
    assert refused.value.retry is Retry.NEVER


async def test_a_lent_token_reaches_no_other_bucket(url: str, loan: Loan, gcs_double: GcsDouble) -> None:
    await PROVIDER.set_up(gcs_double.url("another"), gcs_double.secrets, Way(), keep_days=3)
    for place in ("another", "suite/beside"):
        store = opened(PROVIDER, gcs_double.url(place), loan.fields)
        with pytest.raises(ProviderTrouble, match="the keys may not get in the bucket") as refused:
            await store.get("a")
        assert refused.value.retry is Retry.NEVER
        await store.close()
