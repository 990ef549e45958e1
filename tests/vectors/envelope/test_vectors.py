"""The vectors, read twice: by the product, and straight from docs/protocol with nothing of the product.

The second reading uses only SHA-256, HMAC, Ed25519, X25519, AES-GCM and, where a secret was sealed, HPKE.
"""

import base64
import hashlib
import hmac
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, MLKEM768X25519PrivateKey, Suite
from tests.unit.envelope.objects import open_record

from isthmus.contract.documents import DocumentKind, SignedDocument
from isthmus.contract.letters import LetterKind
from isthmus.contract.notices import unpack_fields
from isthmus.envelope.certificates import check_endorsement, endorse
from isthmus.envelope.documents import open_document, sign_document
from isthmus.envelope.identity import Identity, Random, RouterId
from isthmus.envelope.keys import SessionKeys, StreamKey, letter_key, request_key
from isthmus.envelope.letters import letter_hash, open_letter, seal_letter
from isthmus.envelope.mailboxes import envelope_blob_name, letter_name
from isthmus.envelope.offers import Decision, OfferDraft, make_offer, open_offer
from isthmus.envelope.prekeys import PrekeyPair
from isthmus.envelope.records import ObjectMeta, RecordSealer, object_secret
from isthmus.envelope.requests import parse_authorization, sign_request, verify_request
from isthmus.envelope.segments import Opener, Sealer, SegmentType, blob_name, peek_sequence
from isthmus.errors import SealBroken

HERE = Path(__file__).parent
Row = dict[str, Any]
_TEXT = {
    "router_id",
    "spoken",
    "calling",
    "called",
    "provider",
    "method",
    "target",
    "authorization",
    "kind",
    "name",
    "why",
}
_TEXT |= {"blob_name", "prefix"}


def _bytes_of_hex(row: Row) -> Row:
    return {
        key: bytes.fromhex(value) if isinstance(value, str) and key not in _TEXT else value
        for key, value in row.items()
    }


def _load(name: str, table: str) -> list[Row]:
    rows = tomllib.loads((HERE / name).read_text(encoding="ascii"))[table]
    return [_bytes_of_hex(row) for row in rows]


ROUTERS, PREKEYS = _load("router_ids.toml", "router"), _load("prekeys.toml", "prekey")
SESSIONS, STREAMS = _load("offers.toml", "session"), _load("segments.toml", "stream")
REQUESTS, DOCUMENTS = _load("requests.toml", "request"), _load("records.toml", "document")
ENDORSEMENTS = _load("records.toml", "endorsement")
OBJECTS, LETTERS, BLOBS = (_load("queued.toml", table) for table in ("object", "letter", "blob"))


def _tape(*pieces: bytes) -> Random:
    left = list(pieces)

    def chance(length: int) -> bytes:
        piece = left.pop(0)
        assert len(piece) == length
        return piece

    return chance


# The second reading.


def _fields(*values: bytes) -> bytes:
    return b"".join(len(value).to_bytes(4, "big") + value for value in values)


def _sha256(value: bytes) -> bytes:
    return hashlib.sha256(value).digest()


def _extract(salt: bytes, material: bytes) -> bytes:
    return hmac.digest(salt, material, "sha256")


def _expand(secret: bytes, info: bytes, length: int) -> bytes:
    block, out = b"", b""
    for number in range(1, 6):
        block = hmac.digest(secret, block + info + bytes((number,)), "sha256")
        out += block
    return out[:length]


def _signature(private: bytes, label: bytes, message: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(private).sign(label + b"\0" + message)


def _public(private: bytes) -> bytes:
    return Ed25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def _router_id(public: bytes) -> str:
    plain = base64.b32encode(_sha256(public)[:20]).decode()
    return plain + base64.b32encode(_sha256(b"isthmus/check/v1" + plain.encode()))[:4].decode()


def _unseal(mlkem_seed: bytes, x25519_private: bytes, sealed: bytes, info: bytes) -> bytes:
    key = MLKEM768X25519PrivateKey(
        MLKEM768PrivateKey.from_seed_bytes(mlkem_seed), X25519PrivateKey.from_private_bytes(x25519_private)
    )
    return Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM).decrypt(sealed, key, info=info)


