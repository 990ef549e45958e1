"""`router check`: can a Router work from here, before there is any invite? Each finding says what to do about it."""

import contextlib
import http.client
import os
import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from pydantic import ValidationError

from isthmus.contract.rest import API, MAX_CLOCK_SKEW, BridgeIdentity
from isthmus.kit.findings import Finding, Level
from isthmus.router.control import obstacles
from isthmus.router.control.way import (
    ProxyRefused,
    Way,
    as_rows,
    ask,
    http_over,
    only_by,
    request,
)

__all__ = ["Finding", "Level", "Report", "Way", "as_rows", "bridge_findings", "check"]

_PROBES: Final = (512 * 1024, 8 * 1024 * 1024)  # bytes: the first tells a slow line, and warms up a quick one
_LONG: Final = 1.0  # seconds: a probe that took so long has told enough
_SILENT: Final = "the firewall must let this machine connect out to it"
_REFUSED: Final = f"does it run, and is that its port? If so, {_SILENT}"
_SLOW: Final = 1.0  # MB/s: a CT series of 250 MB would take over four minutes


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


class _Stop(Exception):
    """What comes later makes no sense any more."""


def check(url: str, *, ca: Path | None = None, long: bool = False) -> Report:
    """Look at each part of the way to the Bridge at `url`.

    `ca` is the CA that the Router is to join with, if any; `long` also measures when idle connections are cut.

    Raises OperatorError if that is no URL, or no file of certificates.
    """
    way = Way.to(url)
    trusted = None if ca is None else only_by(ca)
    findings: list[Finding] = []
    addresses: list[str] = []
    with contextlib.suppress(_Stop):
        findings.append(_proxy(way))
        addresses = _resolve(way, findings)
        _reach(way, findings)
        _tunnel(way, findings)
        certificate = _tls(way, findings) if way.tls else None
        if not way.tls:
            findings.append(
                Finding(Level.WARN, "TLS", "none: the URL starts with http", "use https outside a trusted network")
            )
        identity = _identity(way, findings)
        if certificate is not None:
            findings.append(_endorsement(way, certificate, identity, trusted))
        findings.append(obstacles.push(way))
        findings += [found for found in (obstacles.buffering(way), obstacles.bodies(way)) if found is not None]
        _speed(way, findings)
        if long:
            findings.append(obstacles.idle(way))
    return Report(url, tuple(findings), _firewall(way, addresses))


def bridge_findings(url: str) -> list[Finding]:
    """Return what the doctor wants to know of the Bridge: is it reached, and how, and do the clocks agree."""
    way = Way.to(url)
    findings: list[Finding] = []
    with contextlib.suppress(_Stop):
        _resolve(way, findings)
        _reach(way, findings)
        _tunnel(way, findings)
        _identity(way, findings)
        findings.append(obstacles.push(way))
    return [finding for finding in findings if finding.what in {"Bridge", "clock"} or finding.level is not Level.OK]


def _proxy(way: Way) -> Finding:
    if way.proxy is None:
        return Finding(Level.OK, "proxy", "none set for this URL")
    return Finding(Level.OK, "proxy", f"{way.proxy}, from the environment or the system")


def _resolve(way: Way, findings: list[Finding]) -> list[str]:
    host = way.first.host
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
    where = way.first
    began = time.monotonic()
    try:
        with way.plain():
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


def _tunnel(way: Way, findings: list[Finding]) -> None:
    """Have the proxy open a way to the Bridge."""
    try:
        with way.tunnel():
            return
    except ProxyRefused as error:
        findings.append(Finding(Level.BAD, "proxy", str(error), _advice(way, error.status)))
        raise _Stop from error
    except OSError as error:
        findings.append(
            Finding(Level.BAD, "proxy", f"no answer from {way.first}: {error}", "is that the proxy's port?")
        )
        raise _Stop from error


def _advice(way: Way, status: int) -> str:
    if status == http.HTTPStatus.PROXY_AUTHENTICATION_REQUIRED:
        wrong = "another account or password" if way.proxy_authorization else "an account"
        return f"it wants {wrong}: HTTPS_PROXY=http://USER:PASSWORD@{way.proxy} (Basic; it speaks no NTLM or Kerberos)"
    if status >= http.HTTPStatus.INTERNAL_SERVER_ERROR:
        return f"the proxy itself does not reach {way.target}: is the name right, and may it connect to that port?"
    return f"have the proxy's owner allow CONNECT to {way.target}"


def _tls(way: Way, findings: list[Finding]) -> x509.Certificate:
    try:
        with way.connected() as connection:
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
        answer = ask(way, f"{API}/identity")
        took = time.monotonic() - began
        if answer.status != http.HTTPStatus.OK:
            raise ValueError(f"status {answer.status}")
        identity = BridgeIdentity.model_validate_json(answer.body)
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


def _endorsement(
    way: Way, certificate: x509.Certificate, identity: BridgeIdentity, trusted: ssl.SSLContext | None
) -> Finding:
    what, issuer = "certificate", certificate.issuer.rfc4514_string()
    if identity.certificate_sha256 is None:
        return Finding(Level.OK, what, f"of a CA that this machine must trust ({issuer}); `router join` will tell")
    if certificate.fingerprint(hashes.SHA256()) == identity.certificate_sha256:
        return Finding(Level.OK, what, "the Bridge's own; the invite will prove that")
    if trusted is None:
        return Finding(
            Level.BAD,
            what,
            f"not the Bridge's: TLS is opened on the way, by {issuer}",
            "have the Bridge exempted from TLS inspection; if that cannot be, allow it: isthmus router join --ca FILE",
        )
    try:
        with way.connected(trusted):
            pass
    except OSError as error:
        return Finding(
            Level.BAD, what, f"TLS is opened on the way, by {issuer}, which is not of --ca: {error}", "ask who that is"
        )
    return Finding(Level.WARN, what, f"TLS is opened on the way, by {issuer}, as --ca allows")


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
    with contextlib.suppress(OSError, http.client.HTTPException), way.connected() as sock:
        connection = http_over(way, sock)
        for size in _PROBES:
            body = os.urandom(size) if method == "POST" else None
            began = time.monotonic()
            response = request(
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
        f" {way.target.port}{through}. It speaks HTTPS, best with WebSocket upgrades, over connections that stay open"
        " for hours; please do not cut them when idle for less than five minutes, and exempt them from TLS inspection."
        " Nothing connects in. What passes is DICOM traffic that is encrypted end to end between the institutions;"
        " the service in between can read none of it."
    )
