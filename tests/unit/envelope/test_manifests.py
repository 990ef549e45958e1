"""A manifest comes back as it was, and one that does not add up is none."""

import hashlib

import pytest
from tests.unit.envelope.objects import make_manifest, make_record, manifest_object

from isthmus.contract.letters import Manifest

CONTENTS = [b"one" * 50, b"", b"three" * 400]


def _manifest() -> Manifest:
    place, objects = 0, []
    for number, content in enumerate(CONTENTS):
        record = make_record(number, [content] if content else [])
        objects.append(manifest_object(number, place, len(record), hashlib.sha256(content).digest()))
        place += len(record)
    return make_manifest(place, objects)


MANIFEST = _manifest()


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
