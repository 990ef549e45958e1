"""`router check URL`: can a Router work from here, before there is any invite? Each finding says what to do about it.

Plain blocking sockets: this runs in a command, and each step is looked at by itself, which a library would hide.
"""

import base64
import contextlib
import http.client
import os
import socket
import ssl
import time
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from pydantic import ValidationError

from isthmus.contract.rest import API, MAX_CLOCK_SKEW, BridgeIdentity
from isthmus.errors import OperatorError
from isthmus.kit.names import HostPort

_SECONDS: Final = 10.0
_PROBES: Final = (512 * 1024, 8 * 1024 * 1024)  # bytes: the first tells a slow line, and warms up a quick one
_LONG: Final = 1.0  # seconds: a probe that took so long has told enough
_MOST_BYTES: Final = 1024 * 1024
_SILENT: Final = "the firewall must let this machine connect out to it"
_REFUSED: Final = f"does it run, and is that its port? If so, {_SILENT}"
_SLOW: Final = 1.0  # MB/s: a CT series of 250 MB would take over four minutes


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: what was found, and what to do about it (nothing, if it is well)."""

    level: Level
    what: str
    found: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, and a paragraph for those who run the firewall."""

    url: str
    findings: tuple[Finding, ...]
    firewall: str

    @property
    def ok(self) -> bool:
        """Whether nothing is in the way."""
        return all(finding.level is not Level.BAD for finding in self.findings)


@dataclass(frozen=True, slots=True)
class Way:
    """How to reach a Bridge from here: itself, or a proxy in between."""

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


class _Stop(Exception):
    """What comes later makes no sense any more."""


def check(url: str) -> Report:
    """Look at each part of the way to the Bridge at `url`. Raises OperatorError if that is no URL."""
    way = Way.to(url)
    findings: list[Finding] = []
    addresses: list[str] = []
    with contextlib.suppress(_Stop):
        findings.append(_proxy(way))
        addresses = _resolve(way, findings)
        _reach(way, findings)
        certificate = _tls(way, findings) if way.tls else None
        if not way.tls:
            findings.append(
                Finding(Level.WARN, "TLS", "none: the URL starts with http", "use https outside a trusted network")
            )
        identity = _identity(way, findings)
        if certificate is not None:
            findings.append(_endorsement(certificate, identity))
        _push(way, findings)
        _speed(way, findings)
    return Report(url, tuple(findings), _firewall(way, addresses))


def bridge_findings(url: str) -> list[Finding]:
    """Return what the doctor wants to know of the Bridge: whether it is reached, and whether the clocks agree."""
    way = Way.to(url)
    findings: list[Finding] = []
    with contextlib.suppress(_Stop):
        _resolve(way, findings)
        _reach(way, findings)
        _identity(way, findings)
    return [finding for finding in findings if finding.what in {"Bridge", "clock"} or finding.level is not Level.OK]


def _proxy(way: Way) -> Finding:
    if way.proxy is None:
        return Finding(Level.OK, "proxy", "none set for this URL")
    return Finding(Level.OK, "proxy", f"{way.proxy}, from the environment or the system")


def _resolve(way: Way, findings: list[Finding]) -> list[str]:
    host = (way.proxy or way.target).host
    try:
        entries = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        findings.append(
            Finding(
                Level.BAD, "name", f"{host} is not resolved: {error}", "check the name, and this machine's name server"
            )
        )
        raise _Stop from error
    addresses = sorted({str(entry[4][0]) for entry in entries})
    findings.append(Finding(Level.OK, "name", f"{host} is {', '.join(addresses)}"))
    return addresses if way.proxy is None else []


def _reach(way: Way, findings: list[Finding]) -> None:
    where = way.proxy or way.target
    began = time.monotonic()
    try:
        with _plain(way):
            took = time.monotonic() - began
    except OSError as error:
        findings.append(
            Finding(
                Level.BAD,
                "TCP",
                f"no connection to {where}: {error.strerror or error}",
                _REFUSED if isinstance(error, ConnectionRefusedError) else _SILENT,
            )
        )
        raise _Stop from error
    findings.append(Finding(Level.OK, "TCP", f"{where} in {took * 1000:.0f} ms"))


