"""DCMTK's tools and Debian's Orthanc as devices: started on free ports, ready by condition, ended by process id."""

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from isthmus.testing.free_ports import free_port
from isthmus.testing.network import until

PATIENCE = 40.0
"""Seconds that a tool may take for its whole work."""
_ENVIRONMENT = {**os.environ, "TCP_NODELAY": "1"}
_LISTEN = "0A"  # TCP state in /proc/net/tcp


@dataclass(frozen=True, slots=True)
class Ran:
    """What a tool did."""

    code: int
    output: str


async def run(tool: str, *arguments: str | Path, cwd: Path | None = None, patience: float = PATIENCE) -> Ran:
    """Run a tool of DCMTK to its end. Raises TimeoutError, with the process gone, if it takes over `patience` s."""
    process = await asyncio.create_subprocess_exec(
        f"/usr/bin/{tool}",
        *map(str, arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=_ENVIRONMENT,
        cwd=cwd,
    )
    try:
        async with asyncio.timeout(patience):
            output, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode is not None
    return Ran(process.returncode, output.decode(errors="replace"))


def listens(port: int) -> bool:
    """Return whether a process listens at `port`, without a connection that it would notice."""
    wanted = f":{port:04X}"
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        if table.exists():
            rows = (line.split() for line in table.read_text().splitlines()[1:])
            if any(row[1].endswith(wanted) and row[3] == _LISTEN for row in rows):
                return True
    return False


@asynccontextmanager
async def serving(program: str, *arguments: str | Path, port: int, log: Path) -> AsyncIterator[int]:
    """Run a program that listens at `port`; yield the port; end it and what it forked. Its words are in `log`."""
    with log.open("wb") as words:
        process = await asyncio.create_subprocess_exec(
            program,
            *map(str, arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=words,
            stderr=words,
            env=_ENVIRONMENT,
            start_new_session=True,
        )
    try:
        await until(lambda: listens(port) or process.returncode is not None, what=lambda: _ended(program, log))
        assert process.returncode is None, _ended(program, log)
        yield port
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


def _ended(program: str, log: Path) -> str:
    return f"{program} does not listen: {log.read_text()}"


@asynccontextmanager
async def storescp(
    folder: Path, *options: str | Path, title: str = "STORE", port: int | None = None
) -> AsyncIterator[int]:
    """Run storescp, which takes every transfer syntax and writes what it gets into `folder`, bit for bit."""
    _make(folder)
    port = port or free_port()
    words = ("-aet", title, "-pm", "+xa", "+B", "-od", folder, *options, str(port))
    async with serving("/usr/bin/storescp", *words, port=port, log=folder.with_suffix(".log")) as ready:
        yield ready


@asynccontextmanager
async def dcmqrscp(folder: Path, title: str, known: Mapping[str, tuple[str, int]]) -> AsyncIterator[int]:
    """Run dcmqrscp as the archive `title`; `known` are move destinations: title to host and port."""
    port = free_port()
    database = _make(folder / "db")
    hosts = "\n".join(f"h{number} = ({name}, {host}, {at})" for number, (name, (host, at)) in enumerate(known.items()))
    config = _write(
        folder / "dcmqrscp.cfg",
        f"NetworkTCPPort = {port}\nMaxPDUSize = 16384\nMaxAssociations = 16\n"
        f"HostTable BEGIN\n{hosts}\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
        f"AETable BEGIN\n{title} {database} RW (200, 1024mb) ANY\nAETable END\n",
    )
    words = ("-v", "-c", config, str(port))
    async with serving("/usr/bin/dcmqrscp", *words, port=port, log=folder / "dcmqrscp.log") as ready:
        yield ready


@asynccontextmanager
async def orthanc(
    folder: Path,
    title: str,
    known: Mapping[str, tuple[str, int]],
    *,
    lua: str | None = None,
    port: int | None = None,
) -> AsyncIterator[int]:
    """Run Orthanc as the archive `title`; `known` are callers and move destinations: title to host and port.

    In `lua`, a script that it runs, the name of each of `known` is its title in lower case.
    """
    port = port or free_port()
    settings = {
        "Name": "Isthmus test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "Plugins": [],
        "HttpServerEnabled": False,
        "DicomServerEnabled": True,
        "DicomAet": title,
        "DicomPort": port,
        "DicomCheckCalledAet": True,
        "DicomModalities": {name.lower(): [name, host, at] for name, (host, at) in known.items()},
    }
    _make(folder)
    if lua is not None:
        settings["LuaScripts"] = [str(_write(folder / "orthanc.lua", lua))]
    config = _write(folder / "orthanc.json", json.dumps(settings))
    async with serving("/usr/sbin/Orthanc", "--verbose", config, port=port, log=folder / "orthanc.log") as ready:
        yield ready


@asynccontextmanager
async def wlmscpfs(folder: Path, title: str, entries: Sequence[Dataset]) -> AsyncIterator[int]:
    """Run wlmscpfs, whose worklist under `title` has these entries."""
    port = free_port()
    _write_worklist(folder / title, entries)
    words = ("-v", "-dfp", folder, str(port))
    async with serving("/usr/bin/wlmscpfs", *words, port=port, log=folder / "wlmscpfs.log") as ready:
        yield ready


def _make(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _write(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


def _write_worklist(folder: Path, entries: Sequence[Dataset]) -> None:
    _write(_make(folder) / "lockfile", "")
    for number, entry in enumerate(entries):
        entry.file_meta = FileMetaDataset()
        entry.file_meta.MediaStorageSOPClassUID = UID("1.2.276.0.7230010.3.1.0.1")  # DCMTK's own for such files
        entry.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        entry.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        entry.save_as(folder / f"{number}.wl", enforce_file_format=True)


def data_set_bytes(file: Path | str) -> bytes:
    """Return the data set of a DICOM file as it is on disk, without preamble and file meta information."""
    raw = Path(file).read_bytes()
    assert raw[128:132] == b"DICM"
    length = int(read_file_meta_info(file).FileMetaInformationGroupLength)
    return raw[132 + 12 + length :]


def files(folder: Path) -> list[Path]:
    """Return the files that a storing tool wrote, by name."""
    return sorted(path for path in folder.iterdir() if path.is_file())
