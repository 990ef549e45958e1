"""The short way to the blobs: the operations of `api`, without the framework's own work for each request.

Every megabyte of a queued study takes a put, a get and a delete, so what is spent on a request counts here. The routes
stay in the API, which describes them, and which answers whatever is not one of these three.
"""

import re
from typing import Final

from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from isthmus.bridge.blobs.api import delete_blob, get_blob, put_blob, routes
from isthmus.bridge.parts import Parts
from isthmus.bridge.problems import answer_to
from isthmus.contract.rest import API, MOST_WAIT_SECONDS

_PREFIX: Final = f"{API}/blobs/"
_WAIT: Final = re.compile(rb"wait=([0-9]{1,2})")


class QuickBlobs:
    """ASGI application: puts, gets and deletes of blobs are done here, all else by `app`. Stands behind the gate."""

    def __init__(self, app: ASGIApp, parts: Parts) -> None:
        self._app = app
        self._parts = parts
        self._routes = {
            method: route
            for route in routes.routes
            if isinstance(route, APIRoute) and "{name" in route.path
            for method in route.methods or ()
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        ours = scope["type"] == "http" and scope["path"].startswith(_PREFIX) and scope["method"] in self._routes
        wait = _wait(scope["query_string"]) if ours else None
        if wait is None:
            await self._app(scope, receive, send)
            return
        scope["route"] = self._routes[scope["method"]]  # by which requests are counted
        request = Request(scope, receive)
        try:
            response = await self._answer(request, scope["path"].removeprefix(_PREFIX), wait)
        except ClientDisconnect:
            return
        except Exception as error:  # noqa: BLE001 - what the framework would do: any fault is answered, and logged
            response = await answer_to(request, error)
        await response(scope, receive, send)

    async def _answer(self, request: Request, name: str, wait: float) -> Response:
        caller = request.state.caller
        match request.method:
            case "PUT":
                return await put_blob(self._parts, caller, name, request)
            case "GET":
                return await get_blob(self._parts, caller, name, wait)
            case _:
                await delete_blob(self._parts, caller, name)
                return Response(status_code=204)


def _wait(query: bytes) -> float | None:
    """Return how many seconds a request waits for its blob; None: the framework is to say what is wrong with it."""
    if not query:
        return 0.0
    seconds = _WAIT.fullmatch(query)
    return float(seconds[1]) if seconds and int(seconds[1]) <= MOST_WAIT_SECONDS else None
