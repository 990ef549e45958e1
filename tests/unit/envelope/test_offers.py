"""Two Routers agree on keys; what a Bridge that plays false hands on instead is refused, each time."""

import dataclasses
import hashlib
import random
from collections.abc import Callable
from typing import Any

import pytest

from isthmus.contract.documents import DocumentKind, Prekey
from isthmus.contract.notices import pack_fields, unpack_fields
from isthmus.envelope.documents import open_document, sign_document
from isthmus.envelope.identity import Identity, RouterId
from isthmus.envelope.offers import (
    MAX_WINDOW_BYTES,
    Acceptance,
    Answer,
    Decision,
    OfferDraft,
    OpenedOffer,
    make_offer,
    open_offer,
    peek_offer,
)
from isthmus.envelope.prekeys import PrekeyPair
from isthmus.envelope.segments import Opener, Sealer, SegmentType
from isthmus.errors import LocalMisuse, SealBroken, Untrusted
from isthmus.testing.depth import count

NOW = 1_790_000_000.5
CHANCE = random.Random(42)
ALICE, BOB, THIRD, BRIDGE = (Identity.generate(CHANCE.randbytes) for _ in range(4))
PREKEY = PrekeyPair.generate(CHANCE.randbytes, NOW)
BRIDGE_PREKEY = PrekeyPair.generate(CHANCE.randbytes, NOW)
REQUEST, ANSWER = b"\1\0 an A-ASSOCIATE-RQ", b"\2\0 an A-ASSOCIATE-AC"


def _make(**change: Any) -> OfferDraft:
    arguments = {
        "session_id": CHANCE.randbytes(16),
        "responder": BOB.router_id,
        "prekey": PREKEY.published(),
        "calling": "CT 1",
        "called": "ARCHIVE",
        "request": REQUEST,
        "window": 4 << 20,
        "now": NOW,
        "random": CHANCE.randbytes,
    }
    return make_offer(ALICE, **{**arguments, **change})


def _open(offer: bytes, signature: bytes, request_box: bytes, **change: Any) -> OpenedOffer:
    arguments = {
        "initiator_public": ALICE.public,
        "own": BOB.router_id,
        "prekeys": {PREKEY.prekey_id: PREKEY},
        "now": NOW,
    }
    return open_offer(offer, signature, request_box, **{**arguments, **change})


def _opened(draft: OfferDraft, **change: Any) -> OpenedOffer:
    return _open(draft.offer, draft.signature, draft.request_box, **change)


def _accept(opened: OpenedOffer, decision: Decision = Decision.ACCEPTED, window: int = 1 << 20) -> Acceptance:
    return opened.accept(BOB, decision=decision, answer=ANSWER, window=window, random=CHANCE.randbytes)


def _answer(draft: OfferDraft, acceptance: Acceptance, public: bytes = BOB.public) -> Answer:
    return draft.open_accept(acceptance.accept, acceptance.signature, acceptance.answer_box, public)


DRAFT = _make()
ACCEPTANCE = _accept(_opened(DRAFT))


def _resigned_offer(identity: Identity, **fields: bytes) -> tuple[bytes, bytes, bytes]:
    """Return DRAFT with some of its fields exchanged and a signature by `identity`."""
    names = [
        "label",
        "session",
        "initiator",
        "responder",
        "calling",
        "called",
        "provider",
        "prekey",
        "time",
        "window",
        "eph",
        "k",
    ]
    values = dict(zip(names, unpack_fields(DRAFT.offer, len(names)), strict=True)) | fields
    offer = pack_fields(values.values())
    digest = hashlib.sha256(DRAFT.request_box).digest()
    return offer, identity.sign(b"isthmus/offer/v1", offer + digest), DRAFT.request_box


def _resigned_accept(identity: Identity, **fields: bytes) -> Acceptance:
    names = ("label", "offer", "eph", "decision", "window")
    values = dict(zip(names, unpack_fields(ACCEPTANCE.accept, len(names)), strict=True)) | fields
    accept = pack_fields(values.values())
    digest = hashlib.sha256(ACCEPTANCE.answer_box).digest()
    return ACCEPTANCE._replace(accept=accept, signature=identity.sign(b"isthmus/accept/v1", accept + digest))


