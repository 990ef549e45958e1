"""The port to blobstores: named opaque bytes that live for a while."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class BlobstoreTraits:
    """What a store can do, so that callers adapt instead of guessing.

    Attributes:
        max_blob_bytes: the largest blob that one `put` takes.
        list_lag: seconds for which `list` may still miss a new blob or show a deleted one.
        has_ttl: whether the store itself deletes what everybody forgot.
        relays: whether a blob can be waited for, and read while it is still being put.
        billed: whether each request is paid for: few large blobs are better than many small ones.
    """

    max_blob_bytes: int
    list_lag: float
    has_ttl: bool
    relays: bool = False
    billed: bool = False


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """A blob as `list` shows it: name, size in bytes, Unix time of its last change."""

    name: str
    size: int
    modified: float


class Blobstore(Protocol):
    """Keeps opaque blobs for a while. Knows nothing of streams, keys or DICOM.

    Names are relative paths of `[A-Za-z0-9_-]+` joined by `/`, at most 512 characters. Every method may raise
    ProviderTrouble. Cancelling a call leaves either no blob or a whole one.
    """

    @property
    def traits(self) -> BlobstoreTraits:
        """What this store can do."""
        ...

    async def put(self, name: str, body: bytes) -> None:
        """Create a blob. Never overwrites: repeating an equal put is harmless, another body raises BlobExists."""
        ...

    async def get(self, name: str, *, wait: float = 0.0) -> bytes:
        """Return a blob's bytes. Raises BlobMissing, which may only mean "not yet".

        A store that relays waits up to `wait` seconds for a blob that is about to be put, and hands it on as it comes
        in; others need not.
        """
        ...

    async def delete(self, *names: str) -> None:
        """Delete blobs, in as few requests as the store allows; deleting one that is not there is harmless."""
        ...

    def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        """Yield the blobs whose names start with `prefix`; may lag by `traits.list_lag`."""
        ...

    async def close(self) -> None:
        """Let go of connections. The store is not used after that."""
        ...
