"""The disk that forgets is itself to be trusted: what it keeps and what it loses."""

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.loopback.faults.disk import Disk, build


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("disk"))


def run(disk: Disk, folder: Path, *lines: str) -> str:
    program = "\n".join(("import os, sqlite3", f"os.chdir({str(folder)!r})", *lines))
    done = subprocess.run(
        [sys.executable, "-c", program], env=disk.environment(), check=True, capture_output=True, text=True
    )
    return done.stdout


SYNC_FOLDER = "at = os.open('.', os.O_RDONLY); os.fsync(at)"
WRITE = "file = os.open('a', os.O_CREAT | os.O_WRONLY, 0o600); os.write(file, b'one')"


def test_what_was_not_fsynced_is_lost(library: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "before").write_bytes(b"kept")
    disk = Disk(library, folder, tmp_path, forgets=True)
    run(disk, folder, WRITE, SYNC_FOLDER)
    disk.cut_power()
    assert (folder / "a").read_bytes() == b""  # its name was durable, its bytes were not
    assert (folder / "before").read_bytes() == b"kept"


def test_a_file_without_a_durable_name_is_lost(library: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    disk = Disk(library, folder, tmp_path, forgets=True)
    run(disk, folder, WRITE, "os.fsync(file)")
    disk.cut_power()
    assert list(folder.iterdir()) == []


def test_what_was_fsynced_is_kept_and_what_came_after_is_not(library: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    disk = Disk(library, folder, tmp_path, forgets=True)
    run(disk, folder, WRITE, "os.fdatasync(file)", SYNC_FOLDER, "os.write(file, b'two')", "os.unlink('a')")
    disk.cut_power()
    assert (folder / "a").read_bytes() == b"one"


def test_a_committed_transaction_is_kept(library: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    disk = Disk(library, folder, tmp_path, forgets=True)
    run(
        disk,
        folder,
        "base = sqlite3.connect('x.db', isolation_level=None)",
        "base.execute('PRAGMA synchronous = EXTRA')",
        "base.execute('CREATE TABLE t (a)')",
        "[base.execute('INSERT INTO t VALUES (?)', (n,)) for n in range(10)]",
        SYNC_FOLDER,
    )
    disk.cut_power()
    assert run(disk, folder, "print(sqlite3.connect('x.db').execute('SELECT COUNT(*) FROM t').fetchone()[0])") == "10\n"


def test_calls_fail_as_told_and_only_those(library: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    disk = Disk(library, folder, tmp_path, forgets=False)
    disk.fail(errno.ENOSPC, after=1, count=1)  # the open works, the first write does not
    said = run(
        disk,
        folder,
        "file = os.open('a', os.O_CREAT | os.O_WRONLY, 0o600)",
        "try: os.write(file, b'one')",
        "except OSError as error: print(error.errno)",
        "print(os.write(file, b'one'))",
    )
    assert said == f"{errno.ENOSPC}\n3\n"
    assert disk.failed == 1


def test_a_process_ends_in_the_call_it_was_told(library: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    disk = Disk(library, folder, tmp_path, forgets=False)
    disk.kill(after=2)
    with pytest.raises(subprocess.CalledProcessError) as ended:
        run(disk, folder, WRITE, "os.write(file, b'two')", "os.write(file, b'three')")
    assert ended.value.returncode == -signal.SIGKILL
    assert (folder / "a").read_bytes() == b"one"
