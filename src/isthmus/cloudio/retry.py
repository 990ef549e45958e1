"""A provider that is asked again: for callers who have no healing of their own, such as the inbox and the sweeper.

Streams do not need this; they heal at their own pace.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from isthmus.errors import BlobMissing, ProviderTrouble, Retry
from isthmus.kit import backoff
from isthmus.ports.blobstore import BlobInfo, Blobstore, BlobstoreTraits
from isthmus.ports.signalling import Signalling, SignallingTraits

T = TypeVar("T")
Pause = Callable[[float], Awaitable[None]]


class _Again:
    """Calls until it works, but a few times only."""

    def __init__(self, tries: int, first: float, most: float, pause: Pause) -> None:
        self._tries, self._first, self._most, self._pause = tries, first, most, pause

    async def call(self, work: Callable[[], Awaitable[T]]) -> T:
        waits = backoff.delays(self._first, self._most)
        for _ in range(self._tries - 1):
            try:
                return await work()
            except BlobMissing:
                raise  # an answer, which asking again at once does not change
            except ProviderTrouble as trouble:
                if trouble.retry is Retry.NEVER:
                    raise
                if trouble.retry is Retry.LATER:
                    await self._pause(next(waits))
        return await work()


class RetryingBlobstore:
    """A blobstore whose calls are made up to `tries` times, `first` to `most` seconds apart."""

    def __init__(
        self, inner: Blobstore, *, tries: int = 4, first: float = 0.2, most: float = 5.0, pause: Pause = asyncio.sleep
    ) -> None:
        self._inner = inner
        self._again = _Again(tries, first, most, pause)

    def __repr__(self) -> str:
        return f"<{self._inner!r} with retries>"

    @property
    def traits(self) -> BlobstoreTraits:
        """Those of the store inside."""
        return self._inner.traits

    async def put(self, name: str, body: bytes) -> None:
        """Create a blob. A try that failed but was carried out does no harm, since equal puts are equal."""
        await self._again.call(lambda: self._inner.put(name, body))

    async def get(self, name: str, *, wait: float = 0.0) -> bytes:
        """Return a blob. BlobMissing is raised at once."""
        return await self._again.call(lambda: self._inner.get(name, wait=wait))

    async def delete(self, *names: str) -> None:
        """Delete blobs."""
        await self._again.call(lambda: self._inner.delete(*names))

    async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        """Yield blobs; the listing is fetched whole, so that one that broke off is not shown."""

        async def whole() -> list[BlobInfo]:
            return [blob async for blob in self._inner.list(prefix)]

        for blob in await self._again.call(whole):
            yield blob

    async def close(self) -> None:
        """Close the store inside."""
        await self._inner.close()


class RetryingSignalling:
    """A signalling service whose `publish` is made up to `tries` times, `first` to `most` seconds apart."""

    def __init__(
        self, inner: Signalling, *, tries: int = 4, first: float = 0.2, most: float = 5.0, pause: Pause = asyncio.sleep
    ) -> None:
        self._inner = inner
        self._again = _Again(tries, first, most, pause)

    def __repr__(self) -> str:
        return f"<{self._inner!r} with retries>"

    @property
    def traits(self) -> SignallingTraits:
        """Those of the service inside."""
        return self._inner.traits

    async def publish(self, to: str, notice: bytes) -> None:
        """Send a notice, perhaps twice."""
        await self._again.call(lambda: self._inner.publish(to, notice))

    def listen(self, at: str) -> AsyncIterator[bytes]:
        """Listen; the service inside reconnects by itself."""
        return self._inner.listen(at)

    async def close(self) -> None:
        """Close the service inside."""
        await self._inner.close()
