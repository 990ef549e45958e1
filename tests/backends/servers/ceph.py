"""A real Ceph on loopback, all in memory, with its gateway: S3, STS and Swift."""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NoReturn

import pytest

from isthmus.testing.free_ports import free_port

_PROGRAMS: Final = ("ceph", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin")
_STARTS_SECONDS: Final = 100.0  # 14 s where nothing else runs
_ENDS_SECONDS: Final = 15.0
_LOOK_SECONDS: Final = 0.1
_ANYBODY: Final = ["auth cluster required", "auth service required", "auth client required"]
ROLE: Final = "arn:aws:iam:::role/lent"


@dataclass(frozen=True, slots=True)
class Account:
    """An account at the gateway: S3's keys, and the password of its Swift user `UID:swift`."""

    uid: str
    access_key_id: str
    secret_access_key: str
    swift_key: str

    @property
    def s3(self) -> dict[str, str]:
        """What an operator enters for S3."""
        return {"access_key_id": self.access_key_id, "secret_access_key": self.secret_access_key}

    @property
    def swift(self) -> dict[str, str]:
        """What an operator enters for Swift."""
        return {"user": f"{self.uid}:swift", "key": self.swift_key}


OWNER: Final = Account("owner", "AKOWNER", "SKowner", "swiftowner")
STRANGER: Final = Account("stranger", "AKSTRANGER", "SKstranger", "swiftstranger")


@dataclass(slots=True)
class CephServer:
    """A running gateway. OWNER owns what is in it and may assume ROLE; STRANGER may do nothing with that."""

    folder: Path
    port: int
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    def s3(self, bucket: str, *, port: int | None = None) -> str:
        """Return by which URL a bucket is listed; `port` is that of something in front of the gateway."""
        return f"s3://127.0.0.1:{port or self.port}/{bucket}?tls=no"

    def swift(self, container: str, *, port: int | None = None) -> str:
        """Return by which URL a container is listed."""
        return f"swift://127.0.0.1:{port or self.port}/{container}?storage=/swift/v1&digest=sha1&tls=no"

    def start(self) -> None:
        """Run the three processes, and make the accounts."""
        for program in _PROGRAMS:
            if shutil.which(program, path=_path()) is None:
                pytest.fail(f"there is no {program} here: scripts/install-tools installs it")
        monitor_port, fsid = free_port(), str(uuid.uuid4())
        monitor = f"[v1:127.0.0.1:{monitor_port}]"
        for name in ("mon", "osd", "run", "log"):
            (self.folder / name).mkdir()
        (self.folder / "ceph.conf").write_text(self._configuration(fsid, monitor))
        self._call("monmaptool", "--create", "--clobber", "--fsid", fsid, "--addv", "a", monitor, self._path("monmap"))
        self._call("ceph-mon", "-i", "a", "--mkfs", "--monmap", self._path("monmap"))
        self._run("ceph-mon", "-i", "a", "-f")
        self._wait_for_monitor()
        self._call("ceph", "osd", "create")
        self._call("ceph", "osd", "crush", "add", "osd.0", "1", "root=default", "host=localhost")
        self._call("ceph-osd", "-i", "0", "--mkfs")
        self._run("ceph-osd", "-i", "0", "-f")
        self._run("radosgw", "--name", "client.rgw.a", "-f")
        self._wait()
        for account in (OWNER, STRANGER):
            self._make(account)
        self._make_role()

    def end(self) -> None:
        """End the processes, last one first."""
        for process in reversed(self.processes):
            process.kill()
            process.wait(timeout=_ENDS_SECONDS)

    def admin(self, *words: str) -> None:
        """Have the gateway's own tool do something."""
        self._call("radosgw-admin", "--name", "client.rgw.radmin", *words)

    def _make(self, account: Account) -> None:
        keys = ["--access-key", account.access_key_id, "--secret-key", account.secret_access_key]
        self.admin("user", "create", "--uid", account.uid, "--display-name", account.uid, *keys)
        swift = ["--subuser", f"{account.uid}:swift", "--access", "full", "--key-type", "swift"]
        self.admin("subuser", "create", "--uid", account.uid, *swift, "--secret-key", account.swift_key)

    def _make_role(self) -> None:
        allow = {"Effect": "Allow", "Principal": {"AWS": [f"arn:aws:iam:::user/{OWNER.uid}"]}}
        may_assume = {"Version": "2012-10-17", "Statement": [{**allow, "Action": ["sts:AssumeRole"]}]}
        all_of_s3 = {"Effect": "Allow", "Action": ["s3:*"], "Resource": ["arn:aws:s3:::*", "arn:aws:s3:::*/*"]}
        may_do = {"Version": "2012-10-17", "Statement": [all_of_s3]}
        role = ROLE.rpartition("/")[2]
        words = ["--role-name", role, "--path", "/", "--assume-role-policy-doc", json.dumps(may_assume)]
        self.admin("role", "create", *words)
        self.admin(
            "role-policy", "put", "--role-name", role, "--policy-name", "all", "--policy-doc", json.dumps(may_do)
        )

    def _wait_for_monitor(self) -> None:
        """Wait until the monitor leads: what is asked while it is elected is answered EPERM, one time in sixty."""
        monitor = self.processes[0]
        ask = ("ceph", "--admin-daemon", self._path(f"run/mon.a.{monitor.pid}.asok"), "mon_status")
        until = time.monotonic() + _STARTS_SECONDS
        while time.monotonic() < until and monitor.poll() is None:
            said = subprocess.run(ask, capture_output=True, text=True, check=False, env=self._environment(), timeout=60)
            if said.returncode == 0 and json.loads(said.stdout)["state"] == "leader":
                return
        self._fail()

    def _wait(self) -> None:
        until = time.monotonic() + _STARTS_SECONDS
        while time.monotonic() < until:
            if any(process.poll() is not None for process in self.processes):
                break
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=1).close()
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.processes[-1].wait(timeout=_LOOK_SECONDS)
        self._fail()

    def _fail(self) -> NoReturn:
        pytest.fail("Ceph did not start:\n" + "\n".join(path.read_text()[-2000:] for path in self.folder.glob("log/*")))

    def _call(self, *words: str) -> None:
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=self._environment(), timeout=60)
        assert done.returncode == 0, f"{words[:4]}: {done.stderr or done.stdout}"

    def _run(self, *words: str) -> None:
        quiet = subprocess.DEVNULL
        self.processes.append(subprocess.Popen(words, env=self._environment(), stdout=quiet, stderr=quiet))

    def _environment(self) -> dict[str, str]:
        return {"CEPH_CONF": self._path("ceph.conf"), "PATH": _path(), "LC_ALL": "C"}

    def _path(self, name: str) -> str:
        return str(self.folder / name)

    def _configuration(self, fsid: str, monitor: str) -> str:
        return "\n".join(
            [
                f"[global]\nfsid = {fsid}\nmon host = {monitor}",
                *(f"{who} = none" for who in _ANYBODY),
                "ms bind ipv6 = false\npublic addr = 127.0.0.1\nosd crush chooseleaf type = 0",
                "osd pool default size = 1\nosd pool default min size = 1\nosd pool default pg num = 8",
                "mon allow pool size one = true\nmon max pg per osd = 1000",
                f"run dir = {self.folder}/run\nadmin socket = {self.folder}/run/$name.$pid.asok",
                f"pid file = {self.folder}/run/$name.pid\nlog file = {self.folder}/log/$name.log",
                f"[mon.a]\nmon data = {self.folder}/mon\n[osd.0]\nosd data = {self.folder}/osd",
                # an OSD that says what disk it is before it has heard which cluster this is ends at once
                "osd class update on start = false\nosd crush update on start = false",
                "osd objectstore = memstore\nmemstore device bytes = 2147483648",
                f"[client.rgw.a]\nrgw frontends = beast endpoint=127.0.0.1:{self.port}",
                # role-based keys are sealed with this one; 16 characters are what it takes
                "rgw sts key = isthmustests0000\nrgw s3 auth use sts = true",
                "",
            ]
        )


@contextlib.contextmanager
def running_ceph() -> Iterator[CephServer]:
    """Run a gateway that holds nothing yet."""
    folder = Path(tempfile.mkdtemp(prefix="isthmus-ceph-"))
    server = CephServer(folder, free_port())
    try:
        server.start()
        yield server
    finally:
        server.end()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def ceph() -> Iterator[CephServer]:
    """Give the gateway of this test run."""
    with running_ceph() as server:
        yield server


def _path() -> str:
    return f"{os.environ['PATH']}:/usr/bin:/usr/sbin:/sbin"
