"""The bus by PostgreSQL, over a database that takes its time."""

import asyncio
import base64
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # has no types
import pytest

from isthmus.bridge.cluster.postgres import PostgresBus
from isthmus.kit.tasks import Tasks


class Database:
    """A connection that takes some turns of the loop for each transaction."""

    def __init__(self, kept: list[str]) -> None:
        self._kept = kept
        self._is_closed = False

    async def execute(self, _sql: str, *values: Any) -> None:
        for _ in range(5):
            await asyncio.sleep(0)
        if values:
            self._kept += values[3]

    async def add_listener(self, *_: object) -> None:
        pass

    def add_termination_listener(self, *_: object) -> None:
        pass

    def is_closed(self) -> bool:
        return self._is_closed

    def terminate(self) -> None:
        self._is_closed = True


@pytest.mark.parametrize("turns", range(10))
async def test_what_was_said_last_is_sent_before_the_bus_is_closed(turns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[str] = []

    async def connect(**_: object) -> Database:
        return Database(kept)

    monkeypatch.setattr(asyncpg, "connect", connect)
    bus = PostgresBus("postgresql://USER@HOST/NAME")
    await bus.open("aa", lambda _: None)
    for _ in range(10):  # of the loop, in which the connection that writes is made
        await asyncio.sleep(0)
    bus.send("bb", b"leaving")
    for _ in range(turns):
        await asyncio.sleep(0)
    await bus.close()
    assert kept == [base64.b64encode(b"leaving").decode()]


async def test_a_bus_that_has_nothing_to_send_is_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def connect(**_: object) -> Database:
        return Database([])

    monkeypatch.setattr(asyncpg, "connect", connect)
    bus = PostgresBus("postgresql://USER@HOST/NAME")
    await bus.open("aa", lambda _: None)
    tasks = Tasks("test")
    closing = tasks.spawn(bus.close(), name="close")
    for _ in range(20):
        await asyncio.sleep(0)
    assert closing.done()
    await tasks.close()
