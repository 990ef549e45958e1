"""The file of a blob: its name, its owner, its digest and its body.

It has no name of its own until it is whole; what of it is written can be read before, while it grows.
"""

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from isthmus.kit import platform

DIGEST_BYTES: Final = 32
MOST_NAME: Final = 512
PIECE_BYTES: Final = 512 * 1024  # of a body that is on disk are handed to its connection at once
_BEHIND_BYTES: Final = 2 * 1024 * 1024  # of a growing blob are held for those who read along, also when written


class BlobTorn(Exception):
    """A blob that was read while it was being put did not become whole."""


class GrowingBlob:
    """A blob that is being put. What writes (`write`, `whole`, `keep`, `drop`) is for a thread, one at a time.

    Attributes:
        size: of the body, as it was announced.
        digest: of the body, as it was announced.
        kept: whether it is whole and has its name.
        received: bytes of the body that have come.
        written: bytes of the body that are in the file.
        unwanted: whether it was deleted before it was whole.
    """

    def __init__(self, path: Path, header: bytes, size: int, digest: bytes) -> None:
        self.size = size
        self.digest = digest
        self.kept = False
        self.received = 0
        self.written = 0
        self.unwanted = False
        self._path = path
        self._header = header
        self._handle: int | None = None
        self._held: deque[bytes] = deque()  # the end of what has come
        self._held_from = 0  # where the first of these starts
        self._ended = False
        self._overtaken = False
        self._readers = 0
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def waiting(self) -> int:
        """Bytes that have come and are not in the file."""
        return self.received - self.written

    def take(self, part: bytes) -> None:
        """Hold the next part of the body until it is written, and hand it on to those who read along."""
        if not part:
            return
        self._held.append(part)
        self.received += len(part)
        # who reads along is hardly ever further behind, and needs no file then
        over = min(self.written, self.received - (_BEHIND_BYTES if self._readers else 0))
        while self._held_from + len(self._held[0]) <= over:
            self._held_from += len(self._held.popleft())
        self._wake()

    def write(self) -> None:
        """Put what is held at the end of the file, which is made with the first."""
        if self._handle is None:
            self._handle = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            platform.write_at(self._handle, self._header, 0)
        start = self._held_from
        for part in self._held:
            if start >= self.written:
                platform.write_at(self._handle, part, len(self._header) + start)
                self.written += len(part)
            start += len(part)

    def whole(self) -> bytes:
        """Write the rest and return the body."""
        self.write()
        assert self._handle is not None
        return os.pread(self._handle, self.written, len(self._header))

    def keep(self, path: Path) -> None:
        """Write the rest and give the file its name. Raises FileExistsError."""
        self.write()
        os.link(self._path, path)
        self._path.unlink()
        self.kept = True

    def drop(self) -> None:
        """Delete what will not become whole."""
        if self._handle is not None:
            self._path.unlink(missing_ok=True)

    def overtake(self) -> None:
        """The same blob is whole: it was put again beside this, and came in sooner."""
        self._overtaken = True
        self._wake()

    def end(self) -> None:
        """Nothing is written any more."""
        self._ended = True
        self._wake()
        self._let_go()

    async def follow(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes in, its last byte not before the blob is kept. Raises BlobTorn."""
        self._readers += 1
        at = 0
        try:
            while not self._overtaken and (at < self.size or not self._ended):
                ready = self.received if self.kept else min(self.received, self.size - 1)
                if ready > at:
                    piece = await self._piece(at, ready)
                    at += len(piece)
                    yield piece
                elif self._ended:
                    break
                else:
                    await self._change()
            if not self.kept:
                raise BlobTorn
        finally:
            self._readers -= 1
            self._let_go()

    async def _piece(self, at: int, end: int) -> bytes:
        """Return what stands from `at` on, up to `end` at most: as it is held, or read from the file."""
        if at < self._held_from:
            assert self._handle is not None
            size = min(end, self._held_from) - at
            return await asyncio.to_thread(os.pread, self._handle, min(size, PIECE_BYTES), len(self._header) + at)
        start = self._held_from
        for part in self._held:
            if at < start + len(part):
                return part if at == start and start + len(part) <= end else part[at - start : end - start]
            start += len(part)
        raise AssertionError("what has come is held, or in the file")

    async def _change(self) -> None:
        waiting = asyncio.get_running_loop().create_future()
        self._waiting.add(waiting)
        try:
            await waiting
        finally:
            self._waiting.discard(waiting)

    def _wake(self) -> None:
        """Wake those who read along: there is more, or it is over."""
        for waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)

    def _let_go(self) -> None:
        if self._ended and not self._readers and self._handle is not None:
            os.close(self._handle)
            self._handle = None


def read_body(path: Path, start: int, size: int) -> bytes:
    """Return the body of a blob that is whole. Raises FileNotFoundError."""
    handle = os.open(path, os.O_RDONLY)
    try:
        return os.pread(handle, size, start)
    finally:
        os.close(handle)


def make_header(name: str, site: str, digest: bytes) -> bytes:
    """Return what stands before a body: length of the name (2 bytes), of the site (1), digest (32), name, site."""
    return len(name).to_bytes(2, "big") + bytes((len(site),)) + digest + name.encode("ascii") + site.encode("ascii")


def read_header(path: Path) -> tuple[str, str, bytes, int]:
    """Return name, site, digest and the length of the header of a blob's file."""
    with path.open("rb") as file:
        head = file.read(3 + DIGEST_BYTES + MOST_NAME + 255)
    start = 3 + DIGEST_BYTES
    end = start + min(int.from_bytes(head[:2], "big"), MOST_NAME)
    name, site = head[start:end].decode("ascii"), head[end : end + head[2]].decode("ascii")
    return name, site, head[3:start], end + head[2]
