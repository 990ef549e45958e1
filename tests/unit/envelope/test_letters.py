"""Letters between two Routers through a mailbox whose keeper plays false: nothing of it is ever taken for true."""

import dataclasses
import hashlib
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.contract.documents import Prekey, Statement
from isthmus.contract.letters import LetterKind, Receipt, Receipts, ReceiptState
from isthmus.contract.notices import pack_fields, unpack_fields
from isthmus.envelope.identity import Identity
from isthmus.envelope.letters import (
    FIRST_PREVIOUS,
    MAX_BODY_BYTES,
    MAX_HEADER_BYTES,
    MAX_LETTER_BYTES,
    Letter,
    LetterHeader,
    PrekeyGone,
    letter_hash,
    open_letter,
    seal_letter,
    verify_letter,
)
from isthmus.envelope.mailboxes import MAX_COUNTER, envelope_blob_name, letter_name, new_prefix
from isthmus.envelope.prekeys import PrekeyPair, seal
from isthmus.errors import LocalMisuse, SealBroken, Untrusted
from isthmus.testing.depth import count

NOW = 1_790_000_000.5
CHANCE = random.Random(77)
ALICE, BOB, EVE = (Identity.generate(CHANCE.randbytes) for _ in range(3))
PREKEY, OLD_PREKEY, EVES_PREKEY = (PrekeyPair.generate(CHANCE.randbytes, NOW) for _ in range(3))
PREKEYS = {pair.prekey_id: pair for pair in (PREKEY, OLD_PREKEY)}
ALICES_PREKEY = PrekeyPair.generate(CHANCE.randbytes, NOW)
BODY = b"what nobody else may read"


def _seal(identity: Identity = ALICE, **change: Any) -> bytes:
    arguments: dict[str, Any] = {
        "kind": LetterKind.ENVELOPE,
        "receiver": BOB.router_id,
        "counter": 1,
        "previous": FIRST_PREVIOUS,
        "acked": 0,
        "prekey": PREKEY.published(),
        "body": BODY,
        "now": NOW,
        "random": CHANCE.randbytes,
    }
    return seal_letter(identity, **(arguments | change))


def _verify(raw: bytes) -> LetterHeader:
    return verify_letter(raw, sender_public=ALICE.public, own=BOB.router_id)


def _open(raw: bytes, **change: Any) -> Letter:
    arguments: dict[str, Any] = {"sender_public": ALICE.public, "own": BOB.router_id, "prekeys": PREKEYS}
    return open_letter(raw, **(arguments | change))


def _rewrite(raw: bytes, **change: bytes) -> bytes:
    """Return the letter with fields of its header changed, as the keeper of a mailbox can."""
    header, signature, box = unpack_fields(raw, 3)
    names = ("label", "kind", "sender", "receiver", "counter", "previous", "acked", "prekey_id", "sealed")
    fields = dict(zip(names, unpack_fields(header, 9), strict=True)) | change
    return pack_fields((pack_fields(fields.values()), signature, box))


LETTER = _seal()


def _chain(length: int, **change: Any) -> list[bytes]:
    letters: list[bytes] = []
    for counter in range(1, length + 1):
        previous = letter_hash(letters[-1]) if letters else FIRST_PREVIOUS
        letters.append(_seal(counter=counter, previous=previous, body=b"body %d" % counter, **change))
    return letters


OTHERS = _chain(3)


def test_a_letter_says_to_its_receiver_what_its_sender_said() -> None:
    raw = _seal(kind=LetterKind.RECEIPTS, counter=7, previous=b"\3" * 32, acked=4)
    letter = _open(raw)
    assert (letter.kind, letter.sender, letter.receiver) == (LetterKind.RECEIPTS, ALICE.router_id, BOB.router_id)
    assert (letter.counter, letter.previous, letter.acked, letter.body) == (7, b"\3" * 32, 4, BODY)
    assert letter.prekey_id == PREKEY.prekey_id
    header = _verify(raw)
    assert dataclasses.asdict(letter) == dataclasses.asdict(header) | {"body": BODY}


