"""The kept OpenAPI document is the one that the code makes."""

import json
from pathlib import Path

from isthmus.bridge.openapi import document

KEPT = Path(__file__).parents[3] / "docs" / "protocol" / "openapi.json"


def test_the_kept_document_is_current() -> None:
    assert KEPT.read_text(encoding="utf-8") == document(), "make docs"


def test_every_reference_leads_somewhere() -> None:
    described = json.loads(document())
    text = json.dumps(described)
    for name in {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in described["components"]["schemas"]
