"""Blobs on disk, for the live sessions and the queues of one Bridge.

The index is in memory and is read back from the files at start. A blob may be waited for, and is handed on while it is
still coming in. Nothing is fsynced: a blob that a power cut takes is put again by its writer, which still has it. What
is queued (names under `q/`) is kept longer than what is live, and counted apart, so that a full queue stops no live
session.
"""

import asyncio
import hashlib
import re
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

from isthmus.bridge.blobs.files import (
    MOST_NAME,
    PIECE_BYTES,
    BlobTorn,
    GrowingBlob,
    make_header,
    read_body,
    read_header,
)
from isthmus.errors import BlobExists, BlobMissing, Problem, ProviderTrouble
from isthmus.kit.clock import Clock
from isthmus.kit.files import make_private_folder
from isthmus.kit.threads import to_its_end

_NAME: Final = re.compile(r"[A-Za-z0-9_-]+(?:/[A-Za-z0-9_-]+)*")
_BATCH_BYTES: Final = 2 * 1024 * 1024  # of a body are written at once
_MOST_BLOBS: Final = 100_000  # of one site and kind: small blobs cost more than their bytes
QUEUED: Final = "q/"
T = TypeVar("T")


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
        self._growing: defaultdict[str, list[GrowingBlob]] = defaultdict(list)
        self._awaited: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)

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
        path = self._folder / f"new.{secrets.token_hex(8)}"
        growing = GrowingBlob(path, make_header(name, site, digest), size, digest)
        entry = Entry(name, site, size, self._clock.now(), digest)
        self._growing[name].append(growing)
        self._arrived(name)
        try:
            await self._write(growing, body)
            await self._keep(growing, entry)
        except BlobExists:
            await self._index_found(name)
            return await self._same_again(name, _nothing(), digest)
        finally:
            usage.size -= size
            self._growing[name].remove(growing)
            if not self._growing[name]:
                del self._growing[name]
            if growing.kept:  # also if this was cancelled meanwhile
                self._index(entry)
                for other in self._growing.get(name, ()):
                    other.overtake()
            else:
                await asyncio.to_thread(growing.drop)
            growing.end()
            if growing.unwanted:
                await self._remove([name])
        return True

    async def read(self, name: str, wait: float = 0.0) -> tuple[int, AsyncIterator[bytes]]:
        """Return a blob's size and its body, part by part.

        Who waits, up to `wait` seconds for it to begin, may read it while it is put: then the body raises BlobTorn if
        it does not become whole. Raises BlobMissing.
        """
        if wait and name not in self._entries and name not in self._growing:
            await self._arrival(name, wait)
        if (entry := self._entries.get(name)) is not None:
            return entry.size, _in_pieces(await self._body_of(entry))
        if wait and name in self._growing:
            growing = max(self._growing[name], key=lambda each: each.received)
            return growing.size, self._followed(name, growing)
        raise BlobMissing(name)

    def has(self, name: str, digest: bytes) -> bool:
        """Return whether just this blob is there."""
        entry = self._entries.get(name)
        return entry is not None and entry.digest == digest

    async def delete(self, *names: str) -> None:
        """Forget blobs, those that there are, and those that are being put: they go as soon as they are whole."""
        self._forsake(names)
        await self._remove(names)

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
        await self.delete(*forgotten)
        return len(forgotten)

    async def forget_site(self, site: str) -> None:
        """Delete every blob of a site that was revoked."""
        await self.delete(*[entry.name for entry in self._entries.values() if entry.site == site])

    async def close(self) -> None:
        """Let go of connections."""

    # where the whole ones are

    async def _keep(self, growing: GrowingBlob, entry: Entry) -> None:
        """Have a blob stay of which all has come, and mark it as kept. Raises BlobExists."""
        try:
            await to_its_end(growing.keep, self._path(entry.name))
        except FileExistsError as error:
            raise BlobExists(entry.name) from error

    async def _body_of(self, entry: Entry) -> bytes:
        """Return the body of a blob. Raises BlobMissing."""
        start = len(make_header(entry.name, entry.site, entry.digest))
        try:
            return await asyncio.to_thread(read_body, self._path(entry.name), start, entry.size)
        except FileNotFoundError as error:
            raise BlobMissing(entry.name) from error

    async def _remove(self, names: Sequence[str]) -> None:
        paths = [self._path(entry.name) for entry in self._unindex(names)]
        if paths:
            await asyncio.to_thread(unlink, paths)

    async def _index_found(self, name: str) -> None:
        """Index a blob that was there first, if whoever put it has not done so yet, or was cancelled."""
        entry = await asyncio.to_thread(entry_of, self._path(name))
        if entry is not None:
            self._index(entry)

    def _path(self, name: str) -> Path:
        # hashed, since some file systems take two names that differ in case for one
        return self._folder / f"{hashlib.sha256(name.encode()).hexdigest()}.blob"

    # inside

    async def _followed(self, name: str, growing: GrowingBlob) -> AsyncIterator[bytes]:
        """Yield a body as it comes in; its rest from elsewhere if the same blob, put again, was whole before it."""
        at = 0
        try:
            async for piece in growing.follow():
                at += len(piece)
                yield piece
        except BlobTorn:
            entry = self._entries.get(name)
            if entry is None or entry.digest != growing.digest:
                raise
            try:
                rest = (await self._body_of(entry))[at:]
            except ProviderTrouble as error:
                raise BlobTorn from error
            async for piece in _in_pieces(rest):
                yield piece

    def _forsake(self, names: Iterable[str]) -> None:
        """See to it that what is still being put does not stay."""
        for name in names:
            for growing in self._growing.get(name, ()):
                growing.unwanted = True

    def _arrived(self, name: str) -> None:
        """Wake those who wait for a blob: it is there, or about to come in."""
        for awaited in self._awaited.get(name, ()):
            if not awaited.done():
                awaited.set_result(None)

    async def _arrival(self, name: str, wait: float) -> None:
        """Return when somebody begins to put this blob, or after `wait` seconds."""
        awaited = asyncio.get_running_loop().create_future()
        self._awaited[name].add(awaited)
        try:
            async with asyncio.timeout(wait):
                await awaited
        except TimeoutError:
            pass
        finally:
            self._awaited[name].discard(awaited)
            if not self._awaited[name]:
                del self._awaited[name]

    @staticmethod
    async def _write(growing: GrowingBlob, body: AsyncIterator[bytes]) -> None:
        """Take a body in as it comes, and write all but its end."""
        async for chunk in body:
            if growing.received + len(chunk) > growing.size:
                raise Problem(400, "Longer than announced")
            growing.take(chunk)
            if growing.waiting >= _BATCH_BYTES:
                await to_its_end(growing.write)

    async def _same_again(self, name: str, body: AsyncIterator[bytes], digest: bytes) -> bool:
        async for _ in body:
            pass  # read to its end, so that a body that is not the announced one is refused first
        entry = self._entries.get(name)
        if entry is None or entry.digest != digest:
            raise BlobExists(name)
        return False

    def _index(self, entry: Entry) -> None:
        if entry.name in self._entries:
            return
        self._entries[entry.name] = entry
        usage = self._usage_of(entry.site, entry.name)
        usage.size += entry.size
        usage.count += 1

    def _unindex(self, names: Iterable[str]) -> list[Entry]:
        """Return the entries of those that there are, which are counted no more."""
        found = [entry for name in names if (entry := self._entries.pop(name, None)) is not None]
        for entry in found:
            usage = self._usage_of(entry.site, entry.name)
            usage.size -= entry.size
            usage.count -= 1
        return found

    def _allowance(self, name: str) -> Allowance:
        return self._queued if name.startswith(QUEUED) else self._live

    def _usage_of(self, site: str, name: str) -> _Usage:
        return self._usage[site, name.startswith(QUEUED)]

    def _scan(self) -> list[Entry]:
        found = []
        for path in sorted(self._folder.iterdir()):
            if path.suffix == ".blob":
                found.append(_read_entry(path))
            elif path.name.startswith("new."):
                path.unlink()
        return found


def check_name(name: str) -> None:
    """Raise Problem 422 unless this is a blob name."""
    if len(name) > MOST_NAME or not _NAME.fullmatch(name):
        raise Problem(422, "Not a blob name", detail=f"[A-Za-z0-9_-]+ joined by /, at most {MOST_NAME}.", field="name")


async def _nothing() -> AsyncIterator[bytes]:
    for chunk in tuple[bytes, ...]():
        yield chunk


async def _in_pieces(body: bytes) -> AsyncIterator[bytes]:
    """Yield a body so that its connection encrypts and holds a part at a time: the whole would hold up all others."""
    for start in range(0, len(body), PIECE_BYTES):
        yield body[start : start + PIECE_BYTES]


def _read_entry(path: Path) -> Entry:
    name, site, digest, length = read_header(path)
    status = path.stat()
    return Entry(name, site, status.st_size - length, status.st_mtime, digest)


def entry_of(path: Path) -> Entry | None:
    """Return what a blob's file says, or None if there is none."""
    try:
        return _read_entry(path)
    except FileNotFoundError:
        return None


def unlink(paths: Iterable[Path]) -> None:
    """Delete files, those that there are."""
    for path in paths:
        path.unlink(missing_ok=True)
