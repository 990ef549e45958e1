"""The README's two sites in five minutes, as it is written: each terminal a shell. Only the ports are other ones."""

import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import pytest

from isthmus.testing.free_ports import free_port

README = Path(__file__).parents[3] / "README.md"
PORTS = ("8443", "11112", "11113", "11120")


def _terminals(text: str) -> dict[int, list[str]]:
    section = text.split("## Two sites in five minutes")[1].split("\n## ")[0]
    parts = re.split(r"\*\*Terminal (\d)", section)
    return {
        int(number): re.findall(r"```sh\n(.*?)```", body, re.DOTALL)
        for number, body in zip(parts[1::2], parts[2::2], strict=True)
    }


class Terminals:
    """Shells in one folder, with the package's programs first on the path."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._environment = {
            **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(folder),
        }
        self._environment.pop("ISTHMUS_DATA", None)
        self._running: list[subprocess.Popen[str]] = []

    def leave_running(self, script: str, *, until: str = "") -> None:
        """Run a script that does not end; return when a line that holds `until` came."""
        shell = self._start(script, stdin=subprocess.DEVNULL)
        self._running.append(shell)
        assert shell.stdout is not None
        seen = []
        while until:
            line = shell.stdout.readline()
            seen.append(line)
            assert line, f"it ended: {''.join(seen)}"
            if until in line:
                break
        threading.Thread(target=_drain, args=(shell.stdout,), daemon=True).start()

    def run(self, script: str) -> str:
        """Run a script to its end at a terminal whose person answers yes; return what it printed."""
        person, terminal = pty.openpty()
        os.write(person, b"yes\n" * script.count("site accept"))
        try:
            shell = self._start(f"set -e\n{script}", stdin=terminal)
            output, _ = shell.communicate(timeout=90)
        finally:
            os.close(terminal)
            os.close(person)
        assert shell.returncode == 0, output
        return output

    def until(self, script: str, expected: Callable[[str], bool]) -> None:
        while not expected(self.run(script)):
            pass  # each try takes the time of a command; the time limit of the test ends it

    def close(self) -> None:
        for shell in reversed(self._running):
            os.killpg(shell.pid, signal.SIGTERM)
            shell.wait(30)

    def _start(self, script: str, *, stdin: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["/bin/bash", "-c", script],
            cwd=self._folder,
            env=self._environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def _drain(stream: IO[str]) -> None:
    with stream:
        for _ in stream:
            pass


@pytest.fixture
def terminals(tmp_path: Path) -> Iterator[Terminals]:
    shells = Terminals(tmp_path)
    yield shells
    shells.close()


@pytest.mark.timeout(240)
def test_two_sites_in_five_minutes_works_as_the_readme_says(terminals: Terminals, tmp_path: Path) -> None:
    text = README.read_text()
    for written in PORTS:
        assert written in text
        text = text.replace(written, str(free_port()))
    typed = _terminals(text)
    assert sorted(typed) == [1, 2, 3, 4, 5]
    for number, ready in ((1, "Bridge ready"), (2, "Router ready"), (3, "Router ready")):
        terminals.leave_running("".join(typed[number]), until=ready)
    terminals.leave_running("".join(typed[4]))
    consent, devices, look, send = typed[5]
    terminals.until("isthmus site list --data north; isthmus site list --data south", _shows("south", "north"))
    assert "accepted here" in terminals.run(consent)
    terminals.run(devices)
    terminals.until("isthmus directory --data north; true", _shows("SOUTH_PACS"))
    assert "success" in terminals.run(look)
    assert "NORTH_CT" in terminals.run(send)
    assert len(list((tmp_path / "received").iterdir())) == 1


def _shows(*words: str) -> Callable[[str], bool]:
    return lambda output: all(word in output for word in words)
