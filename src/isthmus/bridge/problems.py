"""Every error of the REST API as problem+json (RFC 9457)."""

import json
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import Response

from isthmus.errors import Problem, ProviderTrouble

_log = structlog.get_logger()
MEDIA_TYPE: Final = "application/problem+json"
_TROUBLE_SECONDS: Final = 1  # a database or store that is restarted may be back by then


class ProblemBody(BaseModel):
    """What went wrong, for people (`title`, `detail`, `hint`) and for programs (`status`, `field`)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str = ""
    field: str = ""
    hint: str = ""


def problem_fields(problem: Problem) -> dict[str, Any]:
    """Return the members of the JSON object; empty ones are left out."""
    members = {"detail": problem.detail, "field": problem.field, "hint": problem.hint}
    return {
        "type": "about:blank",
        "title": problem.title,
        "status": problem.status,
        **{name: value for name, value in members.items() if value},
    }


def problem_response(problem: Problem, *, close: bool = False) -> Response:
    """Return the answer; `close` ends the connection after it, for a request whose body nobody will read."""
    headers = {"Cache-Control": "no-store"}
    if problem.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Isthmus-Ed25519"
    if problem.retry_after:
        headers["Retry-After"] = str(problem.retry_after)
    if close:
        headers["Connection"] = "close"
    return Response(json.dumps(problem_fields(problem)), problem.status, headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every error of `app` with a problem."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(ProviderTrouble, _on_trouble)
    app.add_exception_handler(Exception, _on_bug)


async def answer_to(request: Request, error: Exception) -> Response:
    """Return the answer to a request that ended in an error, as an application with `install` would give it."""
    if isinstance(error, Problem):
        return problem_response(error)
    return await (_on_trouble if isinstance(error, ProviderTrouble) else _on_bug)(request, error)


def describe(statuses: Sequence[int]) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI `responses` of an operation that may answer with these problems."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemBody"}}},
        }
        for status in sorted({*statuses, 422})
    }


async def _on_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, Problem)
    return problem_response(error)


async def _on_invalid(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # never the input itself: it may hold a secret
    places = [(".".join(str(part) for part in item["loc"]), str(item["msg"])) for item in error.errors()]
    detail = "; ".join(f"{place}: {message}" for place, message in places)
    return problem_response(Problem(422, "Not understood", detail=detail[:1000], field=places[0][0] if places else ""))


async def _on_http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = problem_response(Problem(error.status_code, HTTPStatus(error.status_code).phrase))
    response.headers.update(error.headers or {})
    return response


async def _on_trouble(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProviderTrouble)
    route = request.scope.get("route")
    _log.warning("request put off", route=getattr(route, "path", "none"), reason=str(error), hint=error.hint)
    return problem_response(Problem(503, "Not available now", detail=str(error), retry_after=_TROUBLE_SECONDS))


async def _on_bug(request: Request, error: Exception) -> Response:
    route = request.scope.get("route")
    _log.error("request failed", route=getattr(route, "path", "none"), error=repr(error), exc_info=error)
    return problem_response(Problem(500, "The Bridge has a fault", detail="Its log says more."))
