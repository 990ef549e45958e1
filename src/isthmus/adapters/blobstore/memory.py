"""`memory:` keeps blobs in this process. For tests and trials: they are gone with the process."""

from collections.abc import AsyncIterator
from typing import Final

from isthmus.adapters.blobstore.trouble import check_name
from isthmus.errors import BlobExists, BlobMissing, ProviderTrouble, Retry
from isthmus.kit.clock import Clock, SystemClock
from isthmus.ports.blobstore import BlobInfo, BlobstoreTraits

_MOST_BLOB_BYTES: Final = 64 * 1024 * 1024


class MemoryBlobstore:
    """A blobstore that two sides share by holding the same object. It never fails and never lags."""

    def __init__(self, *, limit: int = 1024 * 1024 * 1024, clock: Clock | None = None) -> None:
        self.traits = BlobstoreTraits(max_blob_bytes=_MOST_BLOB_BYTES, list_lag=0.0, has_ttl=False)
        self._limit = limit
        self._used = 0
        self._clock = clock or SystemClock()
        self._blobs: dict[str, tuple[bytes, float]] = {}

    def __len__(self) -> int:
        return len(self._blobs)

    def __repr__(self) -> str:
        return f"<MemoryBlobstore: {len(self._blobs)} blobs>"

    async def put(self, name: str, body: bytes) -> None:
        """Create a blob. Raises BlobExists, and ProviderTrouble if it is too large or the store is full."""
        if (present := self._blobs.get(check_name(name))) is not None:
            if present[0] != body:
                raise BlobExists(name)
            return
        if len(body) > _MOST_BLOB_BYTES:
            raise ProviderTrouble(f"a blob of {len(body)} bytes is too large", retry=Retry.NEVER)
        if self._used + len(body) > self._limit:
            raise ProviderTrouble("this store is full", retry=Retry.LATER)
        self._used += len(body)
        self._blobs[name] = (bytes(body), self._clock.now())

    async def get(self, name: str, *, wait: float = 0.0) -> bytes:  # noqa: ARG002 - of the port; nothing waits here
        """Return a blob's bytes. Raises BlobMissing."""
        if (present := self._blobs.get(name)) is None:
            raise BlobMissing(name)
        return present[0]

    async def delete(self, *names: str) -> None:
        """Delete blobs, those that are there."""
        for name in names:
            if (present := self._blobs.pop(name, None)) is not None:
                self._used -= len(present[0])

    async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        """Yield the blobs whose names start with `prefix`, as they are now."""
        for name, (body, modified) in sorted(self._blobs.items()):
            if name.startswith(prefix):
                yield BlobInfo(name, len(body), modified)

    async def close(self) -> None:
        """Forget everything."""
        self._blobs.clear()
        self._used = 0
