"""The short way answers what the framework would answer, and leaves to it what is not plain."""

import json
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Scope

from isthmus.bridge.accounts.service import Account
from isthmus.bridge.http import make_api
from isthmus.bridge.quick import Quick
from isthmus.contract.rest import API, Heartbeat, SessionEnd
from isthmus.testing.bridge import Bench

_JSON = "application/json"
_BEAT = Heartbeat(version="1", sessions=[]).model_dump_json().encode()
_END = SessionEnd(outcome="released", bytes_out=1, bytes_in=2).model_dump_json().encode()
_ID = "0" * 32
_CASES: dict[str, tuple[str, str, bytes, str]] = {
    "a heartbeat": ("POST", "/heartbeat", _BEAT, _JSON),
    "a heartbeat with a question mark": ("POST", "/heartbeat?a=b", _BEAT, _JSON),
    "a heartbeat of another type": ("POST", "/heartbeat", _BEAT, "text/plain"),
    "a heartbeat that is no JSON": ("POST", "/heartbeat", b"{", _JSON),
    "a heartbeat that is no text": ("POST", "/heartbeat", b"\xff\xfe\x00", _JSON),
    "a heartbeat that is too deep": ("POST", "/heartbeat", b"[" * 100_000, _JSON),
    "a heartbeat without its version": ("POST", "/heartbeat", b'{"sessions": []}', _JSON),
    "a heartbeat that says more": ("POST", "/heartbeat", b'{"version": "1", "sessions": [], "more": 1}', _JSON),
    "no heartbeat": ("POST", "/heartbeat", b"", ""),
    "a heartbeat that is asked for": ("GET", "/heartbeat", b"", ""),
    "a session that is none": ("POST", "/sessions", b"{}", _JSON),
    "an end of no session": ("DELETE", f"/sessions/{_ID}", _END, _JSON),
    "an end of something else": ("DELETE", "/sessions/xyz", _END, _JSON),
    "an end without a name": ("DELETE", "/sessions/", _END, _JSON),
    "an end that says nothing": ("DELETE", f"/sessions/{_ID}", b"[]", _JSON),
    "an end of too many words": ("DELETE", f"/sessions/{_ID}", _END.replace(b"released", b"x" * 65), _JSON),
    "all sessions": ("GET", "/sessions", b"", ""),
    "a blob that is not there": ("GET", "/blobs/a/b", b"", ""),
    "a blob with a bad wait": ("GET", "/blobs/a?wait=x", b"", ""),
    "a blob of a bad name": ("GET", "/blobs/..", b"", ""),
    "a blob that goes": ("DELETE", "/blobs/a", b"", ""),
    "blobs that go": ("POST", "/blobs/deletions", b'{"names": ["a", "b/c"]}', _JSON),
    "blobs of bad names": ("POST", "/blobs/deletions", b'{"names": ["a", ".."]}', _JSON),
    "blobs that are no names": ("POST", "/blobs/deletions", b'{"names": [1]}', _JSON),
    "a join of blobs": ("POST", "/blobs/joins", b'{"name": "a", "parts": ["b"], "sha256": "AA"}', _JSON),
    "something else of blobs": ("POST", "/blobs/a", b"", ""),
    "nothing there": ("GET", "/nothing", b"", ""),
}


async def _ask(app: ASGIApp, caller: Account, case: tuple[str, str, bytes, str]) -> tuple[int, Any, Any]:
    """Return status, headers and body of an answer, and by which route it is counted."""
    method, target, body, kind = case
    path, _, query = (API + target).partition("?")
    scope: Scope = {
        "type": "http", "http_version": "1.1", "method": method, "scheme": "http", "path": path,
        "raw_path": path.encode(), "query_string": query.encode(), "root_path": "", "server": ("bridge", 80),
        "headers": [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())] if kind else [],
        "state": {"caller": caller, "digest": bytes(32)},
    }  # fmt: skip
    to_come: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    said: list[Message] = []

    async def receive() -> Message:
        return to_come.pop() if to_come else {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        said.append(message)

    await app(scope, receive, send)
    content = b"".join(message.get("body", b"") for message in said[1:])
    left_out = (b"content-length",) if content else (b"content-length", b"content-type")
    headers = {name: value for name, value in said[0]["headers"] if name not in left_out}
    route = getattr(scope.get("route"), "path", "none").removeprefix(API)
    return said[0]["status"], (headers, json.loads(content) if content else None), route


@pytest.mark.parametrize("case", _CASES.values(), ids=_CASES)
async def test_an_answer_is_the_one_that_the_framework_gives(bench: Bench, case: tuple[str, str, bytes, str]) -> None:
    caller = bench.account(await bench.join("clinic"))
    api = make_api()
    api.state.parts = bench.parts
    assert await _ask(Quick(api, bench.parts), caller, case) == await _ask(api, caller, case)


async def test_a_session_opens_and_ends_without_the_framework(bench: Bench) -> None:
    async def framework(scope: Scope, receive: object, send: object) -> None:
        raise AssertionError(scope["path"])

    one, other, first, _ = await bench.pair()
    request, _ = one.request(other)
    quick = Quick(framework, bench.parts)
    opened = await _ask(quick, first, ("POST", "/sessions", request.model_dump_json().encode(), _JSON))
    assert (opened[0], opened[2]) == (201, "/sessions")
    assert [session.session_id for session in bench.parts.sessions.live] == [request.session_id]
    ended = await _ask(quick, first, ("DELETE", f"/sessions/{request.session_id.hex()}", _END, _JSON))
    assert (ended[0], ended[2]) == (204, "/sessions/{session_id}")
    assert not bench.parts.sessions.live
