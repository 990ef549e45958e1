"""The control API of a running Router: JSON over HTTP on loopback, for the CLI and the console.

Whoever can read DIR/control.json (0600) may use it: address and token are in there. What it does is Administration,
and the operations of the live relay that `register` was told of.
"""

import contextlib
import hmac
import inspect
import json
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import structlog
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.encoders import jsonable_encoder
from starlette.exceptions import HTTPException

from isthmus.errors import IsthmusError, OperatorError, Problem
from isthmus.kit.files import write_durably
from isthmus.kit.names import HostPort
from isthmus.kit.tasks import Tasks
from isthmus.router.control.administration import OPERATIONS, Administration
from isthmus.router.control.device_administration import FieldError
from isthmus.router.metrics import CONTENT_TYPE, Metrics

_log = structlog.get_logger()

Operation = Callable[..., Any]
"""Takes JSON values by name; returns JSON values or records, at once or when awaited."""

_MOST_BYTES: Final = 1024 * 1024  # a device with its options is some hundred bytes


class Control:
    """Dispatches POST /control/OPERATION; serves GET /metrics, which names nobody and so asks for no token."""

    def __init__(self, folder: Path, administration: Administration, metrics: Metrics) -> None:
        self._file = folder / "control.json"
        self._administration = administration
        self._metrics = metrics
        self._live: dict[str, Operation] = {}
        self._token = secrets.token_urlsafe(32)
        self.app = self._make_app()

    def register(self, name: str, operation: Operation) -> None:
        """Add an operation of the live relay; it comes before one of the same name in Administration."""
        self._live[name] = operation

    async def perform(self, operation: str, arguments: dict[str, Any]) -> Any:
        """Do an operation; return JSON values. Raises OperatorError and what live operations raise."""
        live = self._live.get(operation)
        if live is None:
            return jsonable_encoder(self._administration.perform(operation, arguments))
        try:
            inspect.signature(live).bind(**arguments)
        except TypeError as error:
            raise OperatorError(f"{operation}: {error}") from error
        answer = live(**arguments)
        return jsonable_encoder(await answer if inspect.isawaitable(answer) else answer)

    def operations(self) -> list[str]:
        """Return the names of all operations."""
        return sorted(OPERATIONS | set(self._live))

    @contextlib.asynccontextmanager
    async def serving(self, where: HostPort) -> AsyncIterator[HostPort]:
        """Listen at `where` (port 0: any free one) while the block runs; give the address. Raises OperatorError."""
        try:
            family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
            listener = socket.create_server((where.host, where.port), family=family)
        except OSError as error:
            raise OperatorError(f"cannot listen at {where} for the control API: {error.strerror}") from error
        bound = HostPort(where.host, listener.getsockname()[1])
        server = _Server(
            uvicorn.Config(self.app, log_config=None, access_log=False, lifespan="off", ws="none", server_header=False)
        )
        tasks = Tasks("control API")
        serving = tasks.spawn(server.serve(sockets=[listener]), name=f"serve {bound}")
        note = json.dumps({"address": str(bound), "token": self._token})
        write_durably(self._file, note.encode())
        try:
            yield bound
        finally:
            self._file.unlink(missing_ok=True)
            server.should_exit = True
            await serving
            await tasks.close()
            listener.close()

    def _make_app(self) -> FastAPI:
        app = FastAPI(title="Isthmus Router control", docs_url=None, redoc_url=None, openapi_url=None)

        @app.post("/control/{operation}")
        async def control(operation: str, request: Request) -> Response:
            if not self._may(request):
                return _problem(401, "the token in control.json is meant")
            try:
                answer = await self.perform(operation, await _arguments(request))
            except FieldError as error:
                return _problem(400, "this cannot be done", str(error), error.hint, error.field)
            except Problem as error:
                return _problem(error.status, error.title, error.detail, error.hint, error.field)
            except IsthmusError as error:
                return _problem(400, "this cannot be done", str(error), error.hint)
            return Response(json.dumps(answer), media_type="application/json")

        @app.get("/metrics")
        async def metrics() -> Response:
            return Response(self._metrics.text(), media_type=CONTENT_TYPE)

        @app.exception_handler(HTTPException)
        async def other(_request: Request, error: Exception) -> Response:
            assert isinstance(error, HTTPException)
            return _problem(error.status_code, str(error.detail))

        @app.exception_handler(Exception)
        async def fault(request: Request, error: Exception) -> Response:
            _log.error("an operation failed", path=request.url.path, exc_info=error)
            return _problem(500, "this is a fault of Isthmus", f"{type(error).__name__}; see its log")

        return app

    def _may(self, request: Request) -> bool:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(token.encode(), self._token.encode())


class _Server(uvicorn.Server):
    """uvicorn inside somebody else's event loop: signals are the process's own worry."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signal handlers as they are."""
        yield


async def _arguments(request: Request) -> dict[str, Any]:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _MOST_BYTES:
            raise OperatorError("the request is too large")
    try:
        arguments = json.loads(body or b"{}")
    except ValueError as error:
        raise OperatorError("the request is no JSON") from error
    if not isinstance(arguments, dict):
        raise OperatorError("the request is no JSON object")
    return arguments


def _problem(status: int, title: str, detail: str = "", hint: str = "", field: str = "") -> Response:
    fields = {"status": status, "title": title, "detail": detail or title, "hint": hint, "field": field}
    return Response(json.dumps(fields), status, media_type="application/problem+json")
