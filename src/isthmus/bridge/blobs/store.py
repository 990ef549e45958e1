"""Blobs on disk, for the live sessions and the queues of one Bridge.

A file holds its name, owner's digest and body; the index is in memory and is read back from the files at start.
Nothing is fsynced: a blob that a power cut takes is put again by its writer, which still has it. What is queued (names
under `q/`) is kept longer than what is live, and counted apart, so that a full queue stops no live session.
"""

import asyncio
import hashlib
import os
import re
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from isthmus.errors import BlobExists, BlobMissing, Problem
from isthmus.kit.clock import Clock
from isthmus.kit.files import make_private_folder

_NAME: Final = re.compile(r"[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)*")
_MOST_NAME: Final = 512
_DIGEST: Final = 32
_BATCH_BYTES: Final = (
    2 * 1024 * 1024
)  # of a body are written at once: what a put holds in memory, and a trip to a thread
_MOST_BLOBS: Final = 100_000  # of one site and kind: small blobs cost more than their bytes
_QUEUED: Final = "q/"


@dataclass(frozen=True, slots=True)
class Allowance:
    """What one site may keep, in bytes, and for how many seconds a blob stays that nobody deletes."""

    quota: int
    lifetime: float


@dataclass(slots=True)
class _Usage:
    size: int = 0
    count: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """A blob that is whole on disk. `created` is Unix seconds."""

    name: str
    site: str
    size: int
    created: float
    digest: bytes


class BlobStore:
    """Named blobs, each written once, counted against the site that wrote it."""

    def __init__(self, folder: Path, clock: Clock, *, live: Allowance, queued: Allowance) -> None:
        """Describe the store; nothing is read yet. `live` and `queued` are what each site may keep of either."""
        self._folder = folder
        self._clock = clock
        self._live, self._queued = live, queued
        self._entries: dict[str, Entry] = {}
        self._usage: defaultdict[tuple[str, bool], _Usage] = defaultdict(_Usage)

    @property
    def used(self) -> int:
        """Bytes kept in all."""
        return sum(usage.size for usage in self._usage.values())

    async def open(self) -> None:
        """Read the index back from the files and drop what was not finished."""
        make_private_folder(self._folder)
        for entry in await asyncio.to_thread(self._scan):
            self._index(entry)

    async def put(self, site: str, name: str, body: AsyncIterator[bytes], size: int, digest: bytes) -> bool:
        """Keep a blob; return False if the same one was there. The body raises if it is not what was announced.

        Raises BlobExists if another body has that name, Problem 507 if the site's room is used up, 422 for a bad name.
        """
        check_name(name)
        if name in self._entries:
            return await self._same_again(name, body, digest)
        usage = self._usage_of(site, name)
        if usage.size + size > self._allowance(name).quota or usage.count >= _MOST_BLOBS:
            raise Problem(507, "No room", detail=f"{site} has used up its room for blobs.", hint="delete or wait")
        usage.size += size  # reserved, so that puts in flight cannot overrun it
        scratch = _Scratch(self._folder / f"new.{secrets.token_hex(8)}")
        try:
            written = await self._write(scratch, _header(name, site, digest), name, body, size)
            self._index(Entry(name, site, written, self._clock.now(), digest))
        except FileExistsError:
            return await self._same_again(name, _nothing(), digest)
        finally:
            usage.size -= size
            if not scratch.kept:
                await asyncio.to_thread(scratch.drop)
        return True

    async def get(self, name: str) -> bytes:
        """Return the body. Raises BlobMissing."""
        entry = self._entries.get(name)
        if entry is None:
            raise BlobMissing(name)
        start = len(_header(name, entry.site, entry.digest))
        try:
            return await asyncio.to_thread(_read, self._path(name), start, entry.size)
        except FileNotFoundError as error:
            raise BlobMissing(name) from error

    async def delete(self, name: str) -> None:
        """Forget a blob, if there is one."""
        entry = self._entries.pop(name, None)
        if entry is not None:
            usage = self._usage_of(entry.site, name)
            usage.size -= entry.size
            usage.count -= 1
            await asyncio.to_thread(self._path(name).unlink, missing_ok=True)

    def list_of(self, site: str, prefix: str, after: str, limit: int) -> list[Entry]:
        """Return blobs that a site wrote, by name: those that start with `prefix` and come after `after`."""
        names = sorted(
            entry.name
            for entry in self._entries.values()
            if entry.site == site and entry.name.startswith(prefix) and entry.name > after
        )
        return [self._entries[name] for name in names[:limit]]

    async def sweep(self) -> int:
        """Delete what everybody forgot; return how many."""
        now = self._clock.now()
        forgotten = [
            entry.name for entry in self._entries.values() if entry.created < now - self._allowance(entry.name).lifetime
        ]
        for name in forgotten:
            await self.delete(name)
        return len(forgotten)

    async def forget_site(self, site: str) -> None:
        """Delete every blob of a site that was revoked."""
        for name in [entry.name for entry in self._entries.values() if entry.site == site]:
            await self.delete(name)

    def _path(self, name: str) -> Path:
        # hashed, since some file systems take two names that differ in case for one
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()}.blob"

    async def _write(self, scratch: "_Scratch", header: bytes, name: str, body: AsyncIterator[bytes], size: int) -> int:
        """Write header and body and give them their name; return the body's length. Raises FileExistsError."""
        parts, held, written = [header], 0, 0
        async for chunk in body:
            parts.append(chunk)
            held += len(chunk)
            written += len(chunk)
            if written > size:
                raise Problem(400, "Longer than announced")
            if held >= _BATCH_BYTES:
                await asyncio.to_thread(scratch.add, parts)
                parts, held = [], 0
        await asyncio.to_thread(scratch.keep, parts, self._path(name))
        return written

    async def _same_again(self, name: str, body: AsyncIterator[bytes], digest: bytes) -> bool:
        async for _ in body:
            pass  # read to its end, so that a body that is not the announced one is refused first
        entry = self._entries.get(name)
        if entry is None or entry.digest != digest:
            raise BlobExists(name)
        return False

    def _index(self, entry: Entry) -> None:
        self._entries[entry.name] = entry
        usage = self._usage_of(entry.site, entry.name)
        usage.size += entry.size
        usage.count += 1

    def _allowance(self, name: str) -> Allowance:
        return self._queued if name.startswith(_QUEUED) else self._live

    def _usage_of(self, site: str, name: str) -> _Usage:
        return self._usage[site, name.startswith(_QUEUED)]

    def _scan(self) -> list[Entry]:
        found = []
        for path in sorted(self._folder.iterdir()):
            if path.suffix != ".blob":
                path.unlink()
                continue
            with path.open("rb") as file:
                head = file.read(_header_length(b"\xff" * 3))
            status = path.stat()
            name, site = _parse_header(head)
            length = _header_length(head)
            found.append(Entry(name, site, status.st_size - length, status.st_mtime, head[3 : 3 + _DIGEST]))
        return found


