"""Orthanc, as an archive beside a Router, and with its transfers accelerator as a road of its own."""

import contextlib
import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.devices import Door, Nagle, check_arrival
from bench.images import Load
from bench.machine import HERE, BenchFailed, Place, Started, require, running, until, wait_listening
from isthmus.testing.free_ports import free_port

ORTHANC = "/usr/sbin/Orthanc"
CURL = "/usr/bin/curl"
_PATIENCE_SECONDS = 600.0
_PEER = "far"


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc: its archive's door, and its REST API."""

    process: Started
    door: Door
    url: str
    place: Place

    def ask(self, method: str, path: str, body: object = None) -> Any:
        """Ask its REST API; return the parsed answer.

        Raises:
            BenchFailed: the answer was an error.
        """
        command = [*self.place.prefix, CURL, "--silent", "--show-error", "--fail-with-body", "-X", method]
        if body is not None:
            command += ["--data-binary", json.dumps(body)]
        done = subprocess.run([*command, self.url + path], capture_output=True, text=True, check=False, timeout=60)
        if done.returncode:
            raise BenchFailed(f"Orthanc, {method} {path}: {done.stdout}{done.stderr}")
        return json.loads(done.stdout) if done.stdout.strip() else None

    def clear(self) -> None:
        """Delete everything it keeps."""
        for patient in self.ask("GET", "/patients"):
            self.ask("DELETE", f"/patients/{patient}")

    def take(self, what: Load) -> None:
        """Have a load stored, unmeasured."""
        check_arrival(what, self.door, place=self.place)

    def transfer_all(self) -> float:
        """Have the accelerator send every study to the peer; return the seconds that its job took.

        Raises:
            BenchFailed: the job did not succeed.
        """
        resources = [{"Level": "Study", "ID": study} for study in self.ask("GET", "/studies")]
        started = {"Resources": resources, "Compression": "none", "Peer": _PEER}
        job = self.ask("POST", "/transfers/send", started)["ID"]
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while time.monotonic() < deadline:
            state = self.ask("GET", f"/jobs/{job}")
            if state["State"] == "Success":
                return float(state["EffectiveRuntime"])
            if state["State"] == "Failure":
                raise BenchFailed(f"Orthanc's transfer failed: {state['ErrorDescription']}")
            self.process.ended_within(0.25)
        raise BenchFailed(f"Orthanc's transfer took more than {_PATIENCE_SECONDS:g} s")


@contextlib.contextmanager
def archive(
    name: str = "orthanc", *, place: Place = HERE, plugin: Path | None = None, peer: str | None = None
) -> Iterator[Orthanc]:
    """Run an Orthanc that keeps what it gets in a folder of its own, uncompressed, with its usual settings otherwise.

    Args:
        name: by which its processor time is shown.
        place: where it runs.
        plugin: the transfers accelerator.
        peer: URL of the Orthanc that the accelerator sends to.
    """
    require(ORTHANC, CURL)
    with tempfile.TemporaryDirectory(prefix="bench-orthanc-") as text, contextlib.ExitStack() as stack:
        folder = Path(text)
        dicom, http = free_port(), free_port()
        settings: dict[str, Any] = {
            "Name": name,
            "DicomAet": "ORTHANC",
            "DicomPort": dicom,
            "HttpPort": http,
            "StorageDirectory": f"{folder}/storage",
            "IndexDirectory": f"{folder}/storage",
            "RemoteAccessAllowed": True,
            "AuthenticationEnabled": False,
            "SyncStorageArea": True,  # as it is shipped: each file is fsynced
            "OverwriteInstances": True,  # or what came in one round would not be stored in the next
            "Plugins": [] if plugin is None else [str(plugin)],
            "OrthancPeers": {} if peer is None else {_PEER: {"Url": peer}},
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        command = [*place.prefix, ORTHANC, f"{folder}/orthanc.json"]
        process = stack.enter_context(running(name, command, environment=Nagle.OFF.environment))
        for port in (dicom, http):
            wait_listening(process, port)
        running_one = Orthanc(process, Door(place.address, dicom, "ORTHANC"), f"http://{place.address}:{http}", place)
        until(lambda: _system(running_one), "REST API", process)
        yield running_one


@contextlib.contextmanager
def pair(near: Place, far: Place, plugin: Path) -> Iterator[tuple[Orthanc, Orthanc]]:
    """Run two with the transfers accelerator, the first of which knows the second as its peer."""
    with contextlib.ExitStack() as stack:
        second = stack.enter_context(archive("orthanc-far", place=far, plugin=plugin))
        yield stack.enter_context(archive("orthanc-near", place=near, plugin=plugin, peer=second.url)), second


def _system(one: Orthanc) -> Any:
    try:
        return one.ask("GET", "/system")
    except BenchFailed:
        return None
