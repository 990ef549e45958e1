"""The Bridge's word for itself and its own TLS certificate, so that an invite pins an identity and no certificate."""

from typing import Final

from isthmus.contract.notices import pack_fields
from isthmus.envelope.identity import Identity, verify
from isthmus.errors import LocalMisuse, Untrusted

_LABEL: Final = b"isthmus/certificate/v1"
_PROOF: Final = b"isthmus/bridge/v1"
_DIGEST_BYTES: Final = 32
CHALLENGE_BYTES: Final = 32


def endorse(identity: Identity, cert_sha256: bytes) -> bytes:
    """Return the Bridge's signature over the SHA-256 of a certificate (DER)."""
    if len(cert_sha256) != _DIGEST_BYTES:
        raise LocalMisuse("a certificate is endorsed by its SHA-256")
    return identity.sign(_LABEL, cert_sha256)


def check_endorsement(bridge_public: bytes, cert_sha256: bytes, signature: bytes) -> None:
    """Return if the Bridge of this identity endorsed that certificate. Raises Untrusted otherwise."""
    if len(cert_sha256) != _DIGEST_BYTES:
        raise Untrusted("this is not the SHA-256 of a certificate")
    verify(bridge_public, _LABEL, cert_sha256, signature)


def prove(identity: Identity, challenge: bytes, cert_sha256: bytes | None) -> bytes:
    """Return the Bridge's answer to a challenge: that it is there now, and which certificate it shows, or none."""
    if len(challenge) != CHALLENGE_BYTES:
        raise LocalMisuse(f"a challenge has {CHALLENGE_BYTES} bytes")
    return identity.sign(_PROOF, pack_fields((challenge, cert_sha256 or b"")))


def check_proof(bridge_public: bytes, challenge: bytes, cert_sha256: bytes | None, signature: bytes) -> None:
    """Return if the Bridge of this identity answered this challenge with that. Raises Untrusted otherwise."""
    verify(bridge_public, _PROOF, pack_fields((challenge, cert_sha256 or b"")), signature)
