"""DCMTK's tools, across the relay, against DCMTK's servers and Orthanc."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from pydicom import Dataset, Sequence, dcmread
from pydicom.uid import generate_uid
from tests.interop import dcmtk
from tests.interop.dcmtk import Ran, files, run
from tests.interop.sites import CT, MR, caller, new_title, publish

from isthmus.testing.free_ports import free_port
from isthmus.testing.network import Network

pytestmark = [pytest.mark.interop, pytest.mark.asyncio(loop_scope="module")]

STUDY = str(dcmread(CT).StudyInstanceUID)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def network(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Network]:
    async with Network.running(tmp_path_factory.mktemp("network"), ("north", "south", "west")) as network:
        yield network


@dataclass(frozen=True, slots=True)
class Way:
    """A caller of north, the port its movescu listens at, and an archive of south at `direct` that knows it."""

    network: Network
    caller: str
    move_port: int
    archive: str
    direct: int

    def scu(self, tool: str, *more: str | Path, cwd: Path | None = None, direct: bool = False) -> Awaitable[Ran]:
        """Run a DCMTK tool of north that calls the archive, through the relay or `direct`."""
        port = self.direct if direct else self.network.sites["north"].port
        words = ("-v", "-aet", self.caller, "-aec", self.archive, "127.0.0.1", str(port))
        return run(tool, *words, *more, cwd=cwd)


Archive = Callable[..., AbstractAsyncContextManager[int]]


@pytest_asyncio.fixture(
    loop_scope="module", scope="module", params=[dcmtk.dcmqrscp, dcmtk.orthanc], ids=["dcmqrscp", "orthanc"]
)
async def archive(
    request: pytest.FixtureRequest, network: Network, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Way]:
    start: Archive = request.param
    move_port = free_port()
    workstation = await caller(network, "WS", port=move_port)
    title = new_title("PACS")
    elsewhere = ("127.0.0.1", network.sites["south"].port)
    known = {workstation: elsewhere, "STATION": elsewhere, "NOWHERE": elsewhere}
    async with start(tmp_path_factory.mktemp("archive") / title, title, known) as port:
        services = ["echo", "store", "query", "retrieve"]
        await publish(network, title, port, services)
        way = Way(network, workstation, move_port, title, port)
        stored = await way.scu("storescu", CT, MR)
        assert stored.code == 0, stored.output
        assert stored.output.count("Received Store Response (Success)") == 2
        yield way


async def test_echoscu_verifies_the_archive(archive: Way) -> None:
    ran = await archive.scu("echoscu", "--repeat", "3")
    assert ran.code == 0, ran.output
    assert ran.output.count("Received Echo Response (Success)") == 3


async def test_findscu_finds_the_study(archive: Way) -> None:
    ran = await archive.scu(
        "findscu", "-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "PatientName", "-k", "StudyInstanceUID"
    )
    assert ran.code == 0, ran.output
    assert STUDY in ran.output
    assert "CompressedSamples^CT1" in ran.output
    assert "CompressedSamples^MR1" in ran.output


async def test_movescu_gets_the_study_back_at_its_own_site(archive: Way, tmp_path: Path) -> None:
    """The sub-operations come as an association of the archive, through its own Router, to the caller's site."""
    ran = await archive.scu(
        "movescu", "-S", "-aem", archive.caller, "+P", str(archive.move_port), "+B",
        "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}", cwd=tmp_path,
    )  # fmt: skip
    assert ran.code == 0, ran.output
    assert "Received Final Move Response (Success)" in ran.output
    (image,) = files(tmp_path)
    assert dcmread(image).PixelData == dcmread(CT).PixelData


async def test_getscu_gets_the_study_on_the_same_association(archive: Way, tmp_path: Path) -> None:
    """pynetdicom#977, dcmjs-dimse#81: role selection passes, and images flow from the acceptor to the requestor."""
    ran = await archive.scu(
        "getscu", "-S", "+B", "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}", cwd=tmp_path
    )
    assert ran.code == 0, ran.output
    assert "Received C-GET Response" in ran.output
    (image,) = files(tmp_path)
    assert dcmread(image).PixelData == dcmread(CT).PixelData


async def test_a_third_site_gets_the_study_that_a_second_one_was_asked_to_send(
    archive: Way, network: Network, tmp_path: Path
) -> None:
    """A of north asks B of south to send to C of west, which granted `store` to south."""
    folder = tmp_path / "station"
    async with dcmtk.storescp(folder, title="STATION") as port:
        try:
            await publish(network, "STATION", port, ["store"], owner="west", to="south")
            ran = await archive.scu(
                "movescu", "-S", "-aem", "STATION", "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}"
            )
            assert ran.code == 0, ran.output
            assert "Received Final Move Response (Success)" in ran.output
            (image,) = files(folder)
            assert dcmread(image).PixelData == dcmread(CT).PixelData
        finally:
            await network.sites["west"].control("device_remove", device="STATION")


async def test_an_archive_that_sees_all_callers_under_one_title_sends_to_it_what_they_move(
    network: Network, tmp_path: Path
) -> None:
    """Vendors charge per AE title: dcmqrscp knows ISTHMUS alone, as caller and as move destination."""
    move_port, title = free_port(), new_title("PACS")
    who = await caller(network, "WS", port=move_port)
    known = {"ISTHMUS": ("127.0.0.1", network.sites["south"].port)}
    async with dcmtk.dcmqrscp(tmp_path / "archive", title, known) as port:
        await publish(network, title, port, ["store", "retrieve"], callers_as="ISTHMUS")
        way, got = Way(network, who, move_port, title, port), tmp_path / "got"
        await asyncio.to_thread(got.mkdir)
        assert (await way.scu("storescu", CT)).code == 0
        ran = await way.scu(
            "movescu", "-d", "-S", "-aem", who, "+P", str(move_port), "+B",
            "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}", cwd=got,
        )  # fmt: skip
        assert "Success: Sub-operations complete" in ran.output, ran.output
        assert f"Move Originator AE Title      : {who}" in ran.output, ran.output
        (image,) = files(got)
        assert dcmread(image).PixelData == dcmread(CT).PixelData
        log = (tmp_path / "archive" / "dcmqrscp.log").read_text()
        assert who not in log


