"""The demonstration itself: two sites that meet through a Bridge on this machine, step by step."""

import contextlib
import logging
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import FrameType
from typing import Final, TextIO

from isthmus import __version__
from isthmus.demo import images
from isthmus.demo.devices import Archive, DeviceFailed, Workstation
from isthmus.demo.parts import Part, PartFailed
from isthmus.demo.progress import Progress
from isthmus.errors import AssociationRefused
from isthmus.kit.names import HostPort

_ARCHIVE: Final = "SOUTH_PACS"
_WORKSTATION: Final = "NORTH_WS"
_SCANNER: Final = "NORTH_CT"
_VIEWER: Final = "MY_VIEWER"
_SERVICES: Final = "echo,store,query,retrieve,commitment"
_SETTLE: Final = 15.0  # seconds for a grant to reach the other site; it is pushed, so this is far more than enough
_REFUSED_WITHIN: Final = 5.0  # seconds in which a caller hears that the far device cannot be reached


def run_demo(*, once: bool, out: TextIO | None = None) -> int:
    """Run the demonstration; return the exit status: 0 if every step succeeded, else 1.

    Without `once` it then stays up until Ctrl-C.
    """
    progress = Progress(out or sys.stdout)
    for library in ("pynetdicom", "pydicom"):
        logging.getLogger(library).setLevel(logging.CRITICAL)  # the devices' own chatter; each step says what matters
    progress.say(f"Isthmus {__version__}: two sites, north and south, and a Bridge between them, all on this machine.")
    with (
        _ended_by_signals(),
        tempfile.TemporaryDirectory(prefix="isthmus-demo-") as folder,
        contextlib.ExitStack() as running,
    ):
        stage = Stage(Path(folder), progress, running)
        try:
            if stage.set_up():
                stage.show()
            _sum_up(progress)
            if not once and not progress.failed:
                stage.invite_the_spectator()
                threading.Event().wait()
        except KeyboardInterrupt:
            progress.say("\nStopping.")
    return 1 if progress.failed else 0


