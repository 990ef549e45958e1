"""`python -m bench.wan`: 400 CT images from site to site over an emulated link, by every road, in one run. Needs root.

siteA - cloud - siteB, as `bench.wanlink` makes them. The time of a DICOM road runs from the sender's start until the
far archive's last C-STORE response leaves it, which `bench.witness` sees on the wire. The rounds are interleaved.
"""

import argparse
import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench import images, isthmus_network, orthanc
from bench.devices import STORESCP, STORESCU, Door, Nagle, Receiver, Sent, receiver, send
from bench.images import Load
from bench.machine import BenchFailed, IdleMeter, Started, clean_up_when_terminated, load, require
from bench.report import Row, machine, print_table, say, write_json
from bench.tunnels import stunnel_pair
from bench.wanlink import IPERF, Leg, Wan, carried_bytes, iperf, wan
from bench.witness import witnessed

_PATIENCE_SECONDS = 900.0
_FULL_LINK = 0.9
_TITLE = "BENCH_FAR"


@dataclass(frozen=True)
class Crossing(Sent):
    """One load carried from site to site."""

    link_share: float | None = None
    """The fuller of the two legs: what it carried, of what its rate allows in that time."""
    sender_seconds: float | None = None
    """When the sending device was done."""


@dataclass(frozen=True)
class WanRow(Row):
    """All rounds of one road."""

    def full(self) -> str:
        """Say which resource was used up."""
        shares = [sent.link_share for sent in self.rounds if isinstance(sent, Crossing) and sent.link_share is not None]
        share = statistics.median(shares) if shares else 0.0
        return f"link ({share:.0%})" if share >= _FULL_LINK else f"{super().full()}, link {share:.0%}"


@dataclass(frozen=True)
class Site:
    """What every road is given."""

    network: Wan
    archive: Receiver
    series: Load
    big: Load
    rate: float
    """Bits a second of each leg; 0 where it has no limit."""
    seconds: int
    orthanc_plugin: Path | None


Cross = Callable[[], Crossing]
OpenRoad = Callable[[Site], AbstractContextManager[Cross]]


@contextlib.contextmanager
def _iperf(site: Site) -> Iterator[Cross]:
    """TCP alone, with eight streams: what the two legs carry."""
    network = site.network

    def cross() -> Crossing:
        meter = _Meter(site, [network.carrier])
        end = iperf(network.site_a, network.site_b, 8, site.seconds)["end"]["sum_received"]
        return meter.crossing(int(end["bytes"]), float(end["seconds"]))

    yield cross


@contextlib.contextmanager
def _direct(site: Site, what: Load) -> Iterator[Cross]:
    """The sender connects to the archive itself."""
    yield partial(_send, site, what, site.archive.door, ())


@contextlib.contextmanager
def _stunnel(site: Site) -> Iterator[Cross]:
    """A stunnel at each site."""
    doors = {Nagle.OFF: site.archive.door}
    with stunnel_pair(doors, sending=site.network.site_a, receiving=site.network.site_b) as road:
        yield partial(_send, site, site.series, road.doors[Nagle.OFF], road.processes)


@contextlib.contextmanager
def _isthmus(site: Site, mode: str, what: Load, *, tls: bool = True) -> Iterator[Cross]:
    """Two Routers, and a Bridge in the cloud."""
    network, door = site.network, site.archive.door
    with isthmus_network.open_network(
        [door], tls=tls, bridge=network.cloud, sending=network.site_a, receiving=network.site_b
    ) as relay:
        if mode == "queued":
            isthmus_network.queue_for(relay, [door])
        yield partial(_send, site, what, Door(*relay.door, door.called), relay.processes)


@contextlib.contextmanager
def _orthanc_transfers(site: Site) -> Iterator[Cross]:
    """Two Orthancs with the transfers accelerator, which are sender and archive themselves.

    The images are in the sending one when the time begins; it ends when the transfer's job has succeeded.
    """
    if site.orthanc_plugin is None:
        raise BenchFailed("--orthanc-transfers FILE names the plugin, which Debian does not package")
    network = site.network
    with orthanc.pair(network.site_a, network.site_b, site.orthanc_plugin) as (near, far):
        near.take(site.series)

        def cross() -> Crossing:
            far.clear()
            meter = _Meter(site, [near.process, far.process, network.carrier])
            return meter.crossing(site.series.size, near.transfer_all())

        yield cross


ROADS: dict[str, OpenRoad] = {
    "iperf3": _iperf,
    "direct": lambda site: _direct(site, site.series),
    "stunnel": _stunnel,
    "direct-big": lambda site: _direct(site, site.big),
    "orthanc": _orthanc_transfers,
    "isthmus": lambda site: _isthmus(site, "queued", site.series),
    "isthmus-big": lambda site: _isthmus(site, "queued", site.big),
    "isthmus-plain": lambda site: _isthmus(site, "queued", site.series, tls=False),
    "isthmus-live": lambda site: _isthmus(site, "live", site.series),
}
_LABELS = {
    "iperf3": ("8 TCP streams", "iperf3"),
    "direct": ("CT images", "direct"),
    "stunnel": ("CT images", "stunnel pair"),
    "direct-big": ("one of 260 MB", "direct"),
    "orthanc": ("CT images", "Orthanc transfers"),
    "isthmus": ("CT images", "Isthmus queued"),
    "isthmus-big": ("one of 260 MB", "Isthmus queued"),
    "isthmus-plain": ("CT images", "Isthmus queued, no TLS to Bridge"),
    "isthmus-live": ("CT images", "Isthmus live"),
}
_USUAL = ("iperf3", "direct", "stunnel", "direct-big", "isthmus")


