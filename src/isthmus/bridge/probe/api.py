"""REST: how fast the way to this Bridge is, for `isthmus router check`, which asks before there is any invite.

Open to everybody, and so bounded: in bytes a request, in requests at once, in seconds, and in bytes over time.
"""

import asyncio
import secrets
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from isthmus.bridge.caller import TheParts
from isthmus.bridge.gate import MAX_PROBE_BYTES
from isthmus.bridge.probe.service import Probe
from isthmus.bridge.problems import describe, problem_response
from isthmus.errors import Problem

_SECONDS: Final = 30.0
_MOST_PAUSE: Final = 2.0
_PART: Final = secrets.token_bytes(64 * 1024)  # longer than what compressing proxies look back

routes = APIRouter(tags=["probe"])


class Received(BaseModel):
    """How many bytes of an upload arrived."""

    bytes: int


class _Download(Response):
    """Bytes that mean nothing."""

    def __init__(self, probe: Probe, size: int, pause: float) -> None:
        super().__init__(media_type="application/octet-stream", headers={"Cache-Control": "no-store"})
        self._probe = probe
        self._size = size
        self._pause = pause
        self.headers["Content-Length"] = str(size)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them; to whoever takes too long, only a part."""
        try:
            with self._probe.turn(self._size):
                async with asyncio.timeout(_SECONDS):
                    await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                    left = self._size
                    if self._pause:
                        left = self._size // 2
                        first = _PART[: self._size - left]
                        await send({"type": "http.response.body", "body": first, "more_body": True})
                        await asyncio.sleep(self._pause)
                    while left > 0:
                        part = _PART[:left]
                        left -= len(part)
                        await send({"type": "http.response.body", "body": part, "more_body": left > 0})
        except Problem as problem:
            await problem_response(problem)(scope, receive, send)
        except TimeoutError:
            return  # the connection is closed, since the answer is not whole


@routes.get("/probe", operation_id="probe_down", response_class=Response, responses=describe([429]))
async def probe_down(
    parts: TheParts,
    size: Annotated[int, Query(alias="bytes", ge=1, le=MAX_PROBE_BYTES)] = MAX_PROBE_BYTES,
    pause: Annotated[float, Query(ge=0, le=_MOST_PAUSE, description="seconds to wait before the second half")] = 0.0,
) -> Response:
    """Send as many bytes as asked for, to measure the way down. Anybody may ask."""
    if pause and not 2 <= size <= len(_PART):
        raise Problem(422, "Too many for a pause", detail=f"2 to {len(_PART)} bytes.", field="bytes")
    return _Download(parts.probe, size, pause)


@routes.post(
    "/probe",
    operation_id="probe_up",
    responses=describe([408, 411, 413, 429]),
    openapi_extra={"requestBody": {"required": True, "content": {"application/octet-stream": {}}}},
)
async def probe_up(parts: TheParts, request: Request) -> Received:
    """Take bytes and drop them, to measure the way up. Anybody may ask."""
    length = request.headers.get("content-length", "")
    if not length.isascii() or not length.isdigit():
        raise Problem(411, "Length needed", detail="Say how many bytes come.")
    count = 0
    with parts.probe.turn(int(length)):
        try:
            async with asyncio.timeout(_SECONDS):
                async for part in request.stream():
                    count += len(part)
        except TimeoutError as error:
            raise Problem(408, "Too slow", detail=f"{count} bytes came in {_SECONDS:.0f} s.") from error
    return Received(bytes=count)
