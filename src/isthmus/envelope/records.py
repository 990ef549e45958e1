"""Records: one queued object each, sealed once under a secret of its own (docs/protocol/queued.md).

A record is a tag, the object's id and a stream of segments: what is known of the object, the data set as it came, and
FINAL with counts and the data set's SHA-256. Records stand back to back in a bundle, and are the same bytes on the
sender's disk, on their way, and on the receiver's disk.
"""

import hashlib
import re
import struct
from collections.abc import Callable, Iterator
from typing import Annotated, BinaryIO, Final, NamedTuple

from pydantic import Field, ValidationError

from isthmus.contract.documents import Base64, Instant, Payload
from isthmus.contract.letters import OBJECT_ID_BYTES, Id, ObjectKind
from isthmus.envelope.keys import StreamKey, expand
from isthmus.envelope.segments import (
    HEADER_BYTES,
    Opener,
    Sealer,
    Segment,
    SegmentType,
    parse_header,
    segment_bytes,
)
from isthmus.errors import LocalMisuse, SealBroken

RECORD_TAG: Final = b"OBJ1"
PREFIX_BYTES: Final = len(RECORD_TAG) + OBJECT_ID_BYTES
RECORD_PAYLOAD_BYTES: Final = 1024 * 1024  # most of one segment, so that a reader needs no more memory than this
SECRET_BYTES: Final = 32

_SECRET_LABEL: Final = b"isthmus/object/v1"
_STREAM_NAME: Final = b"object"
_FINAL: Final = struct.Struct(">QQ32s")

_SEARCH_BYTES: Final = 1024 * 1024
_READ_BYTES: Final = 1024 * 1024  # of a record at once
_UID: Final = "[0-9.]{1,64}"

Buffer = bytes | bytearray | memoryview

SyntaxUid = Annotated[str, Field(pattern=f"^{_UID}$")]
"""A UID that becomes part of an A-ASSOCIATE-RQ: what is none could not be proposed to any device."""


def is_syntax_uid(uid: str) -> bool:
    """Return whether an A-ASSOCIATE-RQ can carry it as a UID: digits and dots, 64 at most (PS3.5 section 9.1)."""
    return re.fullmatch(_UID, uid) is not None


class ObjectMeta(Payload):
    """What is known of an object beside its data set; sealed with it.

    Attributes:
        kind: which request it is.
        calling: AE title of the sender, as in its A-ASSOCIATE-RQ.
        called: AE title as the sender called it.
        association: 16 bytes, the same for all objects of one association.
        command: the command set, as it came.
        sop_class: Affected or Requested SOP Class UID.
        sop_instance: Affected or Requested SOP Instance UID, whatever the sender takes for one.
        transfer_syntax: of the data set.
        received: Unix seconds at which the sender's Router had all of it.
    """

    kind: ObjectKind
    calling: str
    called: str
    association: Id
    command: Base64 = Field(repr=False)
    sop_class: SyntaxUid
    sop_instance: str = Field(repr=False)
    transfer_syntax: SyntaxUid
    received: Instant


class RecordSpan(NamedTuple):
    """Where a record lies in a file or buffer: bytes from its start."""

    object_id: bytes
    offset: int
    length: int

    @property
    def end(self) -> int:
        """Offset of the first byte after it."""
        return self.offset + self.length


def object_secret(spool_secret: bytes, object_id: bytes) -> bytes:
    """Return the secret of an object (32 bytes) of the spool with this secret."""
    return expand(spool_secret, _SECRET_LABEL + object_id, SECRET_BYTES)


