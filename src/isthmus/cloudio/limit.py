"""A provider that is asked by so many at once and no more: vendors throttle, and sockets are not for nothing."""

import asyncio
from collections.abc import AsyncIterator

from isthmus.ports.blobstore import BlobInfo, Blobstore, BlobstoreTraits
from isthmus.ports.signalling import Signalling, SignallingTraits


class LimitedBlobstore:
    """A blobstore with at most `at_once` calls under way; more wait their turn. A listing counts while it is read."""

    def __init__(self, inner: Blobstore, *, at_once: int) -> None:
        self._inner = inner
        self._turns = asyncio.Semaphore(at_once)

    def __repr__(self) -> str:
        return f"<{self._inner!r} with a limit>"

    @property
    def traits(self) -> BlobstoreTraits:
        """Those of the store inside."""
        return self._inner.traits

    async def put(self, name: str, body: bytes) -> None:
        """Create a blob."""
        async with self._turns:
            await self._inner.put(name, body)

    async def get(self, name: str, *, wait: float = 0.0) -> bytes:
        """Return a blob."""
        async with self._turns:
            return await self._inner.get(name, wait=wait)

    async def delete(self, *names: str) -> None:
        """Delete blobs."""
        async with self._turns:
            await self._inner.delete(*names)

    async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        """Yield blobs."""
        async with self._turns:
            async for blob in self._inner.list(prefix):
                yield blob

    async def close(self) -> None:
        """Close the store inside."""
        await self._inner.close()


class LimitedSignalling:
    """A signalling service with at most `at_once` calls of `publish` under way."""

    def __init__(self, inner: Signalling, *, at_once: int) -> None:
        self._inner = inner
        self._turns = asyncio.Semaphore(at_once)

    def __repr__(self) -> str:
        return f"<{self._inner!r} with a limit>"

    @property
    def traits(self) -> SignallingTraits:
        """Those of the service inside."""
        return self._inner.traits

    async def publish(self, to: str, notice: bytes) -> None:
        """Send a notice when its turn comes."""
        async with self._turns:
            await self._inner.publish(to, notice)

    def listen(self, at: str) -> AsyncIterator[bytes]:
        """Listen, which is not limited."""
        return self._inner.listen(at)

    async def close(self) -> None:
        """Close the service inside."""
        await self._inner.close()
