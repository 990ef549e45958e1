"""Providers that keep to the site's cap on its line, shared with everything else that crosses it.

The built-in ones do so by themselves, request by request; these do it around a whole call.
"""

from collections.abc import AsyncIterator, Callable
from typing import Final

from isthmus.ports.blobstore import BlobInfo, Blobstore, BlobstoreTraits
from isthmus.ports.pacing import Pacing, Urgency
from isthmus.ports.signalling import PromptSignalling, Signalling, SignallingTraits

_BULK_BYTES: Final = 8 * 1024  # smaller notices are counted and do not wait


class PacedBlobstore:
    """A blobstore whose blobs wait until the line has room for them."""

    def __init__(self, inner: Blobstore, up: Pacing | None, down: Pacing | None, urgency: Urgency) -> None:
        self._inner = inner
        self._up, self._down = up, down
        self._urgency = urgency

    def __repr__(self) -> str:
        return f"<{self._inner!r} within the cap>"

    @property
    def traits(self) -> BlobstoreTraits:
        """Those of the store inside."""
        return self._inner.traits

    async def put(self, name: str, body: bytes) -> None:
        """Create a blob, once the line has room for it."""
        if self._up is not None and not self._up.is_free:
            await self._up.take(len(body), self._urgency)
        await self._inner.put(name, body)

    async def get(self, name: str, *, wait: float = 0.0) -> bytes:
        """Return a blob. Its size is known only then, and is what the next one waits for."""
        if self._down is not None and not self._down.is_free:
            await self._down.take(0, self._urgency)
        body = await self._inner.get(name, wait=wait)
        if self._down is not None and not self._down.is_free:
            await self._down.take(len(body), self._urgency)
        return body

    async def delete(self, *names: str) -> None:
        """Delete blobs."""
        await self._inner.delete(*names)

    def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        """List blobs."""
        return self._inner.list(prefix)

    async def close(self) -> None:
        """Close the store inside."""
        await self._inner.close()


class PacedSignalling:
    """A signalling service whose large notices wait until the line has room for them; small ones are counted."""

    def __init__(self, inner: Signalling, up: Pacing) -> None:
        self._inner = inner
        self._up = up

    def __repr__(self) -> str:
        return f"<{self._inner!r} within the cap>"

    @property
    def traits(self) -> SignallingTraits:
        """Those of the service inside."""
        return self._inner.traits

    async def publish(self, to: str, notice: bytes) -> None:
        """Send a notice, once the line has room for it."""
        if not self._up.is_free:
            if len(notice) < _BULK_BYTES:
                self._up.count(len(notice))
            else:
                await self._up.take(len(notice), Urgency.LIVE)
        await self._inner.publish(to, notice)

    def listen(self, at: str) -> AsyncIterator[bytes]:
        """Listen."""
        return self._inner.listen(at)

    async def close(self) -> None:
        """Close the service inside."""
        await self._inner.close()


class _PromptPacedSignalling(PacedSignalling):
    def __init__(self, inner: PromptSignalling, up: Pacing) -> None:
        super().__init__(inner, up)
        self._prompt = inner

    def publish_at_once(self, to: str, notice: bytes) -> bool:
        if self._up.is_free:
            return self._prompt.publish_at_once(to, notice)
        if len(notice) < _BULK_BYTES:
            self._up.count(len(notice))
        elif not self._up.take_at_once(len(notice), Urgency.LIVE):
            return False
        return self._prompt.publish_at_once(to, notice)

    def attach(self, at: str, sink: Callable[[bytes], None]) -> None:
        self._prompt.attach(at, sink)


def paced_signalling(inner: Signalling, up: Pacing | None) -> Signalling:
    """Return `inner` within the cap; prompt if it is."""
    if up is None:
        return inner
    return _PromptPacedSignalling(inner, up) if isinstance(inner, PromptSignalling) else PacedSignalling(inner, up)
