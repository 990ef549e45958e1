"""How well the cap on the line is kept: blobs and notices through a Bridge on loopback, for some seconds.

python -m bench.bandwidth [--mbit 50] [--seconds 10]
"""

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path

from isthmus.adapters.blobstore.bridge import BridgeBlobstore
from isthmus.contract.notices import NoticeKind, pack
from isthmus.errors import BlobMissing
from isthmus.kit.clock import SystemClock
from isthmus.kit.tasks import Tasks
from isthmus.ports.pacing import Urgency
from isthmus.router.queued.bandwidth import Pacer
from isthmus.testing.bridge import running_bridge

_LANES = 8
_BLOB = 1024 * 1024


class _Counting(Pacer):
    """A pacer that also says how much went."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.bytes = [0, 0]

    async def take(self, size: int, urgency: Urgency) -> None:
        await super().take(size, urgency)
        self.bytes[urgency] += size


async def measure(rate: int, seconds: float, *, live: bool) -> None:
    """Load the line from all sides for so long and print what went."""
    with tempfile.TemporaryDirectory() as folder:
        async with running_bridge(Path(folder)) as bridge:
            member, other = await bridge.join("clinic"), await bridge.join("hospital")
            session = os.urandom(16)
            bridge.parts.hub.link(session, member.identity.router_id, other.identity.router_id)
            store, pacer = BridgeBlobstore(member.client), _Counting()
            pacer.set_rate(rate)
            body, notice = os.urandom(_BLOB), pack(NoticeKind.DATA, session, os.urandom(240 * 1024))
            await member.signalling.publish(other.mailbox, notice)
            member.client.up = pacer

            async def queued(lane: int) -> None:
                number = 0
                while True:
                    number += 1
                    await store.put(f"q/{lane}-{number}", body)
                    await store.delete(f"q/{lane}-{number}")

            async def bulk() -> None:
                while True:
                    await member.signalling.publish(other.mailbox, notice)

            tasks = Tasks("load")
            begun, before = time.monotonic(), sum(pacer.bytes)
            for lane in range(_LANES):
                tasks.spawn(queued(lane), name="queued")
            if live:
                tasks.spawn(bulk(), name="live")
            await asyncio.sleep(seconds)
            took = time.monotonic() - begun
            sent = sum(pacer.bytes) - before
            print(
                f"cap {rate * 8 / 1e6:g} Mbit/s, {took:.1f} s: {sent * 8 / took / 1e6:.2f} Mbit/s"
                f" ({100 * sent / took / rate - 100:+.1f} %), of it live {100 * pacer.bytes[0] / max(1, sent):.0f} %"
            )
            await tasks.close()
            member.client.up, member.client.down = None, (down := _Counting())
            await store.put("q/down", body)
            down.set_rate(rate)
            begun = time.monotonic()

            async def fetch() -> None:
                while True:
                    try:
                        await store.get("q/down")
                    except BlobMissing:
                        return

            for _ in range(_LANES):
                tasks.spawn(fetch(), name="down")
            await asyncio.sleep(seconds)
            took = time.monotonic() - begun
            sent = sum(down.bytes)
            print(f"  down: {sent * 8 / took / 1e6:.2f} Mbit/s ({100 * sent / took / rate - 100:+.1f} %)")
            await tasks.close()


def main() -> None:
    """Measure queued alone, then with live beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mbit", type=float, default=50)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    for live in (False, True):
        asyncio.run(measure(round(options.mbit * 1e6 / 8), options.seconds, live=live))


if __name__ == "__main__":
    main()
