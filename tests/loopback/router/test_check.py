"""`router check`: each thing that can stand between a Router and its Bridge is named."""

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from isthmus.errors import OperatorError
from isthmus.router.control.check import Level, Report, Way, check

Answer = Callable[[str, str, dict[str, str], bytes], tuple[int, bytes]]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def bridge(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
    """Answer as a Bridge does to whoever is nobody."""
    if path.endswith("/api/v1/identity"):
        return 200, json.dumps({"identity": "A" * 43, "version": "0.1.0", "time": time.time()}).encode()
    if path.endswith("/api/v1/signalling"):
        status = 401 if headers.get("upgrade") == "websocket" else 426
        return status, json.dumps({"title": "Not signed", "status": status}).encode()
    if path.endswith("/api/v1/notices"):
        return 401, json.dumps({"title": "Not signed", "status": 401}).encode()
    return 404, b"{}"


@asynccontextmanager
async def serving(answer: Answer) -> Any:
    """Serve HTTP/1.1 in the plainest way: one request a connection."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        method, path, _ = head[0].split(" ")
        headers = {line.partition(":")[0].lower(): line.partition(":")[2].strip() for line in head[1:] if line}
        body = await reader.readexactly(int(headers.get("content-length", "0")))
        status, content = answer(method, path, headers, body)
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, len(content)))
        writer.write(content)
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def quietly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()  # the check of TCP alone says nothing

    server = await asyncio.start_server(quietly, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def checked(answer: Answer) -> Report:
    async with serving(answer) as port:
        return await asyncio.to_thread(check, f"http://127.0.0.1:{port}")


def level(report: Report, what: str) -> Level:
    (found,) = [finding for finding in report.findings if finding.what == what]
    return found.level


async def test_a_bridge_that_is_reached_is_well() -> None:
    report = await checked(bridge)
    assert report.ok
    assert {"name", "TCP", "Bridge", "clock", "push"} <= {finding.what for finding in report.findings}
    assert level(report, "TLS") is Level.WARN


async def test_the_paragraph_for_the_firewall_says_what_is_asked() -> None:
    report = await checked(bridge)
    for word in ("127.0.0.1", "outbound TCP", "WebSocket", "TLS inspection"):
        assert word in report.firewall


async def test_a_proxy_that_strips_upgrades_is_found() -> None:
    def stripping(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        return bridge(method, path, {name: value for name, value in headers.items() if name != "upgrade"}, body)

    report = await checked(stripping)
    assert report.ok
    assert level(report, "push") is Level.WARN


async def test_a_proxy_that_strips_upgrades_and_bodies_is_bad() -> None:
    def meddling(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        return (403, b"no") if "upgrade" in headers or method == "POST" else bridge(method, path, headers, body)

    report = await checked(meddling)
    assert not report.ok
    assert level(report, "push") is Level.BAD


async def test_a_clock_that_is_off_is_found() -> None:
    def late(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        status, content = bridge(method, path, headers, body)
        if path.endswith("identity"):
            content = json.dumps(json.loads(content) | {"time": time.time() - 3600}).encode()
        return status, content

    report = await checked(late)
    assert level(report, "clock") is Level.BAD


async def test_something_else_than_a_bridge_is_found() -> None:
    report = await checked(lambda *_: (200, b"<html>It works!</html>"))
    assert level(report, "Bridge") is Level.BAD
    assert "push" not in {finding.what for finding in report.findings}


async def test_the_speed_is_measured_where_the_bridge_offers_that_and_else_said_not_to_be() -> None:
    def probing(method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        if path.partition("?")[0].endswith("/probe"):
            return 200, bytes(1_000_000) if method == "GET" else b"{}"
        return bridge(method, path, headers, body)

    def speed(report: Report) -> str:
        (found,) = [finding.found for finding in report.findings if finding.what == "speed"]
        return found

    assert "MB/s down" in speed(await checked(probing))
    assert "not measured" in speed(await checked(bridge))


async def test_nothing_listening_is_found_at_the_step_where_it_fails() -> None:
    async with serving(bridge) as port:
        pass
    report = await asyncio.to_thread(check, f"http://127.0.0.1:{port}")
    assert level(report, "TCP") is Level.BAD
    assert report.findings[-1].what == "TCP"
    assert str(port) in report.firewall


async def test_a_port_without_tls_is_found() -> None:
    async with serving(bridge) as port:
        report = await asyncio.to_thread(check, f"https://127.0.0.1:{port}")
    assert level(report, "TLS") is Level.BAD


def test_a_proxy_of_the_environment_is_gone_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://user:secret@proxy.example:3128")
    monkeypatch.setenv("no_proxy", "inside.example")
    way = Way.to("https://bridge.example")
    assert str(way.proxy) == "proxy.example:3128"
    assert way.proxy_authorization.startswith("Basic ")
    assert Way.to("https://inside.example").proxy is None
    assert Way.to("https://bridge.example").target.port == 443


async def test_a_proxy_that_refuses_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(lambda *_: (407, b"")) as port:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        report = await asyncio.to_thread(check, "https://bridge.example")
    found = report.findings[-1]
    assert (found.level, found.what) == (Level.BAD, "proxy")
    assert "407" in found.found
    assert "it wants an account" in found.advice


@pytest.mark.parametrize("url", ["bridge.example", "ftp://bridge.example", "https://", "https://bridge.example:99999"])
def test_what_is_no_url_is_an_operators_error(url: str) -> None:
    with pytest.raises(OperatorError):
        check(url)
