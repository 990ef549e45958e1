"""The doctor: what is wrong is found, also while the Router runs."""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isthmus.kit.names import HostPort
from isthmus.router.control.check import Level
from isthmus.router.control.doctor import examine


def findings(data: Path, what: str, **options: Any) -> list[tuple[Level, str]]:
    return [
        (finding.level, finding.found)
        for finding in examine(data, look_at_bridge=False, **options)
        if finding.what == what
    ]


async def test_a_healthy_router_has_whole_tables_and_private_keys(running: Any) -> None:
    assert findings(running.folder, "tables") == [(Level.OK, "whole")]
    assert findings(running.folder, "key files")[0][0] is Level.OK
    assert findings(running.folder, "prekeys")[0][0] is Level.OK
    assert {level for level, _ in findings(running.folder, "fsync")} <= {Level.OK, Level.WARN, Level.BAD}
    assert findings(running.folder, "versions")[0][0] is Level.OK


async def test_a_router_that_joined_nothing_is_told_how(running: Any) -> None:
    ((level, found),) = findings(running.folder, "network")
    assert (level, found) == (Level.WARN, "this Router joined none")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
async def test_keys_that_others_may_read_are_found(running: Any) -> None:
    (running.folder / "identity.key").chmod(0o644)
    ((level, found),) = findings(running.folder, "key files")
    assert level is Level.BAD
    assert "identity.key" in found


async def test_a_running_router_that_does_not_listen_is_found(
    running: Any, unused_tcp_port_factory: Callable[[], int]
) -> None:
    running.administration.listening(HostPort("127.0.0.1", unused_tcp_port_factory()))
    assert findings(running.folder, "LAN port")[0][0] is Level.BAD
    running.administration.listening(running.address)  # something listens there
    assert findings(running.folder, "LAN port")[0][0] is Level.OK


async def test_a_port_that_something_else_has_is_found_before_the_router_runs(running: Any) -> None:
    running.administration.listening(running.address)
    (running.folder / "control.json").rename(running.folder / "elsewhere")
    assert findings(running.folder, "LAN port")[0][0] is Level.BAD
    (running.folder / "elsewhere").rename(running.folder / "control.json")


async def test_old_prekeys_are_found(running: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3 * 86_400)
    assert findings(running.folder, "prekeys")[0][0] is Level.WARN
    monkeypatch.setattr(time, "time", lambda: now + 31 * 86_400)
    assert findings(running.folder, "prekeys")[0][0] is Level.BAD


async def test_devices_are_called_if_there_is_a_way_to(running: Any) -> None:
    running.administration.device_add("PACS@192.0.2.20:104")
    running.administration.device_add("WS@192.0.2.30:104")
    running.administration.device_add("CT1@192.0.2.10")
    assert findings(running.folder, "devices") == []
    found = findings(running.folder, "devices", echo=lambda device: "no answer" if device.title == "WS" else "")
    assert [level for level, _ in found] == [Level.OK, Level.BAD]


async def test_a_damaged_database_is_found(tmp_path: Path) -> None:
    (tmp_path / "identity.key").write_bytes(bytes(32))
    (tmp_path / "router.db").write_bytes(b"this is no database" * 1000)
    assert findings(tmp_path, "tables")[0][0] is Level.BAD


def test_a_folder_without_a_router_is_told(tmp_path: Path) -> None:
    assert findings(tmp_path, "data folder")[0][0] is Level.BAD


def test_a_proxys_password_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://user:secret@proxy.example:3128")
    assert (Level.OK, "https: proxy.example:3128") in findings(tmp_path, "proxy")
