"""How a connection to a NATS server is opened: directly or through a proxy, as it is, inside TLS or in a WebSocket."""

import asyncio
import base64
import secrets
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, cast
from urllib.parse import parse_qsl, unquote, urlsplit

from isthmus.adapters.signalling.nats.framing import WebSocketFraming
from isthmus.adapters.signalling.nats.line import Line, ServerInfo
from isthmus.errors import OperatorError, ProviderTrouble, Retry
from isthmus.kit.names import HostPort
from isthmus.kit.reasons import in_words
from isthmus.ports.provider import Way

CONNECT_SECONDS: Final = 5.0
HELLO_SECONDS: Final = 10.0
_MOST_ANSWER_BYTES: Final = 16 * 1024
_TOKEN: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-")


class Carrier(Enum):
    """What carries NATS' protocol: the scheme of a URL."""

    PLAIN = "nats"
    TLS = "nats+tls"
    WEBSOCKET = "nats+ws"
    SECURE_WEBSOCKET = "nats+wss"

    @property
    def is_websocket(self) -> bool:
        """Whether it looks like the web to a proxy."""
        return self in {Carrier.WEBSOCKET, Carrier.SECURE_WEBSOCKET}

    @property
    def is_secure(self) -> bool:
        """Whether there must be TLS."""
        return self in {Carrier.TLS, Carrier.SECURE_WEBSOCKET}


_PORTS: Final = {
    Carrier.PLAIN: 4222,
    Carrier.TLS: 4222,
    Carrier.WEBSOCKET: 80,
    Carrier.SECURE_WEBSOCKET: 443,
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a network's NATS servers are, and below which word its subjects are."""

    carrier: Carrier
    hosts: tuple[HostPort, ...]
    path: str
    prefix: str

    @classmethod
    def parse(cls, url: str) -> "Place":
        """Return what a URL says: SCHEME://HOST[:PORT][,HOST[:PORT]...][/PATH][?prefix=WORD]. Raises OperatorError."""
        try:
            parts = urlsplit(url)
            carrier = Carrier(parts.scheme)
        except ValueError as error:
            raise _misread(url) from error
        if "@" in parts.netloc:
            raise OperatorError("a NATS URL names no user and no password", hint="enter them as keys of the provider")
        hosts = tuple(HostPort.parse(text, default_port=_PORTS[carrier]) for text in parts.netloc.split(",") if text)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        prefix = query.pop("prefix", "isthmus")
        if not hosts or query or not prefix or not _TOKEN.issuperset(prefix) or not parts.path.isascii():
            raise _misread(url)
        if (parts.path.strip("/") and not carrier.is_websocket) or any(mark in parts.path for mark in " \r\n"):
            raise _misread(url)
        return cls(carrier, hosts, parts.path, prefix)


def trust(ca: Path | None) -> ssl.SSLContext:
    """Return whom TLS trusts: the machine's CAs, and those in the file `ca`. Raises ProviderTrouble."""
    context = ssl.create_default_context()
    try:
        if ca is not None:
            context.load_verify_locations(ca)
    except OSError as error:
        raise ProviderTrouble(
            f"{ca} is no file of certificates", retry=Retry.NEVER, hint="isthmus router ca"
        ) from error
    return context


async def open_line(
    place: Place, at: HostPort, way: Way, make: Callable[[WebSocketFraming | None], Line]
) -> tuple[Line, ServerInfo]:
    """Return a connection on which the server has said who it is. Raises ProviderTrouble."""
    tls = await asyncio.to_thread(trust, way.ca) if place.carrier.is_secure else None
    framing = None
    if place.carrier.is_websocket:
        framing = WebSocketFraming(str(at), place.path, secrets.token_bytes(16))
    line = make(framing)
    try:
        async with asyncio.timeout(HELLO_SECONDS):
            transport, early = await _reach(at, way)
            if tls is not None and framing is not None:
                secured = await _secure(transport, line, tls, at)
                line.take_over(secured)
            else:
                line.take_over(transport, early)
            info = await line.greeting()
            if framing is None and info.wants_tls and tls is None:
                tls = await asyncio.to_thread(trust, way.ca)
            if framing is None and tls is not None:
                if not info.has_tls:
                    raise ProviderTrouble(f"NATS at {at} offers no TLS", retry=Retry.NEVER, hint="configure tls there")
                line.take_tls(await _secure(line.transport, line, tls, at))
    except ssl.SSLCertVerificationError as error:
        line.abort()
        reason = f"NATS at {at}: {in_words(error)}"
        raise ProviderTrouble(reason, retry=Retry.LATER, hint="trust its CA, or mend its certificate") from error
    except (OSError, TimeoutError) as error:  # ssl.SSLError is an OSError
        line.abort()
        raise ProviderTrouble(f"NATS at {at} is out of reach: {in_words(error)}", retry=Retry.LATER) from error
    except ProviderTrouble as trouble:
        line.abort()
        if trouble.retry is Retry.NEVER or trouble.hint:
            raise
        raise ProviderTrouble(f"NATS at {at} is out of reach: {trouble}", retry=Retry.LATER) from trouble
    except BaseException:
        line.abort()
        raise
    return line, info


async def _secure(transport: asyncio.Transport, line: Line, tls: ssl.SSLContext, at: HostPort) -> asyncio.Transport:
    loop = asyncio.get_running_loop()
    secured = await loop.start_tls(transport, line, tls, server_hostname=at.host, ssl_handshake_timeout=CONNECT_SECONDS)
    if secured is None:
        raise ConnectionResetError
    return secured


async def _reach(at: HostPort, way: Way) -> tuple[asyncio.Transport, bytes]:
    """Return a transport to a server, and what was read of it already."""
    loop = asyncio.get_running_loop()
    if way.proxy is None:
        async with asyncio.timeout(CONNECT_SECONDS):
            transport, early = await loop.create_connection(_Early, at.host, at.port)
        return transport, bytes(early.received)
    proxy = urlsplit(way.proxy)
    if proxy.scheme != "http" or proxy.hostname is None:
        raise ProviderTrouble("only a proxy with an http: URL leads to NATS", retry=Retry.NEVER, hint="see HTTPS_PROXY")
    account = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}" if proxy.username else ""
    async with asyncio.timeout(CONNECT_SECONDS):
        transport, tunnel = await loop.create_connection(lambda: _Tunnel(at, account), proxy.hostname, proxy.port or 80)
    try:
        return transport, await tunnel.opened
    except BaseException:
        transport.abort()
        raise


