"""`file:` keeps blobs in a folder that several machines share, such as one over NFS. They are durable when put.

The Bridge proposes clouds, and this one is a path on the Router's own machine: a folder is used only if it bears the
mark that a person's `isthmus provider setup` left in it.
"""

import asyncio
import errno
import os
import re
import secrets as random
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Final, TypeVar
from urllib.parse import unquote, urlsplit

from isthmus.adapters.blobstore.trouble import check_name, seconds_for, was_closed
from isthmus.errors import BlobExists, BlobMissing, OperatorError, ProviderTrouble, Retry
from isthmus.kit import platform
from isthmus.kit.clock import SystemClock
from isthmus.kit.names import HostPort
from isthmus.ports.blobstore import BlobInfo, Blobstore, BlobstoreTraits
from isthmus.ports.provider import Loan, Meter, Secret, Surroundings, Way

T = TypeVar("T")

_USAGE: Final = "file:///mnt/share/isthmus: a folder that every Router of the pair sees at this very path"
_MARK: Final = ".isthmus-blobs"
_PARTIAL: Final = ".partial"
_LEAF: Final = ".blob"
_GOES_ON: Final = "+"
_PART: Final = 200  # of the 255 bytes that a name in a folder may have
_WRITTEN: Final = re.compile(r"[A-Za-z0-9_-]+(\+|\.blob)?")
_MOST_BLOB_BYTES: Final = 64 * 1024 * 1024
_LANES: Final = 8
_TRIES: Final = 10  # a folder may go, being empty, while a blob is put in it
_FILE_MODE: Final = 0o660
_FOLDER_MODE: Final = 0o770
_LIST_SECONDS: Final = 120.0
_DAY: Final = 86400.0
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_FORBIDDEN: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_LACKS_LINKS: Final = frozenset({errno.ENOTSUP, errno.EOPNOTSUPP, errno.EMLINK})


