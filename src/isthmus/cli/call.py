"""Asking a part to do something: through its control API if it runs, else here, with its data folder locked."""

import asyncio
import http.client
import json
from pathlib import Path
from typing import Any, Final

from isthmus.cli.options import Part, folder_of
from isthmus.errors import OperatorError
from isthmus.kit.files import read_json
from isthmus.kit.names import HostPort

_TIMEOUT: Final = 60.0  # seconds: an echo to a device that answers slowly takes half of it
_OK: Final = 200


def call(data: Path | None, part: Part, operation: str, **arguments: object) -> Any:
    """Return what the operation answers, as JSON values. An argument that is None is not passed.

    Raises OperatorError with the part's own words if it refuses, or if there is no such part in the folder.
    """
    folder = folder_of(part, data)
    given = {name: value for name, value in arguments.items() if value is not None}
    file = folder / "control.json"
    control = read_json(file)
    if control is not None:
        try:
            return _ask(control, file, operation, given)
        except ConnectionRefusedError:
            pass  # it was killed and left its note behind: the folder's lock says whether that is so
    return _do_here(folder, part, operation, given)


def call_running(data: Path | None, part: Part, operation: str, **arguments: object) -> Any:
    """Return what the operation answers; it needs a running part. Raises OperatorError, also if none runs."""
    folder = folder_of(part, data)
    file = folder / "control.json"
    control = read_json(file)
    given = {name: value for name, value in arguments.items() if value is not None}
    try:
        if control is not None:
            return _ask(control, file, operation, given)
    except ConnectionRefusedError:
        pass
    name = part.value.capitalize()
    raise OperatorError(f"no {name} is running with the data folder {folder}", hint=f"isthmus {part.value} run")


def _ask(control: dict[str, object], file: Path, operation: str, arguments: dict[str, object]) -> Any:
    where, token = _note(control, file)
    connection = http.client.HTTPConnection(where.host, where.port, timeout=_TIMEOUT)
    try:
        connection.request(
            "POST",
            f"/control/{operation}",
            json.dumps(arguments),
            {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        )
        response = connection.getresponse()
        body = response.read()
    except TimeoutError as error:
        raise OperatorError(f"no answer within {_TIMEOUT:.0f} s", hint="look at its log") from error
    except (http.client.HTTPException, ConnectionResetError, BrokenPipeError) as error:
        raise OperatorError("it stopped before it answered", hint="look at its log") from error
    finally:
        connection.close()
    try:
        answer = json.loads(body)
    except ValueError as error:
        raise OperatorError(
            f"what answers at {where} is no control API of Isthmus: HTTP status {response.status}",
            hint="was it killed, and its port taken by another program? Start it again",
        ) from error
    if response.status == _OK:
        return answer
    problem = answer if isinstance(answer, dict) else {}
    message = problem.get("detail") or problem.get("title") or f"HTTP status {response.status}"
    raise OperatorError(str(message), hint=str(problem.get("hint", "")))


def _note(control: dict[str, object], file: Path) -> tuple[HostPort, str]:
    """Return where a part's control API listens, and the token it wants. Raises OperatorError if `file` is damaged."""
    try:
        where = HostPort.parse(str(control["url"] if "url" in control else control["address"]).removeprefix("http://"))
        return where, str(control["token"])
    except (KeyError, OperatorError) as error:
        raise OperatorError(f"{file} is damaged", hint="stop what runs there and start it again") from error


def _do_here(folder: Path, part: Part, operation: str, arguments: dict[str, object]) -> Any:
    if part is Part.ROUTER:
        from isthmus.router.control.administration import open_administration

        with open_administration(folder) as router:
            return router.perform(operation, arguments)
    from isthmus.bridge.administration import open_administration as open_bridge

    if not (folder / "address.json").exists():
        raise OperatorError(f"there is no Bridge in {folder}", hint="isthmus bridge run makes one; --data DIR names it")

    async def perform() -> Any:
        async with open_bridge(folder) as bridge:
            return await bridge.run(operation, arguments)

    return asyncio.run(perform())
