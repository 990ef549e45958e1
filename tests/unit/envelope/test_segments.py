"""Sealed segments: layout, limits, the window against replay, and what belongs to which stream."""

import hmac
import random

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from isthmus.envelope.keys import SessionKeys, StreamKey
from isthmus.envelope.segments import (
    MAX_PAYLOAD_BYTES,
    MAX_SEGMENTS,
    REPLAY_WINDOW,
    Opener,
    Sealer,
    Segment,
    SegmentType,
    blob_name,
    pack_final,
    peek_sequence,
    unpack_final,
)
from isthmus.errors import LocalMisuse, SealBroken

OURS = SessionKeys.derive(bytes(range(32)), initiator=True)
THEIRS = SessionKeys.derive(bytes(range(32)), initiator=False)
KEY, CONTROL_KEY = OURS.data_out, OURS.control_out
DATA, FINAL, CONTROL = SegmentType.DATA, SegmentType.FINAL, SegmentType.CONTROL


def _jump(sealer: Sealer, sequence: int, payload: bytes = b"") -> bytes:
    sealer._sequence = sequence
    return sealer.seal(CONTROL if sealer._control else DATA, payload)


def test_what_goes_out_on_one_side_comes_in_on_the_other() -> None:
    assert (OURS.data_out, OURS.data_in) == (THEIRS.data_in, THEIRS.data_out)
    assert (OURS.control_out, OURS.control_in) == (THEIRS.control_in, THEIRS.control_out)


def test_no_two_streams_share_a_byte_of_key_material() -> None:
    streams = (OURS.data_out, OURS.data_in, OURS.control_out, OURS.control_in)
    material = [part for key in streams for part in (key.key, key.commitment, key.name_key, key.base_nonce)]
    assert len(set(material)) == 16


def test_keys_are_in_no_repr() -> None:
    assert repr(KEY) == "StreamKey(control=False)"
    assert "bytes" not in repr(OURS)
    assert "\\x" not in repr(OURS)


def test_a_segment_has_the_documented_layout() -> None:
    sealer = Sealer(KEY)
    first, second = sealer.seal(DATA, b"abc"), sealer.seal(DATA, b"defg")
    assert first[:16] == bytes.fromhex("01 01 0000 0000000000000000 00000003")
    assert first[16:48] == KEY.commitment
    assert first[48:] == AESGCM(KEY.key).encrypt(KEY.base_nonce, b"abc", first[:16])
    assert second[:16] == bytes.fromhex("01 01 0000 0000000000000001 00000004")
    nonce = KEY.base_nonce[:-1] + bytes((KEY.base_nonce[-1] ^ 1,))
    assert second[16:] == AESGCM(KEY.key).encrypt(nonce, b"defg", second[:16])


@pytest.mark.parametrize("size", [0, 1, 15, 16, 65_536, 262_144, MAX_PAYLOAD_BYTES])
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_payload_of_any_size_and_kind_comes_back(size: int, kind: type) -> None:
    payload = random.Random(size).randbytes(size)
    sealer, opener = Sealer(KEY), Opener(THEIRS.data_in)
    for sequence in range(2):
        segment = sealer.seal(DATA, kind(payload))
        assert type(segment) is bytes
        assert opener.open(segment) == Segment(DATA, sequence, payload)


def test_a_prefix_stands_in_front_and_changes_nothing_else() -> None:
    plain, behind = Sealer(KEY), Sealer(KEY)
    for _ in range(2):
        assert behind.seal(DATA, b"abc", prefix=b"notice") == b"notice" + plain.seal(DATA, b"abc")


def test_a_payload_over_four_mebibytes_is_not_sealed() -> None:
    sealer = Sealer(KEY)
    with pytest.raises(LocalMisuse, match="too long"):
        sealer.seal(DATA, bytes(MAX_PAYLOAD_BYTES + 1))
    assert sealer.sequence == 0


def test_a_segment_that_claims_4_gib_is_refused_by_its_header() -> None:
    header = bytes.fromhex("01 01 0000 0000000000000001 ffffffff")
    with pytest.raises(SealBroken, match="out of bounds"):
        peek_sequence(header)


def test_segments_open_in_any_order_each_once() -> None:
    sealer, opener = Sealer(KEY), Opener(KEY)
    segments = [sealer.seal(DATA, bytes((n,))) for n in range(100)]
    order = list(range(100))
    random.Random(5).shuffle(order)
    for n in order:
        assert peek_sequence(segments[n]) == n
        assert opener.open(segments[n]).payload == bytes((n,))
    for segment in segments:
        with pytest.raises(SealBroken, match="already"):
            opener.open(segment)


def test_the_window_against_replay_agrees_with_a_plain_set_and_stays_small() -> None:
    chance = random.Random(11)
    sealer, opener = Sealer(CONTROL_KEY), Opener(CONTROL_KEY)
    opened: set[int] = set()
    highest = -1
    for _ in range(3_000):
        centre = max(0, highest + chance.choice((-REPLAY_WINDOW - 2, -REPLAY_WINDOW, -40, -3, 0, 2, 30, 500)))
        sequence = centre + chance.randrange(4)
        fresh = sequence not in opened and sequence > highest - REPLAY_WINDOW
        segment = _jump(sealer, sequence)
        if fresh:
            opener.open(segment)
            opened.add(sequence)
            highest = max(highest, sequence)
        else:
            with pytest.raises(SealBroken, match="already"):
                opener.open(segment)
    assert highest > 2 * REPLAY_WINDOW
    assert opener._opened.bit_length() <= REPLAY_WINDOW


