"""One stream pair over memory: providers, both sides in this process. Prints MB/s and processor seconds per GB.

Both sides share one core here, so a Router's hop costs about half of what is shown.
"""

import argparse
import asyncio
import os
import resource
import time

from isthmus.adapters.blobstore.memory import MemoryBlobstore
from isthmus.adapters.signalling.memory import MemorySignalling
from isthmus.cloudio.options import MIB, StreamOptions
from isthmus.cloudio.pool import Pool
from isthmus.cloudio.stream import Cloud, Duplex
from isthmus.contract.notices import PREFIX_BYTES
from isthmus.envelope.keys import SessionKeys
from isthmus.errors import IsthmusError
from isthmus.kit.clock import SystemClock
from isthmus.kit.tasks import Tasks

_SESSION = bytes(range(16))


class _Device:
    """Takes what comes, at once."""

    def __init__(self) -> None:
        self.stream: Duplex | None = None
        self.writable = asyncio.Event()
        self.count = 0

    def on_data(self, payload: bytes) -> None:
        self.count += len(payload)
        assert self.stream is not None
        self.stream.consumed(len(payload))

    def on_final(self) -> None:
        assert self.stream is not None
        if self.count:
            self.stream.finish()

    def on_signal(self, payload: bytes) -> None:
        pass

    def on_writable(self) -> None:
        self.writable.set()

    def on_broken(self, error: IsthmusError) -> None:
        raise error


async def _listen(signalling: MemorySignalling, at: str, stream: Duplex) -> None:
    async for notice in signalling.listen(at):
        assert notice[1:PREFIX_BYTES] == _SESSION
        stream.receive(notice)


async def carry(total: int, *, segment_bytes: int, write_bytes: int, cheap_bulk: bool) -> tuple[float, float]:
    """Carry `total` bytes one way; return wall seconds and processor seconds."""
    signalling = MemorySignalling(cheap_bulk=cheap_bulk)
    cloud = Cloud(signalling, MemoryBlobstore())
    options = StreamOptions(segment_bytes=segment_bytes)
    secret = bytes(32)
    devices = (_Device(), _Device())
    streams = []
    for index, device in enumerate(devices):
        device.stream = Duplex(
            session_id=_SESSION,
            keys=SessionKeys.derive(secret, initiator=index == 0),
            cloud=cloud,
            to=f"site{1 - index}",
            pool=Pool(),
            clock=SystemClock(),
            first_credit_out=4 * MIB,
            first_credit_in=4 * MIB,
            observer=device,
            options=options,
        )
        streams.append(device.stream)
    tasks = Tasks("bench")
    for index, stream in enumerate(streams):
        tasks.spawn(_listen(signalling, f"site{index}", stream), name="listen")
    await asyncio.sleep(0)
    runs = [tasks.spawn(stream.run(), name="run") for stream in streams]
    chunk = memoryview(os.urandom(write_bytes))
    started, spent = time.perf_counter(), time.process_time()
    left = total
    while left > 0:
        if not streams[0].write(chunk[: min(left, write_bytes)], flush=False):
            devices[0].writable.clear()
            await devices[0].writable.wait()
        left -= write_bytes
    streams[0].finish()
    await asyncio.gather(*runs)
    elapsed, spent = time.perf_counter() - started, time.process_time() - spent
    assert devices[1].count == total
    assert streams[0].complete
    assert streams[1].complete
    await tasks.close()
    return elapsed, spent


def main() -> None:
    """Print a table for several segment sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    arguments = parser.parse_args()
    total = arguments.megabytes * 1_000_000
    print(f"load {os.getloadavg()[0]:.2f}, {os.cpu_count()} processors, {arguments.megabytes} MB each")
    print("segment  writes of  carried  MB/s   CPU s/GB, each side")
    for cheap_bulk in (True, False):
        for segment in (64, 128, 256):
            for write in (16, 256):
                elapsed, spent = asyncio.run(
                    carry(total, segment_bytes=segment * 1024, write_bytes=write * 1024, cheap_bulk=cheap_bulk)
                )
                way = "inline" if cheap_bulk else "blobs"
                rate, cost = total / 1e6 / elapsed, spent / (total / 1e9) / 2
                print(f"{segment:4} KiB  {write:4} KiB  {way:7} {rate:5.0f}   {cost:.2f}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
