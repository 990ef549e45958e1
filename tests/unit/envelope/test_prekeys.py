"""Prekeys and sealing, checked against another HPKE as far as there is one.

pyhpke has no ML-KEM: it supplies RFC 9180's key schedule and AEAD, and a hybrid KEM assembled here from its published
definition is plugged into it. Both sides take ML-KEM-768 and X25519 themselves from `cryptography`.
"""

import hashlib
import random
import struct
from typing import Any

import pyhpke.aead
import pyhpke.kdf
import pytest
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite
from pyhpke import AEADId, CipherSuite, KDFId, KEMId, KEMInterface, KEMKey

from isthmus.contract.documents import Prekey
from isthmus.envelope.prekeys import KEM_NAME, PrekeyPair, prekey_id, seal
from isthmus.errors import OperatorError, SealBroken, Untrusted

NOW = 1_790_000_000.25
PAIR = PrekeyPair.generate(random.Random(1).randbytes, NOW)
OTHER = PrekeyPair.generate(random.Random(2).randbytes, NOW)


class _HybridId:
    value = 0x647A


class _Hybrid(KEMInterface):  # type: ignore[misc]  # pyhpke's types are not followed
    """ML-KEM-768 with X25519: SHA3-256 over both secrets, the X25519 ciphertext and public key, and a fixed mark."""

    id = _HybridId()

    def __init__(self, exported: bytes) -> None:
        self.lattice = MLKEM768PrivateKey.from_seed_bytes(exported[9:73])
        self.curve = X25519PrivateKey.from_private_bytes(exported[73:105])

    def decap(self, enc: bytes, skr: object, pks: object = None) -> bytes:
        lattice_secret = self.lattice.decapsulate(enc[:1088])
        curve_secret = self.curve.exchange(X25519PublicKey.from_public_bytes(enc[1088:]))
        return self._combine(lattice_secret, curve_secret, enc[1088:])

    def encap(self, pkr: object, sks: object = None, eks: object = None) -> tuple[bytes, bytes]:
        lattice_secret, ciphertext = self.lattice.public_key().encapsulate()
        ephemeral = X25519PrivateKey.generate()
        sent = ephemeral.public_key().public_bytes_raw()
        return self._combine(lattice_secret, ephemeral.exchange(self.curve.public_key()), sent), ciphertext + sent

    def _combine(self, lattice_secret: bytes, curve_secret: bytes, sent: bytes) -> bytes:
        own = self.curve.public_key().public_bytes_raw()
        return hashlib.sha3_256(lattice_secret + curve_secret + sent + own + rb"\.//^" + b"\\").digest()


def _foreign(exported: bytes) -> Any:
    suite = b"HPKE" + struct.pack(">HHH", _HybridId.value, 1, 2)
    return CipherSuite(_Hybrid(exported), pyhpke.kdf.KDF(KDFId.HKDF_SHA256, suite), pyhpke.aead.AEAD(AEADId.AES256_GCM))


def test_another_hpke_opens_what_we_seal() -> None:
    sealed = seal(PAIR.public, b"thirty-two bytes of key material", b"info")
    context = _foreign(PAIR.export()).create_recipient_context(sealed[:1120], None, b"info")
    assert context.open(sealed[1120:]) == b"thirty-two bytes of key material"


def test_we_open_what_another_hpke_seals() -> None:
    enc, context = _foreign(PAIR.export()).create_sender_context(None, b"info")
    assert PAIR.unseal(enc + context.seal(b"key"), b"info") == b"key"


def test_the_library_and_pyhpke_agree_on_hpke_with_plain_x25519() -> None:
    private = X25519PrivateKey.from_private_bytes(bytes(range(32)))
    ours = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
    theirs = CipherSuite.new(KEMId.DHKEM_X25519_HKDF_SHA256, KDFId.HKDF_SHA256, AEADId.AES256_GCM)
    sealed = ours.encrypt(b"plaintext", private.public_key(), info=b"info")
    key = KEMKey.from_pyca_cryptography_key(private)
    assert theirs.create_recipient_context(sealed[:32], key, b"info").open(sealed[32:]) == b"plaintext"
    enc, context = theirs.create_sender_context(KEMKey.from_pyca_cryptography_key(private.public_key()), b"info")
    assert ours.decrypt(enc + context.seal(b"back"), private, info=b"info") == b"back"


def test_a_pair_comes_back_from_its_export_and_opens_what_was_sealed_before() -> None:
    sealed = seal(PAIR.public, b"key", b"info")
    again = PrekeyPair.load(PAIR.export())
    assert again == PAIR
    assert again.unseal(sealed, b"info") == b"key"


def test_a_pair_is_good_for_thirty_days_and_is_made_of_the_chance_it_is_given() -> None:
    assert PAIR.not_after == NOW + 30 * 86_400
    assert PrekeyPair.generate(random.Random(1).randbytes, NOW) == PAIR
    assert PAIR.prekey_id == prekey_id(PAIR.public) != OTHER.prekey_id


def test_the_private_parts_are_in_no_repr_and_in_no_published_document() -> None:
    exported = PAIR.export()
    for secret in (exported[9:73], exported[73:105]):
        assert repr(secret) not in repr(PAIR)
        assert secret not in PAIR.public
    published = PAIR.published()
    assert published == Prekey(prekey_id=PAIR.prekey_id, kem=KEM_NAME, public_key=PAIR.public, not_after=PAIR.not_after)
    assert Prekey.parse(published.to_payload()) == published


@pytest.mark.parametrize("place", [0, 1, 8, 9, 50, 72, 73, 104, 105, 120])
def test_a_damaged_export_is_refused(place: int) -> None:
    exported = bytearray(PAIR.export())
    exported[place] ^= 1
    with pytest.raises(OperatorError, match="damaged"):
        PrekeyPair.load(bytes(exported))


@pytest.mark.parametrize("length", [0, 1, 120, 122])
def test_an_export_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(OperatorError, match="damaged"):
        PrekeyPair.load((PAIR.export() + b"\0")[:length])


def test_what_is_sealed_opens_with_its_own_key_and_info_only() -> None:
    sealed = seal(PAIR.public, b"key", b"info")
    with pytest.raises(SealBroken):
        OTHER.unseal(sealed, b"info")
    with pytest.raises(SealBroken):
        PAIR.unseal(sealed, b"other info")


def test_sealed_bytes_with_any_one_changed_or_cut_do_not_open() -> None:
    sealed = seal(PAIR.public, b"key", b"info")
    for place in (*range(0, len(sealed), 7), 1119):
        changed = bytearray(sealed)
        changed[place] ^= 0x80  # in the last byte of an X25519 key, too, where X25519 itself would not mind
        with pytest.raises(SealBroken):
            PAIR.unseal(bytes(changed), b"info")
        with pytest.raises(SealBroken):
            PAIR.unseal(sealed[:place], b"info")
    low_order = sealed[:1088] + bytes(32) + sealed[1120:]
    with pytest.raises(SealBroken):
        PAIR.unseal(low_order, b"info")


@pytest.mark.parametrize(
    "public", [b"", PAIR.public[:-1], PAIR.public + b"\0", b"\xff" * 1216, PAIR.public[:1184] + bytes(32)]
)
def test_nothing_is_sealed_to_what_is_no_key(public: bytes) -> None:
    with pytest.raises(Untrusted):
        seal(public, b"key", b"info")
