"""What the tests of the directory share: titles, the answers of refusals, our own statements as they are published."""

from typing import Any

import pytest

from isthmus.contract.documents import Statement
from isthmus.errors import AssociationRefused
from isthmus.kit.names import AETitle

PERMANENT_CALLING = (1, 1, 3)
PERMANENT_CALLED = (1, 1, 7)
OFFLINE = (2, 3, 1)
DAY = 86_400.0


def title(text: str) -> AETitle:
    return AETitle(text)


def answer(refused: pytest.ExceptionInfo[AssociationRefused]) -> tuple[int, int, int]:
    return (refused.value.result, refused.value.source, refused.value.reason)


def statement_to(home: Any, site: str) -> Statement:
    home.store.forget_published()
    payloads = [document.payload for document in home.directory.own_documents(home.clock.now())[2:]]
    (found,) = [row for row in map(Statement.parse, payloads) if row.to_site == site]
    return found
