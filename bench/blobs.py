"""`python -m bench.blobs`: the built-in blobstore alone: one site puts, the other gets, beside iperf3 in the same run.

No DICOM, no sealing, no ledger: what the Bridge and the Routers' way to it can carry. The getting end hears of a blob
at once, through a pipe. Over the emulated link of `bench.wanlink` (root), or with ``--loopback`` without any.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.isthmus_network import run_bridge_with_members
from bench.machine import HERE, BenchFailed, IdleMeter, Place, Started, clean_up_when_terminated, load
from bench.report import say
from bench.wanlink import Leg, iperf, wan

_PATIENCE_SECONDS = 600.0


@dataclass(frozen=True)
class Carried:
    """One run: bytes over seconds, and processor seconds by process."""

    size: int
    seconds: float
    cpu_seconds: dict[str, float]
    idle_share: float

    @property
    def megabytes_per_second(self) -> float:
        """Throughput in 10^6 bytes a second, from the first put to the last get."""
        return self.size / self.seconds / 1e6

    def told(self) -> str:
        """Return it as a line for a person."""
        costs = " ".join(f"{name} {spent / self.size * 1e9:.2f}" for name, spent in self.cpu_seconds.items())
        return f"{self.megabytes_per_second:.1f} MB/s, idle {self.idle_share:.0%}, CPU s/GB {costs}"


def carry(
    ends: dict[str, tuple[Place, Path]], others: Sequence[Started], count: int, size: int, connections: int
) -> Carried:
    """Put blobs at one end and get them at the other, as they come.

    Raises:
        BenchFailed: an end failed.
    """
    before = [other.cpu_seconds() for other in others]
    idle = IdleMeter()
    with contextlib.ExitStack() as stack:
        running: dict[str, subprocess.Popen[bytes]] = {}
        for role, (place, data) in ends.items():
            command = [*place.prefix, sys.executable, "-m", "bench.blob_end", role, str(data)]
            running[role] = stack.enter_context(
                subprocess.Popen(
                    [*command, str(count), str(size), str(connections)],
                    stdin=running["put"].stdout if role == "get" else subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                )
            )
            stack.callback(running[role].kill)
        said = {role: process.communicate(timeout=_PATIENCE_SECONDS)[1] for role, process in reversed(running.items())}
    try:
        reports = {role: json.loads(text.splitlines()[-1]) for role, text in said.items()}
    except (IndexError, ValueError) as error:
        raise BenchFailed(b"\n".join(said.values()).decode(errors="replace")) from error
    if reports["get"]["bytes"] != count * size:
        raise BenchFailed(f"{reports['get']['bytes']} of {count * size} bytes came")
    cpu = {role: reports[role]["cpu"] for role in ends}
    for other, earlier in zip(others, before, strict=True):
        cpu[other.name] = other.cpu_seconds() - earlier
    seconds = reports["get"]["ended"] - reports["put"]["began"]
    return Carried(reports["get"]["bytes"], seconds, cpu, idle.share())


def measure(options: argparse.Namespace) -> list[Carried]:
    """Build the network, run the rounds, say each of them."""
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-blobs-")))
        places, carriers = (HERE, HERE, HERE), list[Started]()
        if not options.loopback:
            leg = Leg(options.rtt / 2e3, options.rate and options.rate * 1e6, int(options.queue_kb * 1e3))
            network = stack.enter_context(wan(leg, leg, congestion=options.congestion))
            places, carriers = (network.cloud, network.site_a, network.site_b), [network.carrier]
        bridge, members = run_bridge_with_members(
            stack, folder, places[0], {"north": places[1], "south": places[2]}, tls=not options.no_tls
        )
        ends = {"put": (places[1], members["north"]), "get": (places[2], members["south"])}
        carried = []
        for number in range(1, options.rounds + 1):
            beside = ""
            if not options.loopback:
                report = iperf(places[1], places[2], 8, options.seconds)
                beside = f", iperf3 {report['end']['sum_received']['bits_per_second'] / 8e6:.1f} MB/s"
            before = load()
            carried.append(
                carry(ends, [bridge.process, *carriers], options.count, options.kib << 10, options.connections)
            )
            say(f"round {number}/{options.rounds}: {carried[-1].told()}, load {before:.2f}{beside}")
        return carried


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.blobs", description=__doc__)
    parser.add_argument("--loopback", action="store_true", help="no emulated link")
    parser.add_argument("--no-tls", action="store_true", help="no TLS to the Bridge")
    parser.add_argument("--rtt", type=float, default=25.0, help="round trip of each leg in ms (default 25)")
    parser.add_argument("--rate", type=float, default=500.0, help="Mbit/s of each leg, 0 for no limit (default 500)")
    parser.add_argument("--queue-kb", type=float, default=1000, help="drop-tail queue of each wire (default 1000)")
    parser.add_argument("--congestion", help="TCP congestion control in all three places (default: the kernel's)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=200, help="blobs in a round (default 200)")
    parser.add_argument("--kib", type=int, default=1024, help="size of a blob in KiB (default 1024)")
    parser.add_argument("--connections", type=int, default=8, help="puts, and gets, in flight (default 8)")
    parser.add_argument("--seconds", type=int, default=5, help="of iperf3 before each round (default 5)")
    options = parser.parse_args(arguments)
    clean_up_when_terminated()
    try:
        carried = measure(options)
    except BenchFailed as failure:
        print(f"bench.blobs: {failure}", file=sys.stderr)
        return 1
    say(f"median {statistics.median(run.megabytes_per_second for run in carried):.1f} MB/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
