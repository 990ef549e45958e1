"""The images that come with pydicom, each in its own transfer syntax, arrive at storescp byte for byte.

fo-dicom PR#259, pynetdicom#930, dcm4che#929 (deflated, big endian, encapsulated); mercure#50, pydicom PR#903
(non-conformant data sets): no data set is touched, whatever is wrong with it.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from pydicom import dcmread
from pydicom.filereader import read_file_meta_info
from tests.interop import dcmtk
from tests.interop.dcmtk import data_set_bytes, files, run
from tests.interop.samples import IMAGES, REFUSED, Image
from tests.interop.sites import CT, TEST_FILES, caller, new_title, publish

from isthmus.dicom.framing import PduType
from isthmus.dicom.pdus import message
from isthmus.testing.devices import calling
from isthmus.testing.dicom import associate_rq, store_command
from isthmus.testing.network import Network

pytestmark = [pytest.mark.interop, pytest.mark.asyncio(loop_scope="module")]


@dataclass(frozen=True, slots=True)
class Way:
    """From a caller of north to a storescp of south that writes into `folder`."""

    port: int
    direct: int
    caller: str
    called: str
    folder: Path


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def way(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Way]:
    folder = tmp_path_factory.mktemp("storescp") / "got"
    async with (
        Network.running(tmp_path_factory.mktemp("network")) as network,
        dcmtk.storescp(folder, "+uf") as port,
    ):
        title, who = await publish(network, new_title("STORE"), port, ["store"]), await caller(network)
        yield Way(network.sites["north"].port, port, who, title, folder)


def taken(folder: Path) -> list[Path]:
    """Return what storescp wrote since the last time, out of the way of what comes next."""
    got = files(folder)
    aside = folder / "before"
    aside.mkdir(exist_ok=True)
    return [path.rename(aside / path.name) for path in got]


async def test_pydicom_ships_every_kind_of_transfer_syntax() -> None:
    names = {image.transfer_syntax.keyword for image in IMAGES}
    assert {
        "ImplicitVRLittleEndian", "ExplicitVRLittleEndian", "ExplicitVRBigEndian", "DeflatedExplicitVRLittleEndian",
        "RLELossless", "JPEGBaseline8Bit", "JPEGExtended12Bit", "JPEGLosslessSV1", "JPEGLSLossless",
        "JPEGLSNearLossless", "JPEG2000Lossless", "JPEG2000",
    } <= names  # fmt: skip
    assert len(IMAGES) > 50


async def send(port: int, way: Way, image: Image) -> bytes:
    """Store the bytes of an image; return what came for an answer."""
    data_set = data_set_bytes(image.path)
    async with calling(port) as wire:
        await wire.send(associate_rq(way.called, way.caller, [(image.sop_class, [str(image.transfer_syntax)])]))
        assert (await wire.pdu())[:1] == b"\x02"
        command = store_command(1, image.sop_class, image.sop_instance)
        await wire.send(message(1, command, data_set, max_pdu_length=16384))
        answer = await wire.pdu()
        if answer[0] == PduType.P_DATA_TF:
            await wire.release()
        return answer


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: f"{image.transfer_syntax.keyword}-{image.path.stem}")
async def test_an_image_arrives_byte_for_byte_in_its_own_transfer_syntax(way: Way, image: Image) -> None:
    direct = await send(way.direct, way, image)
    expected = [data_set_bytes(file) for file in taken(way.folder)]
    assert await send(way.port, way, image) == direct
    got = taken(way.folder)
    assert [data_set_bytes(file) for file in got] == expected
    if image.path.stem in REFUSED:
        assert direct[0] == PduType.ABORT
    else:
        assert expected == [data_set_bytes(image.path)]
        assert read_file_meta_info(got[0]).TransferSyntaxUID == image.transfer_syntax


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("-xi", "MR_small_implicit.dcm"),
        ("-xb", "MR_small_bigendian.dcm"),
        ("-xd", "image_dfl.dcm"),
        ("-xr", "MR_small_RLE.dcm"),
        ("-xt", "MR_small_jpeg_ls_lossless.dcm"),
        ("-xv", "MR_small_jp2klossless.dcm"),
        ("-xw", "JPEG2000.dcm"),
        ("-xy", "SC_rgb_dcmtk_+eb+cr.dcm"),
        ("-xs", "SC_rgb_jpeg_gdcm.dcm"),
    ],
)
async def test_storescu_sends_through_the_relay_what_it_sends_directly(way: Way, option: str, name: str) -> None:
    got = []
    for port in (way.direct, way.port):
        ran = await run(
            "storescu", "-v", "-R", option, "-aet", way.caller, "-aec", way.called, "127.0.0.1", str(port),
            TEST_FILES / name,
        )  # fmt: skip
        assert ran.code == 0, ran.output
        (file,) = taken(way.folder)
        got.append(data_set_bytes(file))
    assert got[0] == got[1]


async def test_storescu_with_the_defaults_of_a_scanner_sends_every_context_it_can(way: Way) -> None:
    ran = await run("storescu", "-v", "+C", "-aet", way.caller, "-aec", way.called, "127.0.0.1", str(way.port), CT)
    assert ran.code == 0, ran.output
    (file,) = taken(way.folder)
    assert dcmread(file).PixelData == dcmread(CT).PixelData
