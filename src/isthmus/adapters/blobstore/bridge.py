"""`bridge:` keeps blobs with the Bridge, over the same connections as everything else that a Router asks of it."""

import json
from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import urlencode

from isthmus.adapters.bridge_http import BridgeConnection
from isthmus.contract.rest import MOST_DELETIONS, MOST_WAIT_SECONDS, BlobDeletions
from isthmus.errors import BlobExists, BlobMissing, Problem, ProviderTrouble, Retry
from isthmus.ports.blobstore import BlobInfo, BlobstoreTraits

_MOST_BLOB_BYTES: Final = 8 * 1024 * 1024


class BridgeBlobstore:
    """The built-in blobstore, seen from one Router."""

    def __init__(self, bridge: BridgeConnection) -> None:
        """Use the Bridge that `bridge` knows; it is not closed with the store."""
        self.traits = BlobstoreTraits(max_blob_bytes=_MOST_BLOB_BYTES, list_lag=0.0, has_ttl=True, relays=True)
        self._bridge = bridge

    def __repr__(self) -> str:
        return f"<BridgeBlobstore through {self._bridge!r}>"

    async def put(self, name: str, body: bytes) -> None:
        """Create a blob. Raises BlobExists if another body has that name."""
        if len(body) > _MOST_BLOB_BYTES:
            raise ProviderTrouble(f"a blob has at most {_MOST_BLOB_BYTES} bytes", retry=Retry.NEVER)
        await self._ask("PUT", name, body)

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

    async def _ask(self, method: str, name: str, body: bytes | None = None, *, query: str = "") -> bytes:
        try:
            most = _MOST_BLOB_BYTES if method == "GET" else len(body or b"")
            return await self._bridge.request(method, f"/blobs/{name}", body, query=query, most_bytes=most)
        except Problem as problem:
            if problem.status == 404:
                raise BlobMissing(name) from problem
            if problem.status == 409:
                raise BlobExists(name) from problem
            raise _trouble(problem) from problem


def _trouble(problem: Problem) -> ProviderTrouble:
    passing = problem.status >= 500 or problem.status == 429
    return ProviderTrouble(
        f"the Bridge's blobstore: {problem.title}", retry=Retry.LATER if passing else Retry.NEVER, hint=problem.hint
    )