@dataclass
class _Meter:
    """What is spent between its making and the end of a crossing."""

    site: Site
    others: Sequence[Started]
    _before: list[float] = field(init=False)
    _carried: tuple[int, int] = field(init=False)
    _idle: IdleMeter = field(init=False)
    _load: float = field(init=False)

    def __post_init__(self) -> None:
        self._load = load()
        self._before = [other.cpu_seconds() for other in self.others]
        self._carried = carried_bytes(self.site.network)
        self._idle = IdleMeter()

    def crossing(
        self, size: int, seconds: float, cpu: dict[str, float] | None = None, sender_seconds: float | None = None
    ) -> Crossing:
        """Return what was measured; `cpu` is what processes spent that ended meanwhile."""
        idle = self._idle.share()
        spent = dict(cpu or {})
        for other, earlier in zip(self.others, self._before, strict=True):
            spent[other.name] = spent.get(other.name, 0.0) + other.cpu_seconds() - earlier
        legs = [after - before for after, before in zip(carried_bytes(self.site.network), self._carried, strict=True)]
        share = max(legs) * 8 / seconds / self.site.rate if self.site.rate else None
        return Crossing(
            seconds=seconds,
            size=size,
            cpu_seconds=spent,
            idle_share=idle,
            load_before=self._load,
            link_share=share,
            sender_seconds=sender_seconds,
        )


def _send(site: Site, what: Load, door: Door, others: Sequence[Started]) -> Crossing:
    """Send a load from siteA and wait until the archive has answered for all of it."""
    network, archive = site.network, site.archive
    with witnessed(archive.door.port, what.objects, place=network.site_b, within=_PATIENCE_SECONDS) as testimony:
        meter = _Meter(site, [archive.process, *others, network.carrier])
        began = time.monotonic()
        sent = send(what, door, Nagle.OFF, [], place=network.site_a)
    return meter.crossing(what.size, testimony.at - began, sent.cpu_seconds, sent.seconds)


def measure(options: argparse.Namespace) -> list[Row]:
    """Build the network, open the roads, run the rounds; return a row for each road."""
    rate = options.rate * 1e6
    leg = Leg(options.rtt / 2e3, rate or None, int(options.queue_kb * 1e3))
    series, big = images.ct_images(options.images), images.multi_frame_objects(1)
    for each in (series, big):
        images.warm(each)
    names = options.road or list(_USUAL)
    with contextlib.ExitStack() as stack:
        network = stack.enter_context(wan(leg, leg, congestion=options.congestion))
        archive = stack.enter_context(receiver(_TITLE, Nagle.OFF, place=network.site_b, fork=True))
        site = Site(network, archive, series, big, rate, options.seconds, options.orthanc_transfers)
        crosses = {name: stack.enter_context(ROADS[name](site)) for name in names}
        measured: dict[str, list[Sent]] = {name: [] for name in names}
        for number in range(1, options.rounds + 1):
            for name, cross in crosses.items():
                last = cross()
                measured[name].append(last)
                done = "" if last.sender_seconds is None else f", sender done after {last.sender_seconds:.2f} s"
                say(
                    f"round {number}/{options.rounds}  {name}: {last.megabytes_per_second:.1f} MB/s, "
                    f"{last.seconds:.2f} s{done}, idle {last.idle_share:.0%}, load {last.load_before:.2f}"
                )
        devices = Nagle.OFF.value
        return [WanRow(_LABELS[name][0], devices, _LABELS[name][1], tuple(measured[name])) for name in names]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark from the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.wan", description=__doc__)
    parser.add_argument("--rtt", type=float, default=25.0, help="round trip of each leg in ms (default 25)")
    parser.add_argument("--rate", type=float, default=500.0, help="Mbit/s of each leg, 0 for no limit (default 500)")
    parser.add_argument("--queue-kb", type=float, default=1000, help="drop-tail queue of each wire (default 1000)")
    parser.add_argument("--congestion", help="TCP congestion control in all three places (default: the kernel's)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=400, help="how many CT images make a load (default 400)")
    parser.add_argument("--seconds", type=int, default=8, help="of iperf3 in each round (default 8)")
    parser.add_argument(
        "--road", action="append", choices=list(ROADS), help=f"may be repeated (default {', '.join(_USUAL)})"
    )
    parser.add_argument("--orthanc-transfers", type=Path, help="libOrthancTransfers.so, for the road orthanc")
    parser.add_argument("--json", type=Path, help="also write every round to this file")
    options = parser.parse_args(arguments)
    clean_up_when_terminated()
    try:
        require(STORESCU, STORESCP, IPERF)
        rows = measure(options)
    except BenchFailed as failure:
        print(f"bench.wan: {failure}", file=sys.stderr)
        return 1
    say("\n" + "\n".join(f"{name}: {value}" for name, value in machine().items()))
    say(f"each leg: {options.rtt:g} ms round trip, {options.rate:g} Mbit/s, queue {options.queue_kb:g} kB\n")
    print_table(rows)
    by_name = {row.road: row.speed for row in rows if row.load in ("CT images", "8 TCP streams")}
    if "iperf3" in by_name:
        for name, speed in by_name.items():
            say(f"{name}: {speed / by_name['iperf3']:.0%} of iperf3")
    if options.json:
        write_json(options.json, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
