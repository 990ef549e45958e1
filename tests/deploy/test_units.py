"""The systemd units: systemd accepts them, they let the parts do little, and the parts can live with that."""

import ctypes
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tests.deploy.image import ROOT, tool

from isthmus import cli

UNITS = sorted((ROOT / "deploy/systemd").glob("*.service"))
MOST_EXPOSED = 15  # tenths of what systemd calls the exposure level; 12 when this was written
PROGRAM = "/opt/isthmus/bin/isthmus"
_PR_SET_MDWE, _REFUSE_GAIN = 65, 1  # what MemoryDenyWriteExecute= does, as the kernel itself offers it


def _name(path: Path) -> str:
    return path.name


def _analyze(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([tool("systemd-analyze"), *words], capture_output=True, text=True, check=False)


def _commands(text: str) -> list[str]:
    return [line.removeprefix("ExecStart=") for line in re.findall(r"^(?:# )?(ExecStart=.+)$", text, re.MULTILINE)]


@pytest.mark.parametrize("unit", UNITS, ids=_name)
def test_systemd_accepts_the_unit(unit: Path, tmp_path: Path) -> None:
    there = tmp_path / unit.name
    there.write_text(unit.read_text().replace(PROGRAM, str(Path(sys.executable).parent / "isthmus")))
    done = _analyze("verify", "--recursive-errors=no", there)
    assert (done.returncode, done.stderr) == (0, "")


def test_systemd_would_not_accept_a_mistake(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.service"
    wrong.write_text("[Service]\nExecStart=/bin/true\nProtectSystem=a bit\n")
    assert "protect system" in _analyze("verify", "--recursive-errors=no", wrong).stderr


@pytest.mark.parametrize("unit", UNITS, ids=_name)
def test_the_unit_gives_the_part_little_to_do_harm_with(unit: Path) -> None:
    done = _analyze("security", "--offline=yes", f"--threshold={MOST_EXPOSED}", "--no-pager", unit)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("unit", UNITS, ids=_name)
def test_the_command_of_the_unit_is_understood(unit: Path) -> None:
    commands = _commands(unit.read_text())
    assert commands
    for command in commands:
        words = shlex.split(command.replace("${ISTHMUS_PUBLIC_URL}", "https://bridge.example.org:8443"))
        assert words[0] == PROGRAM
        cli.app.parse_args(words[1:], exit_on_error=False, print_error=False)


_EVERYTHING = """
import importlib, pkgutil, isthmus
for module in pkgutil.walk_packages(isthmus.__path__, "isthmus."):
    if "__main__" not in module.name and ".migrations" not in module.name and ".testing" not in module.name:
        importlib.import_module(module.name)
import asyncpg, nacl.signing, obstore, uvloop
from isthmus.envelope.identity import Identity
Identity.generate(__import__("os").urandom)
nacl.signing.SigningKey.generate().sign(b"x")
uvloop.run(__import__("asyncio").sleep(0))
print("all of it")
"""


def test_nothing_needs_memory_that_is_written_and_run() -> None:
    libc = ctypes.CDLL(None, use_errno=True)

    def forbid() -> None:
        if libc.prctl(_PR_SET_MDWE, _REFUSE_GAIN, 0, 0, 0) != 0:
            os._exit(99)  # a kernel before 6.3 cannot be asked

    done = subprocess.run(
        [sys.executable, "-c", _EVERYTHING], preexec_fn=forbid, capture_output=True, text=True, check=False
    )
    if done.returncode == 99:
        pytest.skip("this kernel cannot forbid it")
    assert done.stdout == "all of it\n", done.stderr
