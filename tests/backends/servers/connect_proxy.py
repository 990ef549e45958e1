"""A proxy that knows CONNECT and nothing else, as hospitals have them."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Proxy:
    """A running proxy; `asked` has the place of each way that it opened."""

    port: int = 0
    asked: list[str] = field(default_factory=list)


@contextlib.asynccontextmanager
async def connect_proxy(account: str = "", *, status: str = "200 OK") -> AsyncIterator[Proxy]:
    """Run a proxy that demands USER:PASSWORD if `account` is given, and answers with `status`."""
    proxy = Proxy()
    writers: set[asyncio.StreamWriter] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.add(writer)
        request, *fields = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, at, _ = request.split(" ")
        said = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in fields)}
        wanted = f"Basic {base64.b64encode(account.encode()).decode()}"
        if method != "CONNECT" or (account and said.get("proxy-authorization") != wanted):
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
            writer.close()
            return
        writer.write(f"HTTP/1.1 {status}\r\n\r\n".encode())
        if not status.startswith("200"):
            writer.close()
            return
        proxy.asked.append(at)
        host, _, port = at.rpartition(":")
        far_reader, far = await asyncio.open_connection(host, int(port))
        writers.add(far)
        await asyncio.gather(carry(reader, far), carry(far_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        for writer in writers:
            writer.transport.abort()
        await server.wait_closed()