async def test_a_move_destination_that_is_unknown_is_the_archives_own_refusal(archive: Way) -> None:
    """Slicer#5979, arc#498: the archive answers for itself; no Router answers a DIMSE request."""
    words = ("-S", "-aem", "STRANGER", "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}")
    direct = await archive.scu("movescu", *words, direct=True)
    relayed = await archive.scu("movescu", *words)
    assert "Received Final Move Response" in direct.output
    assert "(Success)" not in direct.output
    assert (relayed.code, relayed.output) == (direct.code, direct.output)


async def test_a_move_destination_that_the_site_may_not_reach_is_refused_as_an_association(archive: Way) -> None:
    """arc#498: the archive knows NOWHERE, its Router does not."""
    before = len(await archive.network.sites["south"].control("audit"))
    ran = await archive.scu(
        "movescu", "-S", "-aem", "NOWHERE", "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={STUDY}"
    )
    assert "Received Final Move Response (Success)" not in ran.output, ran.output
    rows = await archive.network.sites["south"].control("audit")
    assert len(rows) > before
    assert any(row.get("called") == "NOWHERE" for row in rows), rows[:3]


async def test_storescu_stores_through_the_relay_what_it_stores_directly(network: Network, tmp_path: Path) -> None:
    """storescu writes data sets its own way: the relay must bring storescp the very bytes that the wire would."""
    who, folder = await caller(network), tmp_path / "got"
    written = []
    async with dcmtk.storescp(folder) as port:
        title = await publish(network, new_title("STORE"), port, ["store"])
        for at in (port, network.sites["north"].port):
            ran = await run("storescu", "-v", "-R", "-aet", who, "-aec", title, "127.0.0.1", str(at), CT, MR)
            assert ran.code == 0, ran.output
            written.append({path.name: path.read_bytes() for path in files(folder)})
            for path in files(folder):
                path.unlink()
    assert len(written[0]) == 2
    assert written[0] == written[1]


async def test_several_scanners_store_at_once(network: Network, tmp_path: Path) -> None:
    folder = tmp_path / "got"
    async with dcmtk.storescp(folder, "--fork", "+uf") as port:
        title = await publish(network, new_title("STORE"), port, ["store"])
        who = [await caller(network, "CT") for _ in range(4)]
        north = str(network.sites["north"].port)
        ran = await asyncio.gather(
            *(run("storescu", "-v", "-aet", one, "-aec", title, "127.0.0.1", north, CT, MR) for one in who)
        )
        assert [one.code for one in ran] == [0] * 4, ran
    assert len(files(folder)) == 8


def worklist_entry(name: str) -> Dataset:
    entry = Dataset()
    entry.SpecificCharacterSet = "ISO_IR 100"
    entry.AccessionNumber = "A1"
    entry.PatientName = name
    entry.PatientID = "P1"
    entry.PatientBirthDate = "19700101"
    entry.PatientSex = "O"
    entry.StudyInstanceUID = generate_uid()
    entry.RequestedProcedureID = "R1"
    entry.RequestedProcedureDescription = "CT HEAD"
    step = Dataset()
    step.Modality = "CT"
    step.ScheduledStationAETitle = "CT1"
    step.ScheduledProcedureStepStartDate = "20300101"
    step.ScheduledProcedureStepStartTime = "120000"
    step.ScheduledPerformingPhysicianName = "PHYSICIAN^ONE"
    step.ScheduledProcedureStepDescription = "CT HEAD"
    step.ScheduledProcedureStepID = "S1"
    entry.ScheduledProcedureStepSequence = Sequence([step])
    return entry


async def test_findscu_reads_the_worklist_of_wlmscpfs(network: Network, tmp_path: Path) -> None:
    title = new_title("WORKLIST")
    who = await caller(network, "CT")
    async with dcmtk.wlmscpfs(tmp_path / "worklists", title, [worklist_entry("ISTHMUS^WORKLIST")]) as port:
        await publish(network, title, port, ["worklist"])
        ran = await run(
            "findscu", "-v", "-W", "-aet", who, "-aec", title, "127.0.0.1", str(network.sites["north"].port),
            "-k", "PatientName", "-k", "ScheduledProcedureStepSequence[0].Modality=CT",
        )  # fmt: skip
    assert ran.code == 0, ran.output
    assert "ISTHMUS^WORKLIST" in ran.output


async def test_a_grant_without_the_service_refuses_the_contexts_and_dials_nothing(
    network: Network, tmp_path: Path
) -> None:
    """Rules section 2: the Router answers the AC itself, all contexts refused."""
    who, folder = await caller(network), tmp_path / "got"
    async with dcmtk.storescp(folder, "-v") as port:
        title = await publish(network, new_title("STORE"), port, ["echo"])
        ran = await run("storescu", "-v", "-aet", who, "-aec", title, "127.0.0.1", str(network.sites["north"].port), CT)
    assert "No Acceptable Presentation Contexts" in ran.output, ran.output
    assert files(folder) == []
    assert "Association Received" not in folder.with_suffix(".log").read_text()
