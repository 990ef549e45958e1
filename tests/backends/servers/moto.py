"""moto_server on loopback: it plays SQS and STS. It checks neither signatures nor permissions."""

import contextlib
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True, slots=True)
class MotoServer:
    """A running server."""

    port: int

    def url(self, namespace: str, *, port: int | None = None) -> str:
        """Return by what a provider is listed; `port` is that of something in front of the server."""
        return f"sqs://127.0.0.1:{port or self.port}/{namespace}?region=eu-central-1&tls=no"


@contextlib.contextmanager
def running_moto() -> Iterator[MotoServer]:
    """Run a server that knows nothing yet."""
    program = Path(sys.executable).with_name("moto_server")
    if not program.exists():
        pytest.fail("there is no moto_server here: scripts/make-env installs it")
    with subprocess.Popen(
        [program, "-H", "127.0.0.1", "-p", "0"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stderr is not None
            said = []
            for line in process.stderr:
                said.append(line)
                if found := re.search(r"Running on http://127\.0\.0\.1:(\d+)", line):
                    port = int(found[1])
                    break
            else:
                pytest.fail("".join(said))
            threading.Thread(target=process.stderr.read, daemon=True).start()  # it logs each request
            yield MotoServer(port)
        finally:
            process.kill()


@pytest.fixture(scope="session")
def moto() -> Iterator[MotoServer]:
    """Give the server of this test run."""
    with running_moto() as server:
        yield server
