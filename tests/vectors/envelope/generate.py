"""Writes the vectors anew: `python tests/vectors/envelope/generate.py`. To be run only when the protocol changes.

All but the sealed secrets comes out the same each time: HPKE's encapsulation takes its chance inside the library.
"""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

from isthmus.contract.documents import DocumentKind
from isthmus.contract.letters import LetterKind, ObjectKind
from isthmus.contract.notices import unpack_fields
from isthmus.envelope.certificates import endorse
from isthmus.envelope.documents import sign_document
from isthmus.envelope.identity import Identity, Random
from isthmus.envelope.keys import SessionKeys, StreamKey, letter_key, request_key
from isthmus.envelope.letters import FIRST_PREVIOUS, letter_hash, seal_letter
from isthmus.envelope.mailboxes import envelope_blob_name, letter_name, new_prefix
from isthmus.envelope.offers import Decision, make_offer, open_offer
from isthmus.envelope.prekeys import PrekeyPair, seal
from isthmus.envelope.records import ObjectMeta, RecordSealer, object_secret
from isthmus.envelope.requests import sign_request
from isthmus.envelope.segments import Sealer, SegmentType, blob_name, pack_final

HERE = Path(__file__).parent
NOW = 1_790_000_000.25
_LINE = 96
Value = bytes | str | int | float
Table = tuple[str, dict[str, Value]]


def _chance(seed: str) -> Random:
    return random.Random(seed).randbytes


def _write(name: str, comment: str, tables: Iterator[Table]) -> None:
    lines = [f"# {line}" for line in comment.splitlines()]
    for header, values in tables:
        lines += ["", f"[[{header}]]"]
        for key, value in values.items():
            if isinstance(value, bytes) and len(value.hex()) > _LINE:
                text = value.hex()
                parts = [text[start : start + _LINE] for start in range(0, len(text), _LINE)]
                lines.append("\n".join((f'{key} = """', *parts, '"""')))
            elif isinstance(value, bytes | str):
                lines.append(f'{key} = "{value.hex() if isinstance(value, bytes) else value}"')
            else:
                lines.append(f"{key} = {value}")
    (HERE / name).write_text("\n".join(lines) + "\n", encoding="ascii")


def _router_ids() -> Iterator[Table]:
    for seed in range(4):
        identity = Identity.generate(_chance(f"identity {seed}"))
        yield (
            "router",
            {
                "private": identity.private,
                "public": identity.public,
                "router_id": str(identity.router_id),
                "spoken": identity.router_id.spoken,
            },
        )


def _prekeys() -> Iterator[Table]:
    for seed in range(2):
        pair = PrekeyPair.generate(_chance(f"prekey {seed}"), NOW)
        seed_and_scalar = _chance(f"prekey {seed}")
        info, plaintext = f"info {seed}".encode(), hashlib.sha256(str(seed).encode()).digest()
        yield (
            "prekey",
            {
                "mlkem_seed": seed_and_scalar(64),
                "x25519_private": seed_and_scalar(32),
                "not_after_ms": round(pair.not_after * 1000),
                "public": pair.public,
                "prekey_id": pair.prekey_id,
                "export": pair.export(),
                "info": info,
                "plaintext": plaintext,
                "sealed": seal(pair.public, plaintext, info),
            },
        )


