"""What `make wheels` writes installs where there is neither network nor compiler, as the pages say."""

import os
import re
import subprocess
from pathlib import Path

import pytest
from tests.deploy.image import ROOT

from isthmus import __version__

pytestmark = pytest.mark.timeout(600)
_BLOCK = re.compile(r"```sh\n(.*?)```", re.DOTALL)


def _installation(page: str) -> list[str]:
    """Return the commands of a page that make the environment and ask it for its version."""
    typed = [line for block in _BLOCK.findall((ROOT / "docs/how-to" / page).read_text()) for line in block.splitlines()]
    start = typed.index("python3 -m venv /opt/isthmus")
    return typed[start : typed.index("isthmus --version") + 1]


def test_the_commands_of_the_pages_install_it_in_a_clean_environment(wheels: Path, tmp_path: Path) -> None:
    commands = _installation("install-a-router.md")
    assert [line.replace("isthmus/dist/", "dist/") for line in _installation("bridge-on-a-small-vm.md")] == commands
    script = "\n".join(("set -e", *commands))
    for written, here in {
        "/opt/isthmus": tmp_path / "opt",
        "/usr/local/bin/isthmus": tmp_path / "isthmus",
    }.items():
        script = script.replace(written, str(here))
    script = re.sub(r" dist/", f" {wheels}/", script)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(__version__)
    checked = subprocess.run([tmp_path / "opt/bin/pip", "check"], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout
