"""The Bridge and the Routers of the demonstration: separate processes, administered with the commands a user types."""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final

from isthmus.errors import IsthmusError

_START_TIMEOUT: Final = 30.0  # seconds: on a busy small machine, Python alone takes some of them
_COMMAND_TIMEOUT: Final = 60.0
_STOP_TIMEOUT: Final = 15.0
_LOG_TAIL: Final = 5  # lines


class PartFailed(IsthmusError):
    """A Bridge, a Router or a command did not do what the demonstration needs; the message holds its own words."""


class Part:
    """One Bridge or Router: its data folder, its log, its process."""

    def __init__(self, name: str, kind: str, folder: Path) -> None:
        self.name: Final = name
        self.data: Final = folder / name
        self.log: Final = folder / f"{name}.log"
        self._kind = kind
        self._process: subprocess.Popen[str] | None = None

    def command(self, *words: str) -> str:
        """Run an `isthmus` command on this part's data folder; return what it printed. Raises PartFailed."""
        done = subprocess.run(  # noqa: S603 - our own program
            _isthmus(*words, "--data", str(self.data)),
            capture_output=True,
            text=True,
            timeout=_COMMAND_TIMEOUT,
            check=False,
            stdin=subprocess.DEVNULL,
            env=_environment(),
        )
        if done.returncode:
            raise PartFailed(f"isthmus {' '.join(words)}: {' '.join(done.stderr.split()) or 'no reason given'}")
        return done.stdout

    def ask(self, *words: str) -> Any:
        """Run a command with --json; return the answer. Raises PartFailed."""
        return json.loads(self.command(*words, "--json"))

    def start(self, *options: str, environment: Mapping[str, str] | None = None) -> None:
        """Start the process and wait until it says that it is ready. Raises PartFailed with the end of its log."""
        lines: queue.Queue[str] = queue.Queue()
        with self.log.open("a") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                _isthmus(self._kind, "run", *options, "--data", str(self.data)),
                stdout=subprocess.PIPE,
                stderr=log,
                stdin=subprocess.DEVNULL,
                text=True,
                env=_environment() | dict(environment or {}),
            )
        assert self._process.stdout is not None
        threading.Thread(target=self._read, args=(self._process.stdout, lines), daemon=True).start()
        try:
            line = lines.get(timeout=_START_TIMEOUT)
        except queue.Empty:
            line = ""
        if " ready" not in line:
            raise PartFailed(f"the {self._kind} of {self.name} did not start: {self._last_words()}")

    def stop(self) -> None:
        """Ask the process to end, and end it if it does not."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    def wait(self, timeout: float) -> int:
        """Wait for a process that ends by itself; return its exit code. Raises TimeoutError."""
        assert self._process is not None
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise TimeoutError(f"the {self._kind} of {self.name} has not ended") from error
        self._process = None
        return code

    @staticmethod
    def _read(stream: IO[str], lines: "queue.Queue[str]") -> None:
        with stream:
            for line in stream:
                lines.put(line)
        lines.put("")  # it ended: nobody waits in vain

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_TAIL:]
        return " / ".join(line.strip() for line in lines) or "it wrote no log"


def _isthmus(*words: str) -> list[str]:
    return [sys.executable, "-m", "isthmus", *words]


def _environment() -> dict[str, str]:
    """Return our environment without what would lead a process on this machine out of it."""
    dropped = {"ISTHMUS_DATA", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"}
    return {name: value for name, value in os.environ.items() if name.upper() not in dropped}