class RecordSealer:
    """Makes one record: `begin`, `data` as often as needed, `finish`; the pieces in this order are the record.

    An object id is used for one record only, even if that is never finished: other bytes under the same keys would
    give both away.

    Args:
        object_id: 16 random bytes.
        secret: 32 bytes, known to nobody but who may open the record.
        meta: what is known of the object. In JSON it has at most RECORD_PAYLOAD_BYTES.
        hashing: whether `data` hashes; if not, `hash` must get the same payloads in the same order, from any thread.
    """

    __slots__ = ("_hash", "_hashed", "_hashing", "_meta", "_object_id", "_payload_bytes", "_sealer")

    def __init__(self, object_id: bytes, secret: bytes, meta: ObjectMeta, *, hashing: bool = True) -> None:
        if len(object_id) != OBJECT_ID_BYTES or len(secret) != SECRET_BYTES:
            raise LocalMisuse(f"an object id has {OBJECT_ID_BYTES} bytes, its secret {SECRET_BYTES}")
        self._object_id = object_id
        self._meta = meta.to_payload()
        self._sealer = Sealer(_stream_key(secret))
        self._hash = hashlib.sha256()
        self._hashed = 0
        self._hashing = hashing
        self._payload_bytes = 0

    @property
    def payload_bytes(self) -> int:
        """Bytes of the data set so far."""
        return self._payload_bytes

    @property
    def digest(self) -> bytes:
        """SHA-256 of what was hashed of the data set so far."""
        return self._hash.digest()

    def begin(self) -> bytes:
        """Return tag, object id and the first segment. Raises LocalMisuse if the meta is too long, or a second time."""
        if self._sealer.sequence:
            raise LocalMisuse("a record begins once")
        _check_length(self._meta)
        return self._sealer.seal(SegmentType.DATA, self._meta, prefix=RECORD_TAG + self._object_id)

    def data(self, payload: Buffer) -> bytes:
        """Return the next segment of the data set. Raises LocalMisuse for more than RECORD_PAYLOAD_BYTES."""
        if not self._sealer.sequence:
            raise LocalMisuse("a record begins before its data")
        _check_length(payload)
        segment = self._sealer.seal(SegmentType.DATA, payload)
        self._payload_bytes += len(payload)
        if self._hashing:
            self.hash(payload)
        return segment

    def hash(self, payload: Buffer) -> None:
        """Hash the next payload of the data set, where `data` does not."""
        self._hash.update(payload)
        self._hashed += len(payload)

    def finish(self) -> bytes:
        """Return FINAL, the end of the record. Raises LocalMisuse if not all of the data set was hashed, once each."""
        if not self._sealer.sequence or self._hashed != self._payload_bytes:
            raise LocalMisuse("a record ends when it began and all its data was hashed")
        counted = len(self._meta) + self._payload_bytes
        return self._sealer.seal(SegmentType.FINAL, _FINAL.pack(counted, self._sealer.sequence, self.digest))


class _Reading:
    """Opens the units of a record in order: the prefix, then its segments."""

    __slots__ = (
        "_expected",
        "_hash",
        "_meta_bytes",
        "_object_id",
        "_opener",
        "digest",
        "meta",
        "payload_bytes",
        "verified",
        "whole",
    )

    def __init__(self, object_id: bytes, secret: bytes, *, hashing: bool) -> None:
        self._object_id = object_id
        self._opener = Opener(_stream_key(secret))
        self._hash = hashlib.sha256() if hashing else None
        self._expected = 0
        self._meta_bytes = 0
        self.payload_bytes = 0
        self.verified = 0
        self.meta: ObjectMeta | None = None
        self.digest = b""
        self.whole = False

    def unit_bytes(self, view: memoryview) -> int:
        """Return how long the next unit is, or at least how much of it must be seen to know that."""
        if not self.verified:
            return PREFIX_BYTES
        if len(view) < HEADER_BYTES:
            return HEADER_BYTES
        return _check_header(view, self._expected)[1]

    def open(self, unit: memoryview) -> bytes | None:
        """Return the payload of the next unit if it is of the data set. Raises SealBroken and has changed nothing."""
        if not self.verified:
            if bytes(unit) != RECORD_TAG + self._object_id:
                raise SealBroken("a record is not that of this object")
            self.verified = PREFIX_BYTES
            return None
        segment = self._opener.open(unit)
        payload: bytes | None = None
        if segment.type is SegmentType.FINAL:
            self._end(segment)
        elif segment.sequence == 0:
            self.meta = _parse_meta(segment.payload)
            self._meta_bytes = len(segment.payload)
        else:
            payload = segment.payload
            self.payload_bytes += len(payload)
            if self._hash is not None:
                self._hash.update(payload)
        self._expected += 1
        self.verified += len(unit)
        return payload

    def _end(self, segment: Segment) -> None:
        try:
            counted, segments, digest = _FINAL.unpack(segment.payload)
        except struct.error as error:
            raise SealBroken("FINAL of a record does not carry counts and digest") from error
        if self.meta is None or (counted, segments) != (self._meta_bytes + self.payload_bytes, segment.sequence):
            raise SealBroken("FINAL of a record counts otherwise")
        if self._hash is not None and digest != self._hash.digest():
            raise SealBroken("FINAL of a record has another digest")
        self.digest = digest
        self.whole = True