class FolderBlobstore:
    """A folder as blobstore. A blob is a file that appears whole, under its name, and never changes."""

    def __init__(self, root: Path, meter: Meter) -> None:
        self.traits = BlobstoreTraits(
            max_blob_bytes=_MOST_BLOB_BYTES, list_lag=5.0, has_ttl=False
        )  # NFS keeps listings
        self._root = root
        self._meter = meter
        self._threads = ThreadPoolExecutor(_LANES, thread_name_prefix="folder")
        self._closed = False

    def __repr__(self) -> str:
        return f"<FolderBlobstore {self._root}>"

    async def put(self, name: str, body: bytes) -> None:
        """Create a blob, durably. Raises BlobExists."""
        path = self._root / _path_of(name)
        if len(body) > _MOST_BLOB_BYTES:
            raise ProviderTrouble(
                f"a blob of {len(body)} bytes is too large, {_MOST_BLOB_BYTES} is the most", retry=Retry.NEVER
            )
        self._meter.count("put", up=len(body))
        if not await self._run("put", lambda: self._put(path, body), seconds_for(len(body))):
            raise BlobExists(name)

    async def get(self, name: str, *, wait: float = 0.0) -> bytes:
        """Return a blob. Raises BlobMissing."""
        del wait  # nobody tells us when it comes
        path = self._root / _path_of(name)
        body = await self._run("get", lambda: self._get(path), seconds_for(_MOST_BLOB_BYTES))
        self._meter.count("get", down=len(body or b""))
        if body is None:
            raise BlobMissing(name)
        return body

    async def delete(self, *names: str) -> None:
        """Delete blobs, and the folders that are empty then."""
        paths = [self._root / _path_of(name) for name in names]
        if paths:
            self._meter.count("delete")
            await self._run("delete", lambda: self._delete(paths), _LIST_SECONDS)

    async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        """Yield the blobs whose names start with `prefix`."""
        self._meter.count("list")
        for blob in await self._run("list", lambda: [*self._list(prefix)], _LIST_SECONDS):
            yield blob

    async def close(self) -> None:
        """Let the threads end; one that a dead server holds is left to it, and who waits for a thread is refused."""
        self._closed = True
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _run(self, operation: str, work: Callable[[], T], seconds: float) -> T:
        if self._closed:
            raise was_closed()
        result = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            async with asyncio.timeout(seconds):
                await asyncio.wait([result])
            if result.cancelled():
                raise was_closed()
            return result.result()
        except TimeoutError as error:
            raise ProviderTrouble(
                f"{self._root}: no answer to a {operation} in time", retry=Retry.LATER, hint="is its server up?"
            ) from error
        except OSError as error:
            raise self._trouble(operation, error) from error
        finally:
            result.cancel()  # if its turn had not come

    # -- in a thread

    def _put(self, path: Path, body: bytes) -> bool:
        """Put a blob; return whether it is there with these bytes."""
        self._check_mark()
        scratch = self._root / _PARTIAL / random.token_hex(16)
        handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _FILE_MODE)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(body)
                file.flush()
                os.fsync(file.fileno())
            try:
                self._link(scratch, path)
            except FileExistsError:  # or NFS says so of a first try whose answer was lost
                return path.read_bytes() == body
        finally:
            scratch.unlink(missing_ok=True)
        platform.fsync_folder(path.parent)
        return True

    def _link(self, scratch: Path, path: Path) -> None:
        for left in reversed(range(_TRIES)):
            self._make_folders(path.parent)
            try:
                os.link(scratch, path)
            except FileNotFoundError:
                if not left:
                    raise
            else:
                return

    def _make_folders(self, folder: Path) -> None:
        """Make folders below the root, each durable before there is anything in it."""
        if folder == self._root or folder.is_dir():
            return
        self._make_folders(folder.parent)
        folder.mkdir(_FOLDER_MODE, exist_ok=True)
        platform.fsync_folder(folder.parent)

    def _get(self, path: Path) -> bytes | None:
        self._check_mark()
        try:
            with path.open("rb") as file:
                body = file.read(_MOST_BLOB_BYTES + 1)
        except FileNotFoundError:
            return None
        if len(body) > _MOST_BLOB_BYTES:
            raise ProviderTrouble(f"{self._root} holds a file that is too large for a blob", retry=Retry.NEVER)
        return body

    def _delete(self, paths: Sequence[Path]) -> None:
        self._check_mark()
        for path in paths:
            path.unlink(missing_ok=True)
            for folder in path.parents:
                if folder == self._root:
                    break
                try:
                    folder.rmdir()
                except OSError:
                    break  # there is more in it, or somebody else was quicker

    def _list(self, prefix: str) -> Iterator[BlobInfo]:
        self._check_mark()
        for path in _files(self._root):
            name = _name_of(path.relative_to(self._root))
            if name is None or not name.startswith(prefix):
                continue
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            yield BlobInfo(name, found.st_size, found.st_mtime)

    def _check_mark(self) -> None:
        if not (self._root / _MARK).is_file():
            raise ProviderTrouble(
                f"{self._root} is not marked as a folder for blobs",
                retry=Retry.LATER,
                hint="is it mounted? then: isthmus provider setup, at a Bridge that sees it too",
            )

    def _trouble(self, operation: str, error: OSError) -> ProviderTrouble:
        reason = error.strerror or type(error).__name__
        if error.errno in _FULL:
            return ProviderTrouble(f"{self._root} is full", retry=Retry.LATER, hint="make room there")
        if error.errno in _LACKS_LINKS:
            return ProviderTrouble(
                f"{self._root} knows no hard links ({reason})",
                retry=Retry.NEVER,
                hint="a local file system or NFS is meant",
            )
        if error.errno in _FORBIDDEN:
            return ProviderTrouble(
                f"{self._root}: this user may not {operation} there ({reason})",
                retry=Retry.NEVER,
                hint="all Routers of the pair need one group that may write there (chgrp, chmod g+rws)",
            )
        return ProviderTrouble(f"{self._root}: {operation} failed ({reason})", retry=Retry.LATER)


