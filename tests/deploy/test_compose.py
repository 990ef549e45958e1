"""The compose file: the programs that it starts understand what it says, as far as that shows without an engine."""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]  # has no types
from tests.backends.servers import postgres
from tests.deploy.image import ROOT, tool
from tests.deploy.test_image import USER

from isthmus import cli
from isthmus.adapters.signalling.nats.accounts import Nkey, Role, server_configuration
from isthmus.router.control.check import check
from isthmus.testing.bridge import running_bridge
from isthmus.testing.free_ports import free_port

FOLDER = ROOT / "deploy"
OURS = "localhost/isthmus:latest"
_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")
_GIVEN = {"ISTHMUS_PUBLIC_URL": "https://bridge.example.org:8443"}


def _fill(value: Any) -> Any:
    """Put in the variables, as compose does: those that it cannot do without are given, the others as they are."""
    if isinstance(value, dict):
        return {name: _fill(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_fill(each) for each in value]
    if isinstance(value, str):
        return _VARIABLE.sub(lambda found: _GIVEN[found[1]] if found[2] != "-" else found[3], value)
    return value


TEXT = (FOLDER / "compose.yaml").read_text()
FILE: dict[str, Any] = _fill(yaml.safe_load(TEXT))
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
BRIDGES = [name for name, service in SERVICES.items() if service["image"] == OURS]


def _secrets(service: dict[str, Any]) -> dict[str, str]:
    """Return where each secret of a service is in its container."""
    return {
        secret["source"]: secret.get("target") or f"/run/secrets/{secret['source']}"
        for secret in service.get("secrets", ())
    }


def test_there_are_two_bridges_postgresql_nats_and_an_s3_store() -> None:
    assert BRIDGES == ["bridge-1", "bridge-2"]
    assert set(SERVICES) >= {"postgres", "bus", "nats", "s3", "address"}


@pytest.mark.parametrize("name", BRIDGES)
def test_the_command_of_a_bridge_is_understood(name: str) -> None:
    cli.app.parse_args(SERVICES[name]["command"], exit_on_error=False, print_error=False)
    known = set(re.findall(r'env_var="(\w+)"', "".join(path.read_text() for path in (ROOT / "src").rglob("*.py"))))
    assert {variable for variable in SERVICES[name]["environment"] if variable.startswith("ISTHMUS_")} <= known


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_refers_to_is_there_and_used(name: str) -> None:
    service = SERVICES[name]
    assert set(service["networks"]) <= set(FILE["networks"])
    assert set(_secrets(service)) <= set(FILE["secrets"])
    assert set(service.get("depends_on", ())) <= set(SERVICES)
    for volume in service.get("volumes", ()):
        source = volume.partition(":")[0]
        assert (FOLDER / source).is_file() if source.startswith(".") else source in FILE["volumes"]
    paths = set(_secrets(service).values())
    named = set(re.findall(r"/run/secrets/[\w.-]+", str(service)))
    assert named <= paths


@pytest.mark.parametrize("kind", ["secrets", "volumes", "networks"])
def test_nothing_is_declared_for_nobody(kind: str) -> None:
    used = set()
    for service in SERVICES.values():
        used |= {volume.partition(":")[0] for volume in service.get("volumes", ())} if kind == "volumes" else set()
        used |= set(service["networks"]) if kind == "networks" else set()
        used |= set(_secrets(service)) if kind == "secrets" else set()
    assert set(FILE[kind]) <= used


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_looked_after_and_kept_in_bounds(name: str) -> None:
    service = SERVICES[name]
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["restart"] == "unless-stopped"
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert "no-new-privileges:true" in service["security_opt"]
    assert re.search(r":\d[\w.-]*$", service["image"]) or service["image"] == OURS  # a release, not what is newest


def test_no_secret_is_in_the_file() -> None:
    assert all(secret["file"].startswith("./secrets/") for secret in FILE["secrets"].values())
    assert "/deploy/secrets/" in (ROOT / ".gitignore").read_text()
    assert re.findall(r"://[^\s/]+:[^\s/]+@", TEXT) == []


def test_the_bridges_are_the_user_of_the_image_and_share_identity_database_and_blobs() -> None:
    one, other = (SERVICES[name] for name in BRIDGES)
    assert one["user"] == f"{USER}:{USER}"
    assert {name: value for name, value in one.items() if name != "volumes"} == {
        name: value for name, value in other.items() if name != "volumes"
    }
    assert _secrets(one)["identity.key"] == "/var/lib/isthmus/identity.key"
    blobs = one["environment"]["ISTHMUS_BLOBS"]
    assert [volume for volume in one["volumes"] if volume in other["volumes"]] == [f"blobs:{blobs}"]
    assert f"/var/lib/isthmus {blobs} " in (FOLDER / "Containerfile").read_text()  # so that a new volume is that user's


def test_who_needs_no_way_out_has_none() -> None:
    internal = {name for name, network in FILE["networks"].items() if network and network.get("internal")}
    assert {name for name, service in SERVICES.items() if set(service["networks"]) <= internal} == {"postgres", "bus"}
    assert {name for name, service in SERVICES.items() if "ports" in service} == {"address", "nats", "s3"}


@pytest.mark.parametrize("name", ["bus", "nats"])
def test_nats_accepts_its_configuration(name: str, tmp_path: Path) -> None:
    text = (FOLDER / f"compose/{name}.conf").read_text()
    if name == "nats":
        key, certificate = tmp_path / "nats.key", tmp_path / "nats.pem"
        made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=nats"]
        subprocess.run([tool("openssl"), *made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
        accounts = server_configuration(Nkey.make(Role.ACCOUNT), now=1_700_000_000)
        (tmp_path / "accounts.conf").write_text(accounts[accounts.index("operator:") :])
        text = text.replace("/run/secrets", str(tmp_path))
    (tmp_path / "nats.conf").write_text(text)
    done = subprocess.run(
        [tool("nats-server"), "-t", "-c", tmp_path / "nats.conf"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_postgresql_takes_its_settings_and_a_bridge_comes_in_with_a_password_file(tmp_path: Path) -> None:
    options = SERVICES["postgres"]["command"][1:]
    program = [postgres._programs() / "postgres", *options]
    with postgres.running_server() as running:
        for setting in (option for option in options if option != "-c"):
            assert _as_postgres([*program, "-D", running.folder / "data", "-C", setting.partition("=")[0]])
        passwords = tmp_path / "pgpass"
        passwords.write_text(f"*:*:*:{postgres.USER}:{postgres.PASSWORD}\n")
        passwords.chmod(0o600)
        (tmp_path / "data").mkdir(mode=0o700)
        (tmp_path / "data/identity.key").write_bytes(os.urandom(32))
        environment = {
            **os.environ,
            "PGPASSFILE": str(passwords),
            "ISTHMUS_DATABASE_URL": f"postgresql://{postgres.USER}@/postgres?host={running.folder}",
            "ISTHMUS_DATA": str(tmp_path / "data"),
            "ISTHMUS_BLOBS": str(tmp_path / "blobs"),
        }
        with subprocess.Popen(
            [Path(sys.executable).parent / "isthmus", "bridge", "run", "--listen", "127.0.0.1:0"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
        ) as bridge:  # fmt: skip
            assert bridge.stdout is not None
            first = bridge.stdout.readline()
            bridge.send_signal(signal.SIGTERM)
            _, said = bridge.communicate(timeout=30)
        assert "bridge runs" in first + said, said


def _as_postgres(words: list[str | Path]) -> str:
    done: subprocess.CompletedProcess[str] = subprocess.run(
        words, capture_output=True, text=True, check=False, **postgres._as_somebody()
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


async def test_one_address_leads_to_the_bridge_that_works_and_leaves_tls_to_it(tmp_path: Path) -> None:
    text = (FOLDER / "compose/haproxy.cfg").read_text()
    listen, absent = free_port(), free_port()
    async with running_bridge(tmp_path / "bridge", tls=True) as bridge:
        places = {"bind :8443": f"bind 127.0.0.1:{listen}", "bridge-2:8443": f"127.0.0.1:{absent}"}
        places["maxconn 20000"] = "maxconn 100"  # which this user may have without asking
        places["bridge-1:8443"] = f"127.0.0.1:{bridge.address.listen.port}"
        for written, here in places.items():
            assert written in text
            text = text.replace(written, here)
        (tmp_path / "haproxy.cfg").write_text(text)
        haproxy = await asyncio.create_subprocess_exec(
            tool("haproxy"), "-db", "-f", tmp_path / "haproxy.cfg", stdout=asyncio.subprocess.PIPE
        )
        try:
            assert haproxy.stdout is not None
            async for line in haproxy.stdout:
                if b"bridges/bridge-2 is DOWN" in line:
                    break
            else:
                pytest.fail("haproxy ended")
            report = await asyncio.to_thread(check, f"https://127.0.0.1:{listen}")
            assert report.ok, report.findings
        finally:
            with contextlib.suppress(ProcessLookupError):
                haproxy.terminate()
            rest, _ = await haproxy.communicate()
        assert b"bridge-1 is DOWN" not in rest