class _Early(asyncio.Protocol):
    """What a transport has until a line takes it: the server speaks first, and uvloop reads at once."""

    def __init__(self) -> None:
        self.received = bytearray()

    def data_received(self, data: bytes) -> None:
        self.received += data


class _Tunnel(asyncio.Protocol):
    """Asks a proxy for a way to a server (RFC 9110 section 9.3.6); `opened` has what came after its answer."""

    def __init__(self, at: HostPort, account: str) -> None:
        self.opened: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._at = at
        self._account = account
        self._answer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        fields = f"Host: {self._at}\r\n"
        if self._account:
            fields += f"Proxy-Authorization: Basic {base64.b64encode(self._account.encode()).decode()}\r\n"
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass of it
        self._transport.write(f"CONNECT {self._at} HTTP/1.1\r\n{fields}\r\n".encode())

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, found, rest = bytes(self._answer).partition(b"\r\n\r\n")
        if self.opened.done() or (not found and len(self._answer) <= _MOST_ANSWER_BYTES):
            return
        assert self._transport is not None
        words = head.split(b"\r\n", 1)[0].split(b" ", 2)
        if len(words) > 1 and words[0].startswith(b"HTTP/1.") and words[1] == b"200":
            self._transport.pause_reading()
            self.opened.set_result(rest)
            return
        self.opened.set_exception(_refused(self._at, words[1] if len(words) > 1 else b""))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.opened.done():
            self.opened.set_exception(exc or ConnectionResetError())


def _refused(at: HostPort, status: bytes) -> ProviderTrouble:
    if status == b"407":
        return ProviderTrouble("the proxy wants to know who asks", retry=Retry.NEVER, hint="http://USER:PASSWORD@PROXY")
    said = status[:3].decode("ascii", "replace") or "something else"
    hint = f"have the proxy's owner allow CONNECT to {at}"
    return ProviderTrouble(
        f"the proxy does not let us through to {at}: it answered {said}", retry=Retry.LATER, hint=hint
    )


def _misread(url: str) -> OperatorError:
    scheme = url.partition("://")[0][:20]
    known = ", ".join(carrier.value for carrier in Carrier)
    return OperatorError(
        f"this is not the URL of a NATS server (it begins with '{scheme}')",
        hint=f"nats+wss://HOST[:PORT][,HOST[:PORT]...][/PATH][?prefix=WORD]; schemes: {known}",
    )
