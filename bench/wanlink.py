"""An emulated wide-area network: two sites that reach each other only through a cloud, over legs with a delay.

Three network namespaces, joined by TUN devices that `bench.carrier` connects. `python -m bench.wanlink` builds one
and measures it with iperf3. Needs root.
"""

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.carrier import COMPILER, READY
from bench.machine import (
    BenchFailed,
    Place,
    Started,
    clean_up_when_terminated,
    load,
    require,
    running,
    until,
    wait_listening,
)
from bench.report import say
from isthmus.testing.free_ports import free_port

IP = "/usr/sbin/ip"
IPERF = "/usr/bin/iperf3"

# Addresses set aside for documentation (RFC 5737): they can be nobody's
_CLOUD = "192.0.2.1"
_SITES = {"siteA": "198.51.100.1", "siteB": "203.0.113.1"}


@dataclass(frozen=True)
class Leg:
    """The line between one site and the cloud."""

    delay: float = 0.0125
    """Seconds in each direction: with two legs the devices are 50 ms of round trip apart."""
    bits_per_second: float | None = None
    queue_bytes: int = 1_000_000


@dataclass(frozen=True)
class Wan:
    """A running emulated network."""

    site_a: Place
    cloud: Place
    site_b: Place
    carrier: Started
    cloud_space: str
    """The cloud's network namespace."""
    far_space: str
    """That of siteB."""


@contextlib.contextmanager
def wan(leg_a: Leg = Leg(), leg_b: Leg = Leg(), *, congestion: str | None = None, trains: bool = True) -> Iterator[Wan]:
    """Build the network for the length of a block.

    Args:
        leg_a: the line of siteA.
        leg_b: the line of siteB.
        congestion: TCP's congestion control in all three places; the kernel's own where None.
        trains: whether up to 64 KiB of TCP segments travel, and are dropped, as one. It leaves the processor to what
            is measured; without it each packet of 1500 bytes is on its own, and the carrier needs a core for 70 MB/s.

    Raises:
        BenchFailed: not root, or the kernel has no network namespaces or TUN devices.
    """
    require(IP, COMPILER, "/dev/net/tun")
    if os.geteuid() != 0:
        raise BenchFailed("an emulated link needs root: network namespaces and TUN devices")
    tag = f"isthmus-{os.getpid()}"
    addresses = {"cloud": _CLOUD, **_SITES}
    with contextlib.ExitStack() as stack:
        places = {name: stack.enter_context(_namespace(f"{tag}-{name}", addresses, name)) for name in addresses}
        cloud = f"{tag}-cloud"
        legs = []
        for (site, address), leg in zip(_SITES.items(), (leg_a, leg_b), strict=True):
            space = f"{tag}-{site}"
            _add_tun(space, "wan", address, _CLOUD)
            _add_tun(cloud, site, _CLOUD, address)
            _ip("-n", space, "route", "add", "default", "dev", "wan")
            legs.append(
                {
                    "ends": [[space, "wan"], [cloud, site]],
                    "delay": leg.delay,
                    "bytes_per_second": leg.bits_per_second and leg.bits_per_second / 8,
                    "queue_bytes": leg.queue_bytes,
                }
            )
        _sysctl(cloud, "net/ipv4/ip_forward", "1")
        if congestion:
            for name in addresses:
                _sysctl(f"{tag}-{name}", "net/ipv4/tcp_congestion_control", congestion)
        command = [sys.executable, "-m", "bench.carrier", *(["--trains"] if trains else []), json.dumps(legs)]
        carrier = stack.enter_context(running("carrier", command))
        until(lambda: True if READY in carrier.said() else None, "carrier at work", carrier)
        yield Wan(places["siteA"], places["cloud"], places["siteB"], carrier, cloud, f"{tag}-siteB")


def carried_bytes(network: Wan) -> tuple[int, int]:
    """Return what came out of siteA's leg in the cloud, and out of the cloud's in siteB, so far: bytes of packets."""
    counts = []
    for space, device in ((network.cloud_space, "siteA"), (network.far_space, "wan")):
        show = [IP, "-n", space, "-s", "-j", "link", "show", "dev", device]
        done = subprocess.run(show, capture_output=True, text=True, check=True)
        counts.append(int(json.loads(done.stdout)[0]["stats64"]["rx"]["bytes"]))
    return counts[0], counts[1]


