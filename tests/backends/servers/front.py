"""A reverse proxy in front of a service, which answers for it, or loses its answer, when a test says so."""

import asyncio
import contextlib
import ssl
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import Enum

import aiohttp
from aiohttp import web
from yarl import URL

_HOP: frozenset[str] = frozenset({"transfer-encoding", "connection", "content-encoding", "content-length"})
_ENDS_SECONDS = 0.1


class Mishap(Enum):
    """What becomes of one request."""

    BUSY = "503, and the service never sees it"
    BROKEN = "500, and the service never sees it"
    THROTTLED = "429, and the service never sees it"
    CUT = "the connection ends, and the service never sees it"
    UNHEARD = "the service does it, and the connection ends before the answer"


_STATUS = {Mishap.BUSY: 503, Mishap.BROKEN: 500, Mishap.THROTTLED: 429}


@dataclass(slots=True)
class Front:
    """A running proxy. `ahead` are the mishaps of the next requests, one each; `calm` is set after the last. `bodies`
    has that of each request which went through."""

    port: int = 0
    ahead: deque[Mishap] = field(default_factory=deque)
    bodies: list[bytes] = field(default_factory=list)
    calm: asyncio.Event = field(default_factory=asyncio.Event)


@contextlib.asynccontextmanager
async def running_front(behind: int, *, tls: ssl.SSLContext | None = None) -> AsyncIterator[Front]:
    """Run a proxy in front of what listens at that port."""
    front = Front()
    async with aiohttp.ClientSession(
        auto_decompress=False, skip_auto_headers=["User-Agent", "Accept", "Content-Type"]
    ) as session:

        async def handle(request: web.BaseRequest) -> web.StreamResponse:
            mishap = front.ahead.popleft() if front.ahead else None
            if not front.ahead:
                front.calm.set()
            assert request.transport is not None
            if mishap in _STATUS:
                return web.Response(status=_STATUS[mishap])
            if mishap is Mishap.CUT:
                request.transport.abort()
                return web.Response()
            url = f"http://127.0.0.1:{behind}{request.raw_path}"
            body = await request.read()
            front.bodies.append(body)
            async with session.request(
                request.method,
                URL(url, encoded=True),
                data=body or None,
                headers=request.headers,
                allow_redirects=False,
            ) as answer:
                content = await answer.read()
                headers = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP}
            if mishap is Mishap.UNHEARD:
                request.transport.abort()
            return web.Response(status=answer.status, body=content, headers=headers)

        handling = web.Server(handle)
        server = await asyncio.get_running_loop().create_server(handling, "127.0.0.1", 0, ssl=tls)
        front.port = server.sockets[0].getsockname()[1]
        try:
            yield front
        finally:
            server.close()
            await handling.shutdown(_ENDS_SECONDS)
