"""An envelope is verified against its manifest as it arrives: cut anywhere, resumed, swapped, spliced, cut short."""

import hashlib
import random
from collections.abc import Callable

import pytest
from tests.unit.envelope.objects import make_manifest, make_meta, make_record, manifest_object

from isthmus.contract.letters import Manifest, ObjectKind
from isthmus.envelope.bundles import EnvelopeOpener
from isthmus.envelope.records import VerifiedRecord
from isthmus.errors import LocalMisuse, SealBroken
from isthmus.testing.depth import count

CONTENTS = [b"one" * 50, b"", b"three" * 400]
RECORDS = [make_record(n, [content] if content else []) for n, content in enumerate(CONTENTS)]
ENVELOPE = b"".join(RECORDS)


def _manifest(records: list[bytes] = RECORDS, wanted: tuple[int, ...] = (0, 1, 2), *, gap: int = 0) -> Manifest:
    place, objects = gap, []
    for number, record in enumerate(records):
        if number in wanted:
            digest = hashlib.sha256(CONTENTS[number]).digest()
            objects.append(manifest_object(number, place, len(record), digest))
        place += len(record) + gap
    return make_manifest(place, objects)


MANIFEST = _manifest()


def _feed(opener: EnvelopeOpener, content: bytes, step: int) -> None:
    for start in range(0, len(content), step):
        opener.feed(content[start : start + step])


@pytest.mark.parametrize("step", [1, 7, 333, 100_000])
@pytest.mark.parametrize("hashing", [True, False])
def test_an_envelope_verifies_wherever_its_blobs_are_cut(step: int, hashing: bool) -> None:
    seen: list[VerifiedRecord] = []
    opener = EnvelopeOpener(MANIFEST, on_record=seen.append, hashing=hashing)
    _feed(opener, ENVELOPE, step)
    assert opener.whole
    assert (opener.records, opener.verified) == (3, len(ENVELOPE))
    assert [record.span.object_id for record in seen] == [item.object_id for item in MANIFEST.objects]
    assert [(record.span.offset, record.span.length) for record in seen] == [
        (item.offset, item.length) for item in MANIFEST.objects
    ]
    assert [record.payload_bytes for record in seen] == [len(content) for content in CONTENTS]


def test_an_envelope_is_whole_with_its_last_byte_and_not_before() -> None:
    opener = EnvelopeOpener(MANIFEST)
    for place in range(len(ENVELOPE)):
        assert not opener.whole
        opener.feed(ENVELOPE[place : place + 1])
    assert opener.whole
    with pytest.raises(SealBroken, match="longer"):
        opener.feed(b"\0")


def test_what_lies_between_records_is_skipped() -> None:
    hidden = _manifest(wanted=(1,))
    opener = EnvelopeOpener(hidden)
    _feed(opener, ENVELOPE, 50)
    assert (opener.whole, opener.records) == (True, 1)

    spread = _manifest(gap=10)
    opener = EnvelopeOpener(spread)
    _feed(opener, bytes(10) + bytes(10).join(RECORDS) + bytes(10), 33)
    assert (opener.whole, opener.records) == (True, 3)


def test_an_envelope_without_objects_is_nothing_but_a_gap() -> None:
    opener = EnvelopeOpener(make_manifest(5, []))
    opener.feed(b"12345")
    assert opener.whole
    assert EnvelopeOpener(make_manifest(0, [], [])).whole


def test_damage_costs_the_segment_and_not_the_envelope() -> None:
    chance = random.Random(2)
    for _ in range(count(push=300, nightly=10_000)):
        place, step = chance.randrange(len(ENVELOPE)), chance.choice((11, 500, 100_000))
        damaged = bytearray(ENVELOPE)
        damaged[place] ^= 1 << chance.randrange(8)
        seen: list[VerifiedRecord] = []
        opener = EnvelopeOpener(MANIFEST, on_record=seen.append)
        try:
            _feed(opener, bytes(damaged), step)
        except SealBroken:
            with pytest.raises(LocalMisuse, match="rewound"):
                opener.feed(ENVELOPE)
        good = opener.rewind()
        assert good == opener.verified <= place
        assert (
            opener.records == len(seen) == len([item for item in MANIFEST.objects if item.offset + item.length <= good])
        )
        _feed(opener, ENVELOPE[good:], step)
        assert opener.whole
        assert len(seen) == 3


