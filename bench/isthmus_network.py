"""A whole Isthmus for a benchmark: a Bridge and two Routers in folders of their own, joined by the command line."""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.devices import CALLING, Door, Nagle
from bench.machine import HERE, BenchFailed, Place, Started, running, until
from bench.tunnels import Road

ISTHMUS = str(Path(sys.executable).parent / "isthmus")

SENDING_SITE = "north"
RECEIVING_SITE = "south"
# What storescp would say it takes of the loads that are sent here: CT, and multi-frame, Explicit VR Little Endian
_TAKEN = ("1.2.840.10008.5.1.4.1.1.2:1.2.840.10008.1.2.1", "1.2.840.10008.5.1.4.1.1.7.3:1.2.840.10008.1.2.1")


@dataclass(frozen=True)
class Part:
    """A running Bridge or Router and its data folder."""

    process: Started
    data: Path
    place: Place

    def call(self, *arguments: str) -> str:
        """Run a command on this part and return what it printed.

        Raises:
            BenchFailed: the command did not succeed.
        """
        return _call(self.place, self.data, *arguments)

    def ask(self, *arguments: str) -> Any:
        """Run a command with ``--json`` and return the value that it printed."""
        return json.loads(self.call(*arguments, "--json"))


@dataclass(frozen=True)
class IsthmusNetwork:
    """Two sites whose devices reach each other."""

    bridge: Part
    sending: Part
    receiving: Part
    door: tuple[str, int]
    """Host and port of the sending site's Router, for its devices."""

    @property
    def processes(self) -> tuple[Started, ...]:
        """The three parts, from sender to receiver."""
        return self.sending.process, self.bridge.process, self.receiving.process


@contextlib.contextmanager
def open_network(
    receivers: Sequence[Door],
    *,
    tls: bool = True,
    bridge: Place = HERE,
    sending: Place = HERE,
    receiving: Place = HERE,
) -> Iterator[IsthmusNetwork]:
    """Run a network in which the device ``BENCHSCU`` of one site may use every given receiver of the other.

    Raises:
        BenchFailed: a command failed or a part did not become ready.
    """
    if not Path(ISTHMUS).exists():
        raise BenchFailed(f"{ISTHMUS} is missing: run `make env`")
    with tempfile.TemporaryDirectory(prefix="bench-isthmus-") as name, contextlib.ExitStack() as stack:
        places = {SENDING_SITE: sending, RECEIVING_SITE: receiving}
        middle, members = run_bridge_with_members(stack, Path(name), bridge, places, tls=tls)
        routers: dict[str, Part] = {}
        for site, process_name in ((SENDING_SITE, "router-sending"), (RECEIVING_SITE, "router-receiving")):
            listen = ["--dicom", f"{places[site].address}:0", "--console", "127.0.0.1:0"]
            router = _run(stack, process_name, places[site], members[site], ["router", "run", *listen])
            until(partial(_connected, router), f"Router of {site} at the Bridge", router.process)
            routers[site] = router
        near, far = routers[SENDING_SITE], routers[RECEIVING_SITE]
        for router, other, other_site in ((near, far, RECEIVING_SITE), (far, near, SENDING_SITE)):
            until(partial(_knows, router, other_site), f"word of {other_site}", router.process)
            router.call("site", "accept", other_site, "--id", other.ask("router", "status")["router_id"])
        near.call("device", "add", f"{CALLING}@{sending.address}")
        for device in receivers:
            far.call("device", "add", f"{device.called}@{device.host}:{device.port}")
            far.call("grant", "add", device.called, "--site", SENDING_SITE, "--services", "any")
        wanted = {device.called for device in receivers}
        until(partial(_reachable, near, wanted), "far devices in the directory", near.process)
        host, port = _answer(near, "router", "status")["dicom"].rsplit(":", 1)
        yield IsthmusNetwork(middle, near, far, (host, int(port)))


