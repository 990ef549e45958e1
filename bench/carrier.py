"""`python -m bench.carrier`: moves packets between TUN devices, late, at a rate, and not all of them.

Linux's netem would do this, where the kernel has it. Real TCP of the kernel runs through; only the wire is made up.
"""

import argparse
import ctypes
import fcntl
import json
import os
import select
import struct
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

READY = "carrying"
# The header of linux/virtio_net.h before each packet, and the longest packet; one read gives one packet
_VNET_BYTES = 10
_PACKET_BYTES = _VNET_BYTES + 65_536
_HEADER_AND_SEGMENT_LENGTH = struct.Struct("=2xHH")
# Read so many packets before looking at the clock again
_BATCH = 64
# linux/if_tun.h
_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4 = 0x01, 0x02


@dataclass
class Wire:
    """One direction of a link: a drop-tail queue, a rate, then a delay."""

    source: int
    sink: int
    delay: float
    """Seconds from the end of the queue to the other side."""
    bytes_per_second: float | None
    queue_bytes: int
    """What may wait for the wire; a packet beyond is dropped. Only with a rate."""
    flying: deque[tuple[float, bytes]] = field(default_factory=deque)
    free_at: float = 0.0
    carried: int = 0
    dropped: int = 0

    def take(self, now: float) -> None:
        """Read what waits at the source and date its arrival."""
        for _ in range(_BATCH):
            try:
                packet = os.read(self.source, _PACKET_BYTES)
            except BlockingIOError:
                return
            due = now + self.delay
            if self.bytes_per_second is not None:
                start = max(self.free_at, now)
                if (start - now) * self.bytes_per_second > self.queue_bytes:
                    self.dropped += 1
                    continue
                self.free_at = start + _wire_bytes(packet) / self.bytes_per_second
                due = self.free_at + self.delay
            self.flying.append((due, packet))

    def deliver(self, now: float) -> None:
        """Write every packet whose time has come."""
        flying = self.flying
        while flying and flying[0][0] <= now:
            try:
                os.write(self.sink, flying.popleft()[1])
                self.carried += 1
            except OSError:  # the device is down, or its namespace is going away
                self.dropped += 1


def _wire_bytes(packet: bytes) -> int:
    """Return the length on the wire: a train of TCP segments, which the kernel hands over as one, has a header each."""
    length = len(packet) - _VNET_BYTES
    header: int
    segment: int
    header, segment = _HEADER_AND_SEGMENT_LENGTH.unpack_from(packet)
    if segment == 0:
        return length
    return length + ((length - header - 1) // segment) * header


def carry(wires: Sequence[Wire]) -> None:
    """Move packets for as long as the process lives."""
    by_source = {wire.source: wire for wire in wires}
    sources = list(by_source)
    while True:
        now = time.monotonic()
        for wire in wires:
            wire.deliver(now)
        due = [wire.flying[0][0] for wire in wires if wire.flying]
        # select, not epoll: its timeout is not rounded up to milliseconds
        wait = max(min(due) - time.monotonic(), 0.0) if due else None
        for source in select.select(sources, [], [], wait)[0]:
            by_source[source].take(time.monotonic())


def _open_tun(namespace: str, device: str, *, trains: bool) -> int:
    """Open a TUN device that exists in a named network namespace."""
    with Path(f"/run/netns/{namespace}").open("rb") as handle:
        if ctypes.CDLL(None, use_errno=True).setns(handle.fileno(), 0):
            code = ctypes.get_errno()
            raise OSError(code, f"cannot enter {namespace}: {os.strerror(code)}")
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    flags = _IFF_TUN | _IFF_NO_PI | _IFF_VNET_HDR
    fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", device.encode(), flags))
    if trains:
        fcntl.ioctl(descriptor, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4)
    return descriptor


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry between the devices that the argument names; return only when ended."""
    parser = argparse.ArgumentParser(prog="python -m bench.carrier", description=__doc__)
    parser.add_argument("--trains", action="store_true", help="let the kernel hand over trains of segments as one")
    parser.add_argument("legs", help="JSON: [{ends: [[namespace, device], ...], delay, bytes_per_second, queue_bytes}]")
    options = parser.parse_args(arguments)
    wires = []
    for leg in json.loads(options.legs):
        near, far = (_open_tun(*end, trains=options.trains) for end in leg["ends"])
        for source, sink in ((near, far), (far, near)):
            wires.append(Wire(source, sink, leg["delay"], leg["bytes_per_second"], leg["queue_bytes"]))
    print(READY, flush=True)
    carry(wires)
    return 0


if __name__ == "__main__":
    sys.exit(main())
