"""`python -m bench.live`: direct, stunnel, SSH and Isthmus side by side in one run.

The rounds are interleaved, so that whatever else the machine does falls on all roads alike.
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import images, isthmus_network
from bench.devices import STORESCP, STORESCU, Door, Nagle, Receiver, Sent, check_arrival, receiver, send
from bench.images import Load
from bench.machine import BenchFailed, clean_up_when_terminated, require
from bench.report import Row, machine, print_table, say, write_json
from bench.tunnels import OpenRoad, Road, direct, ssh_tunnel, stunnel_pair

ROADS: dict[str, OpenRoad] = {
    "direct": direct,
    "stunnel": stunnel_pair,
    "ssh": ssh_tunnel,
    "isthmus": isthmus_network.encrypted_road,
    "isthmus-plain": isthmus_network.plain_road,
}


@dataclass(frozen=True)
class Devices:
    """A pair of DCMTK devices, by how each treats its socket."""

    name: str
    sender: Nagle
    receiver: Nagle


BOTH_QUICK = Devices("both TCP_NODELAY=1", Nagle.OFF, Nagle.OFF)
SENDER_SHIPPED = Devices("sender as shipped", Nagle.SHIPPED, Nagle.OFF)
BOTH_SHIPPED = Devices("both as shipped", Nagle.SHIPPED, Nagle.SHIPPED)


@dataclass
class Lane:
    """One combination that is measured once in every round."""

    load: Load
    devices: Devices
    road: Road
    scp: Receiver
    measured: list[Sent] = field(default_factory=list)

    def run(self) -> None:
        """Send once and keep what it took."""
        door = self.road.doors[self.devices.receiver]
        self.measured.append(send(self.load, door, self.devices.sender, [self.scp.process, *self.road.processes]))

    def row(self) -> Row:
        """Return the line for the table."""
        return Row(self.load.name, self.devices.name, self.road.name, tuple(self.measured))


def measure(roads: Sequence[OpenRoad], pairs: Sequence[tuple[Load, Devices]], rounds: int) -> list[Row]:
    """Measure each pair of load and devices over each road, `rounds` times, interleaved."""
    with contextlib.ExitStack() as stack:
        receivers = {nagle: stack.enter_context(receiver(f"BENCH_{nagle.name}", nagle)) for nagle in Nagle}
        doors: dict[Nagle, Door] = {nagle: scp.door for nagle, scp in receivers.items()}
        opened = [stack.enter_context(road(doors)) for road in roads]
        few = images.ct_images(3)
        for road in opened:
            for door in road.doors.values():
                check_arrival(few, door)
            say(f"{road.name}: open, objects arrive")
        lanes = [
            Lane(load, devices, road, receivers[devices.receiver])
            for load, devices in pairs
            for road in opened
        ]  # fmt: skip
        for number in range(1, rounds + 1):
            for lane in lanes:
                lane.run()
                row, last = lane.row(), lane.measured[-1]
                say(
                    f"round {number}/{rounds}  {row.load}, {row.devices}, {row.road}: {last.megabytes_per_second:.1f} "
                    f"MB/s, {last.seconds:.2f} s, idle {last.idle_share:.0%}, load {last.load_before:.2f}"
                )
        return [lane.row() for lane in lanes]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark from the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.live", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each combination is measured (default 5)")
    parser.add_argument("--images", type=int, default=400, help="how many CT images make a load (default 400)")
    parser.add_argument("--road", action="append", choices=list(ROADS), help="only this road; may be repeated")
    parser.add_argument("--quick", action="store_true", help="only devices with TCP_NODELAY=1 (the others take long)")
    parser.add_argument("--json", type=Path, help="also write every round to this file")
    options = parser.parse_args(arguments)
    clean_up_when_terminated()
    try:
        require(STORESCU, STORESCP)
        say("making synthetic objects")
        series, big = images.ct_images(options.images), images.multi_frame_objects(2)
        for load in (series, big):
            images.warm(load)
        pairs = [(series, BOTH_QUICK), (big, BOTH_QUICK)]
        if not options.quick:
            pairs += [(series, SENDER_SHIPPED), (series, BOTH_SHIPPED), (big, BOTH_SHIPPED)]
        rows = measure([ROADS[name] for name in options.road or ROADS], pairs, options.rounds)
    except BenchFailed as failure:
        print(f"bench.live: {failure}", file=sys.stderr)
        return 1
    say("\n" + "\n".join(f"{name}: {value}" for name, value in machine().items()) + "\n")
    print_table(rows)
    if options.json:
        write_json(options.json, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
