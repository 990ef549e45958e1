"""A disk for a process under test that forgets what was not fsynced, and fails when told to: `disk.c`, from Python."""

import mmap
import os
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Final

_SOURCE: Final = Path(__file__).with_name("disk.c")
_CONTROL: Final = struct.Struct("=QQQQQQ")  # calls, fail_from, fail_until, error, failed, kill_at
_FOR_EVER: Final = 2**63


def build(folder: Path) -> Path:
    """Compile the library that a process preloads; return it."""
    library = folder / "disk.so"
    subprocess.run(
        ["/usr/bin/gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", library, _SOURCE, "-ldl"], check=True
    )
    return library


class Disk:
    """The disk under `folder`, as the next process sees it that is started with `environment`."""

    def __init__(self, library: Path, folder: Path, scratch: Path, *, forgets: bool) -> None:
        """Make ready in `scratch`. `forgets`: keep an image of what is durable, for `cut_power`."""
        self._library = library
        self._folder = folder
        self._image = scratch / f"{folder.name}.image"
        self._forgets = forgets
        control = scratch / f"{folder.name}.control"
        control.write_bytes(bytes(_CONTROL.size))
        with control.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), _CONTROL.size)
        self._control = control

    def environment(self) -> dict[str, str]:
        """Return what the process needs; the image starts anew, with all that is there now taken for durable."""
        more = {"LD_PRELOAD": str(self._library), "DISK_FOLDER": str(self._folder), "DISK_CONTROL": str(self._control)}
        if self._forgets:
            shutil.rmtree(self._image, ignore_errors=True)
            for part in ("bytes", "names"):
                (self._image / part).mkdir(parents=True)
            more["DISK_IMAGE"] = str(self._image)
        return {**os.environ, **more}

    @property
    def calls(self) -> int:
        """How many I/O calls there were under the folder."""
        return int(_CONTROL.unpack(self._shared[:])[0])

    @property
    def failed(self) -> int:
        """How many of them failed by our wish."""
        return int(_CONTROL.unpack(self._shared[:])[4])

    def fail(self, error: int, *, after: int = 0, count: int | None = 1) -> None:
        """Let `count` calls fail with this errno, `after` calls from now; None: until `recover`."""
        first = self.calls + after + 1
        until = _FOR_EVER if count is None else first + count
        struct.pack_into("=QQQ", self._shared, 8, first, until, error)

    def recover(self) -> None:
        """Let all calls work again."""
        struct.pack_into("=QQQ", self._shared, 8, 0, 0, 0)

    def kill(self, *, after: int) -> None:
        """Let the process end by SIGKILL in the I/O call that comes after so many others."""
        struct.pack_into("=Q", self._shared, 40, self.calls + after + 1)

    def cut_power(self) -> None:
        """Leave in the folder what was durable. The process must be gone."""
        shutil.rmtree(self._folder)
        self._restore(self._folder, "")

    def _restore(self, folder: Path, name: str) -> None:
        folder.mkdir(mode=0o700)
        listing = self._image / "names" / (name.replace("/", "%") or "%")
        if not listing.exists():
            return
        for line in listing.read_text().splitlines():
            entry, _, content = line.rpartition(" ")
            if content == "/":
                self._restore(folder / entry, f"{name}/{entry}")
                continue
            kept = self._image / "bytes" / content
            target = folder / entry
            target.write_bytes(kept.read_bytes() if kept.exists() else b"")
            target.chmod(0o600)
