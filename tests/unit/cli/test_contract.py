"""The names that people script against: none may vanish, and each explains itself."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
from cyclopts import App

from isthmus import __version__, cli

CONTRACT = """
bridge run --listen --public-url
bridge invite --valid
bridge list
bridge withdraw
bridge revoke
provider add --signalling --blobstore --priority --secret --secret-file --ca
provider list
provider set --priority --off --secret
provider remove --force
provider test --json
provider setup --keep-days
provider usage --month --prices --price --json
router check
router join --ca
router run --dicom --dicom-tls --console
router pause
router status
site list
site accept --id
site remove
device add --name --title --from-address
device list
device show
device remove
device test
device disable
grant add --site --caller --services --until
grant list
grant remove
directory
echo --as
sessions
audit
doctor
demo --once
"""

LISTINGS = [
    "bridge list",
    "provider list",
    "site list",
    "device list",
    "grant list",
    "alias list",
    "directory",
    "sessions",
    "audit",
]

HEAVY = [
    "aiohttp",
    "cryptography",
    "fastapi",
    "pydantic",
    "pydicom",
    "pynetdicom",
    "sqlalchemy",
    "uvicorn",
    "websockets",
]


def commands(app: App = cli.app, words: tuple[str, ...] = ()) -> Iterator[str]:
    for name in app:
        if name.startswith("-"):
            continue
        inner = app[name]
        if inner.default_command is not None:
            yield " ".join((*words, name))
        yield from commands(inner, (*words, name))


def _help(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert cli.run([*command.split(), "--help"]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("line", CONTRACT.strip().splitlines())
def test_every_command_and_option_of_the_contract_is_there(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = line.split()
    command = " ".join(word for word in words if not word.startswith("--"))
    text = _help(command, capsys)
    assert [option for option in words if option.startswith("--") and option not in text] == []


@pytest.mark.parametrize("command", sorted(commands()))
def test_the_help_of_every_command_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"isthmus {command}" in _help(command, capsys).split("Usage:", 1)[1].split("\n", 1)[1]


@pytest.mark.parametrize("command", sorted(commands()))
def test_every_command_takes_a_data_folder(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    if command not in {"demo", "router check"}:  # they touch none
        assert "--data" in _help(command, capsys)


@pytest.mark.parametrize("command", LISTINGS)
def test_every_listing_can_be_read_by_programs(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--json" in _help(command, capsys)


def test_the_version_is_that_of_the_package(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


def test_starting_up_imports_nothing_heavy() -> None:
    code = f"import sys, isthmus.cli; print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_a_command_logs_does_not_go_where_its_answer_goes() -> None:
    code = (
        "import sys, structlog; from isthmus import cli; sys.argv[1:] = ['--version'];"
        "cli.run = lambda _tokens: structlog.get_logger().warning('seen'); cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "seen" in done.stderr
