"""How an envelope is cut into blobs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.ports.blobstore import BlobstoreTraits
from isthmus.router.queued.post.outbox import BILLED_BLOB, LARGE_BLOB, _cut

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
