"""Records: one queued object each, sealed once, opened in whatever chunks it arrives, and never taken for another."""

import hashlib
import io
import json
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.envelope.objects import (
    SPOOL_SECRET,
    make_meta,
    make_record,
    object_id,
    open_record,
    random_payloads,
    record_pieces,
    secret_of,
)

from isthmus.contract.letters import ObjectKind
from isthmus.envelope import records
from isthmus.envelope.keys import StreamKey
from isthmus.envelope.records import (
    PREFIX_BYTES,
    RECORD_PAYLOAD_BYTES,
    RECORD_TAG,
    RecordOpener,
    RecordSealer,
    RecordSpan,
    next_record,
    object_secret,
    open_record_in,
    walk,
)
from isthmus.envelope.segments import Opener, Sealer, SegmentType
from isthmus.errors import LocalMisuse, SealBroken
from isthmus.testing.depth import count

META = make_meta()
ID, SECRET = object_id(1), secret_of(object_id(1))
KEY = StreamKey.derive(SECRET, b"object", control=False)
PAYLOADS = [b"first fragment", b"", b"second " * 300]
CONTENT = b"".join(PAYLOADS)
RECORD = make_record(1, PAYLOADS)


def _opener(released: bytearray | None = None) -> RecordOpener:
    return RecordOpener(ID, SECRET, on_payload=None if released is None else released.extend)


def _raw(*segments: tuple[SegmentType, bytes], prefix: bytes = RECORD_TAG + ID) -> bytes:
    """Return what somebody who has the secret can seal, without the product's own care."""
    sealer = Sealer(KEY)
    return prefix + b"".join(sealer.seal(type_, payload) for type_, payload in segments)


def _final(payload_bytes: int, segments: int, content: bytes) -> tuple[SegmentType, bytes]:
    counts = payload_bytes.to_bytes(8, "big") + segments.to_bytes(8, "big")
    return SegmentType.FINAL, counts + hashlib.sha256(content).digest()


def test_a_record_has_the_documented_layout() -> None:
    meta = META.to_payload()
    data = [(SegmentType.DATA, payload) for payload in (meta, *PAYLOADS)]
    assert _raw(*data, _final(len(meta + CONTENT), 4, CONTENT)) == RECORD
    assert RECORD[:PREFIX_BYTES] == b"OBJ1" + ID


def test_objects_of_one_spool_share_no_secret() -> None:
    secrets = {object_secret(spool, object_id(n)) for spool in (SPOOL_SECRET, bytes(32)) for n in range(100)}
    assert len(secrets) == 200
    assert all(len(secret) == 32 for secret in secrets)


def test_what_is_known_of_an_object_comes_back_and_unknown_members_are_ignored() -> None:
    meta = make_meta(kind=ObjectKind.COMMIT, command=bytes(range(256)), called="\ufffd odd")
    assert open_record(make_record(1, [], meta), ID, SECRET)[0] == meta
    newer = META.to_payload()[:-1] + b',"colour":"blue"}'
    record = _raw((SegmentType.DATA, newer), _final(len(newer), 1, b""))
    assert open_record(record, ID, SECRET)[0] == META


def test_no_repr_shows_an_instance_or_a_command_set() -> None:
    assert "1.2.3.4" not in repr(META)
    assert "command set" not in repr(META)


@settings(max_examples=count(push=100, nightly=3_000), deadline=None)
@given(seed=st.integers(0, 2**20), cuts=st.lists(st.integers(1, 4_000), min_size=1, max_size=30))
def test_a_record_opens_in_chunks_of_any_size(seed: int, cuts: list[int]) -> None:
    payloads = random_payloads(seed)
    whole = make_record(1, payloads) + b"of the next record"
    released = bytearray()
    opener = _opener(released)
    place = 0
    while not opener.whole:
        cut = cuts[0]
        cuts = [*cuts[1:], cut]
        used = opener.feed(whole[place : place + cut])
        assert used == min(cut, len(whole) - place) or opener.whole
        place += used
    assert whole[place:] == b"of the next record"
    assert released == b"".join(payloads)
    assert (opener.meta, opener.payload_bytes, opener.verified) == (META, len(released), place)
    assert opener.digest == hashlib.sha256(released).digest()
    assert opener.feed(b"more") == 0