@pytest.mark.parametrize("row", ROUTERS)
def test_router_ids(row: Row) -> None:
    identity = Identity.from_private(row["private"])
    assert (identity.public, identity.router_id) == (row["public"], row["router_id"])
    assert identity.router_id.spoken == row["spoken"]
    assert RouterId.parse(row["spoken"]) == RouterId.from_public(row["public"]) == row["router_id"]
    assert _router_id(_public(row["private"])) == row["router_id"] == row["spoken"].replace("-", "")


@pytest.mark.parametrize("row", PREKEYS)
def test_prekeys_and_what_is_sealed_to_them(row: Row) -> None:
    now = row["not_after_ms"] / 1000 - 30 * 86_400
    pair = PrekeyPair.generate(_tape(row["mlkem_seed"], row["x25519_private"]), now)
    assert (pair.public, pair.prekey_id, pair.export()) == (row["public"], row["prekey_id"], row["export"])
    assert PrekeyPair.load(row["export"]).unseal(row["sealed"], row["info"]) == row["plaintext"]

    body = b"\1" + row["not_after_ms"].to_bytes(8, "big") + row["mlkem_seed"] + row["x25519_private"]
    assert row["export"] == body + _sha256(body)[:16]
    assert row["prekey_id"] == _sha256(b"isthmus/prekey-id/v1\0" + row["public"])[:16]
    curve = X25519PrivateKey.from_private_bytes(row["x25519_private"]).public_key().public_bytes_raw()
    lattice = MLKEM768PrivateKey.from_seed_bytes(row["mlkem_seed"]).public_key().public_bytes_raw()
    assert row["public"] == lattice + curve
    assert _unseal(row["mlkem_seed"], row["x25519_private"], row["sealed"], row["info"]) == row["plaintext"]


@pytest.mark.parametrize("row", SESSIONS)
def test_sessions_as_the_product_makes_and_opens_them(row: Row) -> None:
    initiator, responder = (Identity.from_private(row[f"{side}_private"]) for side in ("initiator", "responder"))
    pair = PrekeyPair.load(row["prekey_export"])
    made = make_offer(
        initiator,
        session_id=row["session_id"],
        responder=responder.router_id,
        prekey=pair.published(),
        calling=row["calling"],
        called=row["called"],
        request=row["request"],
        window=row["initiator_window"],
        now=row["now"],
        random=_tape(row["secret"], row["initiator_ephemeral_private"]),
        provider=row["provider"],
    )
    assert unpack_fields(made.offer, 12)[:11] == unpack_fields(row["offer"], 12)[:11]  # all but the sealed secret
    assert request_key(row["offer"], row["secret"]) == row["request_key"]

    opened = open_offer(
        row["offer"],
        row["offer_signature"],
        row["request_box"],
        initiator_public=initiator.public,
        own=responder.router_id,
        prekeys={pair.prekey_id: pair},
        now=row["now"],
    )
    assert (opened.request, opened.window) == (row["request"], row["initiator_window"])
    assert opened.provider == row["provider"]
    accepted = opened.accept(
        responder,
        decision=Decision(row["decision"]),
        answer=row["answer"],
        window=row["responder_window"],
        random=_tape(row["responder_ephemeral_private"]),
    )
    assert accepted[:3] == (row["accept"], row["accept_signature"], row["answer_box"])

    ephemeral = X25519PrivateKey.from_private_bytes(row["initiator_ephemeral_private"])
    draft = OfferDraft(
        row["offer"], row["offer_signature"], row["request_box"], responder.router_id, row["secret"], ephemeral
    )
    answer = draft.open_accept(row["accept"], row["accept_signature"], row["answer_box"], responder.public)
    assert (answer.decision, answer.answer, answer.window) == (row["decision"], row["answer"], row["responder_window"])
    for name, other in (("data_out", "data_in"), ("data_in", "data_out"), ("control_out", "control_in")):
        key: StreamKey = getattr(answer.keys, name)
        assert key == getattr(accepted.keys, other)
        assert key.key + key.commitment + key.name_key + key.base_nonce == row[f"initiator_{name}"]