def check_name(name: str) -> None:
    """Raise Problem 422 unless this is a blob name."""
    if len(name) > _MOST_NAME or not _NAME.fullmatch(name):
        raise Problem(422, "Not a blob name", detail=f"[A-Za-z0-9_-]+ joined by /, at most {_MOST_NAME}.", field="name")


async def _nothing() -> AsyncIterator[bytes]:
    for chunk in tuple[bytes, ...]():
        yield chunk


def _read(path: Path, start: int, size: int) -> bytes:
    with path.open("rb", buffering=0) as file:
        return os.pread(file.fileno(), size, start)


class _Scratch:
    """A file that has no name of its own until it is whole. Every call is for a thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None
        self.kept = False

    def add(self, parts: Sequence[bytes]) -> None:
        """Write at the end; the file is made with the first part."""
        if self._file is None:
            self._file = os.fdopen(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
        self._file.writelines(parts)

    def keep(self, parts: Sequence[bytes], path: Path) -> None:
        """Write the last parts and give the file its name. Raises FileExistsError."""
        self.add(parts)
        assert self._file is not None
        self._file.close()
        os.link(self._path, path)
        self._path.unlink()
        self.kept = True

    def drop(self) -> None:
        """Close and delete the file."""
        if self._file is not None:
            self._file.close()
            self._path.unlink(missing_ok=True)


def _header(name: str, site: str, digest: bytes) -> bytes:
    """Length of the name (2 bytes), of the site (1), digest (32), name, site."""
    return len(name).to_bytes(2, "big") + bytes((len(site),)) + digest + name.encode("ascii") + site.encode("ascii")


def _header_length(content: bytes) -> int:
    return 3 + _DIGEST + min(int.from_bytes(content[:2], "big"), _MOST_NAME) + content[2]


def _parse_header(head: bytes) -> tuple[str, str]:
    start = 3 + _DIGEST
    end = start + int.from_bytes(head[:2], "big")
    return head[start:end].decode("ascii"), head[end : end + head[2]].decode("ascii")
