"""The layout of a notice: kind (1 byte), session id (16 bytes), body. Kinds below 16 come from the Bridge only."""

from collections.abc import Iterable
from enum import IntEnum
from typing import Final

from isthmus.errors import RemoteMisuse

SESSION_ID_BYTES: Final = 16
PREFIX_BYTES: Final = 1 + SESSION_ID_BYTES
NO_SESSION: Final = bytes(SESSION_ID_BYTES)
FIRST_ROUTER_KIND: Final = 16


class NoticeKind(IntEnum):
    """What a notice is about. A kind that is not known here is ignored: a newer site may know more."""

    OFFER = 1  # body: fields offer, signature, encrypted A-ASSOCIATE-RQ, initiator's Router ID
    NETWORK_CHANGED = 2  # body: empty; ask the Bridge what
    REVOKED = 3  # body: Router ID that the network no longer knows
    ACCEPT = 16  # body: fields accept, signature, encrypted answer of the device
    DATA = 17  # body: a sealed data segment
    DATA_BLOB = 18  # body: sequence (8 bytes) of a sealed data segment that waits as a blob
    CONTROL = 19  # body: a sealed control segment
    GONE = 20  # body: empty; this Router knows no such session
    DIALLING = 21  # body: empty; the offer is good and the device is being called: be patient
    LETTER = 22  # no session; body: counter (8 bytes), sender's Router ID, and the letter itself if it is small
    LETTER_MISSING = 23  # no session; body: counter (8 bytes), asker's Router ID: please put that letter again
    TRIED = 24  # no session; body: 16 random bytes, by which a Router finds out whether notices to itself arrive


WITHOUT_SESSION: Final = frozenset({NoticeKind.LETTER, NoticeKind.LETTER_MISSING})
"""Kinds that a Router may send to one that accepted it, and was accepted by it, outside any session."""


def pack(kind: NoticeKind, session_id: bytes, body: bytes = b"") -> bytes:
    """Return the notice."""
    return b"".join((bytes((kind,)), session_id, body))


def pack_fields(fields: Iterable[bytes]) -> bytes:
    """Return each field behind its length (4 bytes, big endian)."""
    return b"".join(part for field in fields for part in (len(field).to_bytes(4, "big"), field))


def unpack_fields(body: bytes | memoryview, count: int) -> list[bytes]:
    """Return `count` fields of what `pack_fields` made. Raises RemoteMisuse if it is not that, to the last byte."""
    fields: list[bytes] = []
    start = 0
    for _ in range(count):
        length = int.from_bytes(body[start : start + 4], "big")
        end = start + 4 + length
        if start + 4 > len(body) or end > len(body):
            raise RemoteMisuse("a field is longer than what holds it")
        fields.append(bytes(body[start + 4 : end]))
        start = end
    if start != len(body):
        raise RemoteMisuse("there are bytes after the last field")
    return fields
