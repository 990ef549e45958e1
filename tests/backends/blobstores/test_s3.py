"""S3 as blobstore, against Ceph's gateway."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.backends.blobstores.opening import Signing, opened
from tests.backends.servers.ceph import OWNER, ROLE, CephServer

from isthmus.adapters.blobstore.s3 import PROVIDER
from isthmus.ports.blobstore import Blobstore
from isthmus.ports.provider import Loan, Way
from isthmus.testing.blobstore_suite import BlobstoreSuite


@pytest.fixture(scope="module")
def url(ceph: CephServer) -> str:
    address = ceph.s3("suite/below")
    asyncio.run(PROVIDER.set_up(address, OWNER.s3, Way(), keep_days=3))
    return address


@pytest.fixture(scope="module")
def loan(url: str) -> Loan:
    return asyncio.run(PROVIDER.lend(url, {**OWNER.s3, "role": ROLE}, "R" * 36, Way()))


class TestWithKeys(BlobstoreSuite):
    @pytest.fixture
    async def store(self, url: str) -> AsyncIterator[Blobstore]:
        store = opened(PROVIDER, url, OWNER.s3)
        yield store
        await store.close()


class TestWithLentKeys(BlobstoreSuite):
    lists = False

    @pytest.fixture
    async def store(self, url: str, loan: Loan) -> AsyncIterator[Blobstore]:
        store = opened(PROVIDER, url, loan.fields)
        yield store
        await store.close()


class TestWithSignedUrls(BlobstoreSuite):
    lists = False

    @pytest.fixture
    async def store(self, url: str) -> AsyncIterator[Blobstore]:
        loan = await PROVIDER.lend(url, OWNER.s3, "R" * 36, Way())
        store = opened(PROVIDER, url, Signing(PROVIDER, url, OWNER.s3, loan))
        yield store
        await store.close()
