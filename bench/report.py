"""What the benchmarks say: medians, what was full, a table."""

import json
import math
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.devices import Sent
from bench.machine import BenchFailed

_FULL_CORE = 0.9
_FULL_MACHINE_IDLE = 0.15


@dataclass(frozen=True)
class Row:
    """One line of the table: a load over a road by a kind of device, over all rounds."""

    load: str
    devices: str
    road: str
    rounds: tuple[Sent, ...]

    @property
    def speed(self) -> float:
        """Median throughput in MB/s (10^6 bytes)."""
        return statistics.median(sent.megabytes_per_second for sent in self.rounds)

    @property
    def speed_range(self) -> tuple[float, float]:
        """Lowest and highest throughput in MB/s."""
        speeds = [sent.megabytes_per_second for sent in self.rounds]
        return min(speeds), max(speeds)

    @property
    def idle_share(self) -> float:
        """Median share of processor time that stayed idle."""
        return statistics.median(sent.idle_share for sent in self.rounds)

    @property
    def load_before(self) -> float:
        """Highest load average before a round."""
        return max(sent.load_before for sent in self.rounds)

    def cpu_seconds_per_gigabyte(self) -> dict[str, float]:
        """Return the median processor seconds for 10^9 bytes, by process."""
        names = self.rounds[0].cpu_seconds
        return {
            name: statistics.median(sent.cpu_seconds[name] / sent.size * 1e9 for sent in self.rounds) for name in names
        }

    def cpu_share(self) -> dict[str, float]:
        """Return the median share of one core that each process kept busy."""
        names = self.rounds[0].cpu_seconds
        return {
            name: statistics.median(sent.cpu_seconds[name] / sent.seconds for sent in self.rounds) for name in names
        }

    def full(self) -> str:
        """Say which resource was used up: a process's core, all cores, or none (the parts waited for each other)."""
        name, share = max(self.cpu_share().items(), key=lambda item: item[1])
        if share >= _FULL_CORE:
            return f"core of {name} ({share:.0%})"
        if self.idle_share <= _FULL_MACHINE_IDLE:
            return f"all cores ({1 - self.idle_share:.0%} busy, most by {name} {share:.0%})"
        return f"none (idle {self.idle_share:.0%}, busiest {name} {share:.0%})"


def print_table(rows: Sequence[Row]) -> None:
    """Print every row, with its ratio to the direct road and to the stunnel pair of the same load and devices."""
    head = ("load", "devices", "road", "MB/s", "range", "x direct", "x stunnel", "load avg", "CPU s/GB", "full")
    lines = [head]
    for row in rows:
        same = {other.road: other for other in rows if (other.load, other.devices) == (row.load, row.devices)}
        low, high = row.speed_range
        cpu = row.cpu_seconds_per_gigabyte()
        shares = " ".join(f"{name} {seconds:.2f}" for name, seconds in cpu.items())
        lines.append(
            (
                row.load,
                row.devices,
                row.road,
                f"{row.speed:.1f}",
                f"{low:.0f}-{high:.0f}",
                _ratio(row, same.get("direct")),
                _ratio(row, same.get("stunnel pair")),
                f"{row.load_before:.1f}",
                f"{sum(cpu.values()):.2f} ({shares})",
                row.full(),
            )
        )
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def write_json(path: Path, rows: Sequence[Row]) -> None:
    """Write every measured round, and the medians, as JSON."""
    document = {
        "machine": machine(),
        "rows": [
            {
                "load": row.load,
                "devices": row.devices,
                "road": row.road,
                "megabytes_per_second": row.speed,
                "cpu_seconds_per_gigabyte": row.cpu_seconds_per_gigabyte(),
                "cpu_share_of_one_core": row.cpu_share(),
                "idle_share": row.idle_share,
                "full": row.full(),
                "rounds": [asdict(sent) for sent in row.rounds],
            }
            for row in rows
        ],
    }
    path.write_text(json.dumps(document, indent=1) + "\n")


def machine() -> dict[str, str]:
    """Return what a reader needs to judge the figures: processors, kernel, versions of the tools."""
    cores = len(os.sched_getaffinity(0))
    models = [line.split(":", 1)[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "processor": f"{cores} x {models[0] if models else os.uname().machine}",
        "kernel": os.uname().release,
        "python": f"{platform.python_version()}, {_additions_a_second() / 1e6:.0f} million additions a second",
        "dcmtk": _first_line(["/usr/bin/storescu", "--version"]),
        "stunnel": _first_line(["/usr/bin/stunnel4", "-version"], containing="stunnel 5"),
        "ssh": _first_line(["/usr/bin/ssh", "-V"]),
    }


def _additions_a_second() -> float:
    """Return how quick the interpreter is here and now: builds of one version differ by a third, and so do hours."""
    count, best = 1_000_000, math.inf
    for _ in range(3):
        total, began = 0, time.perf_counter()
        for number in range(count):
            total += number
        best = min(best, time.perf_counter() - began)
    return count / best


def say(what: str) -> None:
    """Print a line of progress at once."""
    print(what, flush=True)


def median_of(values: Sequence[float]) -> str:
    """Return median and range of seconds, for a person."""
    return f"median {statistics.median(values):.4f} s, {min(values):.4f} to {max(values):.4f} s over {len(values)}"


def _ratio(row: Row, other: Row | None) -> str:
    return f"{row.speed / other.speed:.2f}" if other else "-"


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _first_line(command: Sequence[str], *, containing: str = "") -> str:
    try:
        done = subprocess.run(list(command), capture_output=True, text=True, check=False)
    except OSError as error:
        raise BenchFailed(f"cannot run {command[0]}: {error}") from error
    for line in (done.stdout + done.stderr).splitlines():
        if line.strip() and containing in line:
            return line.strip()
    return "?"
