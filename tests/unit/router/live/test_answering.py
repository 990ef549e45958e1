"""Offers of other sites that are taken back."""

import asyncio
from types import SimpleNamespace
from typing import cast

import pytest

from isthmus.contract.notices import SESSION_ID_BYTES, NoticeKind, pack
from isthmus.kit.tasks import Tasks
from isthmus.router.live.answering import Answering
from isthmus.router.live.registry import Live


@pytest.mark.parametrize("turns", range(3))
async def test_nothing_is_left_of_an_offer_that_is_withdrawn_however_soon(
    turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def call(*_: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Answering, "_verify", lambda *_: None)
    monkeypatch.setattr(Answering, "_call", call)
    tasks = Tasks("test")
    core = SimpleNamespace(tasks=tasks, pairs=SimpleNamespace(built_in=None))
    answering = Answering(cast("Live", SimpleNamespace(core=core)))
    session_id = bytes(SESSION_ID_BYTES)
    answering.offer(session_id, pack(NoticeKind.OFFER, session_id))
    for _ in range(turns):
        await asyncio.sleep(0)
    assert answering.withdrawn(session_id)
    await tasks.close()
    assert answering._answering == {}
