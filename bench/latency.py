"""`python -m bench.latency`: how long a C-ECHO takes, direct and through Isthmus.

On loopback, and with ``--wan`` (root) over an emulated link of 50 ms round trip. A direct C-ECHO needs four round
trips there: TCP's handshake, the association, the echo, the release.
"""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench import isthmus_network
from bench.devices import CALLING, ECHOSCU, Door, Nagle, receiver
from bench.machine import HERE, BenchFailed, Place, clean_up_when_terminated, load, require, spawn
from bench.report import machine, median_of, say
from bench.wanlink import Leg, wan

_PATIENCE_SECONDS = 60.0


def echo(door: Door, place: Place) -> float:
    """Run one echoscu and return the seconds from its start to its end.

    Raises:
        BenchFailed: it failed, or took more than a minute.
    """
    command = [*place.prefix, ECHOSCU, "-aet", CALLING, "-aec", door.called, door.host, str(door.port)]
    began = time.monotonic()
    started = spawn("echoscu", command, environment=Nagle.OFF.environment)
    try:
        ended = started.ended_within(_PATIENCE_SECONDS)
        seconds = time.monotonic() - began
        if not ended or started.process.wait():
            raise BenchFailed(f"echoscu to {door.called} failed:\n{started.said()}")
        return seconds
    finally:
        started.stop()
        started.output.unlink(missing_ok=True)


def measure(
    count: int, *, bridge: Place, sending: Place, receiving: Place, with_isthmus: bool, tls: bool
) -> dict[str, list[float]]:
    """Return the seconds of `count` echoes for each way, interleaved; one before them is not counted."""
    with contextlib.ExitStack() as stack:
        scp = stack.enter_context(receiver("BENCH_ECHO", Nagle.OFF, place=receiving))
        doors = {"direct": scp.door}
        if with_isthmus:
            network = stack.enter_context(
                isthmus_network.open_network(
                    [scp.door], tls=tls, bridge=bridge, sending=sending, receiving=receiving
                )
            )  # fmt: skip
            doors["Isthmus"] = Door(*network.door, scp.door.called)
        for door in doors.values():
            echo(door, sending)
        measured: dict[str, list[float]] = {name: [] for name in doors}
        for _ in range(count):
            for name, door in doors.items():
                measured[name].append(echo(door, sending))
        return measured


def _tell(where: str, load_before: float, measured: Mapping[str, Sequence[float]]) -> None:
    for name, seconds in measured.items():
        say(f"{where}, {name}: {median_of(seconds)}, load before {load_before:.2f}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark from the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.latency", description=__doc__)
    parser.add_argument("--count", type=int, default=21, help="echoes for each way (default 21)")
    parser.add_argument("--wan", action="store_true", help="also over an emulated link (needs root)")
    parser.add_argument("--delay-ms", type=float, default=12.5, help="one way, each leg of that link (default 12.5)")
    parser.add_argument("--direct-only", action="store_true", help="leave Isthmus out")
    parser.add_argument("--no-tls", action="store_true", help="a Bridge behind http://")
    parser.add_argument("--json", type=Path, help="also write every echo to this file")
    options = parser.parse_args(arguments)
    clean_up_when_terminated()
    with_isthmus, tls = not options.direct_only, not options.no_tls
    results = {}
    try:
        require(ECHOSCU)
        load_before = load()
        results["loopback"] = measure(
            options.count, bridge=HERE, sending=HERE, receiving=HERE, with_isthmus=with_isthmus, tls=tls
        )
        _tell("loopback", load_before, results["loopback"])
        if options.wan:
            leg = Leg(options.delay_ms / 1e3)
            where = f"{options.delay_ms * 4:g} ms round trip"
            with wan(leg, leg) as network:
                load_before = load()
                results[where] = measure(
                    options.count,
                    bridge=network.cloud,
                    sending=network.site_a,
                    receiving=network.site_b,
                    with_isthmus=with_isthmus,
                    tls=tls,
                )
            _tell(where, load_before, results[where])
    except BenchFailed as failure:
        print(f"bench.latency: {failure}", file=sys.stderr)
        return 1
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "seconds": results}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
