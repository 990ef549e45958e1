"""Bridges that keep the built-in blobs elsewhere than in S3: the suite by each kind; blobs whose time is over."""

import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.backends.blobstores.opening import opened
from tests.backends.servers.azurite import AzuriteServer
from tests.backends.servers.ceph import OWNER, CephServer
from tests.backends.servers.gcs_double import GcsDouble

from isthmus.adapters.blobstore import azure, gcs, s3, swift
from isthmus.adapters.blobstore.bridge import BridgeBlobstore
from isthmus.errors import BlobMissing, Problem
from isthmus.ports.blobstore import Blobstore
from isthmus.ports.provider import BlobstoreProvider, Way
from isthmus.testing.blobstore_suite import BlobstoreSuite
from isthmus.testing.bridge import running_bridge
from isthmus.testing.clock import FakeClock
from isthmus.testing.network import until

pytestmark = pytest.mark.interop

DAY = 86_400.0
Place = tuple[BlobstoreProvider, str, dict[str, str]]


@pytest.fixture(params=["swift", "azure", "google"])
async def place(request: pytest.FixtureRequest) -> Place:
    """Return a new place in a store: its kind, its URL, and the keys to it. Google's is a double."""
    name = f"bridges-{secrets.token_hex(6)}"
    found: Place
    if request.param == "swift":
        ceph: CephServer = request.getfixturevalue("ceph")
        found = (swift.PROVIDER, ceph.swift(name), OWNER.swift)
    elif request.param == "azure":
        azurite: AzuriteServer = request.getfixturevalue("azurite")
        found = (azure.PROVIDER, azurite.blobs(name), azurite.secrets)
    else:
        double: GcsDouble = request.getfixturevalue("gcs_double")
        found = (gcs.PROVIDER, double.url(name), double.secrets)
    provider, url, keys = found
    await provider.set_up(url, keys, Way(), keep_days=40)
    return found


class TestBlobsOfABridgeWithAnotherStore(BlobstoreSuite):
    @pytest.fixture
    async def store(self, tmp_path: Path, place: Place) -> AsyncIterator[Blobstore]:
        _, url, keys = place
        async with running_bridge(tmp_path / "bridge", blobs=url, blobs_keys=keys) as bridge:
            store = BridgeBlobstore((await bridge.join("clinic")).client)
            yield store
            await store.close()


async def test_they_are_there_again_after_a_restart(tmp_path: Path, place: Place) -> None:
    _, url, keys = place
    async with running_bridge(tmp_path / "bridge", blobs=url, blobs_keys=keys) as bridge:
        member = await bridge.join("clinic")
        store = BridgeBlobstore(member.client)
        await store.put("q/stays", b"body")
    async with running_bridge(tmp_path / "bridge", blobs=url, blobs_keys=keys) as bridge:
        assert bridge.parts.blobs.used == 4
        _, body = await bridge.parts.blobs.read("q/stays")
        assert [piece async for piece in body] == [b"body"]


async def test_what_nobody_fetched_goes_when_its_time_is_over_and_what_is_in_no_list_with_it(
    tmp_path: Path, ceph: CephServer
) -> None:
    url, name = ceph.s3(f"bridges-{secrets.token_hex(6)}"), "q/forgotten"
    await s3.PROVIDER.set_up(url, OWNER.s3, Way(), keep_days=40)
    seen = opened(s3.PROVIDER, url, OWNER.s3)
    clock = FakeClock(time.time())  # the store has its own clock
    async with running_bridge(tmp_path / "bridge", blobs=url, blobs_keys=OWNER.s3, clock=clock) as bridge:
        store = BridgeBlobstore((await bridge.join("clinic")).client)
        await store.put(name, b"body")
        await seen.put("q/" + "0" * 64, b"a Bridge died before it was listed")
        assert len([blob async for blob in seen.list("q/")]) == 2
        clock.advance(31 * DAY)
        await bridge.parts.blobs.sweep()  # the Bridge's own at its start may take a part of it

        async def is_empty() -> bool:
            return [blob async for blob in seen.list("q/")] == []

        await until(is_empty)
        with pytest.raises(BlobMissing):
            await store.get(name)
    await seen.close()


async def test_a_site_that_has_used_up_its_room_is_refused_and_goes_on_when_it_deletes(
    tmp_path: Path, ceph: CephServer
) -> None:
    url = ceph.s3(f"bridges-{secrets.token_hex(6)}")
    await s3.PROVIDER.set_up(url, OWNER.s3, Way(), keep_days=40)
    async with running_bridge(tmp_path / "bridge", blobs=url, blobs_keys=OWNER.s3, queue_quota=1000) as bridge:
        member = await bridge.join("clinic")
        store = BridgeBlobstore(member.client)
        await store.put("q/one", bytes(800))
        with pytest.raises(Problem) as refused:
            await member.client.request("PUT", "/blobs/q/two", bytes(300))
        assert refused.value.status == 507
        await store.delete("q/one")
        await store.put("q/two", bytes(300))
