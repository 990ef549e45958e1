"""Asking a running part over its control API: what comes back, and what a person reads if nothing good does."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from isthmus.cli.call import call, call_running
from isthmus.cli.options import Part
from isthmus.errors import OperatorError


class _Control(BaseHTTPRequestHandler):
    """Answers as it is told, and keeps what it was asked."""

    answer: ClassVar[tuple[int, bytes] | None] = None
    asked: ClassVar[list[tuple[str, str | None, Any]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.asked.append((self.path, self.headers["Authorization"], json.loads(body)))
        if self.answer is None:
            self.close_connection = True
            return
        status, content = self.answer
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        pass


@pytest.fixture
def running() -> Iterator[HTTPServer]:
    part = HTTPServer(("127.0.0.1", 0), _Control)
    thread = threading.Thread(target=part.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    _Control.asked.clear()
    yield part
    part.shutdown()
    thread.join()
    part.server_close()


@pytest.fixture
def folder(running: HTTPServer, tmp_path: Path) -> Path:
    note = {"address": f"127.0.0.1:{running.server_port}", "token": "secret"}
    (tmp_path / "control.json").write_text(json.dumps(note))
    return tmp_path


def test_a_running_part_is_asked_with_its_token_and_the_arguments_that_were_given(folder: Path) -> None:
    _Control.answer = (200, b'[{"title": "PACS"}]')
    assert call(folder, Part.ROUTER, "device_list", name="x", title=None) == [{"title": "PACS"}]
    assert _Control.asked == [("/control/device_list", "Bearer secret", {"name": "x"})]


def test_the_note_of_a_bridge_is_understood_too(running: HTTPServer, tmp_path: Path) -> None:
    note = {"url": f"http://127.0.0.1:{running.server_port}", "token": "secret"}
    (tmp_path / "control.json").write_text(json.dumps(note))
    _Control.answer = (200, b"[]")
    assert call(tmp_path, Part.BRIDGE, "sites") == []


def test_a_refusal_is_told_in_the_words_of_the_part(folder: Path) -> None:
    problem = {"status": 400, "title": "no", "detail": "there is no device X", "hint": "isthmus device list"}
    _Control.answer = (400, json.dumps(problem).encode())
    with pytest.raises(OperatorError, match="there is no device X") as refused:
        call(folder, Part.ROUTER, "device_show", device="X")
    assert refused.value.hint == "isthmus device list"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (None, "stopped before it answered"),
        ((500, b"Internal Server Error"), "no control API of Isthmus"),
        ((401, b'{"title": "Not the control token"}'), "Not the control token"),
        ((503, b"[]"), "HTTP status 503"),
    ],
)
def test_what_is_no_answer_is_an_error_that_says_so(answer: tuple[int, bytes] | None, words: str, folder: Path) -> None:
    _Control.answer = answer
    with pytest.raises(OperatorError, match=words):
        call_running(folder, Part.ROUTER, "sessions")


def test_a_part_that_was_killed_is_said_not_to_run(running: HTTPServer, folder: Path) -> None:
    running.shutdown()
    running.server_close()
    with pytest.raises(OperatorError, match="no Router is running"):
        call_running(folder, Part.ROUTER, "sessions")
