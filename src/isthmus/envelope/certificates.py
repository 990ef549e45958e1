"""The Bridge's word for its own TLS certificate, so that an invite pins an identity and not a certificate."""

from typing import Final

from isthmus.envelope.identity import Identity, verify
from isthmus.errors import LocalMisuse, Untrusted

_LABEL: Final = b"isthmus/certificate/v1"
_DIGEST_BYTES: Final = 32


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
