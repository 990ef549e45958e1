"""REST: the built-in blobstore. Whoever knows a blob's unguessable name may read and delete it."""

import contextlib
import hashlib
import hmac
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from isthmus.bridge.blobs.files import BlobTorn
from isthmus.bridge.blobs.store import QUEUED, check_name
from isthmus.bridge.caller import Caller, TheParts
from isthmus.bridge.gate import MAX_BLOB_BYTES
from isthmus.bridge.gathering import TRANSPORT
from isthmus.bridge.problems import describe
from isthmus.contract.rest import MOST_WAIT_SECONDS, BlobDeletions, BlobJoin
from isthmus.errors import BlobExists, BlobMissing, Problem
from isthmus.kit.line import Line

routes = APIRouter(tags=["blobs"])
_PAGE = 1000
_Name = Annotated[str, Path(max_length=512, description="[A-Za-z0-9_-]+ joined by /")]
_Wait = Annotated[float, Query(ge=0, le=MOST_WAIT_SECONDS, description="seconds to wait for it to begin")]


class BlobEntry(BaseModel):
    """A blob of the asking Router's site: size in bytes, Unix time of its making."""

    name: str
    size: int
    modified: float


class BlobPage(BaseModel):
    """Up to 1000 blobs by name; `more` says that there are others after the last."""

    blobs: list[BlobEntry]
    more: bool


@routes.get("/blobs", operation_id="list_blobs", responses=describe([401, 429]))
async def list_blobs(
    parts: TheParts,
    caller: Caller,
    prefix: Annotated[str, Query(max_length=512)] = "",
    after: Annotated[str, Query(max_length=512)] = "",
) -> BlobPage:
    """List blobs that the asking Router's site wrote; never another's, since their names are secrets."""
    found = parts.blobs.list_of(caller.site, prefix, after, _PAGE + 1)
    entries = [BlobEntry(name=entry.name, size=entry.size, modified=entry.created) for entry in found[:_PAGE]]
    return BlobPage(blobs=entries, more=len(found) > _PAGE)


@routes.put(
    "/blobs/{name:path}",
    status_code=201,
    operation_id="put_blob",
    responses=describe([401, 409, 411, 413, 429, 503, 507]),
    openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": {}}}},
)
async def put_blob(parts: TheParts, caller: Caller, name: _Name, request: Request) -> Response:
    """Write a blob once; the same again is harmless (200), another body under its name is refused (409)."""
    length = request.headers.get("content-length", "")
    if not length.isascii() or not length.isdigit():
        raise Problem(411, "Length needed", detail="Say how long the blob is.")
    try:
        new = await parts.blobs.put(caller.site, name, request.stream(), int(length), request.state.digest)
    except BlobExists as error:
        raise Problem(409, "Blob exists", detail="Another body has this name.", field="name") from error
    return Response(status_code=201 if new else 200)


@routes.get(
    "/blobs/{name:path}", operation_id="get_blob", response_class=Response, responses=describe([401, 404, 429, 503])
)
async def get_blob(parts: TheParts, caller: Caller, name: _Name, wait: _Wait = 0.0) -> Response:
    """Read a blob: who waits for it, also while it is being put. A body that ends too soon did not become whole."""
    check_name(name)
    try:
        size, body = await parts.blobs.read(name, wait)
    except BlobMissing as error:
        raise Problem(404, "No such blob", detail="Or not yet.", field="name") from error
    line = parts.lines.to(caller.router_id) if name.startswith(QUEUED) else None
    return BlobResponse(size, body, line)


@routes.delete("/blobs/{name:path}", status_code=204, operation_id="delete_blob", responses=describe([401, 429, 503]))
async def delete_blob(parts: TheParts, _caller: Caller, name: _Name) -> None:
    """Delete a blob, if there is one."""
    check_name(name)
    await parts.blobs.delete(name)


@routes.post("/blobs/deletions", status_code=204, operation_id="delete_blobs", responses=describe([401, 422, 429, 503]))
async def delete_blobs(parts: TheParts, _caller: Caller, deletions: BlobDeletions) -> None:
    """Delete many blobs, those that there are."""
    for name in deletions.names:
        check_name(name)
    await parts.blobs.delete(*deletions.names)


@routes.post(
    "/blobs/joins", status_code=201, operation_id="join_blobs", responses=describe([401, 404, 409, 422, 429, 503])
)
async def join_blobs(parts: TheParts, caller: Caller, join: BlobJoin) -> Response:
    """Make one blob of several, for who cannot send it whole; repeating it is harmless (200)."""
    blobs = parts.blobs
    body = bytearray()
    for name in join.parts:
        check_name(name)
        try:
            _, part = await blobs.read(name)
        except BlobMissing as error:
            if blobs.has(join.name, join.sha256):
                return Response(status_code=200)
            raise Problem(404, "No such blob", detail="A part is not there.", field="parts") from error
        async for piece in part:
            body += piece
        if len(body) > MAX_BLOB_BYTES:
            raise Problem(422, "Too large", detail=f"A blob has at most {MAX_BLOB_BYTES} bytes.", field="parts")
    digest = hashlib.sha256(body).digest()
    if not hmac.compare_digest(digest, join.sha256):
        raise Problem(422, "Not what was announced", detail="The parts do not make this whole.", field="sha256")

    async def whole() -> AsyncIterator[bytes]:
        yield bytes(body)

    try:
        new = await blobs.put(caller.site, join.name, whole(), len(body), digest)
    except BlobExists as error:
        raise Problem(409, "Blob exists", detail="Another body has this name.", field="name") from error
    await blobs.delete(*join.parts)
    return Response(status_code=201 if new else 200)


class BlobResponse(Response):
    """A blob on its way out, part by part, over the line to who asked for it, if that shall be minded."""

    def __init__(self, size: int, body: AsyncIterator[bytes], line: Line | None = None) -> None:
        super().__init__(headers={"Content-Length": str(size)}, media_type="application/octet-stream")
        self._size, self._parts = size, body
        self._line = line

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Send it. What does not become whole ends without its end, so that the connection is cut."""
        if self._line is not None:
            self._line.carry(scope.get("extensions", {}).get(TRANSPORT, {}).get(TRANSPORT), self._size)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        with contextlib.suppress(BlobTorn):
            async for part in self._parts:
                await send({"type": "http.response.body", "body": part, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})
