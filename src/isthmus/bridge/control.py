"""The control API of a running Bridge: loopback only, one POST for each operation, a token in the data folder."""

import hmac
import json
import secrets
from http import HTTPStatus
from pathlib import Path
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from isthmus.bridge.administration import Administration
from isthmus.bridge.problems import problem_response
from isthmus.errors import IsthmusError, Problem
from isthmus.kit.files import write_durably

FILE: Final = "control.json"
_MOST_BYTES: Final = 64 * 1024


class Control:
    """The application; operations are those of Administration. `Authorization: Bearer TOKEN`."""

    def __init__(self, administration: Administration) -> None:
        self._administration = administration
        self._token = secrets.token_urlsafe(32)
        self.app = Starlette(routes=[Route("/control/{operation}", self._run, methods=["POST"])])

    def write_file(self, folder: Path, url: str) -> None:
        """Tell the CLI where to ask; only this folder's owner can read it."""
        write_durably(folder / FILE, json.dumps({"url": url, "token": self._token}).encode())

    async def _run(self, request: Request) -> Response:
        offered = request.headers.get("authorization", "").encode()
        if not hmac.compare_digest(offered, f"Bearer {self._token}".encode()):
            return problem_response(Problem(401, "Not the control token"), close=True)
        if int(request.headers.get("content-length", "0")) > _MOST_BYTES:
            return problem_response(Problem(413, "Too large"), close=True)
        try:
            arguments = json.loads(await request.body() or b"{}")
            if not isinstance(arguments, dict):
                raise ValueError("not an object")
        except ValueError:
            return problem_response(Problem(400, "Not a JSON object"))
        try:
            return JSONResponse(await self._administration.run(request.path_params["operation"], arguments))
        except IsthmusError as error:
            return problem_response(
                Problem(HTTPStatus.BAD_REQUEST, "This cannot be done", detail=str(error), hint=error.hint)
            )