@pytest.mark.parametrize("row", SESSIONS)
def test_sessions_as_the_protocol_pages_have_them(row: Row) -> None:
    sealed = row["offer"][-(1120 + 32 + 16) :]
    before = row["offer"][: -4 - len(sealed)]
    assert before == _fields(
        b"isthmus/offer/v1",
        row["session_id"],
        _router_id(_public(row["initiator_private"])).encode(),
        _router_id(_public(row["responder_private"])).encode(),
        row["calling"].encode(),
        row["called"].encode(),
        row["provider"].encode(),
        _sha256(b"isthmus/prekey-id/v1\0" + PrekeyPair.load(row["prekey_export"]).public)[:16],
        round((row["now"] + 60) * 1000).to_bytes(8, "big"),
        row["initiator_window"].to_bytes(8, "big"),
        X25519PrivateKey.from_private_bytes(row["initiator_ephemeral_private"]).public_key().public_bytes_raw(),
    )
    export = row["prekey_export"]
    assert _unseal(export[9:73], export[73:105], sealed, before) == row["secret"]
    key = _expand(_extract(_sha256(row["offer"]), row["secret"]), b"isthmus/request-box/v1", 32)
    assert key == row["request_key"]
    assert AESGCM(key).encrypt(bytes(12), row["request"], None) == row["request_box"]
    assert row["offer_signature"] == _signature(
        row["initiator_private"], b"isthmus/offer/v1", row["offer"] + _sha256(row["request_box"])
    )

    ours = X25519PrivateKey.from_private_bytes(row["initiator_ephemeral_private"])
    theirs = X25519PrivateKey.from_private_bytes(row["responder_ephemeral_private"])
    assert row["accept"] == _fields(
        b"isthmus/accept/v1",
        _sha256(row["offer"]),
        theirs.public_key().public_bytes_raw(),
        bytes((row["decision"],)),
        row["responder_window"].to_bytes(8, "big"),
    )
    salt = _sha256(_fields(b"isthmus/session/v1", row["offer"], row["accept"]))
    session = _extract(salt, row["secret"] + ours.exchange(theirs.public_key()))
    box = AESGCM(_expand(session, b"isthmus/answer-box/v1", 32)).encrypt(bytes(12), row["answer"], None)
    assert box == row["answer_box"]
    assert row["accept_signature"] == _signature(
        row["responder_private"], b"isthmus/accept/v1", row["accept"] + _sha256(box)
    )
    for name, stream in (
        ("data_out", b"initiator/data"),
        ("data_in", b"responder/data"),
        ("control_out", b"initiator/control"),
        ("control_in", b"responder/control"),
    ):
        assert row[f"initiator_{name}"] == _expand(session, b"isthmus/stream/v1/" + stream, 108)


def _stream_key(row: Row) -> StreamKey:
    side, kind = row["name"].split("/")
    keys = SessionKeys.derive(row["session_secret"], initiator=side == "initiator")
    return keys.data_out if kind == "data" else keys.control_out


@pytest.mark.parametrize("row", STREAMS)
def test_segments_as_the_product_seals_and_opens_them(row: Row) -> None:
    key = _stream_key(row)
    sealer, opener = Sealer(key), Opener(key)
    for raw in row["refused"]:
        with pytest.raises(SealBroken):
            Opener(key).open(_bytes_of_hex(raw)["segment"])
    for raw in row["segment"]:
        one = _bytes_of_hex(raw)
        if one["sequence"] < 2**24 - 1:
            assert sealer.seal(SegmentType(one["type"]), one["payload"]) == one["segment"]
            opened = opener.open(one["segment"])
        else:
            opened = Opener(key).open(one["segment"])
        assert (opened.type, opened.sequence, opened.payload) == (one["type"], one["sequence"], one["payload"])
        assert peek_sequence(one["segment"]) == one["sequence"]
        assert blob_name(key, one["sequence"]) == one["blob_name"]


