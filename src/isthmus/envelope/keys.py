"""The key schedule: from the secrets of offer and accept to one key per stream, and letters (docs/protocol/keys.md)."""

import hashlib
from dataclasses import dataclass, field
from typing import Final, Self

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from isthmus.contract.notices import pack_fields

COMMITMENT_BYTES: Final = 32
_REQUEST_LABEL: Final = b"isthmus/request-box/v1"
_ANSWER_LABEL: Final = b"isthmus/answer-box/v1"
_SESSION_LABEL: Final = b"isthmus/session/v1"
_LETTER_LABEL: Final = b"isthmus/letter-box/v1"
_STREAM_LABEL: Final = b"isthmus/stream/v1/"
_STREAM_BYTES: Final = 32 + 32 + 32 + 12


@dataclass(frozen=True, slots=True)
class StreamKey:
    """All that one stream in one direction needs.

    Attributes:
        key: AES-256-GCM key.
        commitment: stands in front of the first segment; a stream under another key cannot show it.
        name_key: HMAC key under which the stream's blobs get their names.
        base_nonce: 12 bytes; the sequence is XORed into it.
        control: whether it is a control stream, which has segments of no other type.
    """

    key: bytes = field(repr=False)
    commitment: bytes = field(repr=False)
    name_key: bytes = field(repr=False)
    base_nonce: bytes = field(repr=False)
    control: bool

    @classmethod
    def derive(cls, secret: bytes, name: bytes, *, control: bool) -> Self:
        """Return the key of the stream `name` of the session with this secret (HKDF-Expand, RFC 5869)."""
        material = expand(secret, _STREAM_LABEL + name, _STREAM_BYTES)
        return cls(material[:32], material[32:64], material[64:96], material[96:], control)


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """The four streams of a session, as the holder sees them: what goes out there comes in on the other side."""

    data_out: StreamKey
    data_in: StreamKey
    control_out: StreamKey
    control_in: StreamKey

    @classmethod
    def derive(cls, secret: bytes, *, initiator: bool) -> Self:
        """Return the keys of one side of the session with this secret (32 bytes)."""
        out, back = (b"initiator", b"responder") if initiator else (b"responder", b"initiator")
        return cls(
            data_out=StreamKey.derive(secret, out + b"/data", control=False),
            data_in=StreamKey.derive(secret, back + b"/data", control=False),
            control_out=StreamKey.derive(secret, out + b"/control", control=True),
            control_in=StreamKey.derive(secret, back + b"/control", control=True),
        )


def request_key(offer: bytes, offered: bytes) -> bytes:
    """Return the key of the request box, from the secret that the offer carries: no forward secrecy yet."""
    return expand(extract(hashlib.sha256(offer).digest(), offered), _REQUEST_LABEL, 32)


def session_secret(offer: bytes, accept: bytes, offered: bytes, agreed: bytes) -> bytes:
    """Return the session's secret, from the offered secret, the X25519 agreement and all that was said."""
    salt = hashlib.sha256(pack_fields((_SESSION_LABEL, offer, accept))).digest()
    return extract(salt, offered + agreed)


def answer_key(secret: bytes) -> bytes:
    """Return the key of the answer box of the session with this secret."""
    return expand(secret, _ANSWER_LABEL, 32)


def letter_key(header: bytes, secret: bytes) -> bytes:
    """Return the key of a letter's box, from the secret that its header carries: as closed as the receiver's prekey."""
    return expand(extract(hashlib.sha256(header).digest(), secret), _LETTER_LABEL, 32)


def extract(salt: bytes, material: bytes) -> bytes:
    """Return 32 bytes: HKDF-Extract with SHA-256 (RFC 5869 section 2.2)."""
    return HKDF.extract(SHA256(), salt, material)


def expand(secret: bytes, info: bytes, length: int) -> bytes:
    """Return `length` bytes: HKDF-Expand with SHA-256 (RFC 5869 section 2.3)."""
    return HKDFExpand(SHA256(), length, info).derive(secret)
