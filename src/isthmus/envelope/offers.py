"""How two Routers agree on the keys of a session, through a Bridge that learns none (docs/protocol/offers.md).

The initiator's offer carries a secret sealed to the responder's prekey and an ephemeral key; the accept carries the
responder's. Both are signed. The A-ASSOCIATE-RQ rides beside the offer and the answer beside the accept, encrypted.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from isthmus.contract.documents import Prekey
from isthmus.contract.notices import SESSION_ID_BYTES, pack_fields, unpack_fields
from isthmus.contract.rest import BUILT_IN_PROVIDER, MAX_CLOCK_SKEW, PROVIDER_PATTERN
from isthmus.envelope.identity import Identity, Random, RouterId, verify
from isthmus.envelope.keys import SessionKeys, answer_key, request_key, session_secret
from isthmus.envelope.prekeys import KEM_NAME, PREKEY_ID_BYTES, PrekeyPair, prekey_id, seal
from isthmus.errors import LocalMisuse, OperatorError, RemoteMisuse, SealBroken, Untrusted
from isthmus.kit.names import AETitle

OFFER_SECONDS: Final = 60.0
MAX_OFFER_BYTES: Final = 4096  # an offer has less than 1,600; what is longer is not parsed
MAX_WINDOW_BYTES: Final = 2**40

_OFFER_LABEL: Final = b"isthmus/offer/v1"
_ACCEPT_LABEL: Final = b"isthmus/accept/v1"
_SECRET_BYTES: Final = 32
_X25519_BYTES: Final = 32
_SEALED_BYTES: Final = 1120 + _SECRET_BYTES + 16
_OFFER_FIELDS: Final = 12
_ACCEPT_FIELDS: Final = 5
_PROVIDER: Final = re.compile(PROVIDER_PATTERN)
_ONCE: Final = bytes(12)  # the nonce of a key that encrypts one message only


class Decision(IntEnum):
    """What the called device said."""

    ACCEPTED = 1  # the answer is its A-ASSOCIATE-AC
    REJECTED = 2  # the answer is an A-ASSOCIATE-RJ


@dataclass(frozen=True, slots=True)
class OfferFields:
    """What stands in an offer for the middle to read. Nobody vouches for it until `open_offer` did.

    Attributes:
        session_id: 16 bytes.
        initiator: the Router that asks.
        responder: the Router it asks.
        calling: network AE title of the calling device.
        called: network AE title of the called device.
        provider: name of the pair of cloud services that carries the session.
        prekey_id: which prekey of the responder the secret is sealed to.
        not_after: Unix seconds after which the offer is void.
        window: first credit, in payload bytes, that the initiator gives the responder.
        ephemeral: the initiator's X25519 public key.
        sealed: the secret, sealed.
    """

    session_id: bytes
    initiator: RouterId
    responder: RouterId
    calling: AETitle
    called: AETitle
    provider: str
    prekey_id: bytes
    not_after: float
    window: int
    ephemeral: bytes = field(repr=False)
    sealed: bytes = field(repr=False)


class Acceptance(NamedTuple):
    """What the responder sends back, and the keys it then has."""

    accept: bytes
    signature: bytes
    answer_box: bytes
    keys: SessionKeys


class Answer(NamedTuple):
    """What the initiator learns from an accept: the device's PDU, the first credit in bytes, the keys."""

    decision: Decision
    answer: bytes
    window: int
    keys: SessionKeys


@dataclass(frozen=True, slots=True)
class OfferDraft:
    """An offer of ours: what to send, and the secrets that the answer needs."""

    offer: bytes
    signature: bytes
    request_box: bytes
    responder: RouterId
    _secret: bytes = field(repr=False)
    _ephemeral: X25519PrivateKey = field(repr=False)

    def open_accept(self, accept: bytes, signature: bytes, answer_box: bytes, responder_public: bytes) -> Answer:
        """Return the answer to this offer.

        Args:
            accept: the accept.
            signature: the responder's signature over it and the answer box.
            answer_box: the encrypted A-ASSOCIATE-AC or -RJ.
            responder_public: the pinned identity key of the Router the offer was made for.

        Raises Untrusted if that Router did not sign it, SealBroken if it answers another offer or does not decrypt.
        """
        _check_key(responder_public, self.responder)
        verify(responder_public, _ACCEPT_LABEL, accept + _digest(answer_box), signature)
        ephemeral, decision, window = _parse_accept(accept, self.offer)
        secret = session_secret(self.offer, accept, self._secret, _agree(self._ephemeral, ephemeral))
        answer = _open_box(answer_key(secret), answer_box)
        return Answer(decision, answer, window, SessionKeys.derive(secret, initiator=True))


