"""Segments: a stream cut into units that are sealed one by one (docs/protocol/segments.md).

A segment is a header of 16 bytes (version, type, two zero bytes, sequence, payload length), for sequence 0 the key
commitment, and AES-256-GCM ciphertext with the header as associated data.
"""

import hmac
import io
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from isthmus.envelope.keys import COMMITMENT_BYTES, StreamKey
from isthmus.errors import LocalMisuse, SealBroken

VERSION: Final = 1
HEADER_BYTES: Final = 16
TAG_BYTES: Final = 16
MAX_PAYLOAD_BYTES: Final = 4 * 1024 * 1024
MAX_SEGMENTS: Final = 2**24
REPLAY_WINDOW: Final = 65_536  # sequences; what is further behind is refused as opened already
BLOB_NAME_CHARACTERS: Final = 40

_HEADER: Final = struct.Struct(">BBHQI")
_FINAL: Final = struct.Struct(">QQ")
_NONCE_BYTES: Final = 12


class SegmentType(IntEnum):
    """What a segment carries."""

    DATA = 1
    FINAL = 2  # payload: `pack_final`; nothing comes after it
    CONTROL = 3  # only on control streams, and nothing else there


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment that verified."""

    type: SegmentType
    sequence: int
    payload: bytes


class Sealer:
    """Seals the segments of one stream, in order. A sequence is sealed once: who sends again sends the same bytes."""

    __slots__ = ("_aead", "_commitment", "_control", "_final", "_nonce", "_sequence")

    def __init__(self, key: StreamKey) -> None:
        self._sequence = 0
        self._aead = AESGCM(key.key)
        self._nonce = int.from_bytes(key.base_nonce, "big")
        self._commitment = key.commitment
        self._control = key.control
        self._final = False

    @property
    def sequence(self) -> int:
        """The sequence of the next segment."""
        return self._sequence

    def seal(self, type: SegmentType, payload: bytes | bytearray | memoryview, *, prefix: bytes = b"") -> bytes:  # noqa: A002 - the field's name in the protocol
        """Return the next segment behind `prefix`, which is not part of it and saves its bearer a copy.

        Raises LocalMisuse for a type that is not this stream's, for anything after FINAL, for more than
        MAX_PAYLOAD_BYTES and after MAX_SEGMENTS.
        """
        sequence, length = self._sequence, len(payload)
        self._check(type, length)
        header = _HEADER.pack(VERSION, type, 0, sequence, length)
        lead = b"".join((prefix, header, self._commitment)) if sequence == 0 else prefix + header
        nonce = (self._nonce ^ sequence).to_bytes(_NONCE_BYTES, "big")
        # One buffer from the start: BytesIO gives its own bytes away, where join would copy a quarter of a megabyte.
        whole = io.BytesIO()
        whole.seek(len(lead) + length + TAG_BYTES - 1)
        whole.write(b"\0")
        with whole.getbuffer() as view, view[len(lead) :] as sealed:
            view[: len(lead)] = lead
            self._aead.encrypt_into(nonce, payload, header, sealed)
        self._sequence = sequence + 1
        self._final = type is SegmentType.FINAL
        return whole.getvalue()

    def _check(self, type: SegmentType, length: int) -> None:  # noqa: A002 - as in seal
        if (type is SegmentType.CONTROL) is not self._control:
            raise LocalMisuse(f"no {type.name} segments on this stream")
        if self._final:
            raise LocalMisuse("nothing comes after FINAL")
        if length > MAX_PAYLOAD_BYTES:
            raise LocalMisuse(f"a segment of {length} bytes is too long")
        if self._sequence >= MAX_SEGMENTS:
            raise LocalMisuse("this stream has used up its sequence numbers")


class Opener:
    """Opens the segments of one stream, in any order, each once.

    Order and gaps are the reader's to see. Refused are what was opened already, what lies more than REPLAY_WINDOW
    behind the highest opened, and what stands beyond FINAL. A segment that comes twice is nothing evil (writers send
    again): ask `peek_sequence` and drop it, rather than open it.
    """

    __slots__ = ("_aead", "_commitment", "_control", "_final", "_floor", "_nonce", "_opened")

    def __init__(self, key: StreamKey) -> None:
        self._aead = AESGCM(key.key)
        self._nonce = int.from_bytes(key.base_nonce, "big")
        self._commitment = key.commitment
        self._control = key.control
        self._final: int | None = None
        self._floor = 0  # every sequence below counts as opened
        self._opened = 0  # bit n: sequence floor + n was opened

    def open(self, segment: bytes | bytearray | memoryview) -> Segment:
        """Return what a segment carries. Raises SealBroken if it is not one of this stream, or not for the first time.

        A refused segment changes nothing: the true one can still be opened.
        """
        view = memoryview(segment)
        type_, sequence, length = parse_header(view)
        start = HEADER_BYTES + (COMMITMENT_BYTES if sequence == 0 else 0)
        if len(view) != start + length + TAG_BYTES:
            raise SealBroken("a segment is not as long as it says")
        if (type_ is SegmentType.CONTROL) is not self._control:
            raise SealBroken("a segment is of a type that this stream does not have")
        if self._was_opened(sequence):
            raise SealBroken(f"segment {sequence} was opened already")
        if self._final is not None and sequence > self._final:
            raise SealBroken("a segment stands beyond FINAL")
        if type_ is SegmentType.FINAL and self._highest() > sequence:
            raise SealBroken("FINAL stands before a segment that was opened")
        if sequence == 0 and not hmac.compare_digest(view[HEADER_BYTES:start], self._commitment):
            raise SealBroken("a stream is not sealed with the key of this session")
        nonce = (self._nonce ^ sequence).to_bytes(_NONCE_BYTES, "big")
        try:
            payload = self._aead.decrypt(nonce, view[start:], view[:HEADER_BYTES])
        except InvalidTag as error:
            raise SealBroken(f"segment {sequence} does not verify") from error
        self._remember(sequence)
        if type_ is SegmentType.FINAL:
            self._final = sequence
        return Segment(type_, sequence, payload)

    def _was_opened(self, sequence: int) -> bool:
        return sequence < self._floor or bool(self._opened >> (sequence - self._floor) & 1)

    def _highest(self) -> int:
        return self._floor + self._opened.bit_length() - 1

    def _remember(self, sequence: int) -> None:
        self._opened |= 1 << (sequence - self._floor)
        # Slide over what was opened without a gap, and in any case far enough that the window keeps its size.
        done = (~self._opened & (self._opened + 1)).bit_length() - 1
        slide = max(done, self._opened.bit_length() - REPLAY_WINDOW)
        self._opened >>= slide
        self._floor += slide


def parse_header(view: memoryview) -> tuple[SegmentType, int, int]:
    """Return type, sequence and payload length that a segment claims, unverified.

    Raises SealBroken if it has no header of this version, or one that is out of bounds.
    """
    if len(view) < HEADER_BYTES:
        raise SealBroken("a segment is shorter than its header")
    version, type_, zero, sequence, length = _HEADER.unpack_from(view)
    if version != VERSION or zero:
        raise SealBroken(f"a segment is of version {version}, which is not known here")
    if type_ not in _TYPES or sequence >= MAX_SEGMENTS or length > MAX_PAYLOAD_BYTES:
        raise SealBroken("a segment's header is out of bounds")
    return _TYPES[type_], sequence, length


def segment_bytes(sequence: int, length: int) -> int:
    """Return how long the whole segment of this sequence and payload length is."""
    return HEADER_BYTES + (COMMITMENT_BYTES if sequence == 0 else 0) + length + TAG_BYTES


def peek_sequence(segment: bytes | bytearray | memoryview) -> int:
    """Return the sequence that a segment claims, unverified. Raises SealBroken if it has no header of this version."""
    return parse_header(memoryview(segment))[1]


def pack_final(payload_bytes: int, segments: int) -> bytes:
    """Return FINAL's payload: how many payload bytes and DATA segments came before it."""
    return _FINAL.pack(payload_bytes, segments)


def unpack_final(payload: bytes) -> tuple[int, int]:
    """Return the payload bytes and DATA segments that FINAL counts. Raises SealBroken if it is not that."""
    try:
        payload_bytes, segments = _FINAL.unpack(payload)
    except struct.error as error:
        raise SealBroken("FINAL does not carry its counts") from error
    return payload_bytes, segments


def blob_name(key: StreamKey, sequence: int) -> str:
    """Return the name under which segment `sequence` waits as a blob: 40 hex digits that only the two sides know."""
    return hmac.digest(key.name_key, sequence.to_bytes(8, "big"), "sha256").hex()[:BLOB_NAME_CHARACTERS]


_TYPES: Final = {type_.value: type_ for type_ in SegmentType}
