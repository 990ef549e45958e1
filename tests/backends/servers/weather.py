"""Bad weather in front of a real server: a reverse proxy that answers errors of its own, stalls, and cuts.

It works on HTTP/1.1 as it is spoken by stores: whole requests, each of which may meet one trouble.
"""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

_LARGEST_HEAD: Final = 64 * 1024


class Trouble(Enum):
    """What happens to a request."""

    NONE = "nothing"
    BUSY = "503 SlowDown, and the server never hears of it"
    BROKEN = "500, and the server never hears of it"
    DENIED_ANSWER = "500, though the server did what it was asked"
    CUT_BEFORE = "the connection ends before the server hears of it"
    CUT_AFTER = "the server does what it was asked, and the answer is cut in half"
    STALL = "nothing comes back"
    SLOW = "the answer trickles"


BAD: Final = (Trouble.BUSY, Trouble.BROKEN, Trouble.DENIED_ANSWER, Trouble.CUT_BEFORE, Trouble.CUT_AFTER, Trouble.SLOW)


@dataclass(slots=True)
class Weather:
    """What to do to requests: `always` to each, else one of `some` to a `share` of them. `met` counts what was done."""

    always: Trouble = Trouble.NONE
    some: tuple[Trouble, ...] = ()
    share: float = 0.0
    seed: int = 1
    port: int = 0
    met: list[Trouble] = field(default_factory=list)
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def next(self) -> Trouble:
        """Return what happens to the next request."""
        trouble = self.always
        if self.some and self._random.random() < self.share:
            trouble = self._random.choice(self.some)
        self.met.append(trouble)
        return trouble


@contextlib.asynccontextmanager
async def weather(to_port: int, **kinds: object) -> AsyncIterator[Weather]:
    """Run a proxy in front of a server on loopback; `kinds` are fields of `Weather`."""
    sky = Weather(**kinds)  # type: ignore[arg-type]  # whose fields they are
    held = asyncio.Event()
    writers: set[asyncio.StreamWriter] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while await _exchange(reader, writer, sky, to_port, held):
                pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=_LARGEST_HEAD)
    sky.port = server.sockets[0].getsockname()[1]
    try:
        yield sky
    finally:
        held.set()
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sky: Weather, to_port: int, held: asyncio.Event
) -> bool:
    """Carry one request and its answer; return whether the connection goes on."""
    head = await reader.readuntil(b"\r\n\r\n")
    request = await _message(reader, head, writer)
    trouble = sky.next()
    if trouble is Trouble.CUT_BEFORE:
        return False
    if trouble is Trouble.STALL:
        await held.wait()
        return False
    if trouble in {Trouble.BUSY, Trouble.BROKEN}:
        await _refuse(writer, trouble)
        return True
    answer = await _ask(to_port, request)
    if trouble is Trouble.DENIED_ANSWER:
        await _refuse(writer, trouble)
        return True
    if trouble is Trouble.CUT_AFTER:
        writer.write(answer[: len(answer) // 2])
        await writer.drain()
        return False
    if trouble is Trouble.SLOW:
        for start in range(0, len(answer), max(1, len(answer) // 4)):
            writer.write(answer[start : start + max(1, len(answer) // 4)])
            await writer.drain()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(held.wait(), 0.02)
    else:
        writer.write(answer)
    await writer.drain()
    return b"connection: close" not in answer.partition(b"\r\n\r\n")[0].lower()


async def _refuse(writer: asyncio.StreamWriter, trouble: Trouble) -> None:
    busy = trouble is Trouble.BUSY
    body = f"<Error><Code>{'SlowDown' if busy else 'InternalError'}</Code></Error>".encode()
    line = "503 Slow Down" if busy else "500 Internal Server Error"
    writer.write(f"HTTP/1.1 {line}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    await writer.drain()


async def _ask(to_port: int, request: bytes) -> bytes:
    """Return the whole answer of the real server, on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", to_port, limit=_LARGEST_HEAD)
    try:
        writer.write(request)
        await writer.drain()
        method = request.split(b" ", 1)[0]
        head = await reader.readuntil(b"\r\n\r\n")
        while head.startswith(b"HTTP/1.1 100"):
            head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        bare = method == b"HEAD" or status in {204, 304}
        return head if bare else await _message(reader, head, None)
    finally:
        writer.close()


async def _message(reader: asyncio.StreamReader, head: bytes, sender: asyncio.StreamWriter | None) -> bytes:
    """Return a head with its body. `sender` is who waits for "100 Continue", if anybody does."""
    fields = {
        name.strip().lower(): value.strip()
        for name, _, value in (line.partition(b":") for line in head.split(b"\r\n")[1:])
    }
    if sender is not None and fields.get(b"expect", b"").lower() == b"100-continue":
        sender.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    if b"chunked" in fields.get(b"transfer-encoding", b"").lower():
        parts = [head]
        while True:
            line = await reader.readuntil(b"\r\n")
            size = int(line.split(b";")[0], 16)
            parts += [line, await reader.readexactly(size + 2)]
            if size == 0:
                return b"".join(parts)
    return head + await reader.readexactly(int(fields.get(b"content-length", b"0")))
