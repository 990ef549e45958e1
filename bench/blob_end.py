"""`python -m bench.blob_end`: one end of a raw run through the built-in blobstore, as one process of its own.

The putting end writes each blob's name on standard output once it is stored; the getting end reads such names on
standard input, fetches and deletes the blobs. Each says on standard error, as JSON, when it began and ended.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from isthmus.adapters.blobstore.bridge import BridgeBlobstore
from isthmus.adapters.bridge_http import BridgeConnection
from isthmus.kit.clock import SystemClock
from isthmus.kit.platform import new_event_loop
from isthmus.router.keys import Keys, read_membership


async def _put(store: BridgeBlobstore, count: int, size: int, connections: int) -> int:
    run = os.urandom(16).hex()
    body = os.urandom(size)
    left = iter(range(count))

    async def work() -> None:
        for number in left:
            name = f"bench/{run}/{number}"
            await store.put(name, number.to_bytes(8, "big") + body[8:])
            print(name, flush=True)

    await asyncio.gather(*(work() for _ in range(connections)))
    return count * size


async def _get(store: BridgeBlobstore, count: int, _size: int, connections: int) -> int:
    names: asyncio.Queue[str] = asyncio.Queue()
    stdin = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stdin), sys.stdin)
    got = 0

    async def read() -> None:
        for _ in range(count):
            names.put_nowait((await stdin.readline()).decode().strip())
        for _ in range(connections):
            names.put_nowait("")

    async def work() -> None:
        nonlocal got
        while name := await names.get():
            body = await store.get(name)
            got += len(body)
            await store.delete(name)

    await asyncio.gather(read(), *(work() for _ in range(connections)))
    return got


_ROLES: dict[str, Callable[[BridgeBlobstore, int, int, int], Awaitable[int]]] = {"put": _put, "get": _get}


async def _run(role: str, data: Path, count: int, size: int, connections: int) -> None:
    membership = read_membership(data)
    assert membership is not None, "the folder of a Router that joined"
    keys = Keys.open(data, now=SystemClock().now())
    async with BridgeConnection(membership.url, membership.identity, keys.identity) as bridge:
        await bridge.network()  # the handshake and the clock's offset are not what is measured
        began, spent = time.monotonic(), time.process_time()
        carried = await _ROLES[role](BridgeBlobstore(bridge), count, size, connections)
        ended, spent = time.monotonic(), time.process_time() - spent
    report = {"began": began, "ended": ended, "bytes": carried, "cpu": spent}
    print(json.dumps(report), file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Be one end; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.blob_end", description=__doc__)
    parser.add_argument("role", choices=list(_ROLES))
    parser.add_argument("data", type=Path, help="folder of a Router that joined the network")
    parser.add_argument("count", type=int)
    parser.add_argument("size", type=int, help="bytes of each blob")
    parser.add_argument("connections", type=int)
    options = parser.parse_args(arguments)
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_run(options.role, options.data, options.count, options.size, options.connections))
    return 0


if __name__ == "__main__":
    sys.exit(main())
