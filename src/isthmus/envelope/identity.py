"""Who a Router or a Bridge is: an Ed25519 key pair, and the Router ID that people compare (docs/protocol/keys.md)."""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from isthmus.errors import LocalMisuse, OperatorError, Untrusted
from isthmus.kit import base32

Random = Callable[[int], bytes]
"""Returns that many bytes that nobody can guess; `secrets.token_bytes` in production."""

PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
_ID_BYTES: Final = 20  # 160 bits: no second key with the same ID can be found, and it can still be read over a phone


class RouterId(str):
    """The name of a Router that nobody can choose: base32 of a hash of its public key, with check characters.

    The value is the compact form, 36 characters without hyphens, which is also the Router's mailbox.
    """

    __slots__ = ()

    @classmethod
    def from_public(cls, public: bytes) -> Self:
        """Return the ID of the Router whose Ed25519 public key this is. Raises Untrusted if it cannot be a key."""
        if len(public) != PUBLIC_KEY_BYTES:
            raise Untrusted(f"a public key has {PUBLIC_KEY_BYTES} bytes, not {len(public)}")
        return cls(_id_of_public(public))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the ID that a person typed, with any hyphens, spaces and case. Raises OperatorError if mistyped."""
        return cls(_id_of_text("".join(text.upper().split()).replace("-", "")))  # so that what is cached is short

    @property
    def spoken(self) -> str:
        """The ID in groups of five, for screens and phones."""
        return base32.spell(base32.unspell(self))


# Every signed request names a Router, and these are hundreds of small steps each. Bounded: anybody can send a name.


@functools.lru_cache(maxsize=4096)
def _id_of_public(public: bytes) -> str:
    return _spelled(hashlib.sha256(public).digest()[:_ID_BYTES])


@functools.lru_cache(maxsize=4096)
def _id_of_text(text: str) -> str:
    value = base32.unspell(text, what="Router ID")
    if len(value) != _ID_BYTES:
        raise OperatorError("this Router ID is not whole", hint="copy all of it")
    return _spelled(value)


def _spelled(value: bytes) -> str:
    return base32.spell(value).replace("-", "")


@dataclass(frozen=True, slots=True)
class Identity:
    """An Ed25519 key pair. Its private half never leaves the host that made it."""

    public: bytes
    router_id: RouterId
    _key: Ed25519PrivateKey = field(repr=False, compare=False)

    @classmethod
    def generate(cls, random: Random) -> Self:
        """Return a new identity."""
        return cls.from_private(random(32))

    @classmethod
    def from_private(cls, private: bytes) -> Self:
        """Return the identity with this raw private key. Raises OperatorError if it does not have 32 bytes."""
        if len(private) != 32:
            raise OperatorError(
                "this identity key is damaged: it should have 32 bytes", hint="restore it from a backup"
            )
        key = Ed25519PrivateKey.from_private_bytes(private)
        public = key.public_key().public_bytes_raw()
        return cls(public, RouterId.from_public(public), key)

    @property
    def private(self) -> bytes:
        """The raw private key, 32 bytes, for the key file and nothing else."""
        return self._key.private_bytes_raw()

    def sign(self, label: bytes, message: bytes) -> bytes:
        """Return the signature, 64 bytes, over label, NUL, message. The label says what is signed, for ever."""
        return self._key.sign(_labelled(label, message))


def verify(public: bytes, label: bytes, message: bytes, signature: bytes) -> None:
    """Return if `signature` is that of `public` over label, NUL, message. Raises Untrusted otherwise."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _labelled(label, message))
    except (InvalidSignature, ValueError) as error:
        raise Untrusted(f"a signature under {label.decode('ascii', 'replace')} does not verify") from error


def _labelled(label: bytes, message: bytes) -> bytes:
    if not label or b"\0" in label:
        raise LocalMisuse("a label is not empty and has no NUL")
    return b"\0".join((label, message))