def test_an_opener_holds_less_than_a_segment_however_long_the_record_is() -> None:
    payload = bytes(RECORD_PAYLOAD_BYTES)
    record = make_record(1, [payload] * 5)
    opener = _opener()
    view = memoryview(record)
    most = 0
    for place in range(0, len(record), 700_001):
        opener.feed(view[place : place + 700_001])
        most = max(most, len(opener._pending))
    assert opener.whole
    assert most < RECORD_PAYLOAD_BYTES + 200


def test_a_segment_of_more_than_a_mebibyte_is_refused_by_its_header() -> None:
    record = _raw((SegmentType.DATA, META.to_payload()), (SegmentType.DATA, bytes(RECORD_PAYLOAD_BYTES + 1)))
    start = len(_raw((SegmentType.DATA, META.to_payload())))
    opener = _opener()
    with pytest.raises(SealBroken, match="not the next one"):
        opener.feed(record[: start + 16])
    assert list(walk(io.BytesIO(record))) == []


def test_a_buffer_and_a_file_open_alike_and_bytes_after_the_end_are_refused() -> None:
    file = io.BytesIO(b"before" + RECORD + b"after")
    span = RecordSpan(ID, 6, len(RECORD))
    for meta, payloads in (open_record(RECORD, ID, SECRET), open_record_in(file, span, SECRET)):
        assert meta == META
        assert list(payloads) == PAYLOADS
    for _, payloads in (
        open_record(RECORD + b"a", ID, SECRET),
        open_record_in(file, span._replace(length=span.length + 1), SECRET),
    ):
        with pytest.raises(SealBroken, match="after the end"):
            list(payloads)


@pytest.mark.parametrize("hashing", [True, False])
def test_a_record_that_is_cut_anywhere_is_never_whole(hashing: bool) -> None:
    for length in range(len(RECORD)):
        opener = RecordOpener(ID, SECRET, hashing=hashing)
        assert opener.feed(RECORD[:length]) == length
        assert not opener.whole
        with pytest.raises(SealBroken, match="cut"):
            list(open_record(RECORD[:length], ID, SECRET, hashing=hashing)[1])


def test_a_record_opens_for_its_own_id_and_secret_only() -> None:
    for id_, secret in ((object_id(2), SECRET), (ID, secret_of(object_id(2)))):
        with pytest.raises(SealBroken):
            RecordOpener(id_, secret).feed(RECORD)
        with pytest.raises(SealBroken):
            open_record(RECORD, id_, secret)


@pytest.mark.parametrize(
    ("payload_bytes", "segments", "content"),
    [(-1, 0, CONTENT), (1, 0, CONTENT), (0, -1, CONTENT), (0, 1, CONTENT), (0, 0, CONTENT + b"\0"), (0, 0, b"")],
)
def test_a_final_that_counts_otherwise_is_refused_even_from_who_has_the_secret(
    payload_bytes: int, segments: int, content: bytes
) -> None:
    meta = META.to_payload()
    data = [(SegmentType.DATA, payload) for payload in (meta, *PAYLOADS)]
    record = _raw(*data, _final(len(meta + CONTENT) + payload_bytes, 4 + segments, content))
    with pytest.raises(SealBroken, match="FINAL"):
        _opener().feed(record)


def test_a_final_in_the_first_place_or_with_the_counts_of_other_streams_is_refused() -> None:
    meta = META.to_payload()
    for record in (
        _raw(_final(0, 0, b"")),
        _raw((SegmentType.DATA, meta), (SegmentType.FINAL, len(meta).to_bytes(8, "big") + (1).to_bytes(8, "big"))),
    ):
        with pytest.raises(SealBroken, match="where or as"):
            _opener().feed(record)
        assert list(walk(io.BytesIO(record))) == []


@pytest.mark.parametrize("meta", [b"", b"{}", b"\xff", b"[]", META.to_payload().replace(b"store", b"steal")])
def test_a_meta_that_is_none_is_refused(meta: bytes) -> None:
    with pytest.raises(SealBroken, match="known of an object"):
        _opener().feed(_raw((SegmentType.DATA, meta), _final(len(meta), 1, b"")))


