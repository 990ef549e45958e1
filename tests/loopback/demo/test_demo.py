"""The demonstration as a user starts it."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from isthmus.demo import run
from isthmus.demo.devices import Archive
from isthmus.testing.depth import count

LIMIT = 60.0  # seconds: it is what a newcomer sees first


def _start(*options: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "isthmus", "demo", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "TMPDIR": str(folder)},
    )


@pytest.mark.timeout(180)
def test_the_whole_demonstration_succeeds(tmp_path: Path) -> None:
    demo = _start("--once", folder=tmp_path)
    output, _ = demo.communicate(timeout=3 * LIMIT)
    assert demo.returncode == 0, output
    assert "FAILED" not in output
    for shown in (
        "held byte for byte as sent",
        "C-MOVE",
        "C-GET",
        "storage commitment",
        "A-ASSOCIATE-RJ 1/1/7",
        "A-ASSOCIATE-RJ 1/1/3",
        "A-ASSOCIATE-RJ 2/3/1",
        "none of",
        "steps succeeded",
    ):
        assert shown in output
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(180)
@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM][: count(push=1, nightly=2)])
def test_it_stays_up_for_a_viewer_and_leaves_nothing_behind(ending: signal.Signals, tmp_path: Path) -> None:
    demo = _start(folder=tmp_path)
    assert demo.stdout is not None
    said = ""
    for line in demo.stdout:
        said += line
        if "Ctrl-C ends it" in line:
            break
    else:
        pytest.fail(said)
    children = psutil.Process(demo.pid).children(recursive=True)
    assert len(children) == 3  # a Bridge and two Routers
    assert "MY_VIEWER" in said
    demo.send_signal(ending)
    demo.communicate(timeout=60)
    assert psutil.wait_procs(children, timeout=10)[1] == []
    assert demo.returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(180)
def test_a_step_that_fails_is_told_and_makes_the_exit_status_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_archive: Archive, _event: object) -> int:
        return 0xA700

    monkeypatch.setattr(Archive, "_store", broken)
    assert run.run_demo(once=True) == 1
    output = capsys.readouterr().out
    assert "C-STORE of CT_small.dcm was answered with status 0xA700" in output
    assert "steps FAILED" in output
    assert "the far archive is switched off ... ok" in output  # the rest went on


def test_setting_up_that_fails_ends_the_show(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert run.run_demo(once=True) == 1
    output = capsys.readouterr().out
    assert "isthmus bridge run ... FAILED" in output
    assert "C-ECHO" not in output