def _offers() -> Iterator[Table]:
    for seed, decision in enumerate(Decision):
        initiator, responder = (Identity.generate(_chance(f"{side} {seed}")) for side in ("initiator", "responder"))
        pair = PrekeyPair.generate(_chance(f"offered {seed}"), NOW)
        request, answer = f"A-ASSOCIATE-RQ {seed}".encode(), f"A-ASSOCIATE-AC or -RJ {seed}".encode()
        given, returned = _chance(f"offer {seed}"), _chance(f"accept {seed}")
        session_id = _chance(f"session {seed}")(16)
        draft = make_offer(
            initiator,
            session_id=session_id,
            responder=responder.router_id,
            prekey=pair.published(),
            calling="CT 1",
            called="ARCHIVE",
            request=request,
            window=4 << 20,
            now=NOW,
            random=_chance(f"offer {seed}"),
            provider=f"pair-{seed}",
        )
        opened = open_offer(
            draft.offer,
            draft.signature,
            draft.request_box,
            initiator_public=initiator.public,
            own=responder.router_id,
            prekeys={pair.prekey_id: pair},
            now=NOW,
        )
        acceptance = opened.accept(
            responder, decision=decision, answer=answer, window=1 << 20, random=_chance(f"accept {seed}")
        )
        keys = draft.open_accept(*acceptance[:3], responder.public).keys
        secret = given(32)
        yield (
            "session",
            {
                "initiator_private": initiator.private,
                "responder_private": responder.private,
                "prekey_export": pair.export(),
                "now": NOW,
                "session_id": session_id,
                "calling": "CT 1",
                "called": "ARCHIVE",
                "provider": f"pair-{seed}",
                "request": request,
                "initiator_window": 4 << 20,
                "secret": secret,
                "initiator_ephemeral_private": given(32),
                "offer": draft.offer,
                "offer_signature": draft.signature,
                "request_key": request_key(draft.offer, secret),
                "request_box": draft.request_box,
                "decision": int(decision),
                "answer": answer,
                "responder_window": 1 << 20,
                "responder_ephemeral_private": returned(32),
                "accept": acceptance.accept,
                "accept_signature": acceptance.signature,
                "answer_box": acceptance.answer_box,
                **{f"initiator_{stream.name}": _flat(getattr(keys, stream.name)) for stream in fields(keys)},
            },
        )


def _segments() -> Iterator[Table]:
    secret = _chance("segments")(32)
    keys = SessionKeys.derive(secret, initiator=True)
    for name, key, types in (
        ("initiator/data", keys.data_out, (SegmentType.DATA, SegmentType.DATA, SegmentType.FINAL)),
        ("responder/control", keys.control_in, (SegmentType.CONTROL, SegmentType.CONTROL)),
    ):
        yield "stream", {"name": name, "session_secret": secret, "key_material": _flat(key)}
        sealer, sent = Sealer(key), b""
        for sequence, type_ in enumerate(types):
            payload = pack_final(len(sent), sequence) if type_ is SegmentType.FINAL else b"payload " * (3 * sequence)
            sent += payload
            segment = sealer.seal(type_, payload)
            yield (
                "stream.segment",
                {
                    "type": int(type_),
                    "sequence": sequence,
                    "payload": payload,
                    "segment": segment,
                    "blob_name": blob_name(key, sequence),
                },
            )
            for why, bad in _spoilt(segment, first=sequence == 0):
                yield "stream.refused", {"why": why, "segment": bad}
        sealer._sequence, sealer._final = 2**24 - 1, False  # nobody seals sixteen million for a vector
        last = sealer.seal(types[0], b"last")
        names = {"blob_name": blob_name(key, 2**24 - 1)}
        yield (
            "stream.segment",
            {"type": int(types[0]), "sequence": 2**24 - 1, "payload": b"last", "segment": last, **names},
        )


def _spoilt(segment: bytes, *, first: bool) -> Iterator[tuple[str, bytes]]:
    yield "another version", b"\2" + segment[1:]
    yield "another type", segment[:1] + bytes((segment[1] % 3 + 1,)) + segment[2:]
    yield "reserved bytes are not zero", segment[:3] + b"\1" + segment[4:]
    yield "another sequence", segment[:11] + bytes((segment[11] ^ 2,)) + segment[12:]
    yield "cut", segment[:-1]
    yield "longer than it says", segment + b"\0"
    yield "tag", segment[:-1] + bytes((segment[-1] ^ 1,))
    if first:
        yield "key commitment", segment[:16] + bytes((segment[16] ^ 1,)) + segment[17:]


def _requests() -> Iterator[Table]:
    router, bridge = Identity.generate(_chance("router")), Identity.generate(_chance("bridge"))
    for seed, (method, target, body) in enumerate(
        (
            ("GET", "/api/v1/network", b""),
            ("PUT", "/api/v1/blobs/a/b?x=1", b"body"),
            ("POST", "/api/v1/sessions", b"{}"),
        )
    ):
        nonce = _chance(f"nonce {seed}")(16)
        now = NOW + seed
        header = sign_request(router, bridge.public, method, target, hashlib.sha256(body).digest(), now, nonce)
        yield (
            "request",
            {
                "router_private": router.private,
                "bridge_public": bridge.public,
                "method": method,
                "target": target,
                "body": body,
                "time_ms": round(now * 1000),
                "nonce": nonce,
                "authorization": header,
            },
        )


