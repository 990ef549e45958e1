"""Azure as blobstore, against Azurite."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.backends.blobstores.opening import opened
from tests.backends.servers.azurite import AzuriteServer

from isthmus.adapters.blobstore.azure import PROVIDER
from isthmus.ports.blobstore import Blobstore
from isthmus.ports.provider import Loan, Way
from isthmus.testing.blobstore_suite import BlobstoreSuite


@pytest.fixture(scope="module")
def url(azurite: AzuriteServer) -> str:
    address = azurite.blobs("suite/below")
    asyncio.run(PROVIDER.set_up(address, azurite.secrets, Way(), keep_days=3))
    return address


@pytest.fixture(scope="module")
def loan(url: str, azurite: AzuriteServer) -> Loan:
    return asyncio.run(PROVIDER.lend(url, azurite.secrets, "R" * 36, Way()))


class TestWithTheAccountsKey(BlobstoreSuite):
    @pytest.fixture
    async def store(self, url: str, azurite: AzuriteServer) -> AsyncIterator[Blobstore]:
        store = opened(PROVIDER, url, azurite.secrets)
        yield store
        await store.close()


class TestWithALentSignature(BlobstoreSuite):
    lists = False

    @pytest.fixture
    async def store(self, url: str, loan: Loan) -> AsyncIterator[Blobstore]:
        store = opened(PROVIDER, url, loan.fields)
        yield store
        await store.close()
