"""`python -m bench.ingest`: how soon a sender is rid of 400 CT images: Orthanc against a Router that queues them.

On loopback, storescu and storescp with TCP_NODELAY=1, both with their storage on the same disk, durable: each answer
to a C-STORE comes after the object was fsynced. Needs root, for `bench.witness`, which says when all was delivered.
"""

import argparse
import contextlib
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from bench import images, isthmus_network, orthanc
from bench.devices import STORESCP, STORESCU, Door, Nagle, Sent, receiver, send
from bench.images import Load
from bench.machine import BenchFailed, Started, clean_up_when_terminated, require
from bench.report import Row, machine, print_table, say, write_json
from bench.witness import witnessed

_TITLE = "BENCH_FAR"
_PATIENCE_SECONDS = 300.0
_REST_SECONDS = 3.0
Store = Callable[[], Sent]


def _rest(taker: Started) -> None:
    """Wait: what one taker does once nothing comes shall be no burden of the next one."""
    if taker.ended_within(_REST_SECONDS):
        raise BenchFailed(f"{taker.name} ended:\n{taker.said()}")


@contextlib.contextmanager
def _orthanc(what: Load) -> Iterator[dict[str, Store]]:
    with orthanc.archive() as archive:

        def store() -> Sent:
            archive.clear()
            _rest(archive.process)
            return send(what, archive.door, Nagle.OFF, [archive.process])

        yield {"Orthanc": store}


@contextlib.contextmanager
def _router(what: Load) -> Iterator[dict[str, Store]]:
    """Yield two ways: the Bridge stands still meanwhile, so that nothing leaves; and all is delivered meanwhile."""
    with (
        receiver(_TITLE, Nagle.OFF, fork=True) as far,
        isthmus_network.open_network([far.door]) as relay,
    ):
        isthmus_network.queue_for(relay, [far.door])
        door = Door(*relay.door, far.door.called)
        bridge = relay.bridge.process

        def store_only() -> Sent:
            _rest(relay.sending.process)
            with witnessed(far.door.port, what.objects, within=_PATIENCE_SECONDS):
                bridge.process.send_signal(signal.SIGSTOP)
                try:
                    return send(what, door, Nagle.OFF, [relay.sending.process])
                finally:
                    bridge.process.send_signal(signal.SIGCONT)

        def store_and_deliver() -> Sent:
            _rest(relay.sending.process)
            with witnessed(far.door.port, what.objects, within=_PATIENCE_SECONDS):
                return send(what, door, Nagle.OFF, [*relay.processes, far.process])

        yield {"Router, nothing leaves": store_only, "Router, delivering too": store_and_deliver}


_TAKERS = {"orthanc": _orthanc, "router": _router}


def measure(takers: Sequence[str], what: Load, rounds: int) -> list[Row]:
    """Store the load with each taker in turn, `rounds` times; return a row for each way."""
    images.warm(what)
    with contextlib.ExitStack() as stack:
        ways: dict[str, Store] = {}
        for name in takers:
            ways |= stack.enter_context(_TAKERS[name](what))
        measured: dict[str, list[Sent]] = {name: [] for name in ways}
        for number in range(1, rounds + 1):
            for name, store in ways.items():
                last = store()
                measured[name].append(last)
                say(
                    f"round {number}/{rounds}  {name}: {last.megabytes_per_second:.1f} MB/s, {last.seconds:.2f} s, "
                    f"idle {last.idle_share:.0%}, load {last.load_before:.2f}"
                )
        return [Row(what.name, Nagle.OFF.value, name, tuple(rounds_of)) for name, rounds_of in measured.items()]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark from the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.ingest", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=400, help="how many CT images make a load (default 400)")
    parser.add_argument("--only", choices=list(_TAKERS), help="one of the two")
    parser.add_argument("--json", type=Path, help="also write every round to this file")
    options = parser.parse_args(arguments)
    clean_up_when_terminated()
    try:
        require(STORESCU, STORESCP)
        takers = [options.only] if options.only else list(_TAKERS)
        rows = measure(takers, images.ct_images(options.images), options.rounds)
    except BenchFailed as failure:
        print(f"bench.ingest: {failure}", file=sys.stderr)
        return 1
    say("\n" + "\n".join(f"{name}: {value}" for name, value in machine().items()) + "\n")
    print_table(rows)
    orthanc_row = next((row for row in rows if row.road == "Orthanc"), None)
    for row in rows:
        if orthanc_row is not None and row is not orthanc_row:
            say(f"{row.road}: {row.speed / orthanc_row.speed:.2f} x Orthanc")
    if options.json:
        write_json(options.json, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