class RecordOpener:
    """Opens one record that arrives in chunks of any size; holds no more than one segment of it.

    Args:
        object_id: of the object that is expected.
        secret: of the object.
        on_payload: gets each payload of the data set after it verified, once, in order.
        hashing: whether the data set's digest is checked, beside the segments' own tags.
    """

    __slots__ = ("_broken", "_on_payload", "_pending", "_reading")

    def __init__(
        self,
        object_id: bytes,
        secret: bytes,
        *,
        on_payload: Callable[[bytes], object] | None = None,
        hashing: bool = True,
    ) -> None:
        self._reading = _Reading(object_id, secret, hashing=hashing)
        self._on_payload = on_payload
        self._pending = bytearray()
        self._broken = False

    @property
    def meta(self) -> ObjectMeta | None:
        """What is known of the object, as soon as the first segment verified."""
        return self._reading.meta

    @property
    def payload_bytes(self) -> int:
        """Bytes of the data set so far."""
        return self._reading.payload_bytes

    @property
    def digest(self) -> bytes:
        """SHA-256 of the data set, once the record is whole."""
        return self._reading.digest

    @property
    def verified(self) -> int:
        """Bytes of the record up to the last segment that verified."""
        return self._reading.verified

    @property
    def whole(self) -> bool:
        """Whether FINAL came and agrees with all before it."""
        return self._reading.whole

    def feed(self, chunk: Buffer) -> int:
        """Take the next bytes and return how many of them belong to this record: fewer only if it is whole now.

        Raises SealBroken if they are not those of this record. Then `rewind` comes before anything else is fed.
        """
        if self._broken:
            raise LocalMisuse("a record that broke is rewound before it is fed again")
        self._broken = True  # until this went well
        view = memoryview(chunk)
        used = 0
        while used < len(view) and not self._reading.whole:
            used += self._complete(view[used:]) if self._pending else self._take(view[used:])
        self._broken = False
        return used

    def rewind(self) -> int:
        """Forget what was fed beyond `verified` and return that: the next byte fed is the one at this offset."""
        self._pending = bytearray()
        self._broken = False
        return self._reading.verified

    def _take(self, view: memoryview) -> int:
        need = self._reading.unit_bytes(view)
        if need > len(view):
            self._pending += view
            return len(view)
        self._open(view[:need])
        return need

    def _complete(self, view: memoryview) -> int:
        missing = self._reading.unit_bytes(memoryview(self._pending)) - len(self._pending)
        taken = view[:missing]
        self._pending += taken
        if self._reading.unit_bytes(memoryview(self._pending)) == len(self._pending):
            unit, self._pending = self._pending, bytearray()
            self._open(memoryview(unit))
        return len(taken)

    def _open(self, unit: memoryview) -> None:
        payload = self._reading.open(unit)
        if payload is not None and self._on_payload is not None:
            self._on_payload(payload)


def open_record_in(
    file: BinaryIO, span: RecordSpan, secret: bytes, *, hashing: bool = True
) -> tuple[ObjectMeta, Iterator[bytes]]:
    """Return what is known of the object in a record, and its data set, segment by segment as it is asked for.

    Nobody else moves the file meanwhile; a megabyte, or a segment, is held at a time. Raises SealBroken if the start
    does not verify; the iterator raises it where the rest does not, or is not all.
    """
    read, reading = _read_in(file, span), _Reading(span.object_id, secret, hashing=hashing)
    while reading.meta is None:
        _next_unit(reading, read, span.length)
    return reading.meta, _payloads(reading, read, span.length)


