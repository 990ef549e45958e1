"""`python -m bench.memory`: what a huge object and many idle associations cost Routers and Bridge in memory.

Goals: one object of 4 GB adds at most 64 MiB to each part's peak, 128 where it is queued; an idle association at most
100 kB.
"""

import argparse
import contextlib
import json
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from bench import images
from bench.devices import CALLING, Door, Nagle, check_arrival, receiver, send
from bench.isthmus_network import open_network, queue_for
from bench.machine import BenchFailed, Started, clean_up_when_terminated, load
from bench.report import machine, say
from bench.witness import witnessed

_VERIFICATION = "1.2.840.10008.1.1"
_IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
_APPLICATION_CONTEXT = "1.2.840.10008.3.1.1.1"
_A_ASSOCIATE_AC = 0x02
_PATIENCE_SECONDS = 60.0
_DELIVERY_SECONDS = 1800.0


def association_request(calling: str, called: str) -> bytes:
    """Return an A-ASSOCIATE-RQ PDU that proposes Verification alone (PS3.8 9.3.2)."""
    context = b"\x01\x00\x00\x00" + _item(0x30, _VERIFICATION) + _item(0x40, _IMPLICIT_LITTLE_ENDIAN)
    user = _item(0x51, struct.pack(">I", 16_384)) + _item(0x52, "2.25.1")
    items = _item(0x10, _APPLICATION_CONTEXT) + _item(0x20, context) + _item(0x50, user)
    fields = struct.pack(">H2x16s16s32x", 1, called.ljust(16).encode(), calling.ljust(16).encode())
    return struct.pack(">BxI", 1, len(fields) + len(items)) + fields + items


def _item(kind: int, value: bytes | str) -> bytes:
    body = value.encode() if isinstance(value, str) else value
    return struct.pack(">BxH", kind, len(body)) + body


@contextlib.contextmanager
def idle_associations(door: Door, count: int) -> Iterator[None]:
    """Keep `count` accepted associations open and silent.

    Raises:
        BenchFailed: one was not accepted.
    """
    with contextlib.ExitStack() as stack:
        for number in range(1, count + 1):
            line = stack.enter_context(socket.create_connection((door.host, door.port), _PATIENCE_SECONDS))
            line.sendall(association_request(CALLING, door.called))
            answer = line.recv(1, socket.MSG_WAITALL)
            if answer != bytes([_A_ASSOCIATE_AC]):
                raise BenchFailed(f"association {number} of {count} got a PDU of type {answer.hex() or 'none'}")
        yield


def huge_object(parts: Sequence[Started], door: Door, archive: Door | None) -> dict[str, int]:
    """Send one object of 4 GB and return the growth of each part's peak, in bytes; queued: until `archive` has it."""
    what = images.huge_object()
    before = {}
    for part in parts:
        part.forget_peak()
        before[part.name] = part.memory_bytes()
    began = time.monotonic()
    watching = contextlib.nullcontext() if archive is None else witnessed(archive.port, 1, within=_DELIVERY_SECONDS)
    with watching as testimony:
        sent = send(what, door, Nagle.OFF, parts)
    say(f"{what.size / 1e9:.2f} GB in {sent.seconds:.1f} s, {sent.megabytes_per_second:.0f} MB/s")
    if testimony is not None:
        say(f"with its archive after {testimony.at - began:.1f} s, {what.size / 1e6 / (testimony.at - began):.0f} MB/s")
    return {part.name: part.peak_memory_bytes() - before[part.name] for part in parts}


def idle(parts: Sequence[Started], door: Door, count: int) -> dict[str, float]:
    """Open `count` associations and return the growth of each part, in bytes for one association."""
    with idle_associations(door, 10):
        before = {part.name: part.memory_bytes() for part in parts}
    with idle_associations(door, count):
        return {part.name: (part.memory_bytes() - before[part.name]) / count for part in parts}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark from the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--associations", type=int, default=200, help="how many idle associations (default 200)")
    parser.add_argument("--without-object", action="store_true", help="leave out the object of 4 GB")
    parser.add_argument("--keep", action="store_true", help="keep the object of 4 GB for the next run")
    parser.add_argument("--queued", action="store_true", help="queue the object of 4 GB (root)")
    parser.add_argument("--no-tls", action="store_true", help="a Bridge behind http://")
    parser.add_argument("--direct", action="store_true", help="without Isthmus: only checks the devices")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    clean_up_when_terminated()
    figures: dict[str, dict[str, float]] = {}
    try:
        with contextlib.ExitStack() as stack:
            store = stack.enter_context(receiver("BENCH_STORE", Nagle.OFF, to_file=True))
            echo = stack.enter_context(receiver("BENCH_IDLE", Nagle.OFF, fork=True))
            doors = {"store": store.door, "idle": echo.door}
            parts: tuple[Started, ...] = ()
            if not options.direct:
                network = stack.enter_context(open_network([store.door, echo.door], tls=not options.no_tls))
                parts = network.processes
                if options.queued:
                    queue_for(network, [store.door])
                doors = {name: Door(*network.door, door.called) for name, door in doors.items()}
            check_arrival(images.ct_images(3), doors["store"])
            say(f"load before: {load():.2f}")
            figures["bytes_per_idle_association"] = idle(parts, doors["idle"], options.associations)
            for name, growth in figures["bytes_per_idle_association"].items():
                say(f"{name}: {growth / 1e3:.1f} kB for each of {options.associations} idle associations")
            if not options.without_object:
                say("making an object of 4 GB")
                stack.callback(lambda: None if options.keep else images.discard(images.huge_object()))
                figures["peak_growth_bytes"] = dict(
                    huge_object(parts, doors["store"], store.door if options.queued else None)
                )
                for name, growth in figures["peak_growth_bytes"].items():
                    say(f"{name}: peak grew by {growth / 2**20:.1f} MiB")
    except BenchFailed as failure:
        print(f"bench.memory: {failure}", file=sys.stderr)
        return 1
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), **figures}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
