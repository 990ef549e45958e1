"""The way from this machine to a host, step by step, as `router check` and the doctor walk it.

Plain blocking sockets: this runs in a command, and each step is looked at by itself, which a library would hide.
"""

import base64
import contextlib
import http.client
import json
import socket
import ssl
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from isthmus.errors import OperatorError
from isthmus.kit.findings import Finding
from isthmus.kit.names import HostPort

SECONDS: Final = 10.0
_MOST_BYTES: Final = 1024 * 1024
_MOST_HEAD: Final = 65536


class ProxyRefused(ConnectionError):
    """A proxy opened no tunnel. `status` is what it answered, 0 if it hung up."""

    def __init__(self, status: int, line: str) -> None:
        super().__init__(f"the proxy refuses: {line}")
        self.status = status


@dataclass(frozen=True, slots=True)
class Way:
    """How to reach a host from here: itself, or a proxy in between."""

    tls: bool
    target: HostPort
    proxy: HostPort | None
    proxy_authorization: str = ""

    @classmethod
    def to(cls, url: str) -> "Way":
        """Return the way to `url` by this machine's proxy settings. Raises OperatorError if that is no URL."""
        parts = urllib.parse.urlsplit(url)
        try:
            port = parts.port
        except ValueError as error:
            raise OperatorError(f"'{url}' has no usable port") from error
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise OperatorError(f"'{url}' is not a Bridge's URL", hint="https://HOST or https://HOST:PORT is meant")
        tls = parts.scheme == "https"
        target = HostPort(parts.hostname, port or (443 if tls else 80))
        proxies = urllib.request.getproxies()
        proxy_url = proxies.get(parts.scheme) or proxies.get("all")
        if not proxy_url or urllib.request.proxy_bypass(str(target)):
            return cls(tls, target, None)
        proxy = urllib.parse.urlsplit(proxy_url if "//" in proxy_url else f"http://{proxy_url}")
        authorization = ""
        if proxy.username is not None:
            account = f"{urllib.parse.unquote(proxy.username)}:{urllib.parse.unquote(proxy.password or '')}"
            authorization = "Basic " + base64.b64encode(account.encode()).decode()
        return cls(tls, target, HostPort(proxy.hostname or "", proxy.port or 8080), authorization)

    @property
    def first(self) -> HostPort:
        """Where the first connection goes."""
        return self.proxy or self.target

    @contextlib.contextmanager
    def plain(self) -> Iterator[socket.socket]:
        """Give a TCP connection to where the first one goes."""
        with socket.create_connection((self.first.host, self.first.port), timeout=SECONDS) as sock:
            yield sock

    @contextlib.contextmanager
    def tunnel(self) -> Iterator[socket.socket]:
        """Give a TCP connection to the target, through the proxy if there is one. Raises ProxyRefused."""
        with self.plain() as sock:
            if self.proxy is not None and self.tls:
                self._ask_for_tunnel(sock)
            yield sock

    @contextlib.contextmanager
    def connected(self, context: ssl.SSLContext | None = None) -> Iterator[socket.socket]:
        """Give a connection to the target, with TLS if the URL says so.

        Without a context the certificate is not judged: only an invite says who the Bridge is.
        """
        with self.tunnel() as sock:
            if not self.tls:
                yield sock
                return
            with (context or any_certificate()).wrap_socket(sock, server_hostname=self.target.host) as secure:
                yield secure

    def _ask_for_tunnel(self, sock: socket.socket) -> None:
        lines = [f"CONNECT {self.target} HTTP/1.1", f"Host: {self.target}"]
        if self.proxy_authorization:
            lines.append(f"Proxy-Authorization: {self.proxy_authorization}")
        sock.sendall("\r\n".join([*lines, "", ""]).encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            part = sock.recv(1)  # not a byte more: what follows is TLS
            if not part or len(answer) > _MOST_HEAD:
                raise ProxyRefused(0, "it hung up")
            answer += part
        line = answer.splitlines()[0].decode("ascii", "replace")
        status = line.split(" ", 2)[1:2]
        if status != ["200"]:
            raise ProxyRefused(int(status[0]) if status and status[0].isdigit() else 0, line)


def any_certificate() -> ssl.SSLContext:
    """Return what takes every certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def only_by(ca: Path) -> ssl.SSLContext:
    """Return what takes certificates that were signed under this CA. Raises OperatorError if that is no such file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(ca)
    except (OSError, ssl.SSLError) as error:
        raise OperatorError(f"cannot use the CA file {ca}: {error}", hint="a PEM file is meant") from error
    return context


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to a request."""

    status: int
    body: bytes

    @property
    def problem(self) -> dict[str, Any]:
        """The Bridge's own words about what is wrong; empty if these are somebody else's."""
        try:
            fields = json.loads(self.body)
        except ValueError:
            return {}
        return fields if isinstance(fields, dict) and fields.get("status") == self.status else {}


def ask(
    way: Way, path: str, method: str = "GET", body: bytes | None = None, headers: dict[str, str] | None = None
) -> Answer:
    """Return the answer to one request. Raises OSError and HTTPException."""
    with way.connected() as sock:
        response = request(way, http_over(way, sock), path, method, body, headers)
        return Answer(response.status, response.read(_MOST_BYTES))


def http_over(way: Way, sock: socket.socket) -> http.client.HTTPConnection:
    """Return HTTP over a connection that is there."""
    connection = http.client.HTTPConnection(way.target.host, way.target.port)
    connection.sock = sock
    connection.auto_open = 0  # if this connection is closed, it is over: another would go past proxy and TLS
    return connection


def request(
    way: Way,
    connection: http.client.HTTPConnection,
    path: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> http.client.HTTPResponse:
    """Send a request and return its answer, whose body is not read yet."""
    headers = headers or {}
    absolute = f"http://{way.target}" if way.proxy is not None and not way.tls else ""
    if absolute and way.proxy_authorization:
        headers = headers | {"Proxy-Authorization": way.proxy_authorization}
    connection.request(method, absolute + path, body, headers)
    return connection.getresponse()


def as_rows(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """Return findings as JSON values."""
    return [
        {"level": finding.level.value, "what": finding.what, "found": finding.found, "advice": finding.advice}
        for finding in findings
    ]