@pytest.mark.parametrize("row", STREAMS)
def test_segments_as_the_protocol_pages_have_them(row: Row) -> None:
    material = _expand(row["session_secret"], b"isthmus/stream/v1/" + row["name"].encode(), 108)
    assert material == row["key_material"]
    key, commitment, name_key, base = material[:32], material[32:64], material[64:96], material[96:]
    for raw in row["segment"]:
        one = _bytes_of_hex(raw)
        sequence = one["sequence"]
        header = bytes((1, one["type"], 0, 0)) + sequence.to_bytes(8, "big") + len(one["payload"]).to_bytes(4, "big")
        nonce = bytes(left ^ right for left, right in zip(base, sequence.to_bytes(12, "big"), strict=True))
        ciphertext = AESGCM(key).encrypt(nonce, one["payload"], header)
        assert one["segment"] == header + (commitment if sequence == 0 else b"") + ciphertext
        assert one["blob_name"] == hmac.digest(name_key, sequence.to_bytes(8, "big"), "sha256")[:20].hex()


@pytest.mark.parametrize("row", REQUESTS)
def test_signed_requests(row: Row) -> None:
    router = Identity.from_private(row["router_private"])
    about = (row["bridge_public"], row["method"], row["target"], _sha256(row["body"]))
    assert sign_request(router, *about, now=row["time_ms"] / 1000, nonce=row["nonce"]) == row["authorization"]
    parsed = parse_authorization(row["authorization"])
    verify_request(parsed, router.public, *about, now=row["time_ms"] / 1000, max_skew=60.0)

    time, nonce = row["time_ms"].to_bytes(8, "big"), row["nonce"]
    message = _fields(
        row["method"].encode(), row["target"].encode(), _sha256(row["body"]), time, nonce, row["bridge_public"]
    )
    signature = _signature(row["router_private"], b"isthmus/request/v1", message)
    spelled = [base64.urlsafe_b64encode(value).decode().rstrip("=") for value in (nonce, signature)]
    assert row["authorization"] == (
        f"Isthmus-Ed25519 router={_router_id(_public(row['router_private']))},"
        f"time={row['time_ms']},nonce={spelled[0]},signature={spelled[1]}"
    )


@pytest.mark.parametrize("row", DOCUMENTS)
def test_signed_documents(row: Row) -> None:
    signer, kind = Identity.from_private(row["signer_private"]), DocumentKind(row["kind"])
    document = SignedDocument(kind=kind, router_id=row["router_id"], payload=row["payload"], signature=row["signature"])
    assert sign_document(signer, kind, row["payload"]) == document
    assert open_document(document, signer.public, kind) == row["payload"]
    assert row["signature"] == _signature(row["signer_private"], row["kind"].encode(), row["payload"])


@pytest.mark.parametrize("row", ENDORSEMENTS)
def test_endorsements(row: Row) -> None:
    signer = Identity.from_private(row["signer_private"])
    assert endorse(signer, row["certificate_sha256"]) == row["signature"]
    check_endorsement(signer.public, row["certificate_sha256"], row["signature"])
    assert row["signature"] == _signature(row["signer_private"], b"isthmus/certificate/v1", row["certificate_sha256"])


@pytest.mark.parametrize("row", OBJECTS)
def test_records_as_the_product_seals_and_opens_them(row: Row) -> None:
    secret = object_secret(row["spool_secret"], row["object_id"])
    assert secret == row["object_secret"]
    meta, payloads = open_record(row["record"], row["object_id"], secret)
    content = list(payloads)
    assert (meta.to_payload(), b"".join(content)) == (row["meta"], row["data_set"])
    sealer = RecordSealer(row["object_id"], secret, ObjectMeta.parse(row["meta"]))
    made = (sealer.begin(), *(sealer.data(payload) for payload in content), sealer.finish())
    assert b"".join(made) == row["record"]