def walk(file: BinaryIO, start: int = 0) -> Iterator[RecordSpan]:
    """Yield the whole records from `start` on, by their headers alone: nothing of them is verified.

    Ends where the file does, where a record is cut, or where there is something else. The file may be moved between
    two records.
    """
    end = file.seek(0, 2)
    while (span := _span_at(file, start, end)) is not None:
        yield span
        start = span.end


def next_record(file: BinaryIO, start: int) -> int | None:
    """Return where the next record starts at or after `start`, by its headers: for a file that is damaged before it."""
    end = file.seek(0, 2)
    while start < end:
        file.seek(start)
        some = file.read(_SEARCH_BYTES)
        at = some.find(RECORD_TAG)
        while at >= 0:
            if _span_at(file, start + at, end) is not None:
                return start + at
            at = some.find(RECORD_TAG, at + 1)
        start += max(len(some) - len(RECORD_TAG) + 1, 1)
    return None


_Read = Callable[[int, int], memoryview]


def _read_in(file: BinaryIO, span: RecordSpan) -> _Read:
    """Return what reads a record, forwards: some megabyte at a time is read from the file, and held."""
    held, start = memoryview(b""), 0

    def read(offset: int, length: int) -> memoryview:
        nonlocal held, start
        if offset < start or offset + length > start + len(held):
            file.seek(span.offset + offset)
            held, start = memoryview(file.read(min(max(length, _READ_BYTES), span.length - offset))), offset
        return held[offset - start : offset - start + length]

    return read


def _payloads(reading: _Reading, read: _Read, length: int) -> Iterator[bytes]:
    while not reading.whole:
        payload = _next_unit(reading, read, length)
        if payload is not None:
            yield payload
    if reading.verified != length:
        raise SealBroken("there are bytes after the end of a record")


def _next_unit(reading: _Reading, read: _Read, length: int) -> bytes | None:
    start = reading.verified
    need = reading.unit_bytes(read(start, min(HEADER_BYTES, length - start)))
    unit = read(start, need) if start + need <= length else memoryview(b"")
    if len(unit) != need:
        raise SealBroken("a record is cut")
    return reading.open(unit)


def _span_at(file: BinaryIO, start: int, end: int) -> RecordSpan | None:
    file.seek(start)
    prefix = file.read(PREFIX_BYTES)
    if len(prefix) < PREFIX_BYTES or not prefix.startswith(RECORD_TAG):
        return None
    place, type_, sequence = start + PREFIX_BYTES, SegmentType.DATA, 0
    while type_ is not SegmentType.FINAL:
        file.seek(place)
        try:
            type_, length = _check_header(memoryview(file.read(HEADER_BYTES)), sequence)
        except SealBroken:
            return None
        place += length
        sequence += 1
        if place > end:
            return None
    return RecordSpan(prefix[len(RECORD_TAG) :], start, place - start)


def _check_header(view: memoryview, expected: int) -> tuple[SegmentType, int]:
    """Return type and length of the segment behind this header. Raises SealBroken if it is not the expected one."""
    type_, sequence, length = parse_header(view)
    if sequence != expected or length > RECORD_PAYLOAD_BYTES or type_ is SegmentType.CONTROL:
        raise SealBroken("a segment is not the next one of its record")
    if type_ is SegmentType.FINAL and (sequence == 0 or length != _FINAL.size):
        raise SealBroken("FINAL is not where or as a record ends")
    return type_, segment_bytes(sequence, length)


def _parse_meta(payload: bytes) -> ObjectMeta:
    try:
        return ObjectMeta.parse(payload)
    except ValidationError as error:
        raise SealBroken("what is known of an object is not readable") from error


def _check_length(payload: Buffer) -> None:
    if len(payload) > RECORD_PAYLOAD_BYTES:
        raise LocalMisuse(f"a segment of a record has at most {RECORD_PAYLOAD_BYTES} bytes")


def _stream_key(secret: bytes) -> StreamKey:
    return StreamKey.derive(secret, _STREAM_NAME, control=False)