@pytest.mark.parametrize("field", ["sop_class", "transfer_syntax"])
@pytest.mark.parametrize("uid", ["", "1.2.\u00e9", "1.2.3\n", "1.2.x", "1" * 65, "1" * 70_000])
def test_a_meta_whose_syntaxes_could_not_be_proposed_to_a_device_is_refused(field: str, uid: str) -> None:
    meta = json.dumps(json.loads(META.to_payload()) | {field: uid}).encode()
    with pytest.raises(SealBroken, match="known of an object"):
        _opener().feed(_raw((SegmentType.DATA, meta)))


@pytest.mark.parametrize("uid", ["", "1.2.x", "1" * 65])
def test_an_odd_instance_uid_is_between_the_devices_alone(uid: str) -> None:
    opener = _opener()
    opener.feed(make_record(1, PAYLOADS, make_meta(sop_instance=uid)))
    assert opener.meta is not None
    assert opener.meta.sop_instance == uid


def test_hashing_may_be_left_to_another_thread_but_not_left_out() -> None:
    sealer = RecordSealer(ID, SECRET, META, hashing=False)
    pieces = [sealer.begin(), *(sealer.data(payload) for payload in PAYLOADS)]
    with pytest.raises(LocalMisuse, match="hashed"):
        sealer.finish()
    for payload in PAYLOADS:
        sealer.hash(payload)
    assert b"".join([*pieces, sealer.finish()]) == RECORD
    assert (sealer.payload_bytes, sealer.digest) == (len(CONTENT), hashlib.sha256(CONTENT).digest())


def test_a_record_is_sealed_in_its_order_and_within_its_bounds() -> None:
    sealer = RecordSealer(ID, SECRET, META)
    with pytest.raises(LocalMisuse, match="before its data"):
        sealer.data(b"a")
    with pytest.raises(LocalMisuse, match="ends when it began"):
        sealer.finish()
    sealer.begin()
    with pytest.raises(LocalMisuse, match="once"):
        sealer.begin()
    with pytest.raises(LocalMisuse, match="at most"):
        sealer.data(bytes(RECORD_PAYLOAD_BYTES + 1))
    sealer.finish()
    with pytest.raises(LocalMisuse, match="FINAL"):
        sealer.data(b"a")
    with pytest.raises(LocalMisuse, match="FINAL"):
        sealer.finish()
    with pytest.raises(LocalMisuse, match="at most"):
        RecordSealer(ID, SECRET, make_meta(command=bytes(RECORD_PAYLOAD_BYTES))).begin()
    for id_, secret in ((ID[1:], SECRET), (ID, SECRET[1:])):
        with pytest.raises(LocalMisuse, match="bytes"):
            RecordSealer(id_, secret, META)


def test_after_damage_a_record_goes_on_from_its_last_good_segment() -> None:
    pieces = record_pieces(1, PAYLOADS)
    for bad in range(len(RECORD)):
        released = bytearray()
        opener = _opener(released)
        damaged = bytearray(RECORD)
        damaged[bad] ^= 0x10
        try:
            opener.feed(damaged)
        except SealBroken:
            with pytest.raises(LocalMisuse, match="rewound"):
                opener.feed(RECORD)
        place = opener.rewind()
        ends = [0, PREFIX_BYTES, *(len(b"".join(pieces[: n + 1])) for n in range(len(pieces)))]
        assert place in ends
        assert place <= bad  # so it was not whole
        opener.feed(RECORD[place:])
        assert opener.whole
        assert released == CONTENT


def _file(*numbers: int) -> tuple[bytes, list[int]]:
    content, ends = b"", []
    for number in numbers:
        content += make_record(number, random_payloads(number))
        ends.append(len(content))
    return content, ends


def test_walking_a_file_that_is_cut_anywhere_yields_the_whole_records_and_no_other() -> None:
    content, ends = _file(1, 2, 3)
    for length in range(0, len(content) + 1, 1 if len(content) < 20_000 else 7):
        spans = list(walk(io.BytesIO(content[:length])))
        assert [span.end for span in spans] == [end for end in ends if end <= length]
        assert [span.object_id for span in spans] == [object_id(n + 1) for n in range(len(spans))]