@dataclass(frozen=True, slots=True)
class OpenedOffer:
    """An offer for us that verified: signed by the accepted initiator, in time, sealed to a prekey of ours.

    Still to be checked by the Router: that `session_id` was never seen, and that the device is granted.

    Attributes:
        session_id: 16 bytes.
        initiator: the Router that asks.
        calling: network AE title of the calling device.
        called: network AE title of the called device.
        provider: name of the pair of cloud services that carries the session.
        request: the A-ASSOCIATE-RQ, as the calling device sent it.
        window: first credit, in payload bytes, that the initiator gives us.
        not_after: Unix seconds after which the offer is void.
        forget_after: Unix seconds until which the session id must be remembered, so that no replay passes.
    """

    session_id: bytes
    initiator: RouterId
    calling: AETitle
    called: AETitle
    provider: str
    request: bytes = field(repr=False)
    window: int
    not_after: float
    forget_after: float
    _offer: bytes = field(repr=False)
    _secret: bytes = field(repr=False)
    _ephemeral: bytes = field(repr=False)
    _own: RouterId = field(repr=False)

    def accept(
        self, identity: Identity, *, decision: Decision, answer: bytes, window: int, random: Random
    ) -> Acceptance:
        """Return the signed accept with the device's answer, encrypted, and the keys of the session.

        Args:
            identity: ours, which the offer was made for.
            decision: what the device said.
            answer: its A-ASSOCIATE-AC or -RJ, as it came.
            window: first credit, in payload bytes, that we give the initiator.
            random: chance, for the ephemeral key.

        Raises SealBroken if the initiator's ephemeral key is no usable one.
        """
        if identity.router_id != self._own:
            raise LocalMisuse("an offer is accepted by the Router it was made for")
        ephemeral = X25519PrivateKey.from_private_bytes(random(_X25519_BYTES))
        fields = (
            _ACCEPT_LABEL,
            _digest(self._offer),
            ephemeral.public_key().public_bytes_raw(),
            bytes((decision,)),
            _pack_window(window),
        )
        accept = pack_fields(fields)
        secret = session_secret(self._offer, accept, self._secret, _agree(ephemeral, self._ephemeral))
        box = _make_box(answer_key(secret), answer)
        signature = identity.sign(_ACCEPT_LABEL, accept + _digest(box))
        return Acceptance(accept, signature, box, SessionKeys.derive(secret, initiator=False))


