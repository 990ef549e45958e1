"""The port to signalling services: small notices to named mailboxes. A doorbell, not a record."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class SignallingTraits:
    """What a service can do, so that callers adapt instead of guessing.

    Attributes:
        max_notice_bytes: the largest notice that `publish` takes.
        cheap_bulk: whether large notices are quick and free here, so that bulk data may ride inside them.
        retention: seconds for which a notice waits for an absent listener; 0 if it is then lost.
        billed: whether each notice, and each look for one, is paid for: listen only while something is to come.
    """

    max_notice_bytes: int
    cheap_bulk: bool
    retention: float
    billed: bool = False


class Signalling(Protocol):
    """Carries small notices. May drop, repeat or reorder them; callers must not mind.

    A mailbox is a name of `[A-Za-z0-9_-]+`, at most 64 characters. Both methods may raise ProviderTrouble.
    """

    @property
    def traits(self) -> SignallingTraits:
        """What this service can do."""
        ...

    async def publish(self, to: str, notice: bytes) -> None:
        """Send a notice to a mailbox. Returns when it is handed over, which promises nothing about its arrival.

        Waits, within reason, while the way out is full, so that callers cannot flood it.
        """
        ...

    def listen(self, at: str) -> AsyncIterator[bytes]:
        """Yield the notices for a mailbox, for ever: a lost connection is re-made inside, and the gap is not told."""
        ...

    async def close(self) -> None:
        """End every listener and let go of connections. The service is not used after that."""
        ...


@runtime_checkable
class LookingSignalling(Signalling, Protocol):
    """A service that tells nobody what came: its listeners look, and seldom while nothing seems to be to come."""

    def expect(self) -> None:
        """Something was asked, by a notice or another way, and an answer is to come: look often again."""
        ...


@runtime_checkable
class PromptSignalling(Signalling, Protocol):
    """A service that can take and give notices without a turn of the event loop in between.

    Nobody has to offer this; where it is offered, a live session is told of each notice some tenths of a millisecond
    earlier at each hop.
    """

    def publish_at_once(self, to: str, notice: bytes) -> bool:
        """Do as `publish` and return True, or, if that would have to wait, do nothing and return False."""
        ...

    def attach(self, at: str, sink: Callable[[bytes], None]) -> None:
        """Give every notice for a mailbox to `sink`, in place of a listener; it must return quickly and not raise."""
        ...
