"""The records of an envelope, verified against its manifest while its blobs arrive (docs/protocol/queued.md)."""

from collections.abc import Callable

from isthmus.contract.letters import Manifest, ManifestObject
from isthmus.envelope.records import Buffer, RecordOpener, RecordSpan, VerifiedRecord
from isthmus.errors import LocalMisuse, SealBroken


class EnvelopeOpener:
    """Verifies the bytes of an envelope in order, in chunks of any size; holds no more than one segment of them.

    To resume, feed a new one what is on disk, chunk by chunk; at its end, or where it breaks, `rewind` says up to where
    it is good. What comes after is cut off and fetched again.

    Args:
        manifest: out of a letter that verified.
        on_record: gets each record after all of it verified, in order, with its place in the envelope.
        hashing: whether data sets are hashed and compared, beside the segments' own tags.
    """

    __slots__ = ("_broken", "_hashing", "_index", "_manifest", "_on_record", "_opener", "_place")

    def __init__(
        self,
        manifest: Manifest,
        *,
        on_record: Callable[[VerifiedRecord], object] | None = None,
        hashing: bool = True,
    ) -> None:
        self._manifest = manifest
        self._on_record = on_record
        self._hashing = hashing
        self._index = 0
        self._place = 0
        self._opener: RecordOpener | None = None
        self._broken = False

    @property
    def verified(self) -> int:
        """Bytes of the envelope up to the last segment that verified."""
        if self._opener is None:
            return self._place
        return self._manifest.objects[self._index].offset + self._opener.verified

    @property
    def records(self) -> int:
        """How many records are whole and verified."""
        return self._index

    @property
    def whole(self) -> bool:
        """Whether all of the envelope came, and every record in it verified."""
        return self._place == self._manifest.size and self._index == len(self._manifest.objects)

    def feed(self, chunk: Buffer) -> None:
        """Take the next bytes. Raises SealBroken if they are not those of the manifest; then comes `rewind`."""
        if self._broken:
            raise LocalMisuse("an envelope that broke is rewound before it is fed again")
        self._broken = True  # until this went well
        view = memoryview(chunk)
        while view:
            view = view[self._take(view) :]
        self._broken = False

    def rewind(self) -> int:
        """Forget what was fed beyond `verified` and return that: the next byte fed is the one at this offset."""
        if self._opener is not None:
            self._opener.rewind()
        self._place = self.verified
        self._broken = False
        return self._place

    def _take(self, view: memoryview) -> int:
        objects, size = self._manifest.objects, self._manifest.size
        following = objects[self._index].offset if self._index < len(objects) else size
        if self._place < following:  # a gap: nothing there is ours to open
            skipped = min(len(view), following - self._place)
            self._place += skipped
            return skipped
        if self._index == len(objects):
            raise SealBroken("an envelope is longer than its manifest says")
        return self._take_record(view, objects[self._index])

    def _take_record(self, view: memoryview, item: ManifestObject) -> int:
        if self._opener is None:
            self._opener = RecordOpener(item.object_id, item.secret, hashing=self._hashing)
        end = item.offset + item.length
        used = self._opener.feed(view[: end - self._place])
        self._place += used
        if self._opener.whole or self._place == end:
            self._end_record(self._opener, item)
        return used

    def _end_record(self, opener: RecordOpener, item: ManifestObject) -> None:
        meta = opener.meta
        if not opener.whole or self._place != item.offset + item.length or meta is None:
            raise SealBroken("a record is not as long as the manifest says")
        if opener.digest != item.digest or meta.kind is not item.kind:
            raise SealBroken("a record is another one than the manifest says")
        self._opener = None
        self._index += 1
        if self._on_record is not None:
            span = RecordSpan(item.object_id, item.offset, item.length)
            self._on_record(VerifiedRecord(span, meta, opener.payload_bytes, opener.digest))
