"""Prekeys: what others seal session keys to, and sealing itself (docs/protocol/keys.md).

HPKE base mode (RFC 9180) with the hybrid KEM of ML-KEM-768 and X25519, so that a recording of today stays closed to
a quantum computer of tomorrow, and to whoever breaks only one of the two.
"""

import hashlib
from dataclasses import dataclass, field
from typing import Final, Self

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from isthmus.contract.documents import Prekey
from isthmus.envelope.identity import Random
from isthmus.errors import OperatorError, SealBroken, Untrusted

KEM_NAME: Final = "MLKEM768_X25519"  # what a prekey document says; any other is refused, so nobody can downgrade it
PREKEY_ID_BYTES: Final = 16
PREKEY_LIFETIME: Final = 30 * 86_400.0  # seconds for which others may seal to a prekey
_MLKEM_SEED_BYTES: Final = 64
_MLKEM_PUBLIC_BYTES: Final = 1184
_X25519_BYTES: Final = 32
_ID_LABEL: Final = b"isthmus/prekey-id/v1\0"
_EXPORT_VERSION: Final = 1
_CHECK_BYTES: Final = 16
_EXPORT_BYTES: Final = 1 + 8 + _MLKEM_SEED_BYTES + _X25519_BYTES + _CHECK_BYTES

_SUITE: Final = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


def prekey_id(public: bytes) -> bytes:
    """Return the identifier of a public prekey, 16 bytes: a hash of it, so that a key cannot pass for another."""
    return hashlib.sha256(_ID_LABEL + public).digest()[:PREKEY_ID_BYTES]


@dataclass(frozen=True, slots=True)
class PrekeyPair:
    """A key pair that others seal to until `not_after` (Unix seconds, whole milliseconds)."""

    prekey_id: bytes
    public: bytes
    not_after: float
    _seed: bytes = field(repr=False)
    _x25519: bytes = field(repr=False)
    _key: MLKEM768X25519PrivateKey = field(repr=False, compare=False)

    @classmethod
    def generate(cls, random: Random, now: float, lifetime: float = PREKEY_LIFETIME) -> Self:
        """Return a new pair, good for sealing for `lifetime` seconds."""
        not_after = round((now + lifetime) * 1000) / 1000
        return cls._from_parts(random(_MLKEM_SEED_BYTES), random(_X25519_BYTES), not_after)

    @classmethod
    def load(cls, exported: bytes) -> Self:
        """Return the pair that `export` wrote. Raises OperatorError if the bytes are damaged."""
        body, check = exported[:-_CHECK_BYTES], exported[-_CHECK_BYTES:]
        if len(exported) != _EXPORT_BYTES or body[0] != _EXPORT_VERSION or check != _check(body):
            raise OperatorError("this prekey file is damaged or of another version")
        not_after, seed, x25519 = body[1:9], body[9:73], body[73:]
        return cls._from_parts(seed, x25519, int.from_bytes(not_after, "big") / 1000)

    def export(self) -> bytes:
        """Return all of it, private parts included, for a file that only its owner reads.

        Version 1 (1 byte), not-after in milliseconds (8), ML-KEM seed d || z (64, FIPS 203), X25519 private key (32),
        and the first 16 bytes of the SHA-256 of these, against bit rot.
        """
        milliseconds = round(self.not_after * 1000).to_bytes(8, "big")
        body = b"".join((bytes((_EXPORT_VERSION,)), milliseconds, self._seed, self._x25519))
        return body + _check(body)

    def published(self) -> Prekey:
        """Return the public half as the document that other sites get."""
        return Prekey(prekey_id=self.prekey_id, kem=KEM_NAME, public_key=self.public, not_after=self.not_after)

    def unseal(self, sealed: bytes, info: bytes) -> bytes:
        """Return what `seal` was given. Raises SealBroken if it was not sealed to this key with this `info`."""
        try:
            return _SUITE.decrypt(sealed, self._key, info=info)
        except (InvalidTag, ValueError) as error:
            raise SealBroken("a sealed key does not open") from error

    @classmethod
    def _from_parts(cls, seed: bytes, x25519: bytes, not_after: float) -> Self:
        lattice, curve = MLKEM768PrivateKey.from_seed_bytes(seed), X25519PrivateKey.from_private_bytes(x25519)
        public = lattice.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()
        return cls(prekey_id(public), public, not_after, seed, x25519, MLKEM768X25519PrivateKey(lattice, curve))


def seal(public: bytes, plaintext: bytes, info: bytes) -> bytes:
    """Return `plaintext` sealed to a public prekey: encapsulated key (1120 bytes), ciphertext, tag (16).

    Anybody can seal; `info` must be presented again to open. Raises Untrusted if `public` is no usable key.
    """
    try:
        if len(public) != _MLKEM_PUBLIC_BYTES + _X25519_BYTES:
            raise ValueError("wrong length")
        lattice = MLKEM768PublicKey.from_public_bytes(public[:_MLKEM_PUBLIC_BYTES])
        curve = X25519PublicKey.from_public_bytes(public[_MLKEM_PUBLIC_BYTES:])
        return _SUITE.encrypt(plaintext, MLKEM768X25519PublicKey(lattice, curve), info=info)
    except ValueError as error:
        raise Untrusted(f"this prekey cannot be sealed to: {error}") from error


def check_prekey(prekey: Prekey) -> None:
    """Do nothing if keys can be sealed to a prekey, whatever its owner signed. Raises Untrusted."""
    if prekey.kem != KEM_NAME or prekey.prekey_id != prekey_id(prekey.public_key):
        raise Untrusted("this prekey is of another kind, or named otherwise than it is")
    seal(prekey.public_key, b"", b"")


def _check(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:_CHECK_BYTES]
