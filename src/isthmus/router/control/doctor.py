"""`isthmus doctor`: what is wrong at this site's Router, and what to do about it. It only looks, also while it runs."""

import os
import platform
import shutil
import socket
import sqlite3
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any, Final

import isthmus
from isthmus.contract.documents import Prekey
from isthmus.envelope.prekeys import PREKEY_LIFETIME, PrekeyPair
from isthmus.errors import IsthmusError, OperatorError
from isthmus.kit.files import read_json
from isthmus.kit.names import HostPort
from isthmus.router.config import DEFAULT_DICOM
from isthmus.router.control.check import Finding, Level, bridge_findings
from isthmus.router.control.clouds import cloud_findings
from isthmus.router.keys import too_open
from isthmus.router.routing.records import DAY, LocalDevice
from isthmus.router.routing.store import Store

Echo = Callable[[LocalDevice], str]
"""Calls a device with a C-ECHO; returns what is wrong, nothing if it answers."""

_LITTLE_SPACE: Final = 2 * 1024**3
_NO_SPACE: Final = 256 * 1024**2
_SLOW_SYNC: Final = 0.02  # seconds: a disk that takes longer makes set-up and changes slow
_HOPELESS_SYNC: Final = 0.2
_OLD_PREKEY: Final = 2 * DAY
_WAL_BUG_ENDS: Final = (3, 51, 3)


def examine(
    data: Path, *, echo: Echo | None = None, clouds: Mapping[str, Any] | None = None, look_at_bridge: bool = True
) -> list[Finding]:
    """Return all findings about the Router in `data`, those of the machine first.

    `clouds` is what its operation `egress_list` answers, if it runs.
    """
    findings = [_versions(), _sqlite(), *_proxy()]
    if not (data / "identity.key").exists():
        findings.append(
            Finding(
                Level.BAD, "data folder", f"there is no Router in {data}", "isthmus router join INVITE; or --data DIR"
            )
        )
        return findings
    findings += [_space(data), _sync_time(data), *_modes(data)]
    running = _running(data)
    findings += _prekeys(data)
    findings += _tables(data, running=running, echo=echo)
    findings += _membership(data, look_at_bridge=look_at_bridge)
    if clouds is not None:
        findings += cloud_findings(clouds)
    return findings


def _versions() -> Finding:
    return Finding(
        Level.OK,
        "versions",
        f"Isthmus {isthmus.__version__}, Python {platform.python_version()}, {platform.system()} {platform.release()}",
    )


def _sqlite() -> Finding:
    text = f"SQLite {sqlite3.sqlite_version}"
    if sqlite3.sqlite_version_info < _WAL_BUG_ENDS:
        return Finding(Level.OK, "database engine", f"{text}: its write-ahead log has a fault, so it is not used")
    return Finding(Level.OK, "database engine", text)


def _proxy() -> Iterator[Finding]:
    for scheme, url in sorted(urllib.request.getproxies().items()):
        if scheme in {"http", "https", "all"}:
            yield Finding(Level.OK, "proxy", f"{scheme}: {url.rpartition('@')[2]}")  # never its password


def _space(data: Path) -> Finding:
    free = shutil.disk_usage(data).free
    text = f"{free / 1e9:.1f} GB free in {data}"
    if free < _NO_SPACE:
        return Finding(Level.BAD, "disk", text, "make room: the Router cannot keep its tables and its audit")
    if free < _LITTLE_SPACE:
        return Finding(Level.WARN, "disk", text, "make room soon")
    return Finding(Level.OK, "disk", text)


def _sync_time(data: Path) -> Finding:
    scratch = data / f".doctor.{os.getpid()}"
    times = []
    try:
        with scratch.open("wb") as file:
            for _ in range(5):
                file.write(bytes(4096))
                file.flush()
                began = time.perf_counter()
                os.fsync(file.fileno())
                times.append(time.perf_counter() - began)
    except OSError as error:
        return Finding(Level.BAD, "fsync", f"cannot write in {data}: {error.strerror}", "who owns the data folder?")
    finally:
        scratch.unlink(missing_ok=True)
    typical = median(times)
    text = f"{typical * 1000:.1f} ms"
    if typical > _HOPELESS_SYNC:
        return Finding(Level.BAD, "fsync", text, "this disk is too slow: put the data folder on another one")
    if typical > _SLOW_SYNC:
        return Finding(Level.WARN, "fsync", text, "each association that is taken waits for it: a quicker disk helps")
    return Finding(Level.OK, "fsync", text)


def _modes(data: Path) -> list[Finding]:
    if sys.platform == "win32":
        return []
    files = [data / "identity.key", data / "control.json", *sorted((data / "prekeys").glob("*.key"))]
    open_files = [file for file in files if file.exists() and too_open(file)]
    if not open_files:
        return [Finding(Level.OK, "key files", "readable by their owner only")]
    return [
        Finding(Level.BAD, "key files", f"others may read {file}", f"chmod 600 {file}, and ask who read it")
        for file in open_files
    ]


