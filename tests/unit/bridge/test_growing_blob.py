"""A blob is handed on while it comes in: from memory to who keeps up, from its file to who is behind."""

import asyncio
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.bridge.blobs import files
from isthmus.bridge.blobs.files import BlobTorn, GrowingBlob, make_header
from isthmus.kit.tasks import Tasks

HEADER = make_header("q/name", "north", bytes(32))
BEHIND = 8
"""Bytes that are held for those who read along, in these tests."""


class Reader:
    """Reads along, one piece whenever it is told to."""

    def __init__(self, blob: GrowingBlob) -> None:
        self.content = bytearray()
        self._turns = asyncio.Semaphore(0)
        self.task = Tasks("test").spawn(self._read(blob), name="read along", awaited=True)

    def go(self, turns: int = 1) -> None:
        for _ in range(turns):
            self._turns.release()

    async def _read(self, blob: GrowingBlob) -> None:
        async for piece in blob.follow():
            assert piece
            self.content += piece
            await self._turns.acquire()


@pytest.fixture(autouse=True)
def _little_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_BEHIND_BYTES", BEHIND)


async def in_turn(parts: list[bytes], steps: list[str], folder: Path) -> None:
    body = b"".join(parts)
    blob = GrowingBlob(folder / "new", HEADER, len(body), bytes(32))
    left, readers = iter(parts), [Reader(blob)]
    for step in steps:
        match step:
            case "take":
                if part := next(left, b""):
                    blob.take(part)
                    assert sum(map(len, blob._held)) < max(blob.waiting, BEHIND) + max(map(len, parts))
            case "write":
                blob.write()
            case "join":
                readers.append(Reader(blob))
            case "read":
                readers[0].go()
        await asyncio.sleep(0)
    for part in left:
        blob.take(part)
    await asyncio.sleep(0)
    assert all(len(reader.content) < max(len(body), 1) for reader in readers), "the last byte waits for the blob"
    blob.keep(folder / "kept")
    blob.end()
    for reader in readers:
        reader.go(len(body) + 1)
        await reader.task
        assert reader.content == body
    assert (folder / "kept").read_bytes() == HEADER + body


@given(
    sizes=st.lists(st.integers(0, 6), max_size=12),
    steps=st.lists(st.sampled_from(["take", "write", "read", "join"]), max_size=40),
)
def test_whoever_reads_along_gets_the_body_whatever_is_written_when(sizes: list[int], steps: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(in_turn([os.urandom(size) for size in sizes], steps, Path(folder)))


async def test_who_keeps_up_needs_no_file(tmp_path: Path) -> None:
    blob = GrowingBlob(tmp_path / "new", HEADER, 100, bytes(32))
    reader = Reader(blob)
    reader.go(100)
    for number in range(9):
        blob.take(bytes((number,)) * 10)
        await asyncio.sleep(0)
    assert len(reader.content) == 90
    assert not (tmp_path / "new").exists()
    reader.task.cancel()
    await asyncio.wait([reader.task])


async def test_who_reads_along_is_told_if_it_does_not_become_whole(tmp_path: Path) -> None:
    blob = GrowingBlob(tmp_path / "new", HEADER, 20, bytes(32))
    reader = Reader(blob)
    reader.go(100)
    blob.take(bytes(20))
    blob.write()
    await asyncio.sleep(0)
    blob.drop()
    blob.end()
    with pytest.raises(BlobTorn):
        await reader.task
    assert len(reader.content) == 19
