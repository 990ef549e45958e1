"""Objects of other sites that have just verified, held as they were opened until they are delivered a moment later.

Each is opened when it comes in, to see that every byte is right. Its delivery would read and open it a second time.
"""

import asyncio
from collections.abc import Mapping
from typing import Final, NamedTuple

from isthmus.envelope.records import ObjectMeta

MOST_BYTES: Final = 24 * 1024 * 1024  # three bundles: on its way, being delivered, and one in between
KEEP_SECONDS: Final = 10.0

_Key = tuple[int, bytes]


class FreshObject(NamedTuple):
    """What is known of an object, and its data set in pieces."""

    meta: ObjectMeta
    pieces: list[bytes]


class FreshObjects:
    """Some of them. What there is no room for, or is asked for later, is read from its bundle. For the loop."""

    def __init__(self, most_bytes: int = MOST_BYTES, keep_seconds: float = KEEP_SECONDS) -> None:
        self._keep_seconds = keep_seconds
        self._objects: dict[_Key, FreshObject] = {}
        self._room = most_bytes

    def __repr__(self) -> str:
        return f"<FreshObjects: {len(self._objects)}, room for {self._room} B>"

    @property
    def room(self) -> int:
        """Bytes of data sets that can be taken yet."""
        return self._room

    def put(self, bundle_id: int, objects: Mapping[bytes, FreshObject]) -> None:
        """Hold objects of a bundle, by their ids, for a while; those that there is room for."""
        keys: list[_Key] = []
        for object_id, item in objects.items():
            key, size = (bundle_id, object_id), _size(item)
            if size <= self._room and key not in self._objects:
                self._room -= size
                self._objects[key] = item
                keys.append(key)
        if keys:
            asyncio.get_running_loop().call_later(self._keep_seconds, self._forget, keys)

    def take(self, bundle_id: int, object_id: bytes) -> FreshObject | None:
        """Return an object, which is held no longer, or None."""
        item = self._objects.pop((bundle_id, object_id), None)
        if item is not None:
            self._room += _size(item)
        return item

    def _forget(self, keys: list[_Key]) -> None:
        for key in keys:
            self.take(*key)


def _size(item: FreshObject) -> int:
    return sum(map(len, item.pieces))