def _prekeys(data: Path) -> list[Finding]:
    try:
        pairs = [PrekeyPair.load(file.read_bytes()) for file in (data / "prekeys").glob("*.key")]
    except (OSError, OperatorError) as error:
        return [Finding(Level.BAD, "prekeys", str(error), "put the data folder back from a backup")]
    if not pairs:
        return [Finding(Level.BAD, "prekeys", "there is none", "start the Router: isthmus router run")]
    age = time.time() - (max(pair.not_after for pair in pairs) - PREKEY_LIFETIME)
    text = f"the newest is {age / DAY:.1f} days old"
    if age > PREKEY_LIFETIME:
        return [Finding(Level.BAD, "prekeys", text, "no site can call this one: start the Router")]
    if age > _OLD_PREKEY:
        return [Finding(Level.WARN, "prekeys", text, "a running Router makes one each day: does it run?")]
    return [Finding(Level.OK, "prekeys", text)]


def _running(data: Path) -> HostPort | None:
    """Return where the control API of a running Router answers, or None."""
    try:
        control = read_json(data / "control.json")
        if control is None:
            return None
        where = HostPort.parse(str(control["address"]))
        with socket.create_connection((where.host, where.port), timeout=2.0):
            return where
    except (OSError, OperatorError, KeyError):
        return None


def _tables(data: Path, *, running: HostPort | None, echo: Echo | None) -> list[Finding]:
    path = data / "router.db"
    if not path.exists():
        return [Finding(Level.WARN, "tables", "none yet: the Router never ran", "isthmus router run")]
    try:
        store = Store.look(path)
    except (IsthmusError, sqlite3.Error) as error:
        return [Finding(Level.BAD, "tables", str(error), "put the data folder back from a backup")]
    try:
        return [
            Finding(Level.OK, "tables", "whole"),
            _lan(store.lan_address() or DEFAULT_DICOM, running=running is not None),
            *_sites(store),
            *_devices(store, echo),
        ]
    finally:
        store.close()


def _lan(where: HostPort, *, running: bool) -> Finding:
    if running:
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(where.host, where.host)  # noqa: S104 - compared, not bound
        try:
            with socket.create_connection((host, where.port), timeout=2.0):
                return Finding(Level.OK, "LAN port", f"listening at {where}")
        except OSError as error:
            return Finding(Level.BAD, "LAN port", f"nothing answers at {where}: {error}", "look at the Router's log")
    family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
    try:
        with socket.create_server((where.host, where.port), family=family):
            return Finding(Level.WARN, "LAN port", f"the Router does not run; {where} is free", "isthmus router run")
    except OSError as error:
        return Finding(
            Level.BAD, "LAN port", f"the Router cannot listen at {where}: {error.strerror}", "what else uses that port?"
        )


def _sites(store: Store) -> Iterator[Finding]:
    reported = {row.site: row for row in store.reported()}
    verified = {row.router_id: row for row in store.verified()}
    accepted = {row.site: row for row in store.acceptances() if row.accepted}
    for site in sorted(accepted.keys() | reported.keys()):
        mine, theirs = accepted.get(site), reported.get(site)
        if mine is None:
            assert theirs is not None
            if theirs.statement is not None:
                yield Finding(
                    Level.WARN,
                    "sites",
                    f"{site} accepted this site, which did not accept it",
                    f"isthmus site accept {site}",
                )
            continue
        if theirs is not None and theirs.public_key != mine.public_key:
            yield Finding(
                Level.BAD,
                "sites",
                f"the key of {site} changed: nothing flows",
                f"call {site}; isthmus site accept {site}",
            )
            continue
        held = verified.get(mine.router_id)
        if held is None or held.statement is None or not held.statement.accepted:
            yield Finding(
                Level.WARN, "sites", f"{site} did not accept this site", f"call {site}: there, isthmus site accept"
            )
        elif held.statement.not_after <= time.time():
            yield Finding(Level.BAD, "sites", f"what {site} granted has run out", f"does the Router of {site} run?")
        elif _run_out(held.prekey):
            yield Finding(Level.BAD, "sites", f"{site} has no key to seal for", f"does the Router of {site} run?")
        else:
            yield Finding(Level.OK, "sites", f"{site}: accepted at both ends")


def _run_out(prekey: Prekey | None) -> bool:
    return prekey is None or prekey.not_after <= time.time()


def _devices(store: Store, echo: Echo | None) -> Iterator[Finding]:
    for device in store.devices():
        if echo is None or device.port is None or device.disabled:
            continue
        wrong = echo(device)
        if wrong:
            yield Finding(Level.BAD, "devices", f"{device}: {wrong}", f"isthmus device test {device.title}")
        else:
            yield Finding(Level.OK, "devices", f"{device} answers")


def _membership(data: Path, *, look_at_bridge: bool) -> list[Finding]:
    try:
        membership = read_json(data / "membership.json")
        if membership is None:
            return [Finding(Level.WARN, "network", "this Router joined none", "isthmus router join INVITE")]
        url = str(membership["url"])
        found = Finding(Level.OK, "network", f"site {membership['site']} at {url}")
        return [found, *(bridge_findings(url) if look_at_bridge else ())]
    except (OperatorError, KeyError) as error:
        text = str(error) if isinstance(error, OperatorError) else "membership.json is damaged"
        return [Finding(Level.BAD, "network", text, "join again with a new invite")]
