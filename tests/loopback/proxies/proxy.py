"""A proxy as hospitals have them, with manners to choose: CONNECT only, or one that opens TLS and meddles with HTTP."""

import asyncio
import base64
import contextlib
import ssl
import urllib.parse
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import Enum

from tests.interop.certificates import Authority

from isthmus.kit.tasks import Tasks

_PIECE = 64 * 1024


class Upgrades(Enum):
    """What becomes of a request to change to WebSockets."""

    PASS = "passed"
    REFUSED = "answered 403"
    STRIPPED = "passed without its headers, as an old HTTP proxy does"
    SWALLOWED = "never answered"
    CUT = "answered, and cut at once"
    MUTE = "answered, and nothing passes after that"


@dataclass(frozen=True, slots=True)
class Manners:
    """How a proxy behaves. All but the first three show only where it `inspects` TLS.

    Attributes:
        account: USER:PASSWORD that it asks for.
        refuses: whether it answers 403 to every CONNECT.
        idle: seconds after which a connection without a byte in either direction is cut.
        inspects: the authority by which it signs certificates of its own for every host.
        upgrades: what it makes of WebSockets.
        buffers: whether it holds back a body until all of it is there, both ways.
        most_body: the longest body of a request that it takes; longer ones are answered 413.
    """

    account: str = ""
    refuses: bool = False
    idle: float | None = None
    inspects: Authority | None = None
    upgrades: Upgrades = Upgrades.PASS
    buffers: bool = False
    most_body: int | None = None


