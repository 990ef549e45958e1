"""`router check` names each obstacle that a real proxy puts in the way of a real Bridge."""

import asyncio
import ssl
from pathlib import Path
from typing import Any

import pytest
from tests.interop.certificates import Authority
from tests.loopback.proxies.proxy import Manners, Proxy, Upgrades

from isthmus.router.control import obstacles
from isthmus.router.control.check import Finding, Level, bridge_findings, check
from isthmus.router.control.clouds import cloud_findings
from isthmus.testing.bridge import running_bridge


@pytest.fixture(autouse=True)
def no_other_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


async def checked(
    folder: Path, monkeypatch: pytest.MonkeyPatch, manners: Manners, *, account: str = "", **options: Any
) -> dict[str, Finding]:
    """Return what is found through a proxy, by what it is about."""
    if manners.upgrades is not Upgrades.PASS:  # where they do pass, a busy machine is given its time
        monkeypatch.setattr(obstacles, "_UPGRADE_SECONDS", 0.5)
    async with running_bridge(folder / "bridge", tls=True) as bridge, Proxy.running(manners) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://{account}127.0.0.1:{proxy.port}")
        report = await asyncio.to_thread(check, bridge.address.url, **options)
    return {finding.what: finding for finding in report.findings}


async def test_a_proxy_that_only_tunnels_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = await checked(tmp_path, monkeypatch, Manners())
    assert {finding.level for finding in found.values()} == {Level.OK}
    assert {"proxy", "name", "TCP", "TLS", "Bridge", "clock", "certificate", "push", "answers", "requests"} <= set(
        found
    )


@pytest.mark.parametrize(
    ("account", "advice"), [("", "it wants an account"), ("user:wrong@", "it wants another account or password")]
)
async def test_a_proxy_that_wants_an_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, account: str, advice: str
) -> None:
    found = await checked(tmp_path, monkeypatch, Manners(account="user:right"), account=account)
    assert found["proxy"].level is Level.BAD
    assert advice in found["proxy"].advice
    assert "wrong" not in str(found).replace("wrong@", "")  # the password is said nowhere


async def test_a_proxy_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = await checked(tmp_path, monkeypatch, Manners(refuses=True))
    assert found["proxy"].level is Level.BAD
    assert "CONNECT to 127.0.0.1:" in found["proxy"].advice


async def test_a_proxy_that_opens_tls_is_named_by_the_issuer_of_its_certificates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path / "ca", "Hospital Inspection CA")
    manners = Manners(inspects=authority)
    found = (await checked(tmp_path / "1", monkeypatch, manners))["certificate"]
    assert found.level is Level.BAD
    assert "CN=Hospital Inspection CA" in found.found
    found = (await checked(tmp_path / "2", monkeypatch, manners, ca=authority.certificate))["certificate"]
    assert found.level is Level.WARN
    other = Authority(tmp_path / "other").certificate
    found = (await checked(tmp_path / "3", monkeypatch, manners, ca=other))["certificate"]
    assert found.level is Level.BAD
    assert "not of --ca" in found.found


@pytest.mark.parametrize("upgrades", [Upgrades.REFUSED, Upgrades.STRIPPED, Upgrades.SWALLOWED])
async def test_a_proxy_that_forbids_upgrades_is_a_warning_since_long_poll_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, upgrades: Upgrades
) -> None:
    found = await checked(tmp_path, monkeypatch, Manners(inspects=Authority(tmp_path / "ca"), upgrades=upgrades))
    assert found["push"].level is Level.WARN
    assert "long poll" in found["push"].found


async def test_a_proxy_that_holds_back_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = await checked(tmp_path, monkeypatch, Manners(inspects=Authority(tmp_path / "ca"), buffers=True))
    assert (found["answers"].level, found["answers"].found) == (Level.WARN, "are held back until they are complete")


@pytest.mark.parametrize(
    ("most", "level", "text"),
    [(2 << 20, Level.WARN, "of more than 1024 KiB"), (600_000, Level.WARN, "512 KiB"), (300_000, Level.BAD, "512 KiB")],
)
async def test_a_proxy_that_limits_bodies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, level: Level, text: str
) -> None:
    found = await checked(tmp_path, monkeypatch, Manners(inspects=Authority(tmp_path / "ca"), most_body=most))
    assert found["requests"].level is level
    assert text in found["requests"].found


@pytest.mark.parametrize(("idle", "level", "text"), [(0.7, Level.OK, "after 0 to 1 s"), (None, Level.OK, "kept for")])
async def test_when_idle_connections_are_cut_is_measured_on_demand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, idle: float | None, level: Level, text: str
) -> None:
    monkeypatch.setattr(obstacles, "_LONG", (0.3, 1.1))
    monkeypatch.setattr(obstacles, "_SENDS_EVERY", 0.2)
    found = await checked(tmp_path, monkeypatch, Manners(idle=idle), long=True)
    assert found["idle"].level is level
    assert text in found["idle"].found
    if idle is None:
        return
    monkeypatch.setattr(obstacles, "_SENDS_EVERY", 0.5)
    found = await checked(tmp_path / "again", monkeypatch, Manners(idle=idle), long=True)
    assert found["idle"].level is Level.BAD


async def test_the_hosts_of_clouds_are_looked_at_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path / "ca")
    made = authority.issue("cloud")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(made.certificate, made.key)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    good = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    clouds = {
        "hosts": [{"host": good}, {"host": "127.0.0.1:1"}],
        "pairs": [
            {"name": "bridge", "state": "works", "reason": ""},
            {"name": "one", "hosts": [good, "127.0.0.1:1", "elsewhere.example:443"], "reason": ""},
            {"name": "two", "hosts": [], "reason": "its library is not installed", "hint": "pip install"},
        ],
    }
    try:
        found = await asyncio.to_thread(lambda: list(cloud_findings(clouds)))
        assert [one.level for one in found] == [Level.BAD, Level.BAD, Level.WARN, Level.WARN]
        assert "is not trusted" in found[0].found
        assert "is not reached" in found[1].found
        assert "egress allow one" in found[2].advice
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
        found = await asyncio.to_thread(lambda: list(cloud_findings(clouds)))
        assert found[0].level is Level.OK
    finally:
        server.close()


async def test_the_doctor_says_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manners = Manners(inspects=Authority(tmp_path / "ca"), upgrades=Upgrades.REFUSED)
    async with running_bridge(tmp_path / "bridge", tls=True) as bridge, Proxy.running(manners) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        found = await asyncio.to_thread(bridge_findings, bridge.address.url)
    assert [(one.level, one.what) for one in found if one.level is not Level.OK] == [(Level.WARN, "push")]