def _tls(way: Way, findings: list[Finding]) -> x509.Certificate:
    try:
        with _connected(way) as connection:
            assert isinstance(connection, ssl.SSLSocket)
            version = connection.version()
            der = connection.getpeercert(binary_form=True)
    except OSError as error:
        findings.append(
            Finding(
                Level.BAD, "TLS", f"no TLS with {way.target}: {error}", "is this the Bridge's port? Is TLS inspected?"
            )
        )
        raise _Stop from error
    assert der is not None
    certificate = x509.load_der_x509_certificate(der)
    findings.append(Finding(Level.OK, "TLS", f"{version}, certificate by {certificate.issuer.rfc4514_string()}"))
    return certificate


def _identity(way: Way, findings: list[Finding]) -> BridgeIdentity:
    before, began = time.time(), time.monotonic()
    try:
        status, body = _get(way, f"{API}/identity")
        took = time.monotonic() - began
        if status != http.HTTPStatus.OK:
            raise ValueError(f"status {status}")
        identity = BridgeIdentity.model_validate_json(body)
    except (OSError, http.client.HTTPException, ValueError, ValidationError) as error:
        text = "no sense in its answer" if isinstance(error, ValidationError) else str(error)
        findings.append(
            Finding(
                Level.BAD, "Bridge", f"{way.target} does not answer as a Bridge: {text}", "ask its operator for the URL"
            )
        )
        raise _Stop from error
    findings.append(Finding(Level.OK, "Bridge", f"version {identity.version}, answers in {took * 1000:.0f} ms"))
    skew = before + took / 2 - identity.time
    level = Level.OK if abs(skew) < 5 else Level.WARN if abs(skew) < MAX_CLOCK_SKEW else Level.BAD
    findings.append(
        Finding(
            level,
            "clock",
            f"{abs(skew):.1f} s {'ahead of' if skew > 0 else 'behind'} the Bridge's",
            "" if level is Level.OK else "set this machine's clock by NTP",
        )
    )
    return identity


def _endorsement(certificate: x509.Certificate, identity: BridgeIdentity) -> Finding:
    what = "certificate"
    if identity.certificate_sha256 is None:
        return Finding(Level.OK, what, "of a CA that this machine must trust; `router join` will tell")
    if certificate.fingerprint(hashes.SHA256()) == identity.certificate_sha256:
        return Finding(Level.OK, what, "the Bridge's own; the invite will prove that")
    return Finding(
        Level.BAD,
        what,
        "not the one that the Bridge shows: something in between opens TLS",
        "have the Bridge exempted from TLS inspection, or use a Bridge behind a public CA",
    )


def _push(way: Way, findings: list[Finding]) -> None:
    """Ask for a WebSocket without being anybody: a refusal by the Bridge itself shows that upgrades pass."""
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
    }
    try:
        status, _ = _get(way, f"{API}/signalling", headers)
    except (OSError, http.client.HTTPException) as error:
        status, text = 0, str(error)
    else:
        text = f"status {status}"
    if status in {http.HTTPStatus.UNAUTHORIZED, http.HTTPStatus.FORBIDDEN}:
        findings.append(Finding(Level.OK, "push", "WebSocket upgrades reach the Bridge"))
        return
    findings.append(
        Finding(
            Level.BAD, "push", f"a WebSocket upgrade does not reach the Bridge: {text}", "let the proxy pass upgrades"
        )
    )


def _speed(way: Way, findings: list[Finding]) -> None:
    down = _rate(way, "GET")
    up = _rate(way, "POST") if down is not None else None
    if down is None or up is None:
        findings.append(
            Finding(Level.OK, "speed", "not measured: this Bridge offers no probe, or is busy with others'")
        )
        return
    level = Level.OK if min(down, up) >= _SLOW else Level.WARN
    advice = "" if level is Level.OK else "large studies will take long: ask for more bandwidth"
    findings.append(Finding(level, "speed", f"{down:.1f} MB/s down, {up:.1f} MB/s up", advice))


