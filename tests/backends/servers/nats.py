"""A real nats-server on loopback, in a temporary folder: by TCP, by WebSocket, with or without TLS."""

import contextlib
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
from tests.backends.servers.started import read_on, said_until

from isthmus.adapters.signalling.nats.accounts import Nkey, Role, server_configuration
from isthmus.testing.free_ports import free_port

STARTS_SECONDS: Final = 10


@dataclass(slots=True)
class NatsServer:
    """A server that can be killed and started again at the same ports.

    Attributes:
        account: whose users it lets in.
        port: where it speaks NATS.
        websocket_port: where it speaks NATS inside WebSockets.
    """

    folder: Path
    account: Nkey
    certificate: tuple[Path, Path] | None = None
    options: str = ""
    in_operator_mode: bool = True
    port: int = 0
    websocket_port: int = 0
    _reader: threading.Thread | None = field(default=None, repr=False)
    _process: "subprocess.Popen[str] | None" = field(default=None, repr=False)

    @property
    def url(self) -> str:
        """Where it is reached directly."""
        return f"{'nats' if self.certificate is None else 'nats+tls'}://127.0.0.1:{self.port}"

    @property
    def websocket_url(self) -> str:
        """Where it is reached like a web site."""
        return f"{'nats+ws' if self.certificate is None else 'nats+wss'}://127.0.0.1:{self.websocket_port}"

    def start(self) -> None:
        """Run it until it listens."""
        program = shutil.which("nats-server") or "/usr/sbin/nats-server"
        if not Path(program).exists():
            pytest.fail("there is no nats-server here: scripts/install-tools installs it")
        self.port, self.websocket_port = self.port or free_port(), self.websocket_port or free_port()
        (self.folder / "nats.conf").write_text(self._configuration())
        process = subprocess.Popen(
            [program, "-c", str(self.folder / "nats.conf")], stderr=subprocess.PIPE, text=True, cwd=self.folder
        )
        self._process = process
        said_until(process.stderr, lambda line: "Server is ready" in line)
        self._reader = read_on(process.stderr)

    def kill(self) -> None:
        """End it at once."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(timeout=STARTS_SECONDS)
        if self._reader is not None:
            self._reader.join(timeout=STARTS_SECONDS)

    def _configuration(self) -> str:
        text = server_configuration(self.account, now=1_700_000_000) if self.in_operator_mode else "max_payload: 1MB\n"
        text = re.sub(r"(?m)^listen: .*$", "", text)
        tls = ""
        if self.certificate is not None:
            tls = f'tls {{ cert_file: "{self.certificate[0]}", key_file: "{self.certificate[1]}" }}\n'
        return (
            f'{text}\nlisten: "127.0.0.1:{self.port}"\n{tls}{self.options}\n'
            f'websocket {{ listen: "127.0.0.1:{self.websocket_port}"\n{tls or "no_tls: true"} }}\n'
        )


@contextlib.contextmanager
def running_nats(
    *, certificate: tuple[Path, Path] | None = None, options: str = "", in_operator_mode: bool = True
) -> Iterator[NatsServer]:
    """Run a server; `options` are further lines of its configuration."""
    folder = Path(tempfile.mkdtemp(prefix="isthmus-nats-"))
    server = NatsServer(folder, Nkey.make(Role.ACCOUNT), certificate, options, in_operator_mode)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder)


def bus_url(server: NatsServer) -> str:
    """Return what `isthmus bridge run --bus` is given."""
    return server.url.replace("//", "//bridges:s%2Fcret@")


@pytest.fixture(scope="module")
def nats_bus() -> Iterator[NatsServer]:
    """Give the tests of a file a server that their Bridges may use as bus."""
    with running_nats(in_operator_mode=False, options='authorization { user: bridges, password: "s/cret" }') as server:
        yield server


@pytest.fixture(scope="session")
def nats_server() -> Iterator[NatsServer]:
    """Give one server in operator mode to all tests of a run."""
    with running_nats() as server:
        yield server
