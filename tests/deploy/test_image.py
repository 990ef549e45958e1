"""The container image: what it does, as whom, and what is not in it."""

import json
import re
from collections.abc import Iterator
from importlib.metadata import entry_points

import pytest
from tests.deploy.image import ROOT, Container, Image

from isthmus import __version__

pytestmark = pytest.mark.timeout(900)  # the first test waits until it is built

MOST_BYTES = 340_000_000
USER = 10001
_TOOLS = ["gcc", "cc", "g++", "ld", "as", "make", "cmake", "git", "pip", "pip3", "uv", "curl", "wget", "ssh"]
_SERVICES = ("s3", "sqs", "sts")  # of Amazon's, that the adapters use
# Put together here, so that this file does not contain what is looked for.
_INDEX = re.compile("py" + r"pi\.|python" + "hosted|index" + "[-_]url|find" + "[-_]links|/sim" + "ple/", re.IGNORECASE)


@pytest.fixture(scope="module")
def container(image: Image) -> Iterator[Container]:
    with image.container() as made:  # it takes seconds, and no test changes it
        yield made


def _python(container: Container, code: str) -> str:
    return container.run("/opt/isthmus/bin/python", "-c", code)


def test_it_says_its_version(container: Container) -> None:
    assert container.run("isthmus", "--version") == __version__


def test_a_bridge_and_a_router_in_it_meet_and_end_when_told(image: Image, container: Container) -> None:
    bridge_command = ["isthmus", "bridge", "run", "--listen", "127.0.0.1:0"]
    router_command = ["isthmus", "router", "run", "--dicom", "127.0.0.1:0"]
    bridge = container
    with image.container() as router:
        assert bridge.attempt("isthmus-healthy").returncode == 1
        with bridge.running(*bridge_command, until="Bridge ready") as running:
            assert bridge.run("isthmus-healthy") == "it works"
            invite = bridge.run("isthmus", "bridge", "invite", "north")
            assert "site north" in router.run("isthmus", "router", "join", given=f"{invite}\n")
            with router.running(*router_command, until="Router ready") as other:
                assert router.run("isthmus-healthy") == "it works"
                while not json.loads(bridge.run("isthmus", "bridge", "status", "--json"))["routers_online"]:
                    pass  # each look takes the time of a command; the time limit of the test ends it
                assert other.program.uids().effective == USER
                assert other.stop() == 0
            assert router.attempt("isthmus-healthy").returncode == 1
            assert running.program.uids().effective == USER
            assert running.stop() == 0
        assert "identity.key" in bridge.run("ls", "/var/lib/isthmus")
        assert "identity.key" in router.run("ls", "/var/lib/isthmus")


def test_nothing_in_it_makes_anybody_root(container: Container) -> None:
    assert container.run("id", "-u", "-n") == "isthmus"
    assert container.attempt("find", "/", "-xdev", "-type", "f", "-perm", "/6000").stdout == ""
    assert container.attempt("find", "/opt", "/etc", "/usr", "-not", "-type", "l", "-writable").stdout == ""


def test_nothing_in_it_builds_or_fetches(container: Container) -> None:
    found = container.attempt("sh", "-c", f"command -v {' '.join(_TOOLS)}; true").stdout
    assert found == ""


def test_of_packages_it_holds_what_running_needs_and_nothing_else(container: Container) -> None:
    named = re.findall(r"^([\w.-]+)==(\S+) ", (ROOT / "requirements-run.lock").read_text(), re.MULTILINE)
    wanted = {(re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in named}
    code = "from importlib.metadata import distributions as all; print([(d.name, d.version) for d in all()])"
    held = {(re.sub(r"[-_.]+", "-", name).lower(), version) for name, version in eval(_python(container, code))}
    assert {name for name, _ in held ^ wanted} == {"isthmus"}


def test_the_library_of_every_provider_is_in_it(container: Container) -> None:
    modules = {
        entry.value.partition(":")[0]
        for group in ("isthmus.blobstore", "isthmus.signalling")
        for entry in entry_points(group=group)
        if entry.value.startswith("isthmus.")
    }
    assert modules
    _python(container, "import asyncpg, obstore, azure.storage.blob.aio, azure.storage.queue.aio")
    _python(container, f"import {', '.join(sorted(modules))}")
    code = f"from botocore.session import get_session as s; [s().create_client(n, 'eu-west-1') for n in {_SERVICES}]"
    _python(container, code)


def test_the_adapters_speak_no_service_of_amazons_that_it_lacks() -> None:
    named = set()
    for path in (ROOT / "src/isthmus/adapters").rglob("*.py"):
        named |= set(re.findall(r"create_client\(\s*[\"'](\w+)[\"']", path.read_text()))
    assert named <= set(_SERVICES)


def test_it_names_no_package_index(image: Image, container: Container) -> None:
    about = image.buildah("inspect", "--type", "image", image.name)
    assert _INDEX.findall(about) == []
    where = ["/etc", "/root", "/home", "/var/lib/isthmus", "/opt/isthmus/bin", "/opt/isthmus/pyvenv.cfg"]
    assert container.attempt("grep", "-rIlEi", _INDEX.pattern, *where).stdout == ""
    assert container.run("find", "/opt", "-name", "direct_url.json", "-o", "-name", "pip.conf") == ""


def test_an_engine_is_told_how_to_run_it(image: Image) -> None:
    config = json.loads(image.buildah("inspect", "--type", "image", image.name))["Docker"]["config"]
    assert config["User"] == f"{USER}:{USER}"
    assert list(config["Volumes"]) == ["/var/lib/isthmus"]
    assert config["Healthcheck"]["Test"] == ["CMD", "isthmus-healthy"]
    assert config["StopSignal"] == "SIGTERM"
    assert config["Entrypoint"] == ["isthmus"]


def test_it_is_small(image: Image) -> None:
    manifest = json.loads(image.buildah("images", "--json", image.name))
    size = _bytes(manifest[0]["size"])
    assert 100_000_000 < size < MOST_BYTES


def _bytes(text: str) -> float:
    number, unit = text.split()
    return float(number) * {"kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]