def test_a_dialogue_in_both_directions_is_read_in_order() -> None:
    said: dict[str, list[bytes]] = {"alice": [], "bob": []}
    read = {"alice": 0, "bob": 0}
    sides = {"alice": (ALICE, BOB, PREKEY), "bob": (BOB, ALICE, ALICES_PREKEY)}
    chance = random.Random(3)
    for turn in range(40):
        name = chance.choice(("alice", "bob"))
        other = "bob" if name == "alice" else "alice"
        writer, reader, prekey = sides[name]
        letters = said[name]
        letters.append(
            _seal(
                writer,
                receiver=reader.router_id,
                counter=len(letters) + 1,
                previous=letter_hash(letters[-1]) if letters else FIRST_PREVIOUS,
                acked=read[name],
                prekey=prekey.published(),
                body=b"turn %d" % turn,
            )
        )
        while read[other] < len(letters):
            raw = letters[read[other]]
            letter = open_letter(
                raw, sender_public=writer.public, own=reader.router_id, prekeys={prekey.prekey_id: prekey}
            )
            before = letter_hash(letters[read[other] - 1]) if read[other] else FIRST_PREVIOUS
            letter.check_place(read[other] + 1, before)
            assert letter.acked == read[name]
            read[other] += 1
        assert letter.body == b"turn %d" % turn
    assert min(read.values()) > 10


def test_no_two_letters_share_a_key_even_if_they_say_the_same() -> None:
    first, second = _seal(), _seal()
    assert unpack_fields(first, 3)[2] != unpack_fields(second, 3)[2]
    assert letter_hash(first) != letter_hash(second)
    assert letter_hash(first) == hashlib.sha256(first).digest()


def test_the_body_is_in_no_repr_and_not_in_the_letter() -> None:
    assert "nobody" not in repr(_open(LETTER))
    assert BODY not in LETTER


# What the keeper of a mailbox may try.


def test_a_letter_under_another_counter_or_after_another_one_shows() -> None:
    letters = _chain(4)
    opened = [_open(raw) for raw in letters]
    hashes = [FIRST_PREVIOUS, *(letter_hash(raw) for raw in letters)]
    for number, letter in enumerate(opened):
        letter.check_place(number + 1, hashes[number])
        for other in range(4):
            if other != number:
                with pytest.raises(SealBroken, match="belongs"):  # replayed, held back, or swapped
                    letter.check_place(other + 1, hashes[other])
                with pytest.raises(SealBroken, match="follow"):  # the sender itself wrote two histories
                    letter.check_place(number + 1, hashes[other])


def test_a_letter_of_a_fork_shows_by_the_hash_of_the_one_before() -> None:
    history, fork = _chain(3), _chain(3)
    with pytest.raises(SealBroken, match="follow"):
        _open(fork[2]).check_place(3, letter_hash(history[1]))


def test_a_letter_in_the_mailbox_of_another_pair_is_refused() -> None:
    to_eve = _seal(receiver=EVE.router_id, prekey=EVES_PREKEY.published())
    with pytest.raises(Untrusted, match="for another Router"):
        _open(to_eve)
    from_eve = _seal(EVE)
    with pytest.raises(Untrusted, match="whose mailbox"):
        _open(from_eve)
    assert _open(from_eve, sender_public=EVE.public).sender == EVE.router_id


def test_a_letter_that_comes_back_to_its_sender_is_refused() -> None:
    with pytest.raises(Untrusted):
        _open(LETTER, sender_public=BOB.public, own=ALICE.router_id)
    with pytest.raises(Untrusted, match="for another Router"):
        _open(LETTER, own=ALICE.router_id)


def test_a_letter_in_the_name_of_another_router_is_refused() -> None:
    forged = _rewrite(_seal(EVE), sender=ALICE.router_id.encode())
    for public in (ALICE.public, EVE.public):
        with pytest.raises(Untrusted):
            _open(forged, sender_public=public)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", b"isthmus/receipts/v1"),
        ("counter", (2).to_bytes(8, "big")),
        ("previous", b"\1" * 32),
        ("acked", (1).to_bytes(8, "big")),
        ("prekey_id", OLD_PREKEY.prekey_id),
        ("receiver", EVE.router_id.encode()),
        ("sealed", seal(PREKEY.public, bytes(32), b"")),
    ],
)
def test_no_field_of_a_header_can_be_changed(field: str, value: bytes) -> None:
    changed = _rewrite(LETTER, **{field: value})
    with pytest.raises(Untrusted, match="signature"):
        _open(changed)
    with pytest.raises(Untrusted, match="signature"):
        _verify(changed)


@pytest.mark.parametrize("part", [0, 1, 2])
def test_no_part_of_a_letter_can_be_that_of_another(part: int) -> None:
    ours, theirs = unpack_fields(LETTER, 3), unpack_fields(_seal(), 3)
    ours[part] = theirs[part]
    with pytest.raises(Untrusted, match="signature"):
        _open(pack_fields(ours))


