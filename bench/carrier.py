"""`python -m bench.carrier`: moves packets between TUN devices, late, at a rate, and not all of them.

Linux's netem would do this, where the kernel has it. Real TCP of the kernel runs through; only the wire is made up.
This part opens the devices; the moving is `carrier.c`, compiled when first needed, and takes this process over.
"""

import argparse
import ctypes
import fcntl
import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.images import cache

READY = "carrying"
COMPILER = "/usr/bin/gcc"
_SOURCE = Path(__file__).with_name("carrier.c")
# linux/if_tun.h
_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4 = 0x01, 0x02


def compiled() -> Path:
    """Return the program, made of `carrier.c` unless this very source was compiled before."""
    program = cache() / f"carrier-{hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]}"
    if not program.exists():
        descriptor, making = tempfile.mkstemp(dir=program.parent)
        os.close(descriptor)
        subprocess.run([COMPILER, "-O2", "-Wall", "-Wextra", "-Werror", "-o", making, str(_SOURCE)], check=True)
        Path(making).rename(program)
    return program


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
    os.set_inheritable(descriptor, True)
    return descriptor


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry between the devices that the argument names; return only if that cannot start."""
    parser = argparse.ArgumentParser(prog="python -m bench.carrier", description=__doc__)
    parser.add_argument("--trains", action="store_true", help="let the kernel hand over trains of segments as one")
    parser.add_argument("legs", help="JSON: [{ends: [[namespace, device], ...], delay, bytes_per_second, queue_bytes}]")
    options = parser.parse_args(arguments)
    program = compiled()
    wires = []
    for leg in json.loads(options.legs):
        near, far = (_open_tun(*end, trains=options.trains) for end in leg["ends"])
        for source, sink in ((near, far), (far, near)):
            rate = leg["bytes_per_second"] or 0
            wires.append(f"{source}:{sink}:{leg['delay'] * 1e9:.0f}:{rate}:{leg['queue_bytes']}")
    os.execv(program, [str(program), *wires])


if __name__ == "__main__":
    sys.exit(main())
