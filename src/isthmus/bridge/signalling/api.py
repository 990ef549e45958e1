"""REST: the built-in signalling service by ordinary requests, for Routers whose network forbids WebSockets."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from isthmus.bridge.caller import Caller, TheParts
from isthmus.bridge.problems import describe
from isthmus.contract.batches import (
    BATCH_BYTES,
    LEAST_BATCH_BYTES,
    MOST_BATCH_BYTES,
    MOST_POLL_SECONDS,
    MOST_SLOTS,
    MOST_TAGS,
    TAG_BYTES,
    unpack_batch,
)
from isthmus.errors import Problem, RemoteMisuse

routes = APIRouter(tags=["signalling"])


@routes.post(
    "/notices",
    status_code=204,
    operation_id="send_notices",
    responses=describe([401, 413, 422, 429]),
    openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": {}}}},
)
async def send_notices(parts: TheParts, caller: Caller, request: Request) -> None:
    """Forward a batch of notices, as frames of a WebSocket would be: what the asking Router may not send is dropped."""
    body = await request.body()
    try:
        for message in unpack_batch(body):
            parts.hub.forward(caller.mailbox, message)
    except RemoteMisuse as error:
        raise Problem(422, "Not a batch", detail=str(error)) from error


@routes.get(
    "/notices",
    operation_id="receive_notices",
    response_class=Response,
    responses=describe([401, 429]),
)
async def receive_notices(
    parts: TheParts,
    caller: Caller,
    slot: Annotated[int, Query(ge=0, lt=MOST_SLOTS, description="polls of a slot come one after the other")] = 0,
    got: Annotated[
        str, Query(pattern=f"^([0-9a-f]{{{2 * TAG_BYTES}}}(,|$)){{0,{MOST_TAGS}}}$", description="what came in it last")
    ] = "",
    wait: Annotated[float, Query(ge=0, le=MOST_POLL_SECONDS, description="seconds to wait for the first")] = 0.0,
    most: Annotated[int, Query(ge=LEAST_BATCH_BYTES, le=MOST_BATCH_BYTES)] = BATCH_BYTES,
) -> Response:
    """Return the next batch of notices for the asking Router, or the last of this slot again if that did not come."""
    tags = frozenset(bytes.fromhex(tag) for tag in got.split(",") if tag)
    body = await parts.polls.poll(caller, slot, tags, wait, most)
    return Response(body, media_type="application/octet-stream", headers={"Cache-Control": "no-store"})


@routes.delete("/notices", status_code=204, operation_id="leave_notices", responses=describe([401, 429]))
async def leave_notices(parts: TheParts, caller: Caller) -> None:
    """Poll no more: the Router stops, or has a WebSocket again. What waits can still be fetched with `wait=0`."""
    parts.polls.leave(caller)
