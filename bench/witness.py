"""`python -m bench.witness PORT COUNT`: says when an archive's last C-STORE response left it.

Started in the archive's network namespace (root). It reads copies of what the archive sends from that port, which are
only its answers, and stands in nobody's way. Times are the kernel's, of the packet that completes the response.
"""

import argparse
import contextlib
import ctypes
import json
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from bench.machine import HERE, BenchFailed, Place, running, until

READY = "watching"
_ETH_P_ALL = 3
_SO_ATTACH_FILTER, _SO_TIMESTAMPNS = 26, 35
_TCP_SYN = 0x02
_TIMESPEC = struct.Struct("=qq")
_PDU_HEAD = struct.Struct(">BxI")
_P_DATA = 4
_STORE_RESPONSE = 0x8001
_COMMAND_FIELD, _STATUS = 0x0100, 0x0900  # in group 0000 (PS3.7 E.1)


@dataclass
class Answers:
    """What one connection of the archive has said so far."""

    expected: int
    """The TCP sequence number of the next new byte."""
    pending: bytearray = field(default_factory=bytearray)

    def take(self, sequence: int, payload: bytes) -> list[int]:
        """Add a packet's bytes unless they were sent before; return the status of each response that is whole now."""
        known = (self.expected - sequence) & 0xFFFF_FFFF
        if known > 0x8000_0000 or known >= len(payload):
            return []
        self.expected = (sequence + len(payload)) & 0xFFFF_FFFF
        self.pending += payload[known:]
        statuses = []
        while len(self.pending) >= _PDU_HEAD.size:
            kind, length = _PDU_HEAD.unpack_from(self.pending)
            end = _PDU_HEAD.size + length
            if len(self.pending) < end:
                break
            if kind == _P_DATA:
                # behind the PDV's length, context and control byte: the command set, implicit VR little endian
                command = _elements(bytes(self.pending[_PDU_HEAD.size + 6 : end]))
                if command.get(_COMMAND_FIELD) == _STORE_RESPONSE:
                    statuses.append(command[_STATUS])
            del self.pending[:end]
        return statuses


def _elements(command: bytes) -> dict[int, int]:
    """Return the elements of two bytes."""
    found, place = {}, 0
    while place + 8 <= len(command):
        _, element, length = struct.unpack_from("<HHI", command, place)
        if length == 2:
            (found[element],) = struct.unpack_from("<H", command, place + 8)
        place += 8 + length
    return found


def watch(port: int, count: int) -> tuple[float, int]:
    """Return when, by the monotonic clock, response number `count` left the port, and how many were no success."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL)) as copies:
        _only_sent_from(copies, port)
        copies.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        print(READY, flush=True)
        connections: dict[int, Answers] = {}
        seen = failures = 0
        while True:
            packet, ancillary, _, _ = copies.recvmsg(65_536, 64)
            header = (packet[0] & 15) * 4
            length = struct.unpack_from(">H", packet, 2)[0]
            device_port, sequence, offset, flags = struct.unpack_from(">2xHI4xBB", packet, header)
            if flags & _TCP_SYN:
                connections[device_port] = Answers((sequence + 1) & 0xFFFF_FFFF)
                continue
            payload = packet[header + (offset >> 4) * 4 : length]
            answers = connections.setdefault(device_port, Answers(sequence))
            for status in answers.take(sequence, payload):
                seen += 1
                failures += status != 0
                if seen == count:
                    seconds, nanoseconds = _TIMESPEC.unpack(ancillary[0][2])
                    return seconds + nanoseconds / 1e9 - time.time() + time.monotonic(), failures


def _only_sent_from(copies: socket.socket, port: int) -> None:
    """Let the kernel hand over only TCP packets on their way out, from that port (classic BPF, linux/filter.h)."""
    program = (
        (0x20, 0, 0, 0xFFFF_F004),  # the packet's type
        (0x15, 0, 6, 4),  # PACKET_OUTGOING
        (0x30, 0, 0, 9),  # protocol
        (0x15, 0, 4, socket.IPPROTO_TCP),
        (0xB1, 0, 0, 0),  # length of the IP header
        (0x48, 0, 0, 0),  # source port
        (0x15, 0, 1, port),
        (0x06, 0, 0, 0xFFFF),
        (0x06, 0, 0, 0),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    argument = struct.pack("HL", len(program), ctypes.addressof(code))
    copies.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, argument)


@dataclass
class Testimony:
    """What a witness will have said at the end of `witnessed`."""

    at: float = 0.0
    """When the last response left, by the monotonic clock."""


@contextlib.contextmanager
def witnessed(port: int, count: int, *, place: Place = HERE, within: float) -> Iterator[Testimony]:
    """Have the archive on that port watched from before the block; at its end, wait for the last response.

    Raises:
        BenchFailed: the last one did not come within so many seconds of the end, or one was no success.
    """
    watching = [*place.prefix, sys.executable, "-m", "bench.witness", str(port), str(count)]
    testimony = Testimony()
    with running("witness", watching) as process:
        until(lambda: True if READY in process.said() else None, "witness", process)
        yield testimony
        if not process.ended_within(within):
            raise BenchFailed(f"the archive has not answered for {count} objects after {within:g} s")
        try:
            report = json.loads(process.said().splitlines()[-1])
        except ValueError as error:
            raise BenchFailed(f"the witness failed:\n{process.said()}") from error
        if report["failures"]:
            raise BenchFailed(f"the archive refused {report['failures']} objects")
        testimony.at = report["at"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Watch until the last response; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.witness", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("count", type=int)
    options = parser.parse_args(arguments)
    at, failures = watch(options.port, options.count)
    print(json.dumps({"at": at, "failures": failures}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
