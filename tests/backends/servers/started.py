"""What is common to programs that tests start: they say when they are ready, and are read on after that."""

import threading
from collections.abc import Callable
from typing import IO

import pytest


def said_until(stream: IO[str] | None, is_ready: Callable[[str], object]) -> list[str]:
    """Read what a program says up to the line that `is_ready`; return the lines. If it ends before, the test fails."""
    assert stream is not None
    said = []
    for line in stream:
        said.append(line)
        if is_ready(line):
            return said
    pytest.fail("".join(said))


def read_on(stream: IO[str] | None) -> threading.Thread:
    """Read what else a program says, to its end, so that it does not wait for a reader."""
    assert stream is not None
    reader = threading.Thread(target=_drain, args=(stream,), daemon=True)
    reader.start()
    return reader


def _drain(stream: IO[str]) -> None:
    with stream:
        for _ in stream:
            pass
