"""Signed requests to the Bridge: what a proxy reads out of TLS is of no use to it (docs/protocol/requests.md)."""

import base64
import re
from dataclasses import dataclass
from typing import Final

from isthmus.contract.notices import pack_fields
from isthmus.envelope.identity import Identity, RouterId, verify
from isthmus.errors import LocalMisuse, OperatorError, Problem, Untrusted

SCHEME: Final = "Isthmus-Ed25519"
NONCE_BYTES: Final = 16
_LABEL: Final = b"isthmus/request/v1"
_DIGEST_BYTES: Final = 32
_AUTHORIZATION: Final = re.compile(
    rf"{SCHEME} router=([A-Z2-7]{{36}}),time=([0-9]{{1,15}}),nonce=([\w-]{{22}}),signature=([\w-]{{86}})", re.ASCII
)


@dataclass(frozen=True, slots=True)
class RequestSignature:
    """What an Authorization header says, before anything of it is believed.

    Attributes:
        router_id: who claims to ask.
        time_ms: when it was signed, in milliseconds since the Unix epoch.
        nonce: 16 bytes; the Bridge takes each pair of Router and nonce once while its time would still pass.
        signature: 64 bytes.
    """

    router_id: RouterId
    time_ms: int
    nonce: bytes
    signature: bytes

    @property
    def time(self) -> float:
        """When it was signed, in seconds since the Unix epoch."""
        return self.time_ms / 1000


def sign_request(
    identity: Identity, bridge: bytes, method: str, target: str, body_digest: bytes, now: float, nonce: bytes
) -> str:
    """Return the value of the Authorization header for one request to one Bridge.

    Args:
        identity: who asks.
        bridge: the Bridge's Ed25519 public key.
        method: the HTTP method, in upper case.
        target: path and query exactly as they stand in the request line.
        body_digest: SHA-256 of the body, of nothing if there is none.
        now: seconds since the Unix epoch, on the Bridge's clock if its offset is known.
        nonce: 16 random bytes, used once.

    Raises LocalMisuse if digest or nonce have another length.
    """
    if len(body_digest) != _DIGEST_BYTES or len(nonce) != NONCE_BYTES:
        raise LocalMisuse(f"a body digest has {_DIGEST_BYTES} bytes and a nonce {NONCE_BYTES}")
    time_ms = round(now * 1000)
    signature = identity.sign(_LABEL, _message(bridge, method, target, body_digest, time_ms, nonce))
    return _spell(RequestSignature(identity.router_id, time_ms, nonce, signature))


def parse_authorization(value: str) -> RequestSignature:
    """Return what the header says. Raises Problem 401 if it is missing, or not this one to the letter."""
    match = _AUTHORIZATION.fullmatch(value)
    if match is None:
        raise Problem(401, "Not signed", detail=f"an Authorization header of scheme {SCHEME} is needed")
    try:
        router_id = RouterId.parse(match[1])
    except OperatorError as error:
        raise Problem(401, "Not signed", detail=str(error)) from error
    signature = RequestSignature(router_id, int(match[2]), _bytes(match[3]), _bytes(match[4]))
    if _spell(signature) != value:  # leading zeros, spare bits of base64: one signature has one spelling
        raise Problem(401, "Not signed", detail="the Authorization header is not in its one spelling")
    return signature


def verify_request(
    signature: RequestSignature,
    public: bytes,
    bridge: bytes,
    method: str,
    target: str,
    body_digest: bytes,
    now: float,
    max_skew: float,
) -> None:
    """Return if this very request was signed by `public`, at most `max_skew` seconds from `now`.

    The nonce is the caller's to remember. Raises Problem 401; it speaks of clocks only to whoever signed rightly.
    """
    message = _message(bridge, method, target, body_digest, signature.time_ms, signature.nonce)
    try:
        if RouterId.from_public(public) != signature.router_id:
            raise Untrusted("the key is not that Router's")
        verify(public, _LABEL, message, signature.signature)
    except Untrusted as error:
        raise Problem(401, "Signature refused", detail="the signature does not fit this request") from error
    skew = signature.time - now
    if abs(skew) > max_skew:
        direction = "ahead of" if skew > 0 else "behind"
        raise Problem(
            401,
            "Clock skew",
            detail=f"signed {abs(skew):.0f} s {direction} the Bridge's clock, where {max_skew:.0f} s are let pass",
            hint="set the clock of this machine, or check that its time service runs",
        )


def _message(bridge: bytes, method: str, target: str, body_digest: bytes, time_ms: int, nonce: bytes) -> bytes:
    fields = (method.encode(), target.encode(), body_digest, time_ms.to_bytes(8, "big"), nonce, bridge)
    return pack_fields(fields)


def _spell(signature: RequestSignature) -> str:
    nonce, seal = _text(signature.nonce), _text(signature.signature)
    return f"{SCHEME} router={signature.router_id},time={signature.time_ms},nonce={nonce},signature={seal}"


def _text(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
