"""DICOM devices of DCMTK on both ends, and what one sending costs."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from bench.images import Load
from bench.machine import HERE, BenchFailed, IdleMeter, Place, Started, load, running, spawn, wait_listening
from isthmus.testing.free_ports import free_port

# Absolute: pynetdicom installs tools of the same names
STORESCU = "/usr/bin/storescu"
STORESCP = "/usr/bin/storescp"
ECHOSCU = "/usr/bin/echoscu"

CALLING = "BENCHSCU"
_PATIENCE_SECONDS = 600.0


class Nagle(Enum):
    """How a DCMTK device treats its socket: with TCP_NODELAY=1 in its environment, or as it is shipped."""

    OFF = "TCP_NODELAY=1"
    SHIPPED = "defaults"

    @property
    def environment(self) -> dict[str, str]:
        """What to add to the device's environment."""
        return {"TCP_NODELAY": "1"} if self is Nagle.OFF else {}


@dataclass(frozen=True)
class Door:
    """Where a sending device finds the receiving one."""

    host: str
    port: int
    called: str


@dataclass(frozen=True)
class Receiver:
    """A storescp that throws away what it gets."""

    process: Started
    door: Door


@dataclass(frozen=True)
class Sent:
    """One sending, measured from the start of the sender to its end."""

    seconds: float
    size: int
    cpu_seconds: dict[str, float]
    """User and system seconds by process name."""
    idle_share: float
    """Share of all processor time that nobody used, from 0 to 1."""
    load_before: float

    @property
    def megabytes_per_second(self) -> float:
        """Throughput in 10^6 bytes a second."""
        return self.size / self.seconds / 1e6


@contextlib.contextmanager
def receiver(
    title: str, nagle: Nagle, *, place: Place = HERE, to_file: bool = False, fork: bool = False
) -> Iterator[Receiver]:
    """Run a storescp.

    Args:
        title: its AE title.
        nagle: how it treats its socket.
        place: where it runs.
        to_file: it passes each fragment on (to nowhere) instead of collecting the object in memory.
        fork: it serves many associations at once, in a process each.
    """
    port = free_port()
    options = ["--ignore", *(["+B"] if to_file else []), *(["--fork"] if fork else [])]
    command = [*place.prefix, STORESCP, "-ll", "fatal", "-aet", title, *options, str(port)]
    with running("storescp", command, environment=nagle.environment) as process:
        wait_listening(process, port)
        yield Receiver(process, Door(place.address, port, title))


def send(what: Load, door: Door, nagle: Nagle, others: Sequence[Started], *, place: Place = HERE) -> Sent:
    """Send a load over one association and return what it took, in time and in processor time of all parts.

    storescu ends with a status other than 0 at the first object that is not stored.

    Raises:
        BenchFailed: the sender failed, or took more than ten minutes.
    """
    load_before = load()
    before = [other.cpu_seconds() for other in others]
    idle = IdleMeter()
    began = time.monotonic()
    sender = spawn("storescu", [*place.prefix, *_storescu(what, door)], environment=nagle.environment)
    try:
        if not sender.ended_within(_PATIENCE_SECONDS):
            raise BenchFailed(f"storescu took more than {_PATIENCE_SECONDS:g} s")
        seconds = time.monotonic() - began
        _, status, usage = os.wait4(sender.process.pid, 0)
        sender.process.returncode = os.waitstatus_to_exitcode(status)
        if sender.process.returncode:
            raise BenchFailed(f"storescu ended with {sender.process.returncode}:\n{sender.said()}")
        cpu = {"storescu": usage.ru_utime + usage.ru_stime}
        for other, earlier in zip(others, before, strict=True):
            cpu[other.name] = cpu.get(other.name, 0.0) + other.cpu_seconds() - earlier
        return Sent(seconds, what.size, cpu, idle.share(), load_before)
    finally:
        sender.stop()
        sender.output.unlink(missing_ok=True)


def check_arrival(what: Load, door: Door, *, place: Place = HERE) -> None:
    """Send a load once, unmeasured, and count the answers: a quick refusal must not pass for a quick transfer.

    Raises:
        BenchFailed: not every object was answered with success.
    """
    command = [*place.prefix, *_storescu(what, door), "-v"]
    sender = spawn("storescu", command, environment=Nagle.OFF.environment)
    try:
        sender.ended_within(_PATIENCE_SECONDS)
        stored = sender.output.read_bytes().count(b"Received Store Response (Success)")
        if stored != what.objects:
            raise BenchFailed(f"{stored} of {what.objects} objects stored by {door.called}:\n{sender.said()}")
    finally:
        sender.stop()
        sender.output.unlink(missing_ok=True)


def _storescu(what: Load, door: Door) -> list[str]:
    destination = ["-aet", CALLING, "-aec", door.called, door.host, str(door.port)]
    return [STORESCU, "+sd", *destination, str(what.folder)]
