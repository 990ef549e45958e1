import io
import json
from collections.abc import Iterator

import pytest
import structlog

from isthmus.cli import logs


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    yield
    structlog.reset_defaults()


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _fail() -> None:
    patient = "^".join(("Canary", "Name"))  # put together, so that the line in the traceback does not hold it
    raise ValueError(len(patient))


def _log_a_failure(stream: io.StringIO) -> str:
    logs.configure(stream)
    log = structlog.get_logger()
    try:
        _fail()
    except ValueError:
        log.exception("it failed", site="north")
    return stream.getvalue()


def test_logs_that_nobody_watches_are_json_lines() -> None:
    (line,) = _log_a_failure(io.StringIO()).splitlines()
    entry = json.loads(line)
    assert (entry["event"], entry["level"], entry["site"]) == ("it failed", "error", "north")
    assert entry["timestamp"].endswith("Z")
    assert "ValueError: 11" in entry["exception"]


def test_logs_on_a_terminal_are_for_people() -> None:
    text = _log_a_failure(_Terminal())
    assert "it failed" in text
    assert "ValueError: 11" in text
    assert not text.startswith("{")


@pytest.mark.parametrize("stream", [io.StringIO(), _Terminal()], ids=["file", "terminal"])
def test_a_traceback_does_not_show_what_variables_held(stream: io.StringIO) -> None:
    text = _log_a_failure(stream)
    assert "ValueError: 11" in text
    assert "Canary^Name" not in text


@pytest.mark.parametrize(("verbose", "lines"), [(False, 0), (True, 1)])
def test_details_are_logged_only_when_asked_for(verbose: bool, lines: int) -> None:
    stream = io.StringIO()
    logs.configure(stream, verbose=verbose)
    structlog.get_logger().debug("a detail")
    assert len(stream.getvalue().splitlines()) == lines
