"""Swift as blobstore, against Ceph's gateway."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.backends.blobstores.opening import Signing, opened
from tests.backends.servers.ceph import OWNER, CephServer

from isthmus.adapters.blobstore.swift import PROVIDER
from isthmus.ports.blobstore import Blobstore
from isthmus.ports.provider import Loan, Way
from isthmus.testing.blobstore_suite import BlobstoreSuite


@pytest.fixture(scope="module")
def url(ceph: CephServer) -> str:
    address = ceph.swift("swiftsuite/below")
    asyncio.run(PROVIDER.set_up(address, OWNER.swift, Way(), keep_days=3))
    return address


class TestWithALogin(BlobstoreSuite):
    decides_races = False  # Ceph's gateway heeds no condition here

    @pytest.fixture
    async def store(self, url: str) -> AsyncIterator[Blobstore]:
        store = opened(PROVIDER, url, OWNER.swift)
        yield store
        await store.close()


class TestWithTemporaryUrls(BlobstoreSuite):
    lists = False
    decides_races = False

    @pytest.fixture
    async def store(self, url: str) -> AsyncIterator[Blobstore]:
        store = opened(PROVIDER, url, Signing(PROVIDER, url, OWNER.swift, Loan({"presigned": "yes"})))
        yield store
        await store.close()
