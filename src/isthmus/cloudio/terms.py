"""What the decisions of a stream pair, their driver and their owner say to each other."""

from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from isthmus.cloudio.options import StreamOptions
from isthmus.cloudio.window import SEAL_OVERHEAD, Sealed
from isthmus.contract.notices import PREFIX_BYTES
from isthmus.envelope.segments import MAX_PAYLOAD_BYTES
from isthmus.errors import IsthmusError
from isthmus.ports.blobstore import BlobstoreTraits
from isthmus.ports.signalling import SignallingTraits


class StreamObserver(Protocol):
    """Whom the stream tells. All calls come in the thread and loop of the stream, and return quickly."""

    def on_data(self, payload: bytes) -> None:
        """Take payload, in order; `consumed` follows once it has left for good."""
        ...

    def on_final(self) -> None:
        """Take note that the far side has sent all it had, and all of it is here."""
        ...

    def on_signal(self, payload: bytes) -> None:
        """Take a signal of the far side: each new one once, but only the latest of several."""
        ...

    def on_writable(self) -> None:
        """Go on writing: `write` had said False."""
        ...

    def on_broken(self, error: IsthmusError) -> None:
        """Take note that nothing more will come or go; called once at the most."""
        ...


class Phase(Enum):
    """How far a stream pair is."""

    OPEN = "open"
    COMPLETE = "complete"  # both directions ended, and both sides know
    BROKEN = "broken"
    CLOSED = "closed"  # by us, before the end


@dataclass(frozen=True, slots=True)
class Carriage:
    """How this pair of providers carries segments. Bytes.

    Attributes:
        notice_bytes: the largest notice that carries its segment.
        segment_bytes: the largest payload of a segment.
    """

    notice_bytes: int
    segment_bytes: int

    @classmethod
    def of(
        cls, signalling: SignallingTraits, blobstore: BlobstoreTraits, options: StreamOptions, credit: int
    ) -> "Carriage":
        """Return what fits these providers, and a first credit that must hold two segments."""
        notice = signalling.max_notice_bytes
        if not signalling.cheap_bulk:
            notice = min(notice, options.inline_bytes)
        bearer = notice - PREFIX_BYTES if signalling.cheap_bulk else blobstore.max_blob_bytes
        most = min(options.segment_bytes, bearer - SEAL_OVERHEAD, credit // 2, MAX_PAYLOAD_BYTES)
        return cls(notice, max(most, 1))


@dataclass(slots=True)
class StreamStats:
    """What a stream pair has done: payload bytes, segments sent again, smoothed round trip in seconds if known."""

    bytes_out: int = 0
    bytes_in: int = 0
    resent: int = 0
    rtt: float | None = None


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A notice to publish, and the segment it is about if it is about one.

    Attributes:
        asks: whether something ends with it to which there may be an answer: no more of the same is behind it.
    """

    notice: bytes
    segment: Sealed | None
    asks: bool = False
