"""`bridge:` keeps blobs with the Bridge, over the same connections as everything else that a Router asks of it."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import urlencode

import structlog

from isthmus.adapters.bridge_http import BridgeConnection, RefusedOnTheWay
from isthmus.contract.rest import MOST_DELETIONS, MOST_WAIT_SECONDS, BlobDeletions, BlobJoin
from isthmus.errors import BlobExists, BlobMissing, Problem, ProviderTrouble, Retry
from isthmus.ports.blobstore import BlobInfo, BlobstoreTraits

_log = structlog.get_logger()

_MOST_BLOB_BYTES: Final = 8 * 1024 * 1024
_PART_BYTES: Final = 768 * 1024  # below 1 MiB, which is the usual limit of a proxy that has one
_LEAST_PART_BYTES: Final = 64 * 1024
_TOO_LARGE: Final = 413


class BridgeBlobstore:
    """The built-in blobstore, seen from one Router."""

    def __init__(self, bridge: BridgeConnection) -> None:
        """Use the Bridge that `bridge` knows; it is not closed with the store."""
        self.traits = BlobstoreTraits(max_blob_bytes=_MOST_BLOB_BYTES, list_lag=0.0, has_ttl=True, relays=True)
        self._bridge = bridge
        self._most_body = _MOST_BLOB_BYTES

    def __repr__(self) -> str:
        return f"<BridgeBlobstore through {self._bridge!r}>"

    async def put(self, name: str, body: bytes) -> None:
        """Create a blob. Raises BlobExists if another body has that name."""
        if len(body) > _MOST_BLOB_BYTES:
            raise ProviderTrouble(f"a blob has at most {_MOST_BLOB_BYTES} bytes", retry=Retry.NEVER)
        if len(body) <= self._most_body:
            try:
                await self._ask("PUT", name, body)
                return
            except RefusedOnTheWay as trouble:
                if trouble.status != _TOO_LARGE or len(body) <= _LEAST_PART_BYTES:
                    raise
                self._take_less(len(body))
        await self._put_in_parts(name, body)

    async def get(self, name: str, *, wait: float = 0.0) -> bytes:
        """Return a blob's bytes, perhaps while it is still being put. Raises BlobMissing."""
        query = f"wait={min(round(wait), MOST_WAIT_SECONDS)}" if wait else ""
        return await self._ask("GET", name, query=query)

    async def delete(self, *names: str) -> None:
        """Delete blobs, those that there are."""
        if len(names) == 1:
            await self._ask("DELETE", names[0])
            return
        for first in range(0, len(names), MOST_DELETIONS):
            deletions = BlobDeletions(names=list(names[first : first + MOST_DELETIONS]))
            try:
                await self._bridge.request("POST", "/blobs/deletions", deletions)
            except Problem as problem:
                raise _trouble(problem) from problem

    async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        """Yield this site's blobs whose names start with `prefix`, by name."""
        after = ""
        while True:
            try:
                answer = await self._bridge.request(
                    "GET", "/blobs", query=urlencode({"prefix": prefix, "after": after})
                )
            except Problem as problem:
                raise _trouble(problem) from problem
            page = json.loads(answer)
            for blob in page["blobs"]:
                after = blob["name"]
                yield BlobInfo(after, blob["size"], blob["modified"])
            if not page["more"]:
                return

    async def close(self) -> None:
        """Nothing to let go of: the connections belong to the Router."""

    async def _put_in_parts(self, name: str, body: bytes) -> None:
        """Put what a proxy would not take whole, and have the Bridge join it."""
        names: list[str] = []
        start = 0
        while start < len(body):
            part = body[start : start + self._most_body]
            try:
                await self._ask("PUT", f"{name}/{start}", part)
            except RefusedOnTheWay as trouble:
                if trouble.status != _TOO_LARGE or len(part) <= _LEAST_PART_BYTES:
                    raise
                self._take_less(len(part))
                continue
            names.append(f"{name}/{start}")
            start += len(part)
        digest = await asyncio.to_thread(lambda: hashlib.sha256(body).digest())
        try:
            await self._bridge.request("POST", "/blobs/joins", BlobJoin(name=name, parts=names, sha256=digest))
        except Problem as problem:
            raise _known(problem, name) from problem

    def _take_less(self, size: int) -> None:
        """A proxy takes no body of this size."""
        if size <= self._most_body:
            self._most_body = max(_LEAST_PART_BYTES, min(_PART_BYTES, size // 2))
            _log.info("a proxy limits the size of requests: blobs go in parts", bytes=self._most_body)

    async def _ask(self, method: str, name: str, body: bytes | None = None, *, query: str = "") -> bytes:
        try:
            most = _MOST_BLOB_BYTES if method == "GET" else len(body or b"")
            return await self._bridge.request(method, f"/blobs/{name}", body, query=query, most_bytes=most)
        except Problem as problem:
            raise _known(problem, name) from problem


def _known(problem: Problem, name: str) -> ProviderTrouble:
    if problem.status == 404:
        return BlobMissing(name)
    return BlobExists(name) if problem.status == 409 else _trouble(problem)


def _trouble(problem: Problem) -> ProviderTrouble:
    passing = problem.status >= 500 or problem.status == 429
    return ProviderTrouble(
        f"the Bridge's blobstore: {problem.title}", retry=Retry.LATER if passing else Retry.NEVER, hint=problem.hint
    )