def queue_for(network: IsthmusNetwork, receivers: Sequence[Door]) -> None:
    """Have the sending site queue what it sends to these receivers, and wait until it knows what they take.

    Raises:
        BenchFailed: it did not learn it in time.
    """
    for door in receivers:
        network.receiving.call("device", "probe", door.called, *(f"--declare={pair}" for pair in _TAKEN))
    for title in {door.called for door in receivers}:
        until(partial(_queues, network.sending, title), "word of what is taken", network.sending.process)


def _queues(router: Part, title: str) -> bool | None:
    """Choose queued delivery; the answer has a note for as long as it is not known what the device takes."""
    return None if "not known" in router.call("delivery", "set", title, "queued") else True


def run_bridge_with_members(
    stack: contextlib.ExitStack, folder: Path, bridge: Place, sites: Mapping[str, Place], *, tls: bool
) -> tuple[Part, dict[str, Path]]:
    """Run a Bridge for as long as `stack`; return it, and for each site the folder of a Router that joined.

    Raises:
        BenchFailed: a command failed or the Bridge did not become ready.
    """
    run = ["bridge", "run", "--listen", f"{bridge.address}:0", *([] if tls else ["--no-tls"])]
    middle = _run(stack, "bridge", bridge, folder / "bridge", run)
    until(lambda: _answer(middle, "bridge", "status").get("url"), "Bridge", middle.process)
    members = {}
    for site, place in sites.items():
        data = members[site] = folder / site
        data.mkdir(mode=0o700)
        _call(place, data, "router", "join", _invite(middle, site))
    return middle, members


@contextlib.contextmanager
def encrypted_road(receivers: Mapping[Nagle, Door]) -> Iterator[Road]:
    """Isthmus as it is meant to run: TLS to the Bridge around the end-to-end encryption."""
    with open_network(list(receivers.values())) as network:
        yield _road("Isthmus", network, receivers)


@contextlib.contextmanager
def plain_road(receivers: Mapping[Nagle, Door]) -> Iterator[Road]:
    """Isthmus with a Bridge behind ``http://``: still encrypted end to end, without TLS around it."""
    with open_network(list(receivers.values()), tls=False) as network:
        yield _road("Isthmus, no TLS to Bridge", network, receivers)


def _road(name: str, network: IsthmusNetwork, receivers: Mapping[Nagle, Door]) -> Road:
    host, port = network.door
    doors = {nagle: Door(host, port, door.called) for nagle, door in receivers.items()}
    return Road(name, doors, network.processes)


def _run(stack: contextlib.ExitStack, name: str, place: Place, data: Path, command: Sequence[str]) -> Part:
    data.mkdir(mode=0o700, exist_ok=True)
    process = stack.enter_context(running(name, [*place.prefix, ISTHMUS, *command, "--data", str(data)]))
    return Part(process, data, place)


def _call(place: Place, data: Path, *arguments: str) -> str:
    command = [*place.prefix, ISTHMUS, *arguments, "--data", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise BenchFailed(f"isthmus {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def _invite(bridge: Part, site: str) -> str:
    """Return the invite: the longest word that the command prints."""
    return max(bridge.call("bridge", "invite", site).split(), key=len)


def _answer(part: Part, *arguments: str) -> dict[str, Any]:
    """Ask a part that may not be up yet; an empty answer means that it is not."""
    if not (part.data / "control.json").exists():
        return {}
    try:
        answer = part.ask(*arguments)
    except (BenchFailed, json.JSONDecodeError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _connected(router: Part) -> bool | None:
    return True if _answer(router, "router", "status").get("bridge", {}).get("connected") else None


def _knows(router: Part, site: str) -> bool | None:
    return True if site in (row["site"] for row in router.ask("site", "list")) else None


def _reachable(router: Part, titles: set[str]) -> bool | None:
    return True if titles <= {row["shown_as"] for row in router.ask("directory") if row["online"]} else None
