"""The example of docs/how-to/add-a-provider.md, as somebody else's package, passes the suite at a real broker."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from isthmus.cloudio.providers import SIGNALLING, schemes

EXAMPLE = Path(__file__).parents[2] / "examples" / "isthmus-mqtt"
SECONDS = 100
_SHOWN = """
from isthmus.cloudio.providers import SIGNALLING, schemes, signalling_provider
provider = signalling_provider("mqtts://broker.example.org")
print(*schemes(SIGNALLING), provider.title, provider.tried, *provider.hosts("mqtts://broker.example.org"), sep="|")
import sys
assert not any(name.partition(".")[0] in {"aiomqtt", "paho"} for name in sys.modules), "its library was imported"
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment of a process that has the package."""
    target = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    run([*pip, "--disable-pip-version-check", "--target", str(target), str(EXAMPLE)], dict(os.environ))
    return {**os.environ, "PYTHONPATH": str(target)}


def run(command: list[str], environment: dict[str, str]) -> str:
    """Return what a command printed; if it fails, so does the test."""
    done = subprocess.run(
        command, env=environment, cwd=EXAMPLE, capture_output=True, text=True, check=False, timeout=SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_its_schemes_are_found_and_its_library_is_not_imported_to_list_it(installed: dict[str, str]) -> None:
    assert not {"mqtt", "mqtts"}.intersection(schemes(SIGNALLING))  # of this process, which does not have it
    *found, title, tried, host = run([sys.executable, "-c", _SHOWN], installed).strip().split("|")
    assert {"mqtt", "mqtts", "bridge"} <= set(found)
    assert (title, tried, host) == ("MQTT", "mosquitto 2.0", "broker.example.org:8883")


def test_its_own_tests_pass_the_suite_among_them(installed: dict[str, str]) -> None:
    said = run([sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider"], installed)
    assert "TestMqtt::test_notices_arrive_as_they_were_sent PASSED" in said
