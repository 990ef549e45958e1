"""A real mosquitto on loopback, with users and a list of who may do what."""

import contextlib
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PROGRAM = Path("/usr/sbin/mosquitto")
PASSWORD = "a word"


@dataclass(slots=True)
class Mosquitto:
    """A broker that can be killed and started again at the same port.

    The user `all` may do everything; any other user may listen at the mailbox of its own name only.
    """

    folder: Path
    port: int
    _process: "subprocess.Popen[str] | None" = None

    @property
    def url(self) -> str:
        """Where it is reached."""
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Run it until it listens."""
        process = subprocess.Popen(
            [PROGRAM, "-c", self.folder / "mosquitto.conf", "-v"], stderr=subprocess.PIPE, text=True, cwd=self.folder
        )
        assert process.stderr is not None
        said = []
        with process.stderr:
            for line in process.stderr:
                said.append(line)
                if " running" in line:
                    break
            else:
                pytest.fail("".join(said))
        self._process = process

    def kill(self) -> None:
        """End it at once."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(timeout=10)


@contextlib.contextmanager
def running_mosquitto(folder: Path, *users: str) -> Iterator[Mosquitto]:
    """Run a broker that knows `all` and `users`."""
    if not PROGRAM.exists():
        pytest.fail("there is no mosquitto here: the package of that name has it")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    passwords = folder / "passwords"
    passwords.touch(mode=0o600)
    for user in ("all", *users):
        subprocess.run(["/usr/bin/mosquitto_passwd", "-b", passwords, user, PASSWORD], check=True, capture_output=True)
    (folder / "acl").write_text("user all\ntopic readwrite #\n\npattern read isthmus/%u\npattern write isthmus/+\n")
    (folder / "mosquitto.conf").write_text(
        f"listener {port} 127.0.0.1\nset_tcp_nodelay true\nallow_anonymous false\nuser root\n"
        f"password_file {passwords}\nacl_file {folder / 'acl'}\n"
        "log_dest stderr\nlog_type information\nlog_type error\nconnection_messages false\n"
    )
    broker = Mosquitto(folder, port)
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()