@pytest.mark.parametrize("row", OBJECTS)
def test_records_as_the_protocol_pages_have_them(row: Row) -> None:
    secret = _expand(row["spool_secret"], b"isthmus/object/v1" + row["object_id"], 32)
    assert secret == row["object_secret"]
    material = _expand(secret, b"isthmus/stream/v1/object", 108)
    key, commitment, base = material[:32], material[32:64], material[96:]
    record = row["record"]
    assert record[:20] == b"OBJ1" + row["object_id"]
    place = 20
    payloads: list[bytes] = []
    types: list[int] = []
    while place < len(record):
        header, number = record[place : place + 16], len(payloads)
        assert header[:1] + header[2:12] == b"\1\0\0" + number.to_bytes(8, "big")
        place += 16
        if number == 0:
            assert record[place : place + 32] == commitment
            place += 32
        end = place + int.from_bytes(header[12:], "big") + 16
        nonce = bytes(left ^ right for left, right in zip(base, number.to_bytes(12, "big"), strict=True))
        payloads.append(AESGCM(key).decrypt(nonce, record[place:end], header))
        types.append(header[1])
        place = end
    assert types == [1] * (len(types) - 1) + [2]
    meta, *data, final = payloads
    assert (meta, b"".join(data)) == (row["meta"], row["data_set"])
    counts = len(meta + row["data_set"]).to_bytes(8, "big") + (len(data) + 1).to_bytes(8, "big")
    assert final == counts + _sha256(row["data_set"])


@pytest.mark.parametrize("row", LETTERS)
def test_letters_as_the_product_seals_and_opens_them(row: Row) -> None:
    sender, receiver = (Identity.from_private(row[f"{side}_private"]) for side in ("sender", "receiver"))
    pair = PrekeyPair.load(row["prekey_export"])
    made = seal_letter(
        sender,
        kind=LetterKind(row["kind"]),
        receiver=receiver.router_id,
        counter=row["counter"],
        previous=row["previous"],
        acked=row["acked"],
        prekey=pair.published(),
        body=row["body"],
        now=pair.not_after,
        random=_tape(row["secret"]),
    )
    header, old = unpack_fields(made, 3)[0], unpack_fields(row["letter"], 3)[0]
    assert unpack_fields(header, 9)[:8] == unpack_fields(old, 9)[:8]  # all but the sealed secret
    assert letter_key(old, row["secret"]) == row["letter_key"]
    letter = open_letter(
        row["letter"], sender_public=sender.public, own=receiver.router_id, prekeys={pair.prekey_id: pair}
    )
    letter.check_place(row["counter"], row["previous"])
    assert (letter.kind, letter.acked, letter.body) == (row["kind"], row["acked"], row["body"])
    assert letter_name(row["prefix"], row["counter"]) == row["name"]
    assert [later["previous"] for later in LETTERS[row["counter"] :][:1]] in ([], [letter_hash(row["letter"])])


@pytest.mark.parametrize("row", LETTERS)
def test_letters_as_the_protocol_pages_have_them(row: Row) -> None:
    sealed_bytes = 1120 + 32 + 16
    header_bytes = int.from_bytes(row["letter"][:4], "big")
    header = row["letter"][4 : 4 + header_bytes]
    before, sealed = header[: -4 - sealed_bytes], header[-sealed_bytes:]
    export = row["prekey_export"]
    assert before == _fields(
        b"isthmus/letter/v1",
        row["kind"].encode(),
        _router_id(_public(row["sender_private"])).encode(),
        _router_id(_public(row["receiver_private"])).encode(),
        row["counter"].to_bytes(8, "big"),
        row["previous"],
        row["acked"].to_bytes(8, "big"),
        _sha256(b"isthmus/prekey-id/v1\0" + PrekeyPair.load(export).public)[:16],
    )
    assert _unseal(export[9:73], export[73:105], sealed, before) == row["secret"]
    key = _expand(_extract(_sha256(header), row["secret"]), b"isthmus/letter-box/v1", 32)
    assert key == row["letter_key"]
    box = AESGCM(key).encrypt(bytes(12), row["body"], None)
    signature = _signature(row["sender_private"], b"isthmus/letter/v1", header + _sha256(box))
    assert row["letter"] == _fields(header, signature, box)
    assert row["name"] == f"q/{row['prefix']}/{row['counter']:012}"


@pytest.mark.parametrize("row", BLOBS)
def test_names_of_an_envelopes_blobs(row: Row) -> None:
    assert envelope_blob_name(row["name_key"], row["index"]) == row["name"]
    assert row["name"] == "q/" + hmac.digest(row["name_key"], row["index"].to_bytes(8, "big"), "sha256").hex()[:40]