def test_walking_starts_where_it_is_told_and_ends_at_what_is_no_record() -> None:
    content, ends = _file(1, 2, 3)
    assert [span.offset for span in walk(io.BytesIO(content), ends[0])] == ends[:2]
    for tail in (bytes(4096), b"OBJ2" + content[4:], b"OBJ1", random.Random(4).randbytes(4096)):
        assert [span.end for span in walk(io.BytesIO(content + tail))] == ends


def test_behind_a_damaged_header_the_next_record_is_found_and_no_sooner() -> None:
    content, ends = _file(1, 2, 3)
    starts = [0, *ends[:-1]]
    assert [next_record(io.BytesIO(content), place) for place in starts] == starts
    assert next_record(io.BytesIO(content), 1) == ends[0]
    assert next_record(io.BytesIO(content), ends[1] + 1) is None
    spurious = RECORD_TAG * 5 + content
    assert next_record(io.BytesIO(spurious), 0) == 5 * len(RECORD_TAG)


@pytest.mark.parametrize("before", range(-4, 5))
def test_a_record_is_found_wherever_the_reads_of_a_search_meet(before: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_SEARCH_BYTES", 64)
    content = make_record(1, [])
    assert next_record(io.BytesIO(bytes(128 + before) + content), 0) == 128 + before


def _tampered(chance: random.Random, pieces: list[bytes], others: list[list[bytes]]) -> bytes:
    """Return the segments of a record after one attack on them, perhaps with headers made to fit."""
    attack = chance.randrange(7)
    place, other = chance.randrange(len(pieces)), chance.choice(others)
    if attack == 0:
        raw = bytearray(b"".join(pieces))
        raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
        return bytes(raw)
    if attack == 1:
        raw_ = b"".join(pieces)
        start, end = sorted(chance.choices(range(len(raw_) + 1), k=2))
        return raw_[:start] + chance.randbytes(chance.choice((0, 0, 1, 16, end - start))) + raw_[end:]
    if attack == 2:
        del pieces[place]
    elif attack == 3:
        pieces.insert(place, chance.choice(pieces))
    elif attack == 4:
        left, right = chance.choices(range(len(pieces)), k=2)
        pieces[left], pieces[right] = pieces[right], pieces[left]
    elif attack == 5:
        pieces[place] = chance.choice(other)
    else:
        pieces[place:] = other[min(place, len(other) - 1) :]
    if chance.random() < 0.5:  # each claims the place where it stands
        pieces = pieces[:1] + [
            piece[:4] + (n + 1).to_bytes(8, "big") + piece[12:] for n, piece in enumerate(pieces[1:])
        ]
    return b"".join(pieces)


@pytest.mark.slow
def test_no_tampered_record_is_ever_whole_and_what_was_released_is_a_true_prefix() -> None:
    chance = random.Random(21)
    targets = [record_pieces(n, [chance.randbytes(size) for size in (30, 0, 30, 500)]) for n in range(1, 5)]
    tried = 0
    for _ in range(count(push=20_000, nightly=500_000)):
        which = chance.randrange(len(targets))
        pieces = targets[which]
        raw = _tampered(chance, list(pieces), [other for other in targets if other is not pieces])
        true = b"".join(pieces)
        if raw.startswith(true):
            continue
        tried += 1
        released = bytearray()
        id_ = object_id(which + 1)
        opener = RecordOpener(id_, secret_of(id_), on_payload=released.extend)
        step = chance.choice((7, 100, len(raw) + 1))
        try:
            for start in range(0, len(raw), step):
                opener.feed(raw[start : start + step])
        except SealBroken:
            pass
        assert not opener.whole
        content = b"".join(open_record(true, id_, secret_of(id_))[1])
        assert content.startswith(released)
    assert tried > 1_000


def test_a_segment_of_a_live_session_is_none_of_a_record() -> None:
    live = Sealer(StreamKey.derive(SECRET, b"initiator/data", control=False))
    record = RECORD_TAG + ID + live.seal(SegmentType.DATA, META.to_payload())
    with pytest.raises(SealBroken, match="not sealed with the key"):
        _opener().feed(record)
    with pytest.raises(SealBroken):
        Opener(StreamKey.derive(SECRET, b"initiator/data", control=False)).open(record_pieces(1, [])[0][PREFIX_BYTES:])
