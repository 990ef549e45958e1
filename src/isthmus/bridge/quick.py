"""The short way to the operations that a network lives on, without the framework's own work for each request.

Every few megabytes of a queued study take a put and a get, each of its bundles a deletion, every association opens and
ends a session, and every Router says each half minute that it is there: what is spent on a request counts here.
The routes stay in the API, which describes them, and which answers whatever is not plainly one of these, mistakes
among it.
"""

import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from isthmus.bridge.accounts.service import Account
from isthmus.bridge.blobs import api as blobs
from isthmus.bridge.gate import whole
from isthmus.bridge.parts import Parts
from isthmus.bridge.problems import answer_to
from isthmus.bridge.sessions import api as sessions
from isthmus.contract.rest import API, MOST_WAIT_SECONDS, BlobDeletions, Heartbeat, SessionEnd, SessionRequest

_API: Final = f"{API}/"
_JSON: Final = "application/json"
_WAIT: Final = re.compile(rb"wait=([0-9]{1,2})")
_SESSION: Final = re.compile(r"[0-9a-f]{32}")
T = TypeVar("T", bound=BaseModel)


class _LongWay(Exception):
    """A request is not as plain as those that are answered here; `body` is what was read of it."""

    def __init__(self, body: bytes | None = None) -> None:
        super().__init__()
        self.body = body


@dataclass(frozen=True, slots=True)
class _Asked:
    """One request: `last` is what its path ends in, behind the name of the operation."""

    parts: Parts
    caller: Account
    request: Request
    last: str


_Answer = Callable[[_Asked], Awaitable[Response]]


class Quick:
    """ASGI application: some operations are answered here, all else by `app`. Stands behind the gate."""

    def __init__(self, app: ASGIApp, parts: Parts) -> None:
        self._app = app
        self._parts = parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        found = _find(scope) if scope["type"] == "http" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        answer, route, last = found
        request = Request(scope, receive)
        try:
            response = await answer(_Asked(self._parts, request.state.caller, request, last))
        except ClientDisconnect:
            return
        except _LongWay as way:
            await self._app(scope, receive if way.body is None else whole(way.body), send)
            return
        except Exception as error:  # noqa: BLE001 - what the framework would do: any fault is answered, and logged
            scope["route"] = route
            response = await answer_to(request, error)
        scope["route"] = route  # by which requests are counted
        await response(scope, receive, send)


def _find(scope: Scope) -> tuple[_Answer, APIRoute, str] | None:
    path: str = scope["path"]
    if not path.startswith(_API):
        return None
    operation, slash, last = path[len(_API) :].partition("/")
    found = _ANSWERS.get((scope["method"], operation + slash))
    return None if found is None else (*found, last)


async def _put_blob(asked: _Asked) -> Response:
    _wait(asked.request)
    return await blobs.put_blob(asked.parts, asked.caller, asked.last, asked.request)


async def _get_blob(asked: _Asked) -> Response:
    return await blobs.get_blob(asked.parts, asked.caller, asked.last, _wait(asked.request))


async def _delete_blob(asked: _Asked) -> Response:
    _wait(asked.request)
    await blobs.delete_blob(asked.parts, asked.caller, asked.last)
    return Response(status_code=204)


async def _delete_blobs(asked: _Asked) -> Response:
    if asked.last != "deletions":
        raise _LongWay
    await blobs.delete_blobs(asked.parts, asked.caller, await _said(asked.request, BlobDeletions))
    return Response(status_code=204)


async def _open_session(asked: _Asked) -> Response:
    await sessions.open_session(asked.parts, asked.caller, await _said(asked.request, SessionRequest))
    return Response(b"null", 201, media_type=_JSON)


async def _end_session(asked: _Asked) -> Response:
    if not _SESSION.fullmatch(asked.last):
        raise _LongWay
    await sessions.end_session(asked.parts, asked.caller, asked.last, await _said(asked.request, SessionEnd))
    return Response(status_code=204)


async def _heartbeat(asked: _Asked) -> Response:
    answer = await sessions.heartbeat(asked.parts, asked.caller, await _said(asked.request, Heartbeat))
    return Response(answer.model_dump_json(), media_type=_JSON)


def _route(name: str) -> APIRoute:
    for route in (*blobs.routes.routes, *sessions.routes.routes):
        if isinstance(route, APIRoute) and route.operation_id == name:
            return route
    raise LookupError(name)


_ANSWERS: Final[dict[tuple[str, str], tuple[_Answer, APIRoute]]] = {
    ("PUT", "blobs/"): (_put_blob, _route("put_blob")),
    ("GET", "blobs/"): (_get_blob, _route("get_blob")),
    ("DELETE", "blobs/"): (_delete_blob, _route("delete_blob")),
    ("POST", "blobs/"): (_delete_blobs, _route("delete_blobs")),
    ("POST", "sessions"): (_open_session, _route("open_session")),
    ("DELETE", "sessions/"): (_end_session, _route("end_session")),
    ("POST", "heartbeat"): (_heartbeat, _route("heartbeat")),
}


def _wait(request: Request) -> float:
    """Return how many seconds a request waits for its blob."""
    query: bytes = request.scope["query_string"]
    if not query:
        return 0.0
    seconds = _WAIT.fullmatch(query)
    if seconds is None or int(seconds[1]) > MOST_WAIT_SECONDS:
        raise _LongWay
    return float(seconds[1])


async def _said(request: Request, form: type[T]) -> T:
    """Return what the body says."""
    if request.scope["query_string"] or request.headers.get("content-type") != _JSON:
        raise _LongWay
    body = await request.body()
    try:
        return form.model_validate(json.loads(body))
    except (ValueError, RecursionError):  # a body that does not validate is a ValueError too
        raise _LongWay(body) from None
