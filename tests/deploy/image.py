"""The container image, built for real: what the tests of it share."""

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil
import pytest
from tests.backends.servers.started import said_until

ROOT = Path(__file__).parents[2]


def tool(name: str) -> Path:
    """Return where a program is; without it, the test fails."""
    found = shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    if found is None:
        pytest.fail(f"there is no {name} here: scripts/install-tools installs it")
    return Path(found)


@dataclass(frozen=True, slots=True)
class Buildah:
    """Buildah with images and containers in a folder of its own, without an engine and without name spaces."""

    folder: Path
    environment: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        settings = self.folder / "storage.conf"
        graph, run = self.folder / "graph", self.folder / "run"
        settings.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{graph}"\nrunroot = "{run}"\n')
        own = {"CONTAINERS_STORAGE_CONF": str(settings), "STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"}
        object.__setattr__(self, "environment", os.environ | own)

    def __call__(self, *words: str) -> str:
        """Run it to its end; return what it printed."""
        done = self.attempt(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def attempt(self, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Run it to its end, whatever that is."""
        return subprocess.run(
            [tool("buildah"), *words], input=given, capture_output=True, text=True, check=False, env=self.environment
        )


@dataclass(frozen=True, slots=True)
class Container:
    """A container of the image, in which programs are run."""

    buildah: Buildah
    name: str

    def run(self, *words: str, given: str = "") -> str:
        """Run a program as the image's user to its end; return what it printed."""
        done = self.attempt(*words, given=given)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def attempt(self, *words: str, given: str = "") -> subprocess.CompletedProcess[str]:
        """Run a program as the image's user to its end, whatever that is."""
        return self.buildah.attempt("run", self.name, "--", *words, given=given)

    @contextlib.contextmanager
    def running(self, *words: str, until: str) -> Iterator["Running"]:
        """Run a program that stays, once it printed a line that begins with `until`; it is killed if it is left so."""
        with subprocess.Popen(
            [tool("buildah"), "run", self.name, "--", *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env=self.buildah.environment,
        ) as process:  # fmt: skip
            try:
                said = said_until(process.stdout, lambda line: line.startswith(until))
                threading.Thread(target=_drain, args=(process.stdout, said), daemon=True).start()
                yield Running(process, said)
            finally:
                if process.poll() is None:
                    for each in psutil.Process(process.pid).children(recursive=True):
                        with contextlib.suppress(psutil.NoSuchProcess):
                            each.kill()
                    process.kill()


@dataclass(frozen=True, slots=True)
class Running:
    """A program that runs in a container."""

    process: subprocess.Popen[str]
    said: list[str]

    @property
    def program(self) -> psutil.Process:
        """The program itself: what buildah started last."""
        return psutil.Process(self.process.pid).children(recursive=True)[-1]

    def stop(self) -> int:
        """Tell the program to end, as an engine does; return its exit status."""
        self.program.send_signal(signal.SIGTERM)
        return self.process.wait(30)


@dataclass(frozen=True, slots=True)
class Image:
    """The built image."""

    buildah: Buildah
    name: str

    @contextlib.contextmanager
    def container(self) -> Iterator[Container]:
        """Make a container of it."""
        container = Container(self.buildah, self.buildah("from", "--pull-never", self.name))
        try:
            yield container
        finally:
            self.buildah("rm", container.name)


@contextlib.contextmanager
def built_image(folder: Path, wheels: Path) -> Iterator[Image]:
    """Build the image of these wheels, with all that it leaves in `folder`."""
    tool("mmdebstrap")
    buildah = Buildah(folder)
    name = "localhost/isthmus:tested"
    try:
        done = subprocess.run(
            [ROOT / "scripts/build-image", "--tag", name, "--base-tar", folder / "base.tar", "--wheels", wheels],
            capture_output=True, text=True, check=False, env=buildah.environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        yield Image(buildah, name)
    finally:
        buildah("rm", "--all")
        buildah("rmi", "--all", "--force")


def _drain(stream: IO[str], said: list[str]) -> None:
    with contextlib.suppress(ValueError):  # closed by whoever ended the program
        said.extend(stream)