@settings(max_examples=count(push=300, nightly=20_000), deadline=None)
@given(data=st.data())
def test_no_changed_letter_is_ever_opened(data: st.DataObject) -> None:
    other = OTHERS[data.draw(st.integers(0, len(OTHERS) - 1))]
    start = data.draw(st.integers(0, len(LETTER)))
    end = data.draw(st.integers(start, len(LETTER)))
    what = data.draw(st.sampled_from(("cut", "flip", "insert", "splice", "swap")))
    if what == "cut":
        changed = LETTER[:start] + LETTER[end:]
    elif what == "flip":
        place = min(start, len(LETTER) - 1)
        flipped = LETTER[place] ^ 1 << data.draw(st.integers(0, 7))
        changed = LETTER[:place] + bytes((flipped,)) + LETTER[place + 1 :]
    elif what == "insert":
        changed = LETTER[:start] + data.draw(st.binary(min_size=1, max_size=40)) + LETTER[start:]
    elif what == "splice":
        changed = LETTER[:start] + other[start:]
    else:
        changed = LETTER[:start] + other[start:end] + LETTER[end:]
    if changed in (LETTER, *OTHERS):
        return
    with pytest.raises((SealBroken, Untrusted)):
        _open(changed)


# What the sender itself, or time, may do.


def test_a_letter_to_a_prekey_that_is_gone_says_so_with_its_verified_header() -> None:
    raw = _seal(counter=9, previous=b"\4" * 32, prekey=OLD_PREKEY.published())
    with pytest.raises(PrekeyGone) as caught:
        _open(raw, prekeys={PREKEY.prekey_id: PREKEY})
    assert caught.value.header == verify_letter(raw, sender_public=ALICE.public, own=BOB.router_id)
    caught.value.header.check_place(9, b"\4" * 32)
    assert _open(raw).body == BODY


def test_nobody_learns_of_a_gone_prekey_by_a_letter_that_does_not_verify() -> None:
    forged = _rewrite(LETTER, prekey_id=bytes(16))
    with pytest.raises(Untrusted):
        _open(forged)


def test_a_prekey_filed_under_the_wrong_id_opens_nothing() -> None:
    with pytest.raises(SealBroken, match="sealed key"):
        _open(LETTER, prekeys={PREKEY.prekey_id: OLD_PREKEY})


def test_a_box_that_the_sender_signed_but_did_not_seal_is_refused() -> None:
    header, _, box = unpack_fields(LETTER, 3)
    for other in (box[:-1] + bytes((box[-1] ^ 1,)), bytes(16)):
        signature = ALICE.sign(b"isthmus/letter/v1", header + hashlib.sha256(other).digest())
        with pytest.raises(SealBroken, match="does not decrypt"):
            _open(pack_fields((header, signature, other)))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("label", b"isthmus/letter/v2"),
        ("kind", b"isthmus/gossip/v1"),
        ("kind", b"\xff"),
        ("sender", ALICE.router_id.spoken.encode()),
        ("sender", b"nobody"),
        ("receiver", BOB.router_id.lower().encode()),
        ("receiver", b"\xff" * 36),
        ("counter", bytes(8)),
        ("counter", (MAX_COUNTER + 1).to_bytes(8, "big")),
        ("counter", b"\1"),
        ("previous", bytes(31)),
        ("acked", (MAX_COUNTER + 1).to_bytes(8, "big")),
        ("acked", bytes(9)),
        ("prekey_id", bytes(15)),
        ("sealed", bytes(1167)),
        ("sealed", bytes(MAX_HEADER_BYTES)),
    ],
)
def test_a_letter_that_is_not_of_its_form_is_refused_before_any_key_is_used(field: str, value: bytes) -> None:
    changed = _rewrite(LETTER, **{field: value})
    for read in (_verify, _open):
        with pytest.raises(SealBroken):
            read(changed)


@pytest.mark.parametrize(
    "raw", [b"", b"\0" * 11, b"\xff" * 64, LETTER + b"\0", LETTER[:-1], bytes(MAX_LETTER_BYTES + 1)]
)
def test_what_is_no_letter_is_refused(raw: bytes) -> None:
    with pytest.raises(SealBroken):
        _verify(raw)


def test_bounds_are_looked_at_before_anything_within_them() -> None:
    header, signature, _ = unpack_fields(LETTER, 3)
    with pytest.raises(SealBroken, match="too long"):
        _verify(pack_fields((header, signature, bytes(MAX_LETTER_BYTES))))
    with pytest.raises(SealBroken, match="a part of a letter"):
        _verify(_rewrite(LETTER, kind=bytes(MAX_HEADER_BYTES)))