def test_a_file_that_ends_anywhere_is_resumed_after_its_last_good_segment() -> None:
    for length in range(0, len(ENVELOPE), 13):
        opener = EnvelopeOpener(MANIFEST)
        _feed(opener, ENVELOPE[:length], 1000)
        good = opener.rewind()
        assert good <= length
        opener.feed(ENVELOPE[good:])
        assert opener.whole


def _swapped(content: bytes) -> bytes:
    return RECORDS[2] + RECORDS[1] + RECORDS[0]


def _doubled(content: bytes) -> bytes:
    return RECORDS[0] + RECORDS[0] + content[2 * len(RECORDS[0]) :]


def _of_another_envelope(content: bytes) -> bytes:
    return make_record(7, [CONTENTS[0]]) + content[len(RECORDS[0]) :]


def _with_a_byte_more(content: bytes) -> bytes:
    return content[: len(RECORDS[0])] + b"\0" + content[len(RECORDS[0]) : -1]


@pytest.mark.parametrize("change", [_swapped, _doubled, _of_another_envelope, _with_a_byte_more])
def test_other_records_than_those_of_the_manifest_are_refused(change: Callable[[bytes], bytes]) -> None:
    changed = change(ENVELOPE)
    assert len(changed) == len(ENVELOPE)
    opener = EnvelopeOpener(MANIFEST)
    with pytest.raises(SealBroken):
        _feed(opener, changed, 100)
    assert not opener.whole


def test_a_manifest_that_says_otherwise_is_believed_against_an_authentic_record_every_time() -> None:
    item = MANIFEST.objects[0]
    for change in (
        {"digest": bytes(32)},
        {"kind": ObjectKind.COMMIT},
        {"length": item.length - 1},
        {"length": item.length + 1},
        {"secret": bytes(32)},
        {"object_id": bytes(16)},
    ):
        objects = [item.model_copy(update=change)]
        opener = EnvelopeOpener(make_manifest(len(RECORDS[0]) + 1, objects))
        for _ in range(2):  # to try again is no way around it
            with pytest.raises(SealBroken):
                opener.feed((RECORDS[0] + b"\0")[opener.verified :])
            opener.rewind()
        assert (opener.records, opener.whole) == (0, False)


def test_what_an_object_is_must_be_what_the_manifest_says() -> None:
    record = make_record(0, [CONTENTS[0]], make_meta(kind=ObjectKind.COMMIT))
    digest = hashlib.sha256(CONTENTS[0]).digest()
    opener = EnvelopeOpener(make_manifest(len(record), [manifest_object(0, 0, len(record), digest)]))
    with pytest.raises(SealBroken, match="another one"):
        opener.feed(record)


def test_a_manifest_comes_back_and_shows_no_secret() -> None:
    assert Manifest.parse(MANIFEST.to_payload()) == MANIFEST
    assert repr(MANIFEST.objects[0].secret) not in repr(MANIFEST)
    assert repr(MANIFEST.name_key) not in repr(MANIFEST)


@pytest.mark.parametrize(
    "change",
    [
        {"size": MANIFEST.size + 1},
        {"blobs": [MANIFEST.size, 0]},
        {"blobs": [MANIFEST.size + 1, -1]},
        {"calling": ""},
        {"calling": "CT\\1"},
        {"called": "A" * 17},
        {"called": "ARCHIVE\n"},
        {"envelope_id": bytes(15)},
        {"name_key": bytes(33)},
        {"sent": -1.0},
        {"objects": [MANIFEST.objects[1], MANIFEST.objects[0]]},
        {
            "objects": [
                MANIFEST.objects[0],
                MANIFEST.objects[0].model_copy(update={"offset": MANIFEST.objects[1].offset}),
            ]
        },
        {"objects": [MANIFEST.objects[0].model_copy(update={"length": MANIFEST.size + 1})]},
        {"objects": [MANIFEST.objects[0].model_copy(update={"length": 0})]},
        {"objects": [MANIFEST.objects[0].model_copy(update={"offset": -1})]},
        {
            "objects": [
                MANIFEST.objects[0],
                MANIFEST.objects[1].model_copy(update={"offset": MANIFEST.objects[0].length - 1}),
            ]
        },
        {"objects": [MANIFEST.objects[0].model_copy(update={"secret": bytes(31)})]},
    ],
)
def test_a_manifest_that_does_not_add_up_is_none(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Manifest.parse(MANIFEST.model_copy(update=change).to_payload())