def _take(message: bytes, signature: bytes, box: bytes, *, offered: bool) -> None:
    if offered:
        _open(message, signature, box)
    else:
        DRAFT.open_accept(message, signature, box, BOB.public)


@pytest.mark.parametrize("decision", Decision)
def test_both_sides_end_with_the_same_keys_and_have_read_each_others_pdu(decision: Decision) -> None:
    draft = _make()
    opened = _opened(draft)
    assert (opened.calling, opened.called, opened.request) == ("CT 1", "ARCHIVE", REQUEST)
    assert (opened.initiator, opened.window) == (ALICE.router_id, 4 << 20)
    acceptance = _accept(opened, decision)
    answer = _answer(draft, acceptance)
    assert (answer.decision, answer.answer, answer.window) == (decision, ANSWER, 1 << 20)
    for out, back in ((answer.keys.data_out, acceptance.keys.data_in), (acceptance.keys.data_out, answer.keys.data_in)):
        assert Opener(back).open(Sealer(out).seal(SegmentType.DATA, b"first")).payload == b"first"


def test_peeking_shows_the_middle_names_times_and_credit_and_nothing_else() -> None:
    fields = peek_offer(DRAFT.offer)
    assert (fields.initiator, fields.responder) == (ALICE.router_id, BOB.router_id)
    assert (fields.calling, fields.called) == ("CT 1", "ARCHIVE")
    assert (fields.prekey_id, fields.not_after, fields.window) == (PREKEY.prekey_id, NOW + 60, 4 << 20)
    assert REQUEST not in DRAFT.offer + DRAFT.request_box
    assert ANSWER not in ACCEPTANCE.accept + ACCEPTANCE.answer_box


def test_every_session_has_keys_of_its_own_even_from_one_offer() -> None:
    keys = {_accept(_opened(DRAFT)).keys.data_out.key for _ in range(3)} | {_accept(_opened(_make())).keys.data_out.key}
    assert len(keys) == 4


def test_no_secret_is_in_a_repr() -> None:
    shown = repr((DRAFT, _opened(DRAFT), ACCEPTANCE.keys))
    for secret in (DRAFT._secret, DRAFT._ephemeral.private_bytes_raw(), REQUEST):
        assert repr(secret) not in shown
    assert "data_out=StreamKey(control=False)" in shown


def test_an_offer_of_157_kb_of_contexts_fits() -> None:
    request = CHANCE.randbytes(157_000)
    assert _opened(_make(request=request)).request == request


# What a Bridge that plays false may try (each refused, whatever the chance).

FALSE_PLAY: list[Callable[[], None]] = []


def _false_play(play: Callable[[], None]) -> Callable[[], None]:
    FALSE_PLAY.append(play)
    return play


@_false_play
def _replayed_to_another_responder() -> None:
    _opened(DRAFT, own=THIRD.router_id, prekeys={PREKEY.prekey_id: PREKEY})


@_false_play
def _readdressed_to_another_responder() -> None:
    _open(*_resigned_offer(BRIDGE, responder=THIRD.router_id.encode()), own=THIRD.router_id)


@_false_play
def _offer_signed_by_the_bridge() -> None:
    _open(*_resigned_offer(BRIDGE))


@_false_play
def _offer_in_the_bridges_own_name() -> None:
    _open(*_resigned_offer(BRIDGE, initiator=BRIDGE.router_id.encode()))


@_false_play
def _offer_under_the_bridges_key_for_the_accepted_one() -> None:
    _open(*_resigned_offer(BRIDGE), initiator_public=BRIDGE.public)


@_false_play
def _ephemeral_key_swapped_by_the_bridge() -> None:
    _open(*_resigned_offer(BRIDGE, eph=CHANCE.randbytes(32)))