def _rate(way: Way, method: str) -> float | None:
    """Return MB/s of the Bridge's probe; None if it offers none."""
    rate = None
    with contextlib.suppress(OSError, http.client.HTTPException), _connected(way) as sock:
        connection = _http(way, sock)
        for size in _PROBES:
            body = os.urandom(size) if method == "POST" else None
            began = time.monotonic()
            response = _ask(
                way, connection, f"{API}/probe?bytes={size}" if body is None else f"{API}/probe", method, body
            )
            count = 0
            while part := response.read(65536):
                count += len(part)
            took = time.monotonic() - began
            if body is not None:
                count = size
            if response.status >= http.HTTPStatus.MULTIPLE_CHOICES or not count:
                break
            rate = count / 1e6 / max(took, 1e-6)
            if took > _LONG:
                break
    return rate


def _firewall(way: Way, addresses: list[str]) -> str:
    places = f" ({', '.join(addresses)})" if addresses else ""
    through = f", through the proxy {way.proxy}" if way.proxy is not None else ""
    return (
        f"Please let {socket.gethostname()} open outbound TCP connections to {way.target.host}{places}, port"
        f" {way.target.port}{through}. It speaks HTTPS with WebSocket upgrades over connections that stay open for"
        " hours; please do not cut them when idle for less than five minutes, and exempt them from TLS inspection."
        " Nothing connects in. What passes is DICOM traffic that is encrypted end to end between the institutions;"
        " the service in between can read none of it."
    )


def _get(way: Way, path: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    with _asked(way, path, headers or {}) as response:
        return response.status, response.read(_MOST_BYTES)


@contextlib.contextmanager
def _asked(way: Way, path: str, headers: dict[str, str]) -> Iterator[http.client.HTTPResponse]:
    with _connected(way) as sock:
        yield _ask(way, _http(way, sock), path, headers=headers)


def _http(way: Way, sock: socket.socket) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(way.target.host, way.target.port)
    connection.sock = sock
    connection.auto_open = 0  # if this connection is closed, it is over: another would go past proxy and TLS
    return connection


def _ask(
    way: Way,
    connection: http.client.HTTPConnection,
    path: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: dict[str, str] | None = None,
) -> http.client.HTTPResponse:
    headers = headers or {}
    absolute = f"http://{way.target}" if way.proxy is not None and not way.tls else ""
    if absolute and way.proxy_authorization:
        headers = headers | {"Proxy-Authorization": way.proxy_authorization}
    connection.request(method, absolute + path, body, headers)
    return connection.getresponse()


@contextlib.contextmanager
def _plain(way: Way) -> Iterator[socket.socket]:
    where = way.proxy or way.target
    with socket.create_connection((where.host, where.port), timeout=_SECONDS) as sock:
        yield sock


@contextlib.contextmanager
def _connected(way: Way) -> Iterator[socket.socket]:
    """Give a connection to the Bridge: TCP, through the proxy if there is one, with TLS if the URL says so.

    The certificate is not judged here: only an invite says who the Bridge is.
    """
    with _plain(way) as sock:
        if not way.tls:
            yield sock
            return
        if way.proxy is not None:
            _tunnel(sock, way)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with context.wrap_socket(sock, server_hostname=way.target.host) as secure:
            yield secure


def _tunnel(sock: socket.socket, way: Way) -> None:
    lines = [f"CONNECT {way.target} HTTP/1.1", f"Host: {way.target}"]
    if way.proxy_authorization:
        lines.append(f"Proxy-Authorization: {way.proxy_authorization}")
    sock.sendall("\r\n".join([*lines, "", ""]).encode())
    answer = b""
    while b"\r\n\r\n" not in answer:
        part = sock.recv(1)  # not a byte more: what follows is TLS
        if not part or len(answer) > 65536:
            raise ConnectionError("the proxy hung up")
        answer += part
    status = answer.split(b" ", 2)[1:2]
    if status != [b"200"]:
        raise ConnectionError(f"the proxy refuses: {answer.splitlines()[0].decode('ascii', 'replace')}")


def as_rows(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """Return findings as JSON values."""
    return [
        {"level": finding.level.value, "what": finding.what, "found": finding.found, "advice": finding.advice}
        for finding in findings
    ]
