"""Router IDs and signatures: nobody else's pass, and a label is not another's."""

import hashlib
import random

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from isthmus.contract.documents import DocumentKind, SignedDocument
from isthmus.envelope.certificates import check_endorsement, endorse
from isthmus.envelope.documents import open_document, sign_document
from isthmus.envelope.identity import Identity, RouterId, _id_of_public, _id_of_text, verify
from isthmus.errors import LocalMisuse, OperatorError, Untrusted
from isthmus.kit import base32

OURS, OTHER = Identity.from_private(bytes(32)), Identity.from_private(b"\1" * 32)


def test_an_identity_is_made_of_the_chance_it_is_given_and_comes_back_from_its_private_key() -> None:
    made = Identity.generate(random.Random(7).randbytes)
    assert made.private == random.Random(7).randbytes(32)
    assert Identity.from_private(made.private) == made


def test_the_private_key_is_in_no_repr() -> None:
    assert OTHER.private.hex() not in repr(OTHER)
    assert repr(OTHER.private) not in repr(OTHER)
    assert "Ed25519PrivateKey" not in repr(OTHER)


def test_a_router_id_is_worked_out_once_and_however_it_is_spelled() -> None:
    router_id, worked_out = OTHER.router_id, _id_of_text.cache_info().misses
    spellings = [router_id, router_id.lower(), router_id.spoken, f" {router_id.spoken} ", router_id + " " * 100_000]
    assert {RouterId.parse(spelling) for spelling in spellings} == {router_id}
    assert _id_of_text.cache_info().misses <= worked_out + 1
    worked_out = _id_of_public.cache_info().misses
    assert RouterId.from_public(OTHER.public) == router_id
    assert _id_of_public.cache_info().misses == worked_out


def test_a_mistyped_router_id_is_told_each_time() -> None:
    for _ in range(2):
        with pytest.raises(OperatorError, match="mistyped"):
            RouterId.parse("A" * 36)


def test_a_router_id_is_a_mailbox_name_and_reads_in_groups() -> None:
    router_id = OURS.router_id
    assert len(router_id) == 36
    assert router_id.isascii()
    assert router_id.isalnum()
    assert router_id.spoken.replace("-", "") == router_id
    assert RouterId.parse(router_id.spoken.lower()) == router_id == RouterId.from_public(OURS.public)


def test_a_mistyped_or_partial_router_id_is_refused() -> None:
    with pytest.raises(OperatorError, match="mistyped"):
        RouterId.parse(OURS.router_id[:-1] + ("A" if OURS.router_id[-1] != "A" else "B"))
    with pytest.raises(OperatorError, match="whole"):
        RouterId.parse(base32.spell(b"AA"))


@pytest.mark.parametrize("length", [0, 31, 33, 64])
def test_keys_of_another_length_are_refused(length: int) -> None:
    with pytest.raises(Untrusted):
        RouterId.from_public(bytes(length))
    with pytest.raises(OperatorError, match="damaged"):
        Identity.from_private(bytes(length))
    with pytest.raises(Untrusted):
        verify(bytes(length), b"label", b"message", bytes(64))


def test_a_signature_is_plain_ed25519_over_label_nul_message() -> None:
    key = Ed25519PrivateKey.from_private_bytes(OURS.private)
    assert OURS.sign(b"label", b"message") == key.sign(b"label\0message")


def test_a_signature_holds_for_its_key_label_and_message_only() -> None:
    signature = OURS.sign(b"isthmus/a/v1", b"message")
    verify(OURS.public, b"isthmus/a/v1", b"message", signature)
    for public, label, message, shown in (
        (OTHER.public, b"isthmus/a/v1", b"message", signature),
        (OURS.public, b"isthmus/b/v1", b"message", signature),
        (OURS.public, b"isthmus/a/v1", b"massage", signature),
        (OURS.public, b"isthmus/a", b"/v1message", signature),
        (OURS.public, b"isthmus/a/v1", b"message", signature[:-1]),
        (OURS.public, b"isthmus/a/v1", b"message", b""),
        (OURS.public, b"isthmus/a/v1", b"message", bytes(64)),
    ):
        with pytest.raises(Untrusted):
            verify(public, label, message, shown)


@pytest.mark.parametrize("label", [b"", b"a\0b"])
def test_a_label_that_could_run_into_the_message_is_a_bug(label: bytes) -> None:
    with pytest.raises(LocalMisuse):
        OURS.sign(label, b"message")


def test_a_document_opens_to_the_very_bytes_that_were_signed() -> None:
    payload = b'{"counter": 1,  "unknown": [1e400]}'
    document = sign_document(OURS, DocumentKind.TITLES, payload)
    travelled = SignedDocument.model_validate_json(document.model_dump_json())
    assert open_document(travelled, OURS.public, DocumentKind.TITLES) == payload


@pytest.mark.parametrize(
    "change",
    [
        {"payload": b"other"},
        {"payload": b""},
        {"signature": bytes(64)},
        {"signature": b""},
        {"kind": DocumentKind.PREKEY},
        {"router_id": OTHER.router_id},
        {"router_id": ""},
    ],
)
def test_a_document_with_anything_changed_is_refused(change: dict[str, object]) -> None:
    document = sign_document(OURS, DocumentKind.TITLES, b"payload").model_copy(update=change)
    for kind in DocumentKind:
        with pytest.raises(Untrusted):
            open_document(document, OURS.public, kind)


def test_a_document_is_not_taken_for_one_of_another_kind_or_of_another_router() -> None:
    document = sign_document(OURS, DocumentKind.TITLES, b"payload")
    with pytest.raises(Untrusted, match="kind"):
        open_document(document, OURS.public, DocumentKind.STATEMENT)
    with pytest.raises(Untrusted, match="another Router"):
        open_document(document, OTHER.public, DocumentKind.TITLES)


def test_an_endorsement_holds_for_one_bridge_and_one_certificate() -> None:
    digest = hashlib.sha256(b"certificate").digest()
    signature = endorse(OURS, digest)
    check_endorsement(OURS.public, digest, signature)
    for public, shown in ((OTHER.public, digest), (OURS.public, bytes(32)), (OURS.public, b"")):
        with pytest.raises(Untrusted):
            check_endorsement(public, shown, signature)
    with pytest.raises(LocalMisuse):
        endorse(OURS, b"short")