@_false_play
def _offer_of_an_accepted_router_stitched_from_two() -> None:
    other = unpack_fields(_make().offer, 12)
    _open(*_resigned_offer(ALICE, k=other[11]))


@_false_play
def _offer_over_another_pair_of_clouds() -> None:
    _open(*_resigned_offer(BRIDGE, provider=b"elsewhere"))


@_false_play
def _offer_of_an_accepted_router_with_other_titles() -> None:
    _open(*_resigned_offer(ALICE, called=b"OTHER"))  # the sealed secret is bound to the titles


@_false_play
def _request_box_swapped() -> None:
    _open(DRAFT.offer, DRAFT.signature, _make().request_box)


@_false_play
def _request_box_and_signature_swapped() -> None:
    other = _make()
    _open(DRAFT.offer, other.signature, other.request_box)


@_false_play
def _offer_replayed_an_hour_later() -> None:
    _opened(DRAFT, now=NOW + 3600)


@_false_play
def _offer_kept_for_just_longer_than_the_clocks_may_differ() -> None:
    _opened(DRAFT, now=NOW + 60 + 60 + 0.1)


@_false_play
def _offer_dated_into_the_future() -> None:
    _opened(_make(now=NOW + 61))


@_false_play
def _offer_sealed_to_a_prekey_that_is_gone() -> None:
    _opened(DRAFT, prekeys={})


@_false_play
def _offer_sealed_to_a_stale_prekey() -> None:
    stale = PrekeyPair.generate(CHANCE.randbytes, NOW - 40 * 86_400)
    fresh_looking = stale.published().model_copy(update={"not_after": NOW + 1})
    _opened(_make(prekey=fresh_looking), prekeys={stale.prekey_id: stale})


@_false_play
def _stale_prekey_shown_to_the_initiator() -> None:
    _make(prekey=PREKEY.published().model_copy(update={"not_after": NOW - 1}))


@_false_play
def _prekey_of_the_bridge_under_the_responders_name() -> None:
    document = sign_document(BRIDGE, DocumentKind.PREKEY, BRIDGE_PREKEY.published().to_payload())
    forged = document.model_copy(update={"router_id": str(BOB.router_id)})
    _make(prekey=Prekey.parse(open_document(forged, BOB.public, DocumentKind.PREKEY)))


@_false_play
def _prekey_of_the_bridge_in_the_responders_document() -> None:
    document = sign_document(BOB, DocumentKind.PREKEY, PREKEY.published().to_payload())
    forged = document.model_copy(update={"payload": BRIDGE_PREKEY.published().to_payload()})
    _make(prekey=Prekey.parse(open_document(forged, BOB.public, DocumentKind.PREKEY)))


@_false_play
def _prekey_of_the_bridge_under_a_known_prekey_id() -> None:
    _make(prekey=PREKEY.published().model_copy(update={"public_key": BRIDGE_PREKEY.public}))


@_false_play
def _another_statement_of_the_responder_as_its_prekey() -> None:
    document = sign_document(BOB, DocumentKind.TITLES, PREKEY.published().to_payload())
    _make(prekey=Prekey.parse(open_document(document, BOB.public, DocumentKind.PREKEY)))


@_false_play
def _kem_downgraded() -> None:
    _make(prekey=PREKEY.published().model_copy(update={"kem": "X25519"}))


@_false_play
def _offer_label_downgraded() -> None:
    _open(*_resigned_offer(ALICE, label=b"isthmus/offer/v0"))


@_false_play
def _offer_label_of_another_message() -> None:
    _open(*_resigned_offer(ALICE, label=b"isthmus/accept/v1"))


@_false_play
def _offer_with_a_field_more() -> None:
    _open(*_resigned_offer(ALICE, more=b"hello"))


@_false_play
def _offer_signature_used_for_the_accept() -> None:
    _answer(DRAFT, ACCEPTANCE._replace(signature=DRAFT.signature), ALICE.public)


@_false_play
def _accept_signed_by_the_bridge() -> None:
    _answer(DRAFT, _resigned_accept(BRIDGE))


