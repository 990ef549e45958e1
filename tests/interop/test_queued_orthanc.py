"""Orthanc on both ends of a queue: one forwards by itself all that it stores, the other is the archive far away."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from pydicom import Dataset, dcmread
from tests.interop import dcmtk, queued
from tests.interop.queued import all_are, nothing_left, queue_for, storescu
from tests.interop.sites import CT, MR, TEST_FILES, caller, new_title

from isthmus.testing.network import Network

pytestmark = [pytest.mark.interop, pytest.mark.asyncio(loop_scope="module")]

_IMAGES = (CT, MR, TEST_FILES / "SC_rgb_small_odd.dcm")
_COMPRESSED = TEST_FILES / "JPEG2000.dcm"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def network(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Network]:
    async with queued.sites(tmp_path_factory.mktemp("network")) as network:
        yield network


def stored(folder: Path) -> dict[str, Dataset]:
    """Return what an Orthanc has in its storage, by SOP Instance UID."""
    found = {}
    for path in (folder / "storage").rglob("*"):
        if path.is_file() and path.read_bytes()[128:132] == b"DICM":
            image = dcmread(path)
            found[str(image.SOPInstanceUID)] = image
    return found


async def test_what_orthanc_forwards_by_itself_is_queued_and_reaches_the_orthanc_of_the_other_site(
    network: Network, tmp_path: Path
) -> None:
    north = network.sites["north"]
    async with dcmtk.orthanc(tmp_path / "far", far := new_title("FAR"), {}) as far_port:
        title = await queue_for(network, far, far_port, ["store"])
        near = await caller(network, "NEAR")
        forward = f'function OnStoredInstance(instance) SendToModality(instance, "{title.lower()}") end'
        known = {title: ("127.0.0.1", north.port)}
        async with dcmtk.orthanc(tmp_path / "near", near, known, lua=forward) as near_port:
            ran = await storescu(near_port, "CT", near, _IMAGES)
            assert ran.code == 0, ran.output
            ran = await storescu(near_port, "CT", near, [_COMPRESSED], "-xw")
            assert ran.code == 0, ran.output
            await all_are(north, title, delivered=4)
            here, there = stored(tmp_path / "near"), stored(tmp_path / "far")
    assert len(here) == 4
    assert here == there
    assert {uid: image.file_meta.TransferSyntaxUID for uid, image in here.items()} == {
        uid: image.file_meta.TransferSyntaxUID for uid, image in there.items()
    }
    await nothing_left(network)


async def test_an_orthanc_that_is_off_gets_all_when_it_is_there(network: Network, tmp_path: Path) -> None:
    north, who = network.sites["north"], await caller(network)
    async with dcmtk.orthanc(tmp_path / "far", far := new_title("FAR"), {}) as port:
        title = await queue_for(network, far, port, ["store"])
    ran = await storescu(north.port, who, title, _IMAGES)
    assert ran.code == 0, ran.output
    await all_are(north, title, received=3)
    async with dcmtk.orthanc(tmp_path / "far", far, {}, port=port):
        await all_are(north, title, delivered=3)
        there = {uid: image.PixelData for uid, image in stored(tmp_path / "far").items()}
        assert there == {str(image.SOPInstanceUID): image.PixelData for image in map(dcmread, _IMAGES)}
    await nothing_left(network)