@dataclass(slots=True)
class Proxy:
    """A running proxy. `seen` counts the requests that it could read, `cut` the connections that were idle too long."""

    manners: Manners
    port: int = 0
    connects: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    too_long: int = 0
    cut: int = 0
    _contexts: dict[str, ssl.SSLContext] = field(default_factory=dict)
    _tasks: Tasks = field(default_factory=lambda: Tasks("proxy"))

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, manners: Manners) -> "AsyncIterator[Proxy]":
        """Run it on loopback."""
        proxy = cls(manners)
        server = await asyncio.start_server(proxy._take, "127.0.0.1", 0)
        proxy.port = server.sockets[0].getsockname()[1]
        try:
            yield proxy
        finally:
            server.close()
            await proxy._tasks.close()

    @property
    def url(self) -> str:
        """What goes into HTTPS_PROXY."""
        account = f"{urllib.parse.quote(self.manners.account, safe=':')}@" if self.manners.account else ""
        return f"http://{account}127.0.0.1:{self.port}"

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.spawn(self._serve(_End(reader, writer)), name="connection")

    async def _serve(self, near: "_End") -> None:
        far: _End | None = None
        try:
            head = await near.head()
            if head is None:
                return
            method, target, _ = head.first.split(" ", 2)
            self.connects.append(f"{method} {target}")
            if refusal := self._refusal(method, head):
                await near.send(refusal)
                return
            host, _, port = target.rpartition(":")
            far = _End(*await asyncio.open_connection(host, int(port)))
            await near.send(b"HTTP/1.1 200 Connection established\r\n\r\n")
            if self.manners.inspects is None:
                await self._tunnel(near, far)
            else:
                await self._inspect(near, far, host, self.manners.inspects)
        except (OSError, asyncio.IncompleteReadError, TimeoutError):
            pass  # either side hung up
        finally:
            near.abort()
            if far is not None:
                far.abort()

    def _refusal(self, method: str, head: "_Head") -> bytes:
        if method != "CONNECT" or self.manners.refuses:
            return b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        wanted = "Basic " + base64.b64encode(self.manners.account.encode()).decode()
        if self.manners.account and head.get("proxy-authorization") != wanted:
            return (
                b"HTTP/1.1 407 Proxy Authentication Required\r\n"
                b'Proxy-Authenticate: Basic realm="hospital"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n'
            )
        return b""

    async def _tunnel(self, near: "_End", far: "_End") -> None:
        """Carry bytes both ways until one side ends or nothing has come for too long."""
        loop = asyncio.get_running_loop()
        last = loop.time()

        async def carry(one: _End, other: _End) -> None:
            nonlocal last
            while data := await one.reader.read(_PIECE):
                last = loop.time()
                await other.send(data)

        ways = Tasks("tunnel")
        both = {ways.spawn(carry(near, far), name="up"), ways.spawn(carry(far, near), name="down")}
        try:
            while True:
                idle = self.manners.idle
                left = None if idle is None else idle - (loop.time() - last)
                if left is not None and left <= 0:
                    self.cut += 1
                    return
                done, _ = await asyncio.wait(both, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if done:
                    for task in done:
                        task.exception()
                    return
        finally:
            await ways.close()

    async def _inspect(self, near: "_End", far: "_End", host: str, authority: Authority) -> None:
        await near.writer.start_tls(self._context_for(host, authority))
        trusting = ssl.create_default_context()
        trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
        await far.writer.start_tls(trusting, server_hostname=host)
        while await self._exchange(near, far):
            pass

    def _context_for(self, host: str, authority: Authority) -> ssl.SSLContext:
        if host not in self._contexts:
            made = authority.issue(f"proxied-{host}")
            self._contexts[host] = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._contexts[host].load_cert_chain(made.certificate, made.key)
        return self._contexts[host]

    async def _exchange(self, near: "_End", far: "_End") -> bool:
        """Carry one request and its answer; return whether another may follow."""
        async with asyncio.timeout(self.manners.idle):
            request = await near.head()
        if request is None:
            return False
        method, target, _ = request.first.split(" ", 2)
        self.seen[f"{method} {target.partition('?')[0]}"] += 1
        upgrades = bool(request.get("upgrade"))
        length = int(request.get("content-length") or 0)
        if self.manners.most_body is not None and length > self.manners.most_body:
            self.too_long += 1
            await near.send(b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 4\r\nConnection: close\r\n\r\nlong")
            near.writer.close()
            await near.drop(length)
            return False
        if upgrades and self.manners.upgrades is not Upgrades.PASS and not await self._meddle(near, request):
            return False
        await self._carry(near, far, request, length)
        return await self._answer(near, far)

    async def _meddle(self, near: "_End", request: "_Head") -> bool:
        """Do to an upgrade what this proxy does; return whether what is left of it goes on."""
        match self.manners.upgrades:
            case Upgrades.REFUSED:
                await near.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\nConnection: close\r\n\r\nforbidden")
                return False
            case Upgrades.SWALLOWED:
                await near.reader.read(1)
                return False
            case Upgrades.STRIPPED:
                request.drop("upgrade", "connection")
        return True

    async def _answer(self, near: "_End", far: "_End") -> bool:
        answer = await asyncio.wait_for(far.head(), self.manners.idle)
        if answer is None:
            return False
        if " 101 " in answer.first:
            await near.send(answer.raw())
            if self.manners.upgrades is Upgrades.MUTE:
                await near.drop(1 << 40)
            elif self.manners.upgrades is not Upgrades.CUT:
                await self._tunnel(near, far)
            return False
        status = int(answer.first.split(" ")[1])
        length = 0 if status == 204 else int(answer.get("content-length") or 0)
        await self._carry(far, near, answer, length)
        return answer.get("connection").lower() != "close"

    async def _carry(self, one: "_End", other: "_End", head: "_Head", length: int) -> None:
        if self.manners.buffers:
            body = await one.reader.readexactly(length)
            await other.send(head.raw() + body)
            return
        await other.send(head.raw())
        while length:
            data = await one.reader.read(min(length, _PIECE))
            if not data:
                raise ConnectionError("a body ended before its end")
            length -= len(data)
            await other.send(data)


@dataclass(slots=True)
class _Head:
    """First line and headers of a message."""

    first: str
    fields: list[tuple[str, str]]

    def get(self, name: str) -> str:
        return next((value for key, value in self.fields if key.lower() == name), "")

    def drop(self, *names: str) -> None:
        self.fields = [(key, value) for key, value in self.fields if key.lower() not in names]

    def raw(self) -> bytes:
        return "\r\n".join([self.first, *(f"{key}: {value}" for key, value in self.fields), "", ""]).encode("latin-1")


@dataclass(slots=True)
class _End:
    """One side of what the proxy carries."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def head(self) -> _Head | None:
        try:
            text = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            return None
        first, *lines = text[:-4].split("\r\n")
        return _Head(first, [(key, value.strip()) for key, _, value in (line.partition(":") for line in lines)])

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def drop(self, length: int) -> None:
        while length > 0 and (data := await self.reader.read(_PIECE)):
            length -= len(data)

    def abort(self) -> None:
        self.writer.transport.abort()
