"""Azurite on loopback, all in memory: it plays Azure's blobs and queues, and checks signatures."""

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest
from tests.backends.servers.started import read_on, said_until

_PROGRAM: Final = Path(__file__).parents[3] / ".tools" / "azurite" / "node_modules" / ".bin" / "azurite"
_LISTENS: Final = re.compile(r"Azurite (\w+) service is successfully listening at https?://127\.0\.0\.1:(\d+)")
_QUIET: Final = ["--skipApiVersionCheck", "--disableTelemetry", "--inMemoryPersistence", "--silent"]
_ENDS_SECONDS: Final = 15
ACCOUNT: Final = "devstoreaccount1"
ACCOUNT_KEY: Final = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The one account that it has; both are in its documentation."""


@dataclass(frozen=True, slots=True)
class AzuriteServer:
    """A running server, and the ports of its two services."""

    blob_port: int
    queue_port: int

    def blobs(self, container: str, *, port: int | None = None) -> str:
        """Return by which URL a container is listed; `port` is that of something in front of the server."""
        return f"azblob://127.0.0.1:{port or self.blob_port}/{ACCOUNT}/{container}?tls=no"

    @property
    def secrets(self) -> dict[str, str]:
        """What an operator enters."""
        return {"account_key": ACCOUNT_KEY}


@contextlib.contextmanager
def running_azurite() -> Iterator[AzuriteServer]:
    """Run a server that holds nothing yet."""
    if not _PROGRAM.exists():
        pytest.fail("there is no azurite here: scripts/install-tools installs it")
    ports = [
        words for kind in ("blob", "queue", "table") for words in (f"--{kind}Host", "127.0.0.1", f"--{kind}Port", "0")
    ]
    with (
        tempfile.TemporaryDirectory(prefix="isthmus-azurite-") as folder,
        subprocess.Popen(
            [_PROGRAM, *_QUIET, *ports], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder
        ) as process,
    ):
        try:
            found: dict[str, int] = {}

            def all_listen(line: str) -> bool:
                found.update({kind: int(port) for kind, port in _LISTENS.findall(line)})
                return found.keys() >= {"Blob", "Queue"}

            said_until(process.stdout, all_listen)
            read_on(process.stdout)
            yield AzuriteServer(found["Blob"], found["Queue"])
        finally:
            process.kill()
            process.wait(timeout=_ENDS_SECONDS)


@pytest.fixture(scope="session")
def azurite() -> Iterator[AzuriteServer]:
    """Give the server of this test run."""
    with running_azurite() as server:
        yield server
