"""A real PostgreSQL in a temporary folder, reached through a socket there and by nobody else."""

import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # has no types
import pytest
from tests.backends.servers.started import said_until

USER, PASSWORD = "isthmus", "a secret of tests"


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running server."""

    folder: Path

    async def new_database(self) -> str:
        """Make a database, and return its name."""
        name = f"new_{secrets.token_hex(6)}"
        connection = await asyncpg.connect(host=str(self.folder), user=USER, password=PASSWORD, database="postgres")
        try:
            await connection.execute(f"CREATE DATABASE {name}")
        finally:
            await connection.close()
        return name

    def url(self, database: str, password: str = PASSWORD) -> str:
        """Return what `isthmus bridge run --database-url` is given."""
        return f"postgresql://{USER}:{password.replace(' ', '%20')}@/{database}?host={self.folder}"


def _programs() -> Path:
    """Return the folder of the newest server's programs; without one, the test fails."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if not found:
        pytest.fail("there is no PostgreSQL server here: scripts/install-tools installs it")
    return found[-1].parent


def _as_somebody() -> dict[str, Any]:
    """Return how to start a program that refuses to run as root."""
    return {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}


@contextlib.contextmanager
def running_server() -> Iterator[PostgresServer]:
    """Run a server with one account, which may make databases."""
    programs, somebody = _programs(), _as_somebody()
    environment = {"LC_ALL": "C", "PATH": os.environ["PATH"]}
    folder = Path(tempfile.mkdtemp(prefix="isthmus-pg-"))  # not below pytest's, which only its owner may enter
    try:
        (folder / "password").write_text(PASSWORD)
        if somebody:
            for path in (folder, folder / "password"):
                shutil.chown(path, somebody["user"], somebody["group"])
        options = ["--username", USER, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
        made = subprocess.run(
            [programs / "initdb", "-D", folder / "data", "--pwfile", folder / "password", *options],
            capture_output=True, text=True, check=False, cwd=folder, env=environment, **somebody,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr
        settings = ["-c", "listen_addresses=", "-c", "fsync=off", "-c", "jit=off"]
        with subprocess.Popen(
            [programs / "postgres", "-D", folder / "data", "-k", folder, *settings],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=folder, env=environment, **somebody,
        ) as server:  # fmt: skip
            try:
                said_until(server.stderr, lambda line: "ready to accept connections" in line)
                yield PostgresServer(folder)
            finally:
                server.send_signal(signal.SIGINT)  # a fast shutdown: connections are cut
                server.communicate(timeout=30)
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    """Give one server to the tests of a file."""
    with running_server() as server:
        yield server
