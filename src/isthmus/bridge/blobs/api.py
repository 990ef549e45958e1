"""REST: the built-in blobstore. Whoever knows a blob's unguessable name may read and delete it."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request
from pydantic import BaseModel
from starlette.responses import Response

from isthmus.bridge.blobs.store import check_name
from isthmus.bridge.caller import Caller, TheParts
from isthmus.bridge.problems import describe
from isthmus.errors import BlobExists, BlobMissing, Problem

routes = APIRouter(tags=["blobs"])
_PAGE = 1000
_Name = Annotated[str, Path(max_length=512, description="[A-Za-z0-9_-]+ joined by /")]


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
    responses=describe([401, 409, 411, 413, 429, 507]),
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


@routes.get("/blobs/{name:path}", operation_id="get_blob", response_class=Response, responses=describe([401, 404, 429]))
async def get_blob(parts: TheParts, _caller: Caller, name: _Name) -> Response:
    """Read a blob."""
    check_name(name)
    try:
        return Response(await parts.blobs.get(name), media_type="application/octet-stream")
    except BlobMissing as error:
        raise Problem(404, "No such blob", detail="Or not yet.", field="name") from error


@routes.delete("/blobs/{name:path}", status_code=204, operation_id="delete_blob", responses=describe([401, 429]))
async def delete_blob(parts: TheParts, _caller: Caller, name: _Name) -> None:
    """Delete a blob, if there is one."""
    check_name(name)
    await parts.blobs.delete(name)