def test_a_leap_over_the_whole_stream_costs_nothing() -> None:
    sealer, opener = Sealer(CONTROL_KEY), Opener(CONTROL_KEY)
    opener.open(_jump(sealer, 5))
    opener.open(_jump(sealer, MAX_SEGMENTS - 1))
    with pytest.raises(SealBroken, match="already"):
        opener.open(_jump(sealer, MAX_SEGMENTS - 1 - REPLAY_WINDOW))
    assert opener.open(_jump(sealer, MAX_SEGMENTS - REPLAY_WINDOW)).sequence == MAX_SEGMENTS - REPLAY_WINDOW


def test_a_refused_segment_does_not_use_up_its_sequence() -> None:
    segment = Sealer(KEY).seal(DATA, b"abc")
    opener = Opener(KEY)
    with pytest.raises(SealBroken):
        opener.open(segment[:-1] + bytes((segment[-1] ^ 1,)))
    assert opener.open(segment).payload == b"abc"


def test_a_stream_ends_before_its_sequence_numbers_do() -> None:
    sealer = Sealer(KEY)
    Opener(KEY).open(_jump(sealer, MAX_SEGMENTS - 1))
    with pytest.raises(LocalMisuse, match="used up"):
        sealer.seal(DATA, b"")
    with pytest.raises(SealBroken, match="out of bounds"):
        peek_sequence(bytes.fromhex("01 01 0000 0000000001000000 00000000"))


def test_nothing_is_sealed_or_opened_beyond_final() -> None:
    early, late = Sealer(KEY), Sealer(KEY)
    data, final = early.seal(DATA, b"abc"), early.seal(FINAL, pack_final(3, 1))
    with pytest.raises(LocalMisuse, match="FINAL"):
        early.seal(DATA, b"more")
    beyond = _jump(late, 2)
    opener = Opener(KEY)
    assert unpack_final(opener.open(final).payload) == (3, 1)
    with pytest.raises(SealBroken, match="beyond FINAL"):
        opener.open(beyond)
    assert opener.open(data).payload == b"abc"  # what comes before it may still come late


def test_a_final_below_an_opened_segment_is_refused() -> None:
    final, beyond = Sealer(KEY).seal(FINAL, pack_final(0, 0)), _jump(Sealer(KEY), 1)
    opener = Opener(KEY)
    opener.open(beyond)
    with pytest.raises(SealBroken, match="FINAL stands before"):
        opener.open(final)


@pytest.mark.parametrize("payload", [b"", bytes(15), bytes(17)])
def test_a_final_without_its_counts_is_refused(payload: bytes) -> None:
    with pytest.raises(SealBroken):
        unpack_final(payload)


def test_each_type_stays_on_its_kind_of_stream() -> None:
    for type_, key in ((DATA, CONTROL_KEY), (FINAL, CONTROL_KEY), (CONTROL, KEY)):
        with pytest.raises(LocalMisuse):
            Sealer(key).seal(type_, b"")
        misled = StreamKey(key.key, key.commitment, key.name_key, key.base_nonce, control=not key.control)
        with pytest.raises(SealBroken, match="type"):
            Opener(key).open(Sealer(misled).seal(type_, b""))


def test_the_commitment_is_looked_at_before_anything_is_decrypted() -> None:
    other = StreamKey(KEY.key, bytes(32), KEY.name_key, KEY.base_nonce, control=False)
    with pytest.raises(SealBroken, match="key of this session"):
        Opener(KEY).open(Sealer(other).seal(DATA, b"abc"))


@pytest.mark.parametrize("segment", [b"", bytes(15), bytes(16), b"\2\1" + bytes(60), b"\1\0" + bytes(60), b"\1\4" * 40])
def test_what_has_no_header_of_this_version_is_refused(segment: bytes) -> None:
    with pytest.raises(SealBroken):
        peek_sequence(segment)
    with pytest.raises(SealBroken):
        Opener(KEY).open(segment)


@pytest.mark.parametrize("change", [-1, 1, 1000])
def test_a_segment_of_another_length_than_it_says_is_not_decrypted(change: int) -> None:
    segment = Sealer(KEY).seal(DATA, b"abc")
    with pytest.raises(SealBroken, match="as long as it says"):
        Opener(KEY).open((segment + bytes(1000))[: len(segment) + change])


def test_blob_names_are_fit_for_any_store_and_tell_nothing() -> None:
    streams = (OURS.data_out, OURS.data_in, OURS.control_out, OURS.control_in)
    names = {blob_name(key, sequence) for key in streams for sequence in range(1000)}
    assert len(names) == 4000
    assert all(len(name) == 40 and set(name) <= set("0123456789abcdef") for name in names)
    assert blob_name(KEY, 258) == hmac.new(KEY.name_key, (258).to_bytes(8, "big"), "sha256").hexdigest()[:40]
    assert blob_name(KEY, 7) == blob_name(THEIRS.data_in, 7)
