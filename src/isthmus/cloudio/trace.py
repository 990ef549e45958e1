"""A provider that is watched: each call with its size, duration and outcome, never with content."""

import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass

from isthmus.errors import ProviderTrouble
from isthmus.kit.clock import Clock, SystemClock
from isthmus.ports.blobstore import BlobInfo, Blobstore, BlobstoreTraits
from isthmus.ports.signalling import PromptSignalling, Signalling, SignallingTraits


@dataclass(slots=True)
class Call:
    """One call on a provider.

    Attributes:
        method: name of the port's method.
        size: bytes put, got or published; blobs listed.
        seconds: how long it took.
        trouble: the class of the ProviderTrouble that it raised, or "".
    """

    method: str
    size: int = 0
    seconds: float = 0.0
    trouble: str = ""


Watcher = Callable[[Call], None]


class _Stopwatch:
    """Times calls and reports them."""

    def __init__(self, watcher: Watcher, clock: Clock | None) -> None:
        self._watcher = watcher
        self._clock = clock or SystemClock()

    @contextlib.contextmanager
    def call(self, method: str, size: int = 0) -> Iterator[Call]:
        call = Call(method, size)
        started = self._clock.monotonic()
        try:
            yield call
        except ProviderTrouble as trouble:
            call.trouble = type(trouble).__name__
            raise
        finally:
            call.seconds = self._clock.monotonic() - started
            self._watcher(call)


class TracedBlobstore:
    """A blobstore whose calls are told to `watcher` as they end."""

    def __init__(self, inner: Blobstore, watcher: Watcher, *, clock: Clock | None = None) -> None:
        self._inner = inner
        self._watch = _Stopwatch(watcher, clock)

    def __repr__(self) -> str:
        return f"<{self._inner!r} watched>"

    @property
    def traits(self) -> BlobstoreTraits:
        """Those of the store inside."""
        return self._inner.traits

    async def put(self, name: str, body: bytes) -> None:
        """Create a blob."""
        with self._watch.call("put", len(body)):
            await self._inner.put(name, body)

    async def get(self, name: str, *, wait: float = 0.0) -> bytes:
        """Return a blob."""
        with self._watch.call("get") as call:
            body = await self._inner.get(name, wait=wait)
            call.size = len(body)
        return body

    async def delete(self, *names: str) -> None:
        """Delete blobs."""
        with self._watch.call("delete"):
            await self._inner.delete(*names)

    async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        """Yield blobs."""
        with self._watch.call("list") as call:
            async for blob in self._inner.list(prefix):
                call.size += 1
                yield blob

    async def close(self) -> None:
        """Close the store inside."""
        await self._inner.close()


class TracedSignalling:
    """A signalling service whose calls of `publish`, and the notices that arrive, are told to `watcher`."""

    def __init__(self, inner: Signalling, watcher: Watcher, *, clock: Clock | None = None) -> None:
        self._inner = inner
        self._watcher = watcher
        self._watch = _Stopwatch(watcher, clock)

    def __repr__(self) -> str:
        return f"<{self._inner!r} watched>"

    @property
    def traits(self) -> SignallingTraits:
        """Those of the service inside."""
        return self._inner.traits

    async def publish(self, to: str, notice: bytes) -> None:
        """Send a notice."""
        with self._watch.call("publish", len(notice)):
            await self._inner.publish(to, notice)

    async def listen(self, at: str) -> AsyncIterator[bytes]:
        """Yield notices."""
        async for notice in self._inner.listen(at):
            self._watcher(Call("listen", len(notice)))
            yield notice

    async def close(self) -> None:
        """Close the service inside."""
        await self._inner.close()


class _TracedPromptSignalling(TracedSignalling):
    """As above, for a prompt service: of what is published at once only the trouble is told, which costs nothing."""

    def __init__(self, inner: PromptSignalling, watcher: Watcher) -> None:
        super().__init__(inner, watcher)
        self._prompt = inner

    def publish_at_once(self, to: str, notice: bytes) -> bool:
        try:
            return self._prompt.publish_at_once(to, notice)
        except ProviderTrouble as trouble:
            self._watcher(Call("publish", len(notice), trouble=type(trouble).__name__))
            raise

    def attach(self, at: str, sink: Callable[[bytes], None]) -> None:
        self._prompt.attach(at, sink)


def watched_signalling(inner: Signalling, watcher: Watcher) -> TracedSignalling:
    """Return `inner` with its calls told to `watcher`; prompt if it is."""
    return (
        _TracedPromptSignalling(inner, watcher)
        if isinstance(inner, PromptSignalling)
        else TracedSignalling(inner, watcher)
    )