def _records() -> Iterator[Table]:
    signer = Identity.generate(_chance("signer"))
    for kind in DocumentKind:
        payload = b'{"counter":1,"unknown":"kept to the byte"}'
        document = sign_document(signer, kind, payload)
        yield (
            "document",
            {
                "signer_private": signer.private,
                "kind": kind.value,
                "router_id": document.router_id,
                "payload": payload,
                "signature": document.signature,
            },
        )
    digest = hashlib.sha256(b"certificate").digest()
    yield (
        "endorsement",
        {
            "signer_private": signer.private,
            "certificate_sha256": digest,
            "signature": endorse(signer, digest),
        },
    )


def _queued() -> Iterator[Table]:
    spool_secret = _chance("spool")(32)
    for seed, (kind, payloads) in enumerate(
        ((ObjectKind.STORE, (b"a data set ", b"in two parts")), (ObjectKind.COMMIT, ()))
    ):
        object_id = _chance(f"object {seed}")(16)
        meta = ObjectMeta(
            kind=kind,
            calling="CT 1",
            called="ARCHIVE",
            association=_chance("association")(16),
            command=b"command set",
            sop_class="1.2.840.10008.5.1.4.1.1.2",
            sop_instance=f"1.2.3.{seed}",
            transfer_syntax="1.2.840.10008.1.2.1",
            received=NOW,
        )
        secret = object_secret(spool_secret, object_id)
        sealer = RecordSealer(object_id, secret, meta)
        record = b"".join((sealer.begin(), *(sealer.data(payload) for payload in payloads), sealer.finish()))
        yield (
            "object",
            {
                "spool_secret": spool_secret,
                "object_id": object_id,
                "object_secret": secret,
                "meta": meta.to_payload(),
                "data_set": b"".join(payloads),
                "record": record,
            },
        )
    yield from _letters()


def _letters() -> Iterator[Table]:
    sender, receiver = Identity.generate(_chance("sender")), Identity.generate(_chance("receiver"))
    pair = PrekeyPair.generate(_chance("letters"), NOW)
    prefix, name_key = new_prefix(_chance("mailbox")), _chance("name key")(32)
    previous = FIRST_PREVIOUS
    for counter, kind in enumerate(LetterKind, start=1):
        body, acked = b'{"unknown":"kept to the byte"}', 3 * (counter - 1)
        letter = seal_letter(
            sender,
            kind=kind,
            receiver=receiver.router_id,
            counter=counter,
            previous=previous,
            acked=acked,
            prekey=pair.published(),
            body=body,
            now=NOW,
            random=_chance(f"letter {counter}"),
        )
        header = unpack_fields(letter, 3)[0]
        secret = _chance(f"letter {counter}")(32)
        yield (
            "letter",
            {
                "sender_private": sender.private,
                "receiver_private": receiver.private,
                "prekey_export": pair.export(),
                "prefix": prefix,
                "name": letter_name(prefix, counter),
                "kind": kind.value,
                "counter": counter,
                "previous": previous,
                "acked": acked,
                "body": body,
                "secret": secret,
                "letter_key": letter_key(header, secret),
                "letter": letter,
            },
        )
        yield (
            "blob",
            {"name_key": name_key, "index": counter - 1, "name": envelope_blob_name(name_key, counter - 1)},
        )
        previous = letter_hash(letter)


def _flat(key: StreamKey) -> bytes:
    return key.key + key.commitment + key.name_key + key.base_nonce


if __name__ == "__main__":
    _write("router_ids.toml", "Identities and their Router IDs (docs/protocol/keys.md). Bytes are hex.", _router_ids())
    _write("prekeys.toml", "Prekeys, and what was sealed to them (docs/protocol/keys.md).", _prekeys())
    _write("offers.toml", "Whole sessions, from offer to keys (docs/protocol/offers.md).", _offers())
    _write("segments.toml", "Streams of segments (docs/protocol/segments.md).", _segments())
    _write("requests.toml", "Signed requests to the Bridge (docs/protocol/requests.md).", _requests())
    _write(
        "queued.toml",
        "Records, letters and names of queued delivery (docs/protocol/queued.md). Bytes are hex.",
        _queued(),
    )
    _write("records.toml", "Signed documents and an endorsement (docs/protocol/records.md).", _records())