class Stage:
    """The parts and devices of the demonstration, and what is done with them."""

    def __init__(self, folder: Path, progress: Progress, running: contextlib.ExitStack) -> None:
        self._progress = progress
        self._running = running
        self._bridge = Part("bridge", "bridge", folder)
        self._north = Part("north", "router", folder)
        self._south = Part("south", "router", folder)
        self._folder = folder
        self._archive = Archive(_ARCHIVE, folder / "south-archive")
        self._workstation = Workstation(_WORKSTATION, folder / "north-workstation")
        self._scanner = Workstation(_SCANNER, folder / "north-scanner")
        self._images = images.bundled()
        self._doors: dict[str, HostPort] = {}  # where each site's Router takes associations

    def set_up(self) -> bool:
        """Start everything and make the two sites known to each other; False if that failed, which ends the show."""
        self._progress.say("\nSetting up, with the commands that one types at two sites:")
        steps: list[tuple[str, Callable[[], str]]] = [
            ("isthmus bridge run", self._start_bridge),
            ("both: isthmus router join INVITE; isthmus router run", self._start_routers),
            ("both: isthmus site accept SITE, Router IDs compared", self._accept),
            ("both: isthmus device add AET@HOST:PORT", self._add_devices),
            (f"south: isthmus grant add {_ARCHIVE} --site north", self._grant),
            ("north: isthmus directory shows the archive", self._see_archive),
        ]
        return all(self._progress.step(name, action) for name, action in steps)

    def show(self) -> None:
        """Let the devices talk: what works, what is refused, and what stays secret."""
        step = self._progress.step
        self._progress.say(f"\nWhat devices at north see; to them {_ARCHIVE} is at {self._doors['north']}:")
        step("C-ECHO", self._echo)
        step("isthmus echo, with the time of each leg", self._echo_by_command)
        step("C-STORE of the images that come with pydicom", self._store)
        step("C-FIND", self._find)
        step("C-MOVE to north; the archive calls back through the relay", self._move)
        step("C-GET", self._get)
        step("storage commitment; the report comes on an association of its own", self._commit)
        self._progress.say("\nWhat is refused, and with which answer:")
        step("a title that nobody has", lambda: self._refused(self._workstation, "NOWHERE", (1, 1, 7)))
        step("a device of north that was not granted", lambda: self._refused(self._scanner, _ARCHIVE, (1, 1, 3)))
        step("a caller that nobody registered", self._stranger)
        step("the far archive is switched off", self._archive_off)
        step("the far archive is switched on again", self._archive_on)
        self._progress.say("\nQueued: the sender is done at once, and the Routers own the delivery:")
        step(f"south: isthmus device probe {_ARCHIVE}", self._probe)
        step(f"north: isthmus delivery set {_ARCHIVE} queued", self._choose_queued)
        step("the far archive is switched off, and the same images are stored", self._store_queued)
        step("north: isthmus queue list", self._see_queue)
        step("the far archive is switched on again", self._delivered)
        self._progress.say("\nWhat the middle could read:")
        step("patient names and UIDs in the data and logs of Bridge and Routers", self._search_canaries)

    def invite_the_spectator(self) -> None:
        """Say what to type into a viewer of one's own."""
        door = self._doors["north"]
        self._progress.say(
            f"""
Now with a viewer of your own, on this machine. Enter in it:
  AE title of the archive   {_ARCHIVE}
  host                      {door.host}
  port                      {door.port}
  its own AE title          {_VIEWER}
For example, with DCMTK:    echoscu -aet {_VIEWER} -aec {_ARCHIVE} {door.host} {door.port}
Everything is in {self._folder}, and goes when this ends. Ctrl-C ends it."""
        )

    # -- setting up

    def _start_bridge(self) -> str:
        self._running.callback(self._bridge.stop)
        self._bridge.start("--listen", "127.0.0.1:0")
        return str(self._bridge.ask("bridge", "status")["url"])

    def _start_routers(self) -> str:
        for site in (self._north, self._south):
            self._running.callback(site.stop)
        self._at_both(self._start_router)
        return "both have keys of their own and an outbound connection to the Bridge"

    def _start_router(self, site: Part) -> None:
        invite = self._bridge.command("bridge", "invite", site.name).strip()
        site.command("router", "join", invite)
        site.start("--dicom", "127.0.0.1:0", "--console", "127.0.0.1:0")

    def _at_both(self, action: Callable[[Part], None]) -> None:
        """Do something at both sites at the same time, as their two administrators would."""
        with ThreadPoolExecutor() as administrators:
            for done in [administrators.submit(action, site) for site in (self._north, self._south)]:
                done.result()

    def _accept(self) -> str:
        ids = {site.name: site.ask("router", "status")["spoken"] for site in (self._north, self._south)}
        others = {"north": "south", "south": "north"}

        def accept(here: Part) -> None:
            there = others[here.name]
            _wait_for(lambda: there in {row["site"] for row in here.ask("site", "list")}, f"{here.name} to see {there}")
            here.command("site", "accept", there, "--id", ids[there])

        self._at_both(accept)
        return f"north is {ids['north']}"

    def _add_devices(self) -> str:
        for device in (self._archive, self._workstation):
            device.start()
            self._running.callback(device.stop)
        at = {
            "south": [f"{_ARCHIVE}@127.0.0.1:{self._archive.port}"],
            "north": [
                f"{_WORKSTATION}@127.0.0.1:{self._workstation.port}",
                f"{_SCANNER}@127.0.0.1",
                f"{_VIEWER}@127.0.0.1",
            ],
        }

        def add(site: Part) -> None:
            for address in at[site.name]:
                site.command("device", "add", address)
            title = address.partition("@")[0]
            enter = site.ask("device", "show", title)["enter"]  # what one would type into that device
            self._doors[site.name] = HostPort(enter["host"], enter["port"])

        self._at_both(add)
        self._archive.neighbours[_WORKSTATION] = self._doors["south"]
        return f"an archive at south; a workstation, a scanner and a viewer ({_VIEWER}) at north"

    def _grant(self) -> str:
        for caller in (_WORKSTATION, _VIEWER):
            self._south.command(
                "grant", "add", _ARCHIVE, "--site", "north", "--caller", caller, "--services", _SERVICES
            )
        return f"to {_WORKSTATION} and {_VIEWER} for {_SERVICES}"

    def _see_archive(self) -> str:
        def shown() -> bool:
            return any(row["title"] == _ARCHIVE and row["online"] for row in self._north.ask("directory"))

        _wait_for(shown, f"north's directory to show {_ARCHIVE}")
        return f"{_ARCHIVE} of south, online"

    # -- what works

    def _echo(self) -> str:
        self._workstation.echo(self._doors["north"], _ARCHIVE)
        return f"{_ARCHIVE} answers"

    def _echo_by_command(self) -> str:
        echo = self._north.ask("echo", _ARCHIVE, "--as", _WORKSTATION)
        return ", ".join(f"{leg['name']} {leg['seconds'] * 1000:.1f} ms" for leg in echo["legs"])

    def _store(self) -> str:
        self._workstation.store(self._doors["north"], _ARCHIVE, self._images)
        held = self._archive.objects
        wrong = [image.path.name for image in self._images if _dataset(held, image) != image.dataset]
        if wrong:
            raise DeviceFailed(f"the archive holds other bytes than were sent for {', '.join(wrong)}")
        syntaxes = len({image.syntax for image in self._images})
        size = sum(len(image.dataset) for image in self._images)
        return f"{len(held)} objects in {syntaxes} transfer syntaxes, {size:,} bytes, held byte for byte as sent"

    def _find(self) -> str:
        studies = {answer.StudyInstanceUID for answer in self._workstation.find(self._doors["north"], _ARCHIVE)}
        if studies != {image.study for image in self._images}:
            raise DeviceFailed(f"{len(studies)} studies came back, other ones than were stored")
        return f"{len(studies)} studies, all that were stored"

    def _move(self) -> str:
        study, wanted = self._a_study()
        self._workstation.forget()
        completed = self._workstation.move(self._doors["north"], _ARCHIVE, study)
        return self._check_retrieved(wanted, completed)

    def _get(self) -> str:
        study, wanted = self._a_study()
        self._workstation.forget()
        completed = self._workstation.get(self._doors["north"], _ARCHIVE, study, wanted)
        return self._check_retrieved(wanted, completed)

    def _a_study(self) -> tuple[str, list[images.Image]]:
        """Return the study of which there are most objects: the MR image in its encodings."""
        studies = [image.study for image in self._images]
        study = max(studies, key=studies.count)
        return study, [image for image in self._images if image.study == study]

    def _check_retrieved(self, wanted: list[images.Image], completed: int) -> str:
        held = self._workstation.objects
        wrong = [image.path.name for image in wanted if _dataset(held, image) != image.dataset]
        if wrong:
            raise DeviceFailed(f"of {len(wanted)} objects these did not come as they are: {', '.join(wrong)}")
        if completed != len(wanted):
            raise DeviceFailed(f"the archive counted {completed} sub-operations for {len(wanted)} objects")
        return f"{completed} objects came, byte for byte"

    def _commit(self) -> str:
        asked = {image.instance for image in self._images}
        committed = self._workstation.commit(self._doors["north"], _ARCHIVE, self._images, timeout=20)
        if committed != asked:
            raise DeviceFailed(f"the archive vouches for {len(committed)} of {len(asked)} instances")
        return f"the archive vouches for all {len(committed)} instances"

    # -- what is refused

    def _refused(self, caller: Workstation, called: str, expected: tuple[int, int, int]) -> str:
        start = time.perf_counter()
        try:
            caller.echo(self._doors["north"], called)
        except AssociationRefused as refused:
            answer = (refused.result, refused.source, refused.reason)
        else:
            raise DeviceFailed("it was not refused")
        if answer != expected:
            raise DeviceFailed(f"A-ASSOCIATE-RJ {_triple(answer)} came instead of {_triple(expected)}")
        if (took := time.perf_counter() - start) > _REFUSED_WITHIN:
            raise DeviceFailed(f"it took {took:.1f} s, more than {_REFUSED_WITHIN:.0f} s")
        return f"A-ASSOCIATE-RJ {_triple(answer)}, {_MEANINGS[answer]}"

    def _stranger(self) -> str:
        stranger = Workstation("STRANGER", self._folder / "stranger")
        answer = self._refused(stranger, _ARCHIVE, (1, 1, 3))
        if not any(caller["title"] == stranger.title for caller in self._north.ask("device", "unknown")):
            raise PartFailed("isthmus device unknown does not list it")
        return f"{answer}; isthmus device unknown lists it"

    def _archive_off(self) -> str:
        self._archive.stop()
        return self._refused(self._workstation, _ARCHIVE, (2, 3, 1))

    def _archive_on(self) -> str:
        self._archive.start()
        return self._echo()

    # -- queued

    def _probe(self) -> str:
        known = self._south.ask("device", "probe", _ARCHIVE)
        return f"it takes {len(known['pairs'])} pairs of SOP class and transfer syntax"

    def _choose_queued(self) -> str:
        def known() -> bool:
            return "not known" not in self._north.command("delivery", "set", _ARCHIVE, "queued")

        _wait_for(known, f"north to know what {_ARCHIVE} takes")
        return "for every device of north"

    def _store_queued(self) -> str:
        self._archive.stop()
        self._archive.forget()
        self._workstation.store(self._doors["north"], _ARCHIVE, self._images)
        return f"C-STORE 0000H for all {len(self._images)}, durable at north"

    def _see_queue(self) -> str:
        rows = self._north.ask("queue", "list")["rows"]
        total, delivered = (sum(row[name] for row in rows) for name in ("total", "delivered"))
        if (total, delivered) != (len(self._images), 0):
            raise PartFailed(f"{delivered} of {total} are delivered, though the archive is off")
        return f"{len(rows)} studies, {total} objects, none delivered yet"

    def _delivered(self) -> str:
        self._archive.start()
        wanted = [(image.key, image.dataset) for image in self._images]

        def all_there() -> bool:
            held = self._archive.objects
            return all(key in held and held[key].dataset == dataset for key, dataset in wanted)

        _wait_for(all_there, "the objects to be delivered")
        self._north.command("delivery", "unset", _ARCHIVE)
        return f"{len(wanted)} objects delivered, byte for byte"

    # -- what the middle could read

    def _search_canaries(self) -> str:
        canaries = images.canaries(self._images)
        if not _files_with(canaries, self._folder / "south-archive"):
            raise PartFailed("the search is broken: it does not even find them at the archive")
        searched = [part.data for part in self._parts] + [part.log for part in self._parts]
        if found := [str(file) for place in searched for file in _files_with(canaries, place)]:
            raise PartFailed(f"found in {', '.join(found)}")
        return f"none of {len(canaries)} found; the same search finds them at the archive"

    @property
    def _parts(self) -> tuple[Part, ...]:
        return self._bridge, self._north, self._south


