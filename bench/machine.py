"""Processes, ports and processor time of the machine that runs a benchmark."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import psutil

T = TypeVar("T")

_TCP_LISTEN = "0A"
_LOOK_AGAIN_SECONDS = 0.01


class BenchFailed(Exception):
    """A benchmark cannot go on: a tool failed, or did not become ready in time."""


@dataclass(frozen=True)
class Place:
    """Where a part runs: the address it listens on, and the command that enters its network namespace, if any."""

    address: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()


HERE = Place()


@dataclass(frozen=True)
class Started:
    """A process that this benchmark started, and the file that keeps what it wrote."""

    name: str
    process: "subprocess.Popen[bytes]"
    output: Path

    def said(self) -> str:
        """Return the last lines that the process wrote."""
        return "\n".join(self.output.read_text(errors="replace").splitlines()[-20:])

    def cpu_seconds(self) -> float:
        """Return user and system seconds spent so far by the process and its children, living and dead."""
        try:
            root = psutil.Process(self.process.pid)
            family = [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return 0.0
        spent = 0.0
        for member in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                spent += sum(member.cpu_times()[:4])
        return spent

    def memory_bytes(self) -> int:
        """Return the resident set of the process and its children, in bytes."""
        return self._status_bytes("VmRSS")

    def peak_memory_bytes(self) -> int:
        """Return the largest resident set since `forget_peak`, in bytes; children's peaks are added up."""
        return self._status_bytes("VmHWM")

    def forget_peak(self) -> None:
        """Let the peak start again at what is resident now (proc(5), clear_refs)."""
        for pid in self._family():
            Path(f"/proc/{pid}/clear_refs").write_text("5")

    def _family(self) -> list[int]:
        root = psutil.Process(self.process.pid)
        return [root.pid, *(child.pid for child in root.children(recursive=True))]

    def _status_bytes(self, wanted: str) -> int:
        total = 0
        for pid in self._family():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(wanted + ":"))
        return total

    def ended_within(self, seconds: float) -> bool:
        """Wait until the process ends, at most so many seconds; return whether it did."""
        if self.process.returncode is not None:
            return True
        try:
            descriptor = os.pidfd_open(self.process.pid)
        except ProcessLookupError:
            return True
        try:
            return bool(select.select([descriptor], [], [], max(seconds, 0.0))[0])
        finally:
            os.close(descriptor)

    def stop(self) -> None:
        """End the process by its id: SIGTERM, and SIGKILL where 10 s were not enough."""
        if self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGTERM)
        if not self.ended_within(10.0):
            self.process.kill()
        self.process.wait()


def spawn(name: str, command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> Started:
    """Start a command without a terminal, its output in a file of its own; `environment` adds to ours."""
    descriptor, path = tempfile.mkstemp(prefix=f"bench-{name.replace('/', '-')}-", suffix=".log")
    with os.fdopen(descriptor, "wb") as output:
        process = subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
    return Started(name, process, Path(path))


@contextlib.contextmanager
def running(name: str, command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> Iterator[Started]:
    """Keep a process running for the length of a block."""
    started = spawn(name, command, environment=environment)
    try:
        yield started
    finally:
        started.stop()
        started.output.unlink(missing_ok=True)


def until(condition: Callable[[], T | None], what: str, watched: Started, *, within: float = 30.0) -> T:
    """Wait until `condition` gives a value, and return it.

    Raises:
        BenchFailed: the watched process ended, or `within` seconds have passed.
    """
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if value is not None:
            return value
        if watched.ended_within(_LOOK_AGAIN_SECONDS):
            raise BenchFailed(f"{watched.name} ended before {what}:\n{watched.said()}")
        if time.monotonic() > deadline:
            raise BenchFailed(f"no {what} after {within:g} s; {watched.name} said:\n{watched.said()}")


def wait_listening(started: Started, port: int) -> None:
    """Wait until something listens on the TCP port, in the network namespace of the process."""
    until(lambda: True if _listening(started.process.pid, port) else None, f"listener on port {port}", started)


def _listening(pid: int, port: int) -> bool:
    """Look the port up in the kernel's table: a probing connection would be an association to some tools."""
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            _, local, _, state, *_ = line.split()
            if state == _TCP_LISTEN and int(local.rsplit(":", 1)[1], 16) == port:
                return True
    return False


def load() -> float:
    """Return the load average of the last minute."""
    return os.getloadavg()[0]


@dataclass
class IdleMeter:
    """Measures which share of all processor time stayed idle since it was made."""

    _before: tuple[float, float] = field(default_factory=lambda: _idle_and_total())  # noqa: PLW0108  # defined further down

    def share(self) -> float:
        """Return the idle share since the meter was made, from 0 to 1."""
        idle, total = _idle_and_total()
        return (idle - self._before[0]) / max(total - self._before[1], 1e-9)


def _idle_and_total() -> tuple[float, float]:
    times = psutil.cpu_times()
    return times.idle + times.iowait, sum(times[:8])


def clean_up_when_terminated() -> None:
    """Let SIGTERM end the benchmark like Ctrl-C: through every block that stops what it started."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))


def require(*tools: str) -> None:
    """Check that foreign tools are installed.

    Raises:
        BenchFailed: one is missing; the message says what installs it.
    """
    missing = [tool for tool in tools if not Path(tool).exists()]
    if missing:
        raise BenchFailed(f"missing {', '.join(missing)}: run `make tools`")