@_false_play
def _accept_under_the_bridges_key_for_the_accepted_one() -> None:
    _answer(DRAFT, _resigned_accept(BRIDGE), BRIDGE.public)


@_false_play
def _accept_with_the_ephemeral_key_swapped() -> None:
    _answer(DRAFT, _resigned_accept(BRIDGE, eph=CHANCE.randbytes(32)))


@_false_play
def _accept_of_another_session() -> None:
    _answer(DRAFT, _accept(_opened(_make())))


@_false_play
def _accept_of_an_earlier_session_with_the_same_id() -> None:
    session_id = peek_offer(DRAFT.offer).session_id
    _answer(_make(session_id=session_id), ACCEPTANCE)


@_false_play
def _accept_with_the_decision_turned() -> None:
    _answer(DRAFT, _resigned_accept(BRIDGE, decision=b"\2"))


@_false_play
def _accept_with_another_credit() -> None:
    _answer(DRAFT, _resigned_accept(BRIDGE, window=(1 << 30).to_bytes(8, "big")))


@_false_play
def _accept_label_downgraded() -> None:
    _answer(DRAFT, _resigned_accept(BOB, label=b"isthmus/accept/v0"))


@_false_play
def _accept_with_a_field_more() -> None:
    _answer(DRAFT, _resigned_accept(BOB, more=b""))


@_false_play
def _answer_box_swapped_with_another_sessions() -> None:
    _answer(DRAFT, ACCEPTANCE._replace(answer_box=_accept(_opened(_make())).answer_box))


@_false_play
def _answer_box_swapped_with_that_of_another_accept_of_this_offer() -> None:
    _answer(DRAFT, ACCEPTANCE._replace(answer_box=_accept(_opened(DRAFT)).answer_box))


@_false_play
def _request_box_returned_as_the_answer() -> None:
    _answer(DRAFT, ACCEPTANCE._replace(answer_box=DRAFT.request_box))


@pytest.mark.slow
@pytest.mark.parametrize("play", FALSE_PLAY, ids=[play.__name__.strip("_") for play in FALSE_PLAY])
def test_a_bridge_that_plays_false_is_refused(play: Callable[[], None]) -> None:
    for _ in range(count(push=5, nightly=100)):
        with pytest.raises((SealBroken, Untrusted)):
            play()


def test_the_false_plays_fail_for_their_falsehood_and_not_for_how_they_are_made() -> None:
    assert len(FALSE_PLAY) >= 30
    assert _open(*_resigned_offer(ALICE)).request == REQUEST
    assert _answer(DRAFT, _resigned_accept(BOB)).answer == ANSWER


def test_a_reused_session_id_gives_other_keys() -> None:
    session_id = bytes(range(16))
    first, second = (_accept(_opened(_make(session_id=session_id))).keys for _ in range(2))
    assert first.data_out.key != second.data_out.key
    assert first.data_out.name_key != second.data_out.name_key


@pytest.mark.slow
def test_no_byte_of_offer_accept_boxes_and_signatures_can_be_changed_or_cut() -> None:
    chance = random.Random(3)
    offered = (DRAFT.offer, DRAFT.signature, DRAFT.request_box)
    answered = ACCEPTANCE[:3]
    for turn in range(count(push=3_000, nightly=50_000)):
        parts = list(offered if turn % 2 else answered)
        which = chance.randrange(3)
        damaged = bytearray(parts[which])
        if chance.random() < 0.8:
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        else:
            del damaged[chance.randrange(len(damaged)) :]
        parts[which] = bytes(damaged)
        with pytest.raises((SealBroken, Untrusted)):
            _take(*parts, offered=bool(turn % 2))


