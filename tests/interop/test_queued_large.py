"""One multi-frame object of hundreds of megabytes, 2 GB by night, through the queues of two processes."""

import asyncio
import contextlib
import functools
import hashlib
import os
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import ExplicitVRLittleEndian, MultiFrameGrayscaleWordSecondaryCaptureImageStorage, generate_uid
from tests.interop import dcmtk
from tests.interop.queued import is_bundle, storescu

from isthmus.demo.parts import Part
from isthmus.testing.depth import count
from isthmus.testing.network import until

pytestmark = [pytest.mark.interop, pytest.mark.slow]

_MEGABYTES = count(push=300, nightly=2000)
_FRAME_BYTES = 1000 * 1000 * 2
MOST_GROWTH = 192 * 2**20
"""Bytes of resident memory by which a Router may grow, whatever the size of an object: the lanes of its post."""


@dataclass(frozen=True, slots=True)
class Sites:
    """Two Routers: SCANNER of north queues for PACS of south."""

    north: Part
    south: Part
    port: int


@asynccontextmanager
async def processes(folder: Path, archive_port: int) -> AsyncIterator[Sites]:
    """Set up a Bridge and two Routers with the commands that people type."""
    bridge, north, south = (Part(name, "router", folder) for name in ("bridge", "north", "south"))
    bridge = Part("bridge", "bridge", folder)

    def set_up() -> int:
        bridge.start("--listen", "127.0.0.1:0")
        for part in (north, south):
            part.data.mkdir(mode=0o700)
            part.command("router", "join", max(bridge.command("bridge", "invite", part.name).split(), key=len))
            part.start("--dicom", "127.0.0.1:0")
        for part, other in ((north, south), (south, north)):
            _ask_until(functools.partial(_knows, part, other))
            part.command("site", "accept", other.name, "--id", other.ask("router", "status")["router_id"])
        north.command("device", "add", "SCANNER@127.0.0.1")
        south.command("device", "add", f"PACS@127.0.0.1:{archive_port}")
        taken = f"{MultiFrameGrayscaleWordSecondaryCaptureImageStorage}:{ExplicitVRLittleEndian}"
        south.command("device", "probe", "PACS", "--declare", taken)
        south.command("grant", "add", "PACS", "--site", "north", "--services", "store")
        _ask_until(lambda: any(row["title"] == "PACS" for row in north.ask("directory")))
        _ask_until(lambda: "not known" not in north.command("delivery", "set", "PACS", "queued"))
        return int(north.ask("router", "status")["dicom"].rpartition(":")[2])

    try:
        yield Sites(north, south, await asyncio.to_thread(set_up))
    finally:
        for part in (north, south, bridge):
            await asyncio.to_thread(part.stop)


def _knows(part: Part, other: Part) -> bool:
    return other.name in {row["site"] for row in part.ask("site", "list")}


def _ask_until(condition: Callable[[], bool]) -> None:
    for _ in range(100):  # each asks a command, which takes a good part of a second
        if condition():
            return
    raise AssertionError("it did not come about")


def write_multi_frame(path: Path) -> None:
    """Write frames of noise, eight of them over and over, without holding them all in memory."""
    frames = _MEGABYTES * 1_000_000 // _FRAME_BYTES
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = MultiFrameGrayscaleWordSecondaryCaptureImageStorage
    image.SOPInstanceUID, image.StudyInstanceUID, image.SeriesInstanceUID = (generate_uid() for _ in range(3))
    image.Modality, image.PatientID = "OT", "SYNTHETIC"
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.NumberOfFrames = frames
    image.Rows = image.Columns = 1000
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, 0
    image.save_as(path, enforce_file_format=True)
    noise = [os.urandom(_FRAME_BYTES) for _ in range(8)]
    with path.open("ab") as file:
        file.write(struct.pack("<HH2s2xI", 0x7FE0, 0x0010, b"OW", frames * _FRAME_BYTES))
        for number in range(frames):
            file.write(noise[number % len(noise)])


def digest(path: Path) -> str:
    """Return the digest of a file's data set."""
    length = int(read_file_meta_info(path).FileMetaInformationGroupLength)
    with path.open("rb") as file:
        file.seek(132 + 12 + length)
        return hashlib.file_digest(file, "sha256").hexdigest()


class Memory:
    """The resident memory of a part, from now on (proc(5): VmRSS, VmHWM, clear_refs)."""

    def __init__(self, part: Part) -> None:
        assert part._process is not None
        self._folder = Path(f"/proc/{part._process.pid}")
        (self._folder / "clear_refs").write_text("5")
        self._before = self._bytes("VmRSS")

    @property
    def growth(self) -> int:
        """By how much its peak is above where it was, in bytes."""
        return self._bytes("VmHWM") - self._before

    def _bytes(self, name: str) -> int:
        lines = (self._folder / "status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


@pytest.mark.timeout(count(push=300, nightly=1800))
async def test_an_object_of_any_size_is_queued_and_delivered_within_bounded_memory(tmp_path: Path) -> None:
    source, folder = tmp_path / "large.dcm", tmp_path / "got"
    await asyncio.to_thread(write_multi_frame, source)
    async with dcmtk.storescp(folder, "+uf") as port, processes(tmp_path, port) as sites:
        memories = {part.name: Memory(part) for part in (sites.north, sites.south)}
        ran = await storescu(sites.port, "SCANNER", "PACS", [source], "-xe", patience=count(push=120, nightly=600))
        assert ran.code == 0, ran.output[-500:]

        async def delivered() -> bool:
            rows = (await asyncio.to_thread(sites.north.ask, "queue", "list", "--done"))["rows"]
            return [(row["destination"], row["delivered"], row["total"]) for row in rows] == [("PACS", 1, 1)]

        await until(delivered, count(push=120, nightly=900))
        growth = {name: memory.growth for name, memory in memories.items()}
        (got,) = dcmtk.files(folder)
        assert got.stat().st_size > _MEGABYTES * 999_000
        assert await asyncio.to_thread(digest, got) == await asyncio.to_thread(digest, source)
        assert max(growth.values()) < MOST_GROWTH, growth
        spools = [path for part in (sites.north, sites.south) for path in (part.data / "spool").iterdir()]
        assert not [path for path in spools if is_bundle(path) and path.stat().st_size > 2**20]
    for path in (source, got):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
