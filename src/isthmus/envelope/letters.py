"""Letters: numbered, sealed and signed messages of one Router to another's mailbox (docs/protocol/queued.md).

Whoever keeps the mailbox can withhold letters, but not read, change, reorder or exchange them: each says who wrote it,
to whom, as which one, and what the hash of the one before is.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from isthmus.contract.documents import Prekey
from isthmus.contract.letters import LetterKind
from isthmus.contract.notices import pack_fields, unpack_fields
from isthmus.envelope.identity import SIGNATURE_BYTES, Identity, Random, RouterId, verify
from isthmus.envelope.keys import letter_key
from isthmus.envelope.mailboxes import MAX_COUNTER
from isthmus.envelope.prekeys import KEM_NAME, PREKEY_ID_BYTES, PrekeyPair, prekey_id, seal
from isthmus.errors import LocalMisuse, OperatorError, RemoteMisuse, SealBroken, Untrusted

MAX_LETTER_BYTES: Final = 4 * 1024 * 1024
MAX_HEADER_BYTES: Final = 2048  # a header has less than 1,450
HASH_BYTES: Final = 32
FIRST_PREVIOUS: Final = bytes(HASH_BYTES)  # what the first letter of a mailbox has for the hash of the one before

_LABEL: Final = b"isthmus/letter/v1"
_SECRET_BYTES: Final = 32
_SEALED_BYTES: Final = 1120 + _SECRET_BYTES + 16
_NUMBER_BYTES: Final = 8
_HEADER_FIELDS: Final = 9
_LETTER_FIELDS: Final = 3
_TAG_BYTES: Final = 16
_OVERHEAD_BYTES: Final = MAX_HEADER_BYTES + SIGNATURE_BYTES + 4 * _LETTER_FIELDS + _TAG_BYTES
_ONCE: Final = bytes(12)  # the nonce of a key that encrypts one message only

MAX_BODY_BYTES: Final = MAX_LETTER_BYTES - _OVERHEAD_BYTES


@dataclass(frozen=True, slots=True)
class LetterHeader:
    """What stands on a letter for the middle to read. Nobody vouches for it until its signature verified.

    Attributes:
        kind: what the body is.
        sender: the Router that wrote it.
        receiver: the Router that it is for.
        counter: which one of the mailbox it is, from 1.
        previous: hash of the one before (`letter_hash`), FIRST_PREVIOUS for the first.
        acked: up to which counter the sender has read the receiver's own letters; it needs none of them again.
        prekey_id: which prekey of the receiver it is sealed to.
    """

    kind: LetterKind
    sender: RouterId
    receiver: RouterId
    counter: int
    previous: bytes
    acked: int
    prekey_id: bytes

    def check_place(self, counter: int, previous: bytes) -> None:
        """Return if this is letter `counter` and follows the one with that hash. Raises SealBroken otherwise.

        A letter verifies wherever it lies: only who knows the one before can tell whether it lies where it belongs.
        """
        if self.counter != counter:
            raise SealBroken(f"letter {self.counter} lies where letter {counter} belongs")
        if self.previous != previous:
            raise SealBroken(f"letter {counter} does not follow the one that was read before it")


@dataclass(frozen=True, slots=True)
class Letter(LetterHeader):
    """A letter to us that verified. Whether it lies where it belongs is for `check_place` to say."""

    body: bytes = field(repr=False)


class PrekeyGone(SealBroken):
    """A letter that verified, sealed to a prekey that is not here any more: its sender must be told to seal it anew."""

    def __init__(self, header: LetterHeader) -> None:
        super().__init__(f"letter {header.counter} is sealed to a prekey that is gone")
        self.header: Final = header


class _Parts(NamedTuple):
    raw_header: bytes
    header: LetterHeader
    sealed: bytes
    signature: bytes
    box: bytes


def seal_letter(
    identity: Identity,
    *,
    kind: LetterKind,
    receiver: RouterId,
    counter: int,
    previous: bytes,
    acked: int,
    prekey: Prekey,
    body: bytes,
    now: float,
    random: Random,
) -> bytes:
    """Return a letter. Sealed again it is another one: who puts it again puts the same bytes.

    Args:
        identity: ours.
        kind: what the body is.
        receiver: the Router it is for.
        counter: from 1, without gaps, for this mailbox.
        previous: hash of the letter before, or FIRST_PREVIOUS.
        acked: up to which counter we have read the receiver's letters, and remember that after a crash.
        prekey: the receiver's newest, out of a document that verified against its pinned key.
        body: the manifest or the receipts, at most MAX_BODY_BYTES.
        now: Unix seconds.
        random: chance, for the secret.

    Raises Untrusted if the prekey is over its time or not of the one kind known here, LocalMisuse if an argument is
    out of bounds.
    """
    if prekey.kem != KEM_NAME or prekey.prekey_id != prekey_id(prekey.public_key):
        raise Untrusted("the prekey of the far site is not of a kind that is known here")
    if prekey.not_after < now:
        raise Untrusted("the prekey of the far site is over its time", hint="is its Router running?")
    if not 0 < counter <= MAX_COUNTER or not 0 <= acked <= MAX_COUNTER or len(previous) != HASH_BYTES:
        raise LocalMisuse("the place of a letter is out of bounds")
    if len(body) > MAX_BODY_BYTES:
        raise LocalMisuse(f"the body of a letter has at most {MAX_BODY_BYTES} bytes")
    public_fields = pack_fields(
        (
            _LABEL,
            kind.value.encode(),
            identity.router_id.encode(),
            receiver.encode(),
            counter.to_bytes(_NUMBER_BYTES, "big"),
            previous,
            acked.to_bytes(_NUMBER_BYTES, "big"),
            prekey.prekey_id,
        )
    )
    secret = random(_SECRET_BYTES)
    header = public_fields + pack_fields((seal(prekey.public_key, secret, public_fields),))
    box = AESGCM(letter_key(header, secret)).encrypt(_ONCE, body, None)
    return pack_fields((header, identity.sign(_LABEL, _signed(header, box)), box))


def letter_hash(raw: bytes) -> bytes:
    """Return what the next letter calls `previous`: SHA-256 of all of this one."""
    return hashlib.sha256(raw).digest()


def verify_letter(raw: bytes, *, sender_public: bytes, own: RouterId) -> LetterHeader:
    """Return what a letter to us says, signed by the Router with this pinned key; its body stays closed.

    Raises Untrusted if that Router did not write it or wrote it to another one, SealBroken if it is no letter.
    """
    return _verified(raw, sender_public, own).header


def open_letter(raw: bytes, *, sender_public: bytes, own: RouterId, prekeys: Mapping[bytes, PrekeyPair]) -> Letter:
    """Return a letter that the Router with this pinned key wrote to us.

    Args:
        raw: the letter.
        sender_public: the pinned identity key of the Router whose mailbox it lay in.
        own: our Router ID.
        prekeys: our prekeys by prekey id, also those that nobody may seal to any more.

    Raises Untrusted if that Router did not write it or wrote it to another one, PrekeyGone if it is sealed to a prekey
    that is none of `prekeys`, SealBroken otherwise. Ask `check_place` before the body is acted upon.
    """
    parts = _verified(raw, sender_public, own)
    pair = prekeys.get(parts.header.prekey_id)
    if pair is None:
        raise PrekeyGone(parts.header)
    public_fields = parts.raw_header[: -4 - len(parts.sealed)]
    secret = pair.unseal(parts.sealed, public_fields)
    try:
        body = AESGCM(letter_key(parts.raw_header, secret)).decrypt(_ONCE, parts.box, None)
    except InvalidTag as error:
        raise SealBroken("the body of a letter does not decrypt") from error
    return Letter(**asdict(parts.header), body=body)


def _verified(raw: bytes, sender_public: bytes, own: RouterId) -> _Parts:
    parts = _parse(raw)
    if RouterId.from_public(sender_public) != parts.header.sender:
        raise Untrusted("a letter is from another Router than the one whose mailbox it lies in")
    verify(sender_public, _LABEL, _signed(parts.raw_header, parts.box), parts.signature)
    if parts.header.receiver != own:
        raise Untrusted("a letter is for another Router")
    return parts


def _parse(raw: bytes) -> _Parts:
    if len(raw) > MAX_LETTER_BYTES:
        raise SealBroken("a letter is too long")
    raw_header, signature, box = _unpack(raw, _LETTER_FIELDS)
    if len(raw_header) > MAX_HEADER_BYTES or len(signature) != SIGNATURE_BYTES or len(box) < _TAG_BYTES:
        raise SealBroken("a part of a letter has another length than it should")
    label, kind, sender, receiver, counter, previous, acked, key_id, sealed = _unpack(raw_header, _HEADER_FIELDS)
    if label != _LABEL:
        raise SealBroken(f"this is no {_LABEL.decode()}, which is what is known here")
    lengths = (len(counter), len(previous), len(acked), len(key_id), len(sealed))
    if lengths != (_NUMBER_BYTES, HASH_BYTES, _NUMBER_BYTES, PREKEY_ID_BYTES, _SEALED_BYTES):
        raise SealBroken("a field of a letter has another length than it should")
    header = LetterHeader(
        kind=_unpack_kind(kind),
        sender=_unpack_router_id(sender),
        receiver=_unpack_router_id(receiver),
        counter=int.from_bytes(counter, "big"),
        previous=previous,
        acked=int.from_bytes(acked, "big"),
        prekey_id=key_id,
    )
    if not 0 < header.counter <= MAX_COUNTER or header.acked > MAX_COUNTER:
        raise SealBroken("the place of a letter is out of bounds")
    return _Parts(raw_header, header, sealed, signature, box)


def _unpack(body: bytes, count: int) -> list[bytes]:
    try:
        return unpack_fields(body, count)
    except RemoteMisuse as error:
        raise SealBroken(f"this is no letter: {error}") from error


def _unpack_kind(field_: bytes) -> LetterKind:
    try:
        return LetterKind(field_.decode("ascii"))
    except ValueError as error:
        raise SealBroken("a letter is of a kind that is not known here") from error


def _unpack_router_id(field_: bytes) -> RouterId:
    try:
        router_id = RouterId.parse(field_.decode("ascii"))
    except (OperatorError, UnicodeDecodeError) as error:
        raise SealBroken("a Router ID of a letter could not be one") from error
    if router_id.encode() != field_:
        raise SealBroken("a Router ID of a letter is not in its compact form")
    return router_id


def _signed(header: bytes, box: bytes) -> bytes:
    return header + hashlib.sha256(box).digest()