_MEANINGS: Final = {
    (1, 1, 3): "permanent: calling AE title not recognized",
    (1, 1, 7): "permanent: called AE title not recognized",
    (2, 3, 1): "transient: temporary congestion, so the caller may try again",
}


def _wait_for(condition: Callable[[], bool], what: str) -> None:
    """Ask until `condition` holds; each asking is a command and takes its time. Raises PartFailed."""
    deadline = time.monotonic() + _SETTLE
    while not condition():
        if time.monotonic() > deadline:
            raise PartFailed(f"waited {_SETTLE:.0f} s for {what}")


def _triple(answer: tuple[int, int, int]) -> str:
    return "/".join(map(str, answer))


def _dataset(held: dict[tuple[str, str], images.Image], image: images.Image) -> bytes | None:
    found = held.get(image.key)
    return None if found is None else found.dataset


def _files_with(canaries: set[bytes], place: Path) -> list[Path]:
    files = [place] if place.is_file() else [file for file in place.rglob("*") if file.is_file()]
    return [file for file in files if _holds_any(canaries, file)]


def _holds_any(canaries: set[bytes], file: Path) -> bool:
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return False  # the parts still run: a bundle that is delivered goes, and may do so meanwhile
    return any(canary in content for canary in canaries)


def _sum_up(progress: Progress) -> None:
    if progress.failed:
        progress.say(f"\n{len(progress.failed)} of {progress.done} steps FAILED: {'; '.join(progress.failed)}")
    else:
        progress.say(f"\nAll {progress.done} steps succeeded.")


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Turn SIGTERM into what Ctrl-C does, so that no process is left behind."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    # SIGINT too: a shell that starts a command in the background has it ignored.
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
