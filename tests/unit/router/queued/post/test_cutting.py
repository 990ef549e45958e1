"""How an envelope is cut into blobs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.router.queued.post.sites import Site, meta

from isthmus.contract.letters import ObjectKind
from isthmus.kit.names import AETitle, SiteName
from isthmus.ports.blobstore import BlobstoreTraits
from isthmus.router.queued.post.outbox import BILLED_BLOB, LARGE_BLOB, SMALL_BLOB, _cut
from isthmus.router.queued.spool.header import Destination, Route

MEBIBYTE = 1024 * 1024


@given(
    size=st.integers(1, 300 * MEBIBYTE),
    most=st.integers(64 * 1024, 64 * MEBIBYTE),
    relays=st.booleans(),
    billed=st.booleans(),
    last=st.booleans(),
)
def test_the_blobs_are_the_whole_and_none_is_empty_or_larger_than_the_store_takes(
    size: int, most: int, relays: bool, billed: bool, last: bool
) -> None:
    traits = BlobstoreTraits(max_blob_bytes=most, list_lag=0, has_ttl=True, relays=relays, billed=billed)
    blobs = _cut(size, traits=traits, last=last)
    assert sum(blobs) == size
    assert min(blobs) > 0
    assert max(blobs) <= most


@pytest.mark.parametrize(("billed", "usual"), [(False, LARGE_BLOB), (True, BILLED_BLOB)])
def test_a_bundle_that_is_a_little_larger_than_its_limit_makes_no_blob_more(billed: bool, usual: int) -> None:
    traits = BlobstoreTraits(max_blob_bytes=64 * MEBIBYTE, list_lag=0, has_ttl=True, relays=True, billed=billed)
    size = 8 * MEBIBYTE + 23_000
    blobs = _cut(size, traits=traits, last=False)
    assert len(blobs) == 8 * MEBIBYTE // usual
    assert max(blobs) - min(blobs) <= 1


async def cut(north: Site) -> list[int]:
    """Return the sizes of the last envelope's blobs."""
    await north.until_all("received", 10)
    rows = await north.rows("SELECT blobs FROM envelopes WHERE direction = 'out' ORDER BY bundle_id DESC")
    return [int(size) for size in rows[0][0].split(",")]


async def test_what_comes_last_goes_in_small_blobs_on_all_lanes(north: Site, south: Site) -> None:
    async with north.running(), south.running():
        await north.store_objects(*[bytes(300_000)] * 10, to=south)
        blobs = await cut(north)
        assert len(blobs) == 3
        assert max(blobs) <= SMALL_BLOB


async def test_while_more_is_coming_blobs_are_large(north: Site, south: Site) -> None:
    async with north.running(), south.running():
        place = Destination(AETitle("PACS"), SiteName(south.name), south.keys.router_id)
        other = await north.spool.take(Route(AETitle("MR1"), AETitle("PACS"), (place,)))
        writer = other.begin(meta(b"more", ObjectKind.STORE))
        await north.store_objects(*[bytes(300_000)] * 10, to=south)
        blobs = await cut(north)
        assert len(blobs) == 1
        writer.abandon()
        north.spool.give_back(other)
        await other.settled()