def test_the_longest_body_fits_and_one_byte_more_is_not_sealed() -> None:
    raw = _seal(body=bytes(MAX_BODY_BYTES))
    assert len(raw) <= MAX_LETTER_BYTES
    assert _open(raw).body == bytes(MAX_BODY_BYTES)
    with pytest.raises(LocalMisuse, match="at most"):
        _seal(body=bytes(MAX_BODY_BYTES + 1))


@pytest.mark.parametrize(
    "change",
    [{"counter": 0}, {"counter": MAX_COUNTER + 1}, {"acked": -1}, {"acked": MAX_COUNTER + 1}, {"previous": b""}],
)
def test_a_place_that_is_none_is_not_sealed(change: dict[str, Any]) -> None:
    with pytest.raises(LocalMisuse, match="place"):
        _seal(**change)


def test_nothing_is_sealed_to_a_prekey_of_another_kind_id_or_time() -> None:
    good = PREKEY.published()
    for bad in (
        good.model_copy(update={"kem": "X25519"}),
        good.model_copy(update={"prekey_id": bytes(16)}),
        Prekey(prekey_id=good.prekey_id, kem=good.kem, public_key=EVES_PREKEY.public, not_after=good.not_after),
    ):
        with pytest.raises(Untrusted, match="kind"):
            _seal(prekey=bad)
    with pytest.raises(Untrusted, match="over its time"):
        _seal(now=good.not_after + 1)


# Names, and what else is said.


def test_names_are_fit_for_any_store_and_cannot_be_guessed_from_one_another() -> None:
    prefix = new_prefix(CHANCE.randbytes)
    assert letter_name(prefix, 1) == f"q/{prefix}/000000000001"
    assert letter_name(prefix, MAX_COUNTER) == f"q/{prefix}/999999999999"
    names = {envelope_blob_name(key, index) for key in (bytes(32), b"\1" * 32) for index in range(500)}
    assert len(names) == 1000
    assert all(len(name) == 42 and set(name[2:]) <= set("0123456789abcdef") for name in names)


@pytest.mark.parametrize("prefix", ["", "../" * 13 + "a", "A" * 40, "a" * 41, "\uff11" * 40, "a" * 39 + "\n"])
def test_what_is_no_prefix_becomes_part_of_no_name_and_of_no_statement(prefix: str) -> None:
    with pytest.raises(LocalMisuse):
        letter_name(prefix, 1)
    statement = Statement(
        site="a", to_site="b", to_router_id=BOB.router_id, counter=1, not_after=NOW, accepted=True, mailbox="a" * 40
    )
    assert Statement.parse(statement.to_payload()) == statement
    with pytest.raises(ValueError, match="mailbox"):
        Statement.parse(statement.model_copy(update={"mailbox": prefix}).to_payload())


@pytest.mark.parametrize("counter", [0, -1, MAX_COUNTER + 1])
def test_there_is_no_letter_beyond_the_counters(counter: int) -> None:
    with pytest.raises(LocalMisuse):
        letter_name("a" * 40, counter)


def test_a_statement_without_a_mailbox_is_the_one_that_it_was() -> None:
    plain = Statement(site="a", to_site="b", to_router_id="c", counter=1, not_after=NOW, accepted=True)
    assert b"mailbox" not in plain.to_payload()
    assert Statement.parse(plain.to_payload()).mailbox is None


def test_receipts_come_back_and_a_comment_is_in_no_repr() -> None:
    receipt = Receipt(
        envelope_id=bytes(16), index=3, state=ReceiptState.HELD, status=0xA900, comment="no such Müller", at=NOW
    )
    for receipts in (Receipts(receipts=[receipt]), Receipts(unreadable=[4, 5]), Receipts()):
        assert Receipts.parse(receipts.to_payload()) == receipts
    assert "Müller" not in repr(receipt)
    newer = Receipts(receipts=[receipt]).to_payload().replace(b'"index"', b'"colour":1,"index"')
    assert Receipts.parse(newer).receipts == [receipt]


@pytest.mark.parametrize(
    "change", [{"index": -1}, {"status": 0x10000}, {"envelope_id": b""}, {"at": float("nan")}, {"state": "lost"}]
)
def test_a_receipt_that_cannot_be_is_none(change: dict[str, Any]) -> None:
    said = {"envelope_id": bytes(16), "state": ReceiptState.RECEIVED, "at": NOW}
    with pytest.raises(ValueError, match="validation error"):
        Receipt.model_validate(said | change)
