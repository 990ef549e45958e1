"""The way to a provider's host, step by step: name, connection or proxy, TLS, clock.

Plain blocking sockets, in a thread: each step is looked at by itself, which a library would hide.
"""

import base64
import contextlib
import socket
import ssl
import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import unquote, urlsplit

from isthmus.kit.findings import Finding, Level
from isthmus.kit.names import HostPort
from isthmus.kit.reasons import in_words
from isthmus.ports.provider import Way

_SECONDS: Final = 5.0
_GREETING_SECONDS: Final = 1.0  # for who speaks first, or is waiting for something else than HTTP
_MOST_HEAD: Final = 16 * 1024
_SKEW_WARN: Final = 30.0
_SKEW_BAD: Final = 300.0  # providers refuse what was signed more than 5 to 15 minutes off
_FIREWALL: Final = "does it run, and does the firewall let this machine connect out to it?"


class _Stop(Exception):
    """Nothing more can be seen of this host."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.found)
        self.finding = finding


def look(name: str, at: HostPort, way: Way) -> list[Finding]:
    """Return what stands between this machine and a host, and how far apart the clocks are. Blocks for some seconds."""
    found: list[Finding] = []
    try:
        found.append(_connects(at, way))
        tls = _speaks_tls(name, at, way)
        if tls is not None:
            found.append(tls)
        found.append(_clock(at, way, tls=tls is not None))
    except _Stop as stop:
        found.append(stop.finding)
    return found


def _connects(at: HostPort, way: Way) -> Finding:
    started = time.monotonic()
    with _connection(at, way):
        took = (time.monotonic() - started) * 1000
    through = f" through the proxy {_proxy(way.proxy)}" if way.proxy else ""
    return Finding(Level.OK, str(at), f"connects{through} in {took:.0f} ms")


def _speaks_tls(name: str, at: HostPort, way: Way) -> Finding | None:
    """Return how TLS is trusted, or None if the host answers in the clear. Raises _Stop if it is not trusted."""
    context = ssl.create_default_context()
    if way.ca is not None:
        context.load_verify_locations(way.ca)
    with _connection(at, way) as connection:
        try:
            with context.wrap_socket(connection, server_hostname=at.host) as secured:
                return Finding(Level.OK, str(at), f"{secured.version()}, with a certificate that is trusted")
        except ssl.SSLCertVerificationError as error:
            found = f"TLS is not trusted: {error.verify_message.rstrip('.')}"
            advice = (
                f"a private CA, or a proxy that re-signs TLS? isthmus provider set {name} --ca FILE lets the Bridge"
                " trust it; Routers trust what isthmus router join --ca was given"
            )
            raise _Stop(Finding(Level.BAD, str(at), found, advice)) from error
        except OSError:  # ssl.SSLError too: no TLS at all, or not at first
            return None


def _clock(at: HostPort, way: Way, *, tls: bool) -> Finding:
    with _connection(at, way) as plain, contextlib.ExitStack() as stack:
        connection: socket.socket = plain
        if tls:
            context = ssl.create_default_context()
            if way.ca is not None:
                context.load_verify_locations(way.ca)
            connection = stack.enter_context(context.wrap_socket(plain, server_hostname=at.host))
        connection.settimeout(_SECONDS if tls else _GREETING_SECONDS)
        asked = time.time()
        head = b""
        with contextlib.suppress(OSError):
            connection.sendall(f"HEAD / HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n".encode())
            head = _read_head(connection)
        date = _date_in(head)
        if date is None:
            return Finding(Level.OK, str(at), f"{'' if tls else 'no TLS at first; '}it does not tell its time")
        skew = (asked + time.time()) / 2 - date - 0.5  # a Date is cut to whole seconds
    words = f"{abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} its clock" if abs(skew) >= 2 else "as its clock"
    level = Level.BAD if abs(skew) > _SKEW_BAD else Level.WARN if abs(skew) > _SKEW_WARN else Level.OK
    advice = "" if level is Level.OK else "let this machine's clock be set by NTP: keys are refused by wrong clocks"
    return Finding(level, str(at), f"{'' if tls else 'no TLS; '}this machine's clock goes {words}", advice)


@contextlib.contextmanager
def _connection(at: HostPort, way: Way) -> Iterator[socket.socket]:
    """Give a connection to a host, through the proxy if there is one. Raises _Stop."""
    proxy = urlsplit(way.proxy) if way.proxy else None
    to = at if proxy is None else HostPort(proxy.hostname or "", proxy.port or (443 if proxy.scheme == "https" else 80))
    what = str(at) if proxy is None else f"proxy {to}"
    try:
        connection = socket.create_connection((to.host, to.port), timeout=_SECONDS)
    except socket.gaierror as error:
        advice = "is it spelled right, and does this machine's DNS know it?"
        raise _Stop(Finding(Level.BAD, what, f"the name {to.host} is not known here", advice)) from error
    except OSError as error:
        raise _Stop(Finding(Level.BAD, what, f"no connection: {in_words(error)}", _FIREWALL)) from error
    with connection:
        if proxy is not None:
            if proxy.scheme == "https":
                connection = ssl.create_default_context().wrap_socket(connection, server_hostname=to.host)
            _tunnel(connection, at, what, proxy.username, proxy.password)
        yield connection


def _tunnel(connection: socket.socket, at: HostPort, what: str, user: str | None, password: str | None) -> None:
    account = ""
    if user is not None:
        both = base64.b64encode(f"{unquote(user)}:{unquote(password or '')}".encode()).decode()
        account = f"Proxy-Authorization: Basic {both}\r\n"
    try:
        connection.sendall(f"CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n{account}\r\n".encode())
        status = _read_head(connection).split(b"\r\n", 1)[0].split(b" ")
    except OSError as error:
        raise _Stop(Finding(Level.BAD, what, f"no answer: {in_words(error)}", "is HTTPS_PROXY right?")) from error
    code = status[1].decode("ascii", "replace")[:3] if len(status) > 1 else "nothing"
    if code != "200":
        advice = {
            "407": "give an account in HTTPS_PROXY: http://USER:PASSWORD@HOST:PORT",
            "403": f"ask those who run the proxy to allow {at}",
        }.get(code, "is HTTPS_PROXY right? NO_PROXY names hosts that are reached without it")
        raise _Stop(Finding(Level.BAD, what, f"the proxy answers {code} when asked for {at}", advice))


def _read_head(connection: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head and len(head) < _MOST_HEAD:
        piece = connection.recv(4096)
        if not piece:
            break
        head += piece
        if not head.startswith(b"HTTP/"[: len(head)]):
            break  # it speaks something else
    return head


def _date_in(head: bytes) -> float | None:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"date":
            with contextlib.suppress(ValueError):
                return parsedate_to_datetime(value.decode("ascii", "replace").strip()).timestamp()
    return None


def _proxy(url: str | None) -> str:
    parts = urlsplit(url or "")
    return f"{parts.hostname}:{parts.port or 80}"