@pytest.mark.parametrize(
    "fields",
    [
        {"session": bytes(15)},
        {"prekey": bytes(17)},
        {"time": bytes(9)},
        {"time": b"\xff" * 8},
        {"window": bytes(7)},
        {"window": (MAX_WINDOW_BYTES + 1).to_bytes(8, "big")},
        {"eph": bytes(31)},
        {"k": b""},
        {"k": bytes(5000)},
        {"calling": b""},
        {"calling": b" PADDED "},
        {"calling": "MÜLLER".encode()},
        {"called": b"SEVENTEEN LETTERS"},
        {"called": b"NUL\0"},
        {"initiator": ALICE.router_id.spoken.encode()},
        {"initiator": b"\xff" * 36},
        {"responder": b""},
    ],
)
def test_a_field_that_is_not_as_the_protocol_has_it_is_refused_even_from_an_accepted_router(
    fields: dict[str, bytes],
) -> None:
    with pytest.raises((SealBroken, Untrusted)):
        _open(*_resigned_offer(ALICE, **fields))


@pytest.mark.parametrize(
    "fields",
    [
        {"offer": bytes(32)},
        {"eph": bytes(31)},
        {"eph": bytes(32)},
        {"decision": b""},
        {"decision": b"\0"},
        {"decision": b"\3"},
        {"decision": b"\1\1"},
        {"window": b""},
    ],
)
def test_an_accept_that_is_not_as_the_protocol_has_it_is_refused_even_from_an_accepted_router(
    fields: dict[str, bytes],
) -> None:
    with pytest.raises(SealBroken):
        _answer(DRAFT, _resigned_accept(BOB, **fields))


def test_an_accept_names_its_offer() -> None:
    with pytest.raises(SealBroken, match="another offer"):
        _answer(_make(session_id=peek_offer(DRAFT.offer).session_id), ACCEPTANCE)


def test_an_ephemeral_key_of_low_order_is_refused() -> None:
    opened = dataclasses.replace(_opened(DRAFT), _ephemeral=bytes(32))
    with pytest.raises(SealBroken, match="ephemeral"):
        _accept(opened)


@pytest.mark.parametrize("length", [0, 3, 4, 1000, 10_000_000])
def test_noise_is_no_offer(length: int) -> None:
    with pytest.raises(SealBroken):
        peek_offer(random.Random(length).randbytes(length))


@pytest.mark.parametrize("offset", [-59.0, 0.0, 60.0, 119.0])
def test_clocks_may_differ_by_a_minute(offset: float) -> None:
    opened = _opened(DRAFT, now=NOW + offset)
    assert opened.forget_after == opened.not_after + 60 > NOW + offset


def test_an_offer_cannot_pass_after_its_session_id_may_be_forgotten() -> None:
    opened = _opened(DRAFT)
    with pytest.raises(SealBroken, match="time"):
        _opened(DRAFT, now=opened.forget_after + 0.01)


def test_a_prekey_that_just_ran_out_still_opens_what_is_on_its_way() -> None:
    pair = PrekeyPair.generate(CHANCE.randbytes, NOW, lifetime=0.0)
    draft = _make(prekey=pair.published())
    assert _opened(draft, prekeys={pair.prekey_id: pair}, now=NOW + 30).request == REQUEST


def test_only_the_router_the_offer_was_made_for_accepts_it() -> None:
    with pytest.raises(LocalMisuse):
        _opened(DRAFT).accept(THIRD, decision=Decision.ACCEPTED, answer=b"", window=0, random=CHANCE.randbytes)


@pytest.mark.parametrize(
    "change",
    [
        {"session_id": bytes(15)},
        {"calling": ""},
        {"called": "A" * 17},
        {"window": -1},
        {"window": MAX_WINDOW_BYTES + 1},
    ],
)
def test_an_offer_that_nobody_would_take_is_not_made(change: dict[str, Any]) -> None:
    with pytest.raises(LocalMisuse):
        _make(**change)


def test_offers_are_made_of_the_chance_they_are_given_but_for_the_sealing() -> None:
    first, second = (_make(session_id=bytes(16), random=random.Random(9).randbytes) for _ in range(2))
    assert unpack_fields(first.offer, 12)[:11] == unpack_fields(second.offer, 12)[:11]
    assert first.offer != second.offer
    assert isinstance(peek_offer(first.offer).initiator, RouterId)