def make_offer(
    identity: Identity,
    *,
    session_id: bytes,
    responder: RouterId,
    prekey: Prekey,
    calling: str,
    called: str,
    request: bytes,
    window: int,
    now: float,
    random: Random,
    provider: str = BUILT_IN_PROVIDER,
) -> OfferDraft:
    """Return a signed offer of a session, good for OFFER_SECONDS, with the A-ASSOCIATE-RQ encrypted beside it.

    Args:
        identity: ours.
        session_id: 16 random bytes, never used before.
        responder: the Router that serves the called device.
        prekey: its prekey, out of a document that verified against its pinned key.
        calling: network AE title of the calling device.
        called: network AE title of the called device.
        request: the A-ASSOCIATE-RQ, as the calling device sent it.
        window: first credit, in payload bytes, that we give the responder.
        now: Unix seconds.
        random: chance, for the secret and the ephemeral key.
        provider: name of the pair of cloud services that is to carry the session.

    Raises Untrusted if the prekey is over its time or not of the one kind known here.
    """
    if prekey.kem != KEM_NAME or prekey.prekey_id != prekey_id(prekey.public_key):
        raise Untrusted("the prekey of the called site is not of a kind that is known here")
    if prekey.not_after < now:
        raise Untrusted("the prekey of the called site is over its time", hint="is its Router running?")
    if len(session_id) != SESSION_ID_BYTES:
        raise LocalMisuse(f"a session id has {SESSION_ID_BYTES} bytes")
    secret, ephemeral = random(_SECRET_BYTES), X25519PrivateKey.from_private_bytes(random(_X25519_BYTES))
    public_fields = pack_fields(
        (
            _OFFER_LABEL,
            session_id,
            identity.router_id.encode(),
            responder.encode(),
            _pack_title(calling),
            _pack_title(called),
            _pack_provider(provider),
            prekey.prekey_id,
            round((now + OFFER_SECONDS) * 1000).to_bytes(8, "big"),
            _pack_window(window),
            ephemeral.public_key().public_bytes_raw(),
        )
    )
    offer = public_fields + pack_fields((seal(prekey.public_key, secret, public_fields),))
    box = _make_box(request_key(offer, secret), request)
    return OfferDraft(offer, identity.sign(_OFFER_LABEL, offer + _digest(box)), box, responder, secret, ephemeral)


def peek_offer(offer: bytes) -> OfferFields:
    """Return what an offer says, verifying nothing but its form. Raises SealBroken if it is not a whole offer."""
    if len(offer) > MAX_OFFER_BYTES:
        raise SealBroken("an offer is too long")
    _, session_id, initiator, responder, calling, called, provider, key_id, not_after, window, ephemeral, sealed = (
        _unpack(offer, _OFFER_FIELDS, _OFFER_LABEL)
    )
    lengths = (len(session_id), len(key_id), len(not_after), len(ephemeral), len(sealed))
    if lengths != (SESSION_ID_BYTES, PREKEY_ID_BYTES, 8, _X25519_BYTES, _SEALED_BYTES):
        raise SealBroken("a field of an offer has another length than it should")
    return OfferFields(
        session_id=session_id,
        initiator=_unpack_router_id(initiator),
        responder=_unpack_router_id(responder),
        calling=_unpack_title(calling),
        called=_unpack_title(called),
        provider=_unpack_provider(provider),
        prekey_id=key_id,
        not_after=int.from_bytes(not_after, "big") / 1000,
        window=_unpack_window(window),
        ephemeral=ephemeral,
        sealed=sealed,
    )


def open_offer(
    offer: bytes,
    signature: bytes,
    request_box: bytes,
    *,
    initiator_public: bytes,
    own: RouterId,
    prekeys: Mapping[bytes, PrekeyPair],
    now: float,
) -> OpenedOffer:
    """Return an offer that is fresh, made for us, and signed by the Router that was accepted.

    Args:
        offer: the offer.
        signature: the initiator's signature over it and the request box.
        request_box: the encrypted A-ASSOCIATE-RQ.
        initiator_public: the pinned identity key of the Router that `peek_offer` named.
        own: our Router ID.
        prekeys: our prekeys by prekey id.
        now: Unix seconds.

    Raises Untrusted if the initiator did not sign it, SealBroken if it is for another Router, out of its time, sealed
    to a prekey that is none of ours or over its time, or does not decrypt.
    """
    fields = peek_offer(offer)
    _check_key(initiator_public, fields.initiator)
    verify(initiator_public, _OFFER_LABEL, offer + _digest(request_box), signature)
    if fields.responder != own:
        raise SealBroken("an offer is for another Router")
    if not fields.not_after - OFFER_SECONDS - MAX_CLOCK_SKEW <= now <= fields.not_after + MAX_CLOCK_SKEW:
        raise SealBroken("an offer is out of its time", hint="compare the clocks of the two sites")
    pair = prekeys.get(fields.prekey_id)
    if pair is None or pair.not_after + OFFER_SECONDS + MAX_CLOCK_SKEW < now:
        raise SealBroken("an offer is sealed to a prekey that is over its time, or never was one of ours")
    public_fields = offer[: -4 - len(fields.sealed)]
    secret = pair.unseal(fields.sealed, public_fields)
    return OpenedOffer(
        session_id=fields.session_id,
        initiator=fields.initiator,
        calling=fields.calling,
        called=fields.called,
        provider=fields.provider,
        request=_open_box(request_key(offer, secret), request_box),
        window=fields.window,
        not_after=fields.not_after,
        forget_after=fields.not_after + MAX_CLOCK_SKEW,
        _offer=offer,
        _secret=secret,
        _ephemeral=fields.ephemeral,
        _own=own,
    )