class FolderProvider:
    """A folder that several machines share (`isthmus.ports.provider.BlobstoreProvider`).

    It knows no keys: who may be there is for the file server to say. What is left over goes when `set_up` is repeated.
    """

    title = "a shared folder"
    tried = "a folder of one machine (not NFS)"
    secrets: Sequence[Secret] = ()

    def hosts(self, url: str) -> list[HostPort]:
        """Return nothing: the operating system connects. Raises OperatorError."""
        _root(url)
        return []

    def open(self, url: str, surroundings: Surroundings) -> Blobstore:
        """Return the folder."""
        return FolderBlobstore(_root(url), surroundings.meter)

    async def lend(self, url: str, secrets: Mapping[str, str], router_id: str, way: Way) -> Loan:
        """Lend nothing: nothing is needed."""
        del secrets, router_id, way
        _root(url)
        return Loan({})

    async def sign(
        self, url: str, secrets: Mapping[str, str], method: str, names: Sequence[str], *, seconds: float
    ) -> list[str]:
        """Refuse."""
        del url, secrets, method, names, seconds
        raise OperatorError("a folder has no URLs to sign")

    async def set_up(self, url: str, secrets: Mapping[str, str], way: Way, *, keep_days: int) -> list[str]:
        """Make and mark the folder, as the Bridge's machine sees it, and delete what is too old."""
        del secrets, way
        return await asyncio.to_thread(_set_up, _root(url), keep_days)


def _set_up(root: Path, keep_days: int) -> list[str]:
    try:
        root.mkdir(_FOLDER_MODE, parents=True, exist_ok=True)
        if not (root / _MARK).exists() and any(root.iterdir()):
            raise OperatorError(f"{root} holds other things", hint="name a new or an empty folder")
        (root / _PARTIAL).mkdir(_FOLDER_MODE, exist_ok=True)
        (root / _MARK).touch(_FILE_MODE)
        platform.fsync_folder(root)
        now, gone = SystemClock().now(), 0
        for path in (*_files(root), *(root / _PARTIAL).iterdir()):
            keep = _DAY if path.parent.name == _PARTIAL else keep_days * _DAY
            if now - path.stat().st_mtime > keep:
                path.unlink(missing_ok=True)
                gone += 1
    except OSError as error:
        raise OperatorError(
            f"{root}: {error.strerror}", hint="the Bridge's user must be able to write there"
        ) from error
    return [
        f"{root} is a folder for blobs",
        f"deleted {gone} files that were older than {keep_days} days",
        "to do: have this repeated each day; nothing else deletes what everybody forgot",
    ]


def _root(url: str) -> Path:
    parts = urlsplit(url)
    path = PurePosixPath(unquote(parts.path))
    meant = parts.scheme == "file" and parts.netloc in {"", "localhost"} and not parts.query and not parts.fragment
    if not meant or not path.is_absolute() or ".." in path.parts or len(path.parts) < 2 or "\0" in str(path):
        raise OperatorError("this is not the URL of a folder", hint=f"{_USAGE} is meant")
    return Path(path)


def _path_of(name: str) -> PurePosixPath:
    """Return where a blob is below the root: long parts of its name are cut, since a folder's names are shorter."""
    parts: list[str] = []
    for part in check_name(name).split("/"):
        pieces = [part[start : start + _PART] for start in range(0, len(part), _PART)]
        parts += [*(piece + _GOES_ON for piece in pieces[:-1]), pieces[-1]]
    parts[-1] += _LEAF
    return PurePosixPath(*parts)


def _name_of(path: Path) -> str | None:
    """Return which blob a file is, or None."""
    if path.suffix != _LEAF or not all(_WRITTEN.fullmatch(part) for part in path.parts):
        return None
    return "/".join(path.parts).removesuffix(_LEAF).replace(f"{_GOES_ON}/", "")


def _files(root: Path) -> Iterator[Path]:
    for folder, inner, names in os.walk(root):
        inner[:] = [name for name in inner if not name.startswith(".")]
        yield from (Path(folder, name) for name in names if name.endswith(_LEAF))


PROVIDER: Final = FolderProvider()
