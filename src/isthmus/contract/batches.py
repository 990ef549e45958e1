"""Notices by ordinary requests, where a proxy forbids WebSockets: several in one body (docs/protocol/bridge-api.md).

Up, a body is a row of messages, each behind its length: what a WebSocket would carry in a frame. Down, it begins with
the tag of the batch, and each message is a notice.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from isthmus.errors import RemoteMisuse

LANE_BYTES: Final = 8
TAG_BYTES: Final = LANE_BYTES + 8
MOST_POLL_SECONDS: Final = 25.0
"""How long the Bridge holds a poll that it has nothing for: proxies cut at 60 s, or at 30."""
MOST_SLOTS: Final = 4
"""Polls of one Router that may be answered independently of each other."""
MOST_TAGS: Final = 8
"""Tags that a poll may name: each Bridge behind one address gave the slot batches of its own."""
BATCH_BYTES: Final = 1024 * 1024
"""A batch takes no more messages above this: nobody waits long behind it, and usual proxies take such a body."""
LEAST_BATCH_BYTES: Final = 64 * 1024
MOST_BATCH_BYTES: Final = 4 * 1024 * 1024
"""What a body may have: a batch that had room for one more message, of whatever size."""

_LENGTH_BYTES: Final = 4

Bytes = bytes | bytearray | memoryview


def pack_batch(messages: Iterable[Iterable[Bytes]], *, tag: bytes = b"") -> bytes:
    """Return the body that carries these messages, each given in parts."""
    pieces: list[Bytes] = [tag]
    for message in messages:
        parts = tuple(message)
        pieces.append(sum(map(len, parts)).to_bytes(_LENGTH_BYTES, "big"))
        pieces.extend(parts)
    return b"".join(pieces)


def unpack_batch(body: bytes, start: int = 0) -> Iterator[bytes]:
    """Yield the messages of a body from byte `start`. Raises RemoteMisuse where it is not what `pack_batch` made."""
    size = len(body)
    while start < size:
        first = start + _LENGTH_BYTES
        start = first + int.from_bytes(body[start:first], "big")
        if first > size or start > size:
            raise RemoteMisuse("a message is longer than the batch that holds it")
        yield body[first:start]


def make_tag(lane: bytes, number: int) -> bytes:
    """Return the tag of the `number`-th batch of a lane; number 0 stands for an empty one, which nobody repeats."""
    return lane + number.to_bytes(TAG_BYTES - LANE_BYTES, "big")