def _parse_accept(accept: bytes, offer: bytes) -> tuple[bytes, Decision, int]:
    _, digest, ephemeral, decision, window = _unpack(accept, _ACCEPT_FIELDS, _ACCEPT_LABEL)
    if digest != _digest(offer):
        raise SealBroken("an accept answers another offer")
    if len(ephemeral) != _X25519_BYTES or len(decision) != 1 or decision[0] not in tuple(Decision):
        raise SealBroken("a field of an accept is not as it should be")
    return ephemeral, Decision(decision[0]), _unpack_window(window)


def _unpack(body: bytes, count: int, label: bytes) -> list[bytes]:
    try:
        fields = unpack_fields(body, count)
    except RemoteMisuse as error:
        raise SealBroken(f"this is no {label.decode()}: {error}") from error
    if fields[0] != label:
        raise SealBroken(f"this is no {label.decode()}, which is what is known here")
    return fields


def _agree(own: X25519PrivateKey, other: bytes) -> bytes:
    try:
        return own.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError as error:
        raise SealBroken("an ephemeral key is not a usable one") from error


def _make_box(key: bytes, content: bytes) -> bytes:
    return AESGCM(key).encrypt(_ONCE, content, None)


def _open_box(key: bytes, box: bytes) -> bytes:
    try:
        return AESGCM(key).decrypt(_ONCE, box, None)
    except InvalidTag as error:
        raise SealBroken("an association PDU does not decrypt") from error


def _check_key(public: bytes, router_id: RouterId) -> None:
    if RouterId.from_public(public) != router_id:
        raise Untrusted("the accepted key is not that of the Router that is named")


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def _pack_window(window: int) -> bytes:
    if not 0 <= window <= MAX_WINDOW_BYTES:
        raise LocalMisuse("a first credit is out of bounds")
    return window.to_bytes(8, "big")


def _unpack_window(field_: bytes) -> int:
    window = int.from_bytes(field_, "big")
    if len(field_) != 8 or window > MAX_WINDOW_BYTES:
        raise SealBroken("a first credit is out of bounds")
    return window


def _pack_title(title: str) -> bytes:
    try:
        return AETitle.parse(title).encode()
    except OperatorError as error:
        raise LocalMisuse(str(error)) from error


def _unpack_title(field_: bytes) -> AETitle:
    try:
        title = AETitle.parse(field_.decode("ascii"))
    except (OperatorError, UnicodeDecodeError) as error:
        raise SealBroken("an AE title of an offer could not be one") from error
    if title.encode() != field_:
        raise SealBroken("an AE title of an offer is padded")
    return title


def _pack_provider(name: str) -> bytes:
    if not _PROVIDER.fullmatch(name):
        raise LocalMisuse(f"'{name}' is no name of a pair of cloud services")
    return name.encode()


def _unpack_provider(field_: bytes) -> str:
    name = field_.decode("ascii", "replace")
    if not _PROVIDER.fullmatch(name):
        raise SealBroken("a provider of an offer could not be one")
    return name


def _unpack_router_id(field_: bytes) -> RouterId:
    try:
        router_id = RouterId.parse(field_.decode("ascii"))
    except (OperatorError, UnicodeDecodeError) as error:
        raise SealBroken("a Router ID of an offer could not be one") from error
    if router_id.encode() != field_:
        raise SealBroken("a Router ID of an offer is not in its compact form")
    return router_id
