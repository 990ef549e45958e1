"""A bad-weather cloud: either port, with notices lost and blobs failing, as a seed decides and a test commands.

For tests of whole Routers and of `Duplex`; the deterministic simulation of the decisions alone is `simulator`.
"""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass

from isthmus.errors import BlobMissing, ProviderTrouble, Retry
from isthmus.kit.clock import Clock, SystemClock
from isthmus.ports.blobstore import BlobInfo, Blobstore, BlobstoreTraits
from isthmus.ports.signalling import Signalling, SignallingTraits


@dataclass(slots=True)
class Weather:
    """How bad it is; may be changed at any time. Chances from 0 to 1, times in seconds.

    Attributes:
        drop: chance that a notice is lost.
        repeat: chance that it is sent twice.
        reorder: chance that it is held back until the next one to the same mailbox.
        delay: every call takes up to this much longer.
        trouble: chance that a call fails; half of the failing ones were carried out nevertheless.
        lag: how long a new blob cannot be seen.
        gone: whether every call fails.
    """

    drop: float = 0.0
    repeat: float = 0.0
    reorder: float = 0.0
    delay: float = 0.0
    trouble: float = 0.0
    lag: float = 0.0
    gone: bool = False


class _Wind:
    """What both ports have in common."""

    def __init__(self, weather: Weather, seed: int) -> None:
        self.weather = weather
        self.chance = random.Random(seed)  # noqa: S311 - a seed makes a failure repeatable

    def happens(self, chance: float) -> bool:
        return chance > 0 and self.chance.random() < chance

    async def blow(self) -> bool:
        """Wait or fail as the weather has it. Returns whether the call is to fail after it was carried out."""
        if self.weather.delay:
            await asyncio.sleep(self.chance.random() * self.weather.delay)
        if self.weather.gone:
            raise ProviderTrouble("the provider is gone", retry=Retry.LATER)
        if self.happens(self.weather.trouble):
            if self.happens(0.5):
                return True
            raise ProviderTrouble("503", retry=Retry.LATER)
        return False

    @staticmethod
    def finish(fails: bool) -> None:
        if fails:
            raise ProviderTrouble("timed out", retry=Retry.LATER)


class WeatherSignalling:
    """A signalling service with weather."""

    def __init__(self, inner: Signalling, weather: Weather, *, seed: int = 0) -> None:
        self._inner = inner
        self._wind = _Wind(weather, seed)
        self._held: dict[str, bytes] = {}

    def __repr__(self) -> str:
        return f"<{self._inner!r} in bad weather>"

    @property
    def traits(self) -> SignallingTraits:
        """Those of the service inside."""
        return self._inner.traits

    async def publish(self, to: str, notice: bytes) -> None:
        """Publish, or lose, repeat or hold back. Raises ProviderTrouble as the weather has it."""
        fails = await self._wind.blow()
        weather = self._wind.weather
        if len(notice) > self.traits.max_notice_bytes or not self._wind.happens(weather.drop):
            if len(notice) < 4096 and to not in self._held and self._wind.happens(weather.reorder):
                self._held[to] = notice
            else:
                for _ in range(2 if self._wind.happens(weather.repeat) else 1):
                    await self._inner.publish(to, notice)
                if (late := self._held.pop(to, None)) is not None:
                    await self._inner.publish(to, late)
        self._wind.finish(fails)

    def listen(self, at: str) -> AsyncIterator[bytes]:
        """Listen; what arrives has been through the weather already."""
        return self._inner.listen(at)

    async def close(self) -> None:
        """Close the service inside."""
        await self._inner.close()


class WeatherBlobstore:
    """A blobstore with weather."""

    def __init__(self, inner: Blobstore, weather: Weather, *, seed: int = 0, clock: Clock | None = None) -> None:
        self._inner = inner
        self._wind = _Wind(weather, seed)
        self._clock = clock or SystemClock()
        self._visible_at: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<{self._inner!r} in bad weather>"

    @property
    def traits(self) -> BlobstoreTraits:
        """Those of the store inside."""
        return self._inner.traits

    async def put(self, name: str, body: bytes) -> None:
        """Create a blob; it is seen after the lag."""
        fails = await self._wind.blow()
        self._visible_at.setdefault(name, self._clock.monotonic() + self._wind.weather.lag)
        await self._inner.put(name, body)
        self._wind.finish(fails)

    async def get(self, name: str, *, wait: float = 0.0) -> bytes:
        """Return a blob. Raises BlobMissing while it lags."""
        fails = await self._wind.blow()
        if self._visible_at.get(name, 0.0) > self._clock.monotonic():
            raise BlobMissing(name)
        body = await self._inner.get(name, wait=wait)
        self._wind.finish(fails)
        return body

    async def delete(self, *names: str) -> None:
        """Delete blobs."""
        fails = await self._wind.blow()
        await self._inner.delete(*names)
        for name in names:
            self._visible_at.pop(name, None)
        self._wind.finish(fails)

    async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        """Yield what can be seen."""
        fails = await self._wind.blow()
        self._wind.finish(fails)
        async for blob in self._inner.list(prefix):
            if self._visible_at.get(blob.name, 0.0) <= self._clock.monotonic():
                yield blob

    async def close(self) -> None:
        """Close the store inside."""
        await self._inner.close()