@contextlib.contextmanager
def _namespace(space: str, addresses: dict[str, str], own: str) -> Iterator[Place]:
    """Make a namespace with a hosts file of its own: DICOM tools look names up, and would wait for a resolver."""
    hosts = Path("/etc/netns") / space
    hosts.mkdir(parents=True)
    try:
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in addresses.items())]
        (hosts / "hosts").write_text("\n".join(lines) + "\n")
        _ip("netns", "add", space)
        try:
            _ip("-n", space, "link", "set", "lo", "up")
            yield Place(addresses[own], (IP, "netns", "exec", space))
        finally:
            _ip("netns", "delete", space)
    finally:
        shutil.rmtree(hosts)
        with contextlib.suppress(OSError):  # somebody else's namespaces keep it
            hosts.parent.rmdir()


def _add_tun(space: str, device: str, address: str, far: str) -> None:
    _ip("-n", space, "tuntap", "add", "dev", device, "mode", "tun")
    _ip("-n", space, "address", "add", address, "peer", far, "dev", device)
    # The queue that drops is the carrier's; the device's own only bridges the moments when the carrier has no core
    _ip("-n", space, "link", "set", device, "mtu", "1500", "txqueuelen", "10000", "up")


def _ip(*arguments: str) -> None:
    done = subprocess.run([IP, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise BenchFailed(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _sysctl(space: str, name: str, value: str) -> None:
    script = 'printf %s "$2" > "/proc/sys/$1"'
    done = subprocess.run(
        [IP, "netns", "exec", space, "/bin/sh", "-c", script, "sh", name, value],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise BenchFailed(
            f"the kernel refuses {name} = {value} in a namespace (for TCP: see tcp_allowed_congestion_control)"
        )


def iperf(source: Place, sink: Place, streams: int, seconds: int) -> dict[str, Any]:
    """Measure TCP throughput from one place to another; return iperf3's own report."""
    port = free_port()
    listen = [*sink.prefix, IPERF, "-s", "-1", "-B", sink.address, "-p", str(port)]
    with running("iperf3", listen) as listener:
        wait_listening(listener, port)
        send = [*source.prefix, IPERF, "-c", sink.address, "-p", str(port), "-P", str(streams), "-t", str(seconds)]
        done = subprocess.run([*send, "-J"], capture_output=True, text=True, check=False, timeout=seconds + 60)
        report: dict[str, Any] = json.loads(done.stdout)
        if "error" in report:
            raise BenchFailed(f"iperf3: {report['error']}")
        return report


def main(arguments: Sequence[str] | None = None) -> int:
    """Build a network, measure it, say what it gives; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.wanlink", description=__doc__)
    parser.add_argument("--delay-ms", type=float, default=12.5, help="one way, each leg (default 12.5)")
    parser.add_argument("--rate-mbit", type=float, help="limit of each leg in each direction (default none)")
    parser.add_argument("--queue-kb", type=float, default=1000, help="drop-tail queue of each wire (default 1000)")
    parser.add_argument("--congestion", help="TCP congestion control in all three places (default: the kernel's)")
    parser.add_argument("--single-packets", action="store_true", help="no trains of segments: each packet on its own")
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=10)
    options = parser.parse_args(arguments)
    clean_up_when_terminated()
    leg = Leg(options.delay_ms / 1e3, options.rate_mbit and options.rate_mbit * 1e6, int(options.queue_kb * 1e3))
    try:
        if not Path(IPERF).exists():
            subprocess.run([str(Path(__file__).parents[1] / "scripts" / "apt-install"), "iperf3"], check=True)
        with wan(leg, leg, congestion=options.congestion, trains=not options.single_packets) as network:
            for streams in dict.fromkeys((1, options.streams)):
                before, load_before = network.carrier.cpu_seconds(), load()
                report = iperf(network.site_a, network.site_b, streams, options.seconds)
                end = report["end"]
                busy = (network.carrier.cpu_seconds() - before) / end["sum_sent"]["seconds"]
                least = min(stream["sender"]["min_rtt"] for stream in end["streams"]) / 1e3
                say(
                    f"{streams} stream(s) siteA to siteB: {end['sum_received']['bits_per_second'] / 8e6:.1f} MB/s, "
                    f"{end['sum_sent']['retransmits']} retransmitted, least round trip {least:.1f} ms, "
                    f"{end['sender_tcp_congestion']}, carrier {busy:.0%} of a core, load before {load_before:.2f}"
                )
    except (BenchFailed, subprocess.CalledProcessError) as failure:
        print(f"bench.wanlink: {failure}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
