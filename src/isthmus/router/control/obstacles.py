"""What a proxy may do to the traffic that it lets through: forbid WebSockets, hold back answers, limit bodies, cut."""

import base64
import contextlib
import http.client
import os
import select
import socket
import time
from dataclasses import dataclass
from typing import Final

from isthmus.contract.rest import API
from isthmus.kit.findings import Finding, Level
from isthmus.router.control.way import Answer, Way, ask, http_over, request

_UPGRADE_SECONDS: Final = 6.0
_PAUSE_SECONDS: Final = 1.0
_PAUSED_BYTES: Final = 64 * 1024
_BODIES: Final = (4 * 1024 * 1024, 1024 * 1024, 512 * 1024)
_HEAD_SECONDS: Final = 2.0  # who refuses a body by its length does so at once
_LONG: Final = (25.0, 55.0, 85.0)
"""Seconds of silence that are tried: below each interval at which a Router says something, and where proxies cut. The
Bridge itself closes after 90."""
_SENDS_EVERY: Final = 20.0
_TOO_LARGE: Final = 413
_MIB: Final = 1024 * 1024


def push(way: Way) -> Finding:
    """Ask for a WebSocket without being anybody: a refusal by the Bridge itself shows that upgrades pass."""
    text = _upgrade(way)
    if not text:
        return Finding(Level.OK, "push", "WebSocket upgrades reach the Bridge")
    if _reaches(way):
        return Finding(
            Level.WARN,
            "push",
            f"no WebSocket gets through ({text}): notices go by long poll, which is slower",
            "have the proxy pass WebSocket upgrades to the Bridge, or exempt it from inspection",
        )
    return Finding(
        Level.BAD,
        "push",
        f"neither WebSocket upgrades ({text}) nor requests with a body reach the Bridge",
        "have the proxy pass all of HTTPS to the Bridge",
    )


def _upgrade(way: Way) -> str:
    """Return what becomes of an upgrade; empty if the Bridge sees it."""
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
    }
    try:
        with way.connected() as sock:
            sock.settimeout(_UPGRADE_SECONDS)
            response = request(way, http_over(way, sock), f"{API}/signalling", headers=headers)
            answer = Answer(response.status, response.read(_MIB))
    except TimeoutError:
        return "no answer"
    except (OSError, http.client.HTTPException) as error:
        return str(error) or "the connection is cut"
    if answer.status == http.HTTPStatus.UNAUTHORIZED and answer.problem:
        return ""
    if answer.status == http.HTTPStatus.UPGRADE_REQUIRED and answer.problem:
        return "a proxy takes the upgrade out of the request"
    return f"status {answer.status}"


def _reaches(way: Way) -> bool:
    """Return whether the Bridge sees requests with a body, which it refuses, since we are nobody."""
    try:
        answer = ask(way, f"{API}/notices", "POST", b"")
    except (OSError, http.client.HTTPException):
        return False
    return answer.status == http.HTTPStatus.UNAUTHORIZED and bool(answer.problem)


def buffering(way: Way) -> Finding | None:
    """Find out whether an answer comes as it is made; None if that cannot be measured."""
    target = f"{API}/probe?bytes={_PAUSED_BYTES}&pause={_PAUSE_SECONDS:g}"
    try:
        with way.connected() as sock:
            began = time.monotonic()
            response = request(way, http_over(way, sock), target)
            if response.status != http.HTTPStatus.OK or not response.read(1):
                return None
            first = time.monotonic() - began
            response.read()
            whole = time.monotonic() - began
    except (OSError, http.client.HTTPException):
        return None
    if whole < _PAUSE_SECONDS:
        return None  # a Bridge that knows no pause
    if first < _PAUSE_SECONDS * 0.8:
        return Finding(Level.OK, "answers", "come as they are made")
    return Finding(
        Level.WARN,
        "answers",
        "are held back until they are complete",
        "it works, but queued studies take longer: exempt the Bridge from inspection and virus scanning",
    )


def bodies(way: Way) -> Finding | None:
    """Find out how long a body a proxy takes, by announcing one; None if it cannot be told."""
    taken = 0
    try:
        for size in _BODIES:
            if not _refuses(way, size):
                taken = size
                break
    except (OSError, http.client.HTTPException):
        return None
    if taken == _BODIES[0]:
        return Finding(Level.OK, "requests", f"of {taken // _MIB} MiB are let through")
    if taken:
        return Finding(
            Level.WARN,
            "requests",
            f"of more than {taken // 1024} KiB are refused by a proxy",
            "it works, in smaller parts: have the proxy's limit for request bodies lifted to 8 MiB",
        )
    return Finding(
        Level.BAD,
        "requests",
        f"of {_BODIES[-1] // 1024} KiB are refused by a proxy",
        "have the proxy's limit for request bodies lifted to 8 MiB",
    )


def _refuses(way: Way, size: int) -> bool:
    """Return whether somebody before the Bridge refuses a body of this length, which is not sent."""
    with way.connected() as sock:
        connection = http_over(way, sock)
        absolute = f"http://{way.target}" if way.proxy is not None and not way.tls else ""
        connection.putrequest("POST", f"{absolute}{API}/notices")  # which the Bridge refuses at its head: we are nobody
        if absolute and way.proxy_authorization:
            connection.putheader("Proxy-Authorization", way.proxy_authorization)
        connection.putheader("Content-Length", str(size))
        connection.endheaders()
        sock.settimeout(_HEAD_SECONDS)
        response = connection.response_class(sock, method="POST")
        try:
            response.begin()
        except TimeoutError:
            return False  # a proxy that waits for all of it: it takes it, as far as one can see
        return response.status == _TOO_LARGE and not Answer(response.status, response.read(_MIB)).problem


@dataclass(slots=True)
class _Silent:
    """A connection on which nothing is said for a while."""

    sock: socket.socket
    connection: http.client.HTTPConnection
    seconds: float


def idle(way: Way) -> Finding:
    """Find out, in a minute and a half, after how long a silence connections are cut."""
    with contextlib.ExitStack() as stack:
        silent: list[_Silent] = []
        try:
            for seconds in _LONG:
                sock = stack.enter_context(way.connected())
                connection = http_over(way, sock)
                request(way, connection, f"{API}/identity").read()
                silent.append(_Silent(sock, connection, seconds))
        except (OSError, http.client.HTTPException) as error:
            return Finding(Level.WARN, "idle", f"not measured: {error}")
        began = time.monotonic()
        kept = 0.0
        for one in silent:
            select.select([one.sock], [], [], max(0.0, one.seconds - (time.monotonic() - began)))
            took = time.monotonic() - began
            if not _answers(way, one):
                return _cut(kept, took)
            kept = one.seconds
    return Finding(Level.OK, "idle", f"connections are kept for {_LONG[-1]:.0f} s at least")


def _answers(way: Way, one: _Silent) -> bool:
    try:
        return request(way, one.connection, f"{API}/identity").status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False


def _cut(kept: float, took: float) -> Finding:
    text = f"connections are cut after {kept:.0f} to {took:.0f} s of silence"
    if kept > _SENDS_EVERY:
        return Finding(Level.OK, "idle", f"{text}; a Router says something every {_SENDS_EVERY:.0f} s")
    return Finding(
        Level.BAD, "idle", text, f"have the proxy keep connections for more than {_SENDS_EVERY:.0f} s of silence"
    )
