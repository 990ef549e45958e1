"""Queued between foreign devices of two sites: every transfer syntax, and what the far device does not take."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydicom import dcmread
from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, ImplicitVRLittleEndian, JPEGBaseline8Bit
from pynetdicom import evt
from pynetdicom.sop_class import RTPlanStorage, SecondaryCaptureImageStorage
from tests.interop import dcmtk, queued
from tests.interop.dcmtk import data_set_bytes, files
from tests.interop.pynet import accepting
from tests.interop.queued import all_are, nothing_left, queue_for, storescu
from tests.interop.samples import IMAGES, REFUSED, Image
from tests.interop.sites import CT, TEST_FILES, caller, new_title

from isthmus.dicom.framing import Data, Framer
from isthmus.dicom.pdus import message
from isthmus.testing.devices import calling
from isthmus.testing.dicom import associate_rq, store_command
from isthmus.testing.network import Network

pytestmark = [pytest.mark.interop, pytest.mark.asyncio(loop_scope="module")]

_OPTIONS = {
    "ImplicitVRLittleEndian": "-xi",
    "ExplicitVRLittleEndian": "-xe",
    "ExplicitVRBigEndian": "-xb",
    "RLELossless": "-xr",
    "JPEGBaseline8Bit": "-xy",
    "JPEGExtended12Bit": "-xx",
    "JPEGLosslessSV1": "-xs",
    "JPEGLSLossless": "-xt",
    "JPEGLSNearLossless": "-xu",
    "JPEG2000Lossless": "-xv",
    "JPEG2000": "-xw",
}
"""How storescu is told the transfer syntax of what it sends."""


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def network(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Network]:
    async with queued.sites(tmp_path_factory.mktemp("network")) as network:
        yield network


async def send(port: int, who: str, called: str, images: Sequence[Image]) -> list[int | None]:
    """Store the bytes of images on one association, each in its own transfer syntax; return the statuses."""
    pairs = sorted({(image.sop_class, str(image.transfer_syntax)) for image in images})
    statuses = []
    async with calling(port) as wire:
        await wire.send(associate_rq(called, who, [(abstract, [transfer]) for abstract, transfer in pairs]))
        assert (await wire.pdu())[:1] == b"\x02"
        for number, image in enumerate(images, start=1):
            context = 2 * pairs.index((image.sop_class, str(image.transfer_syntax))) + 1
            command = store_command(number, image.sop_class, image.sop_instance)
            await wire.send(message(context, command, data_set_bytes(image.path), max_pdu_length=16_384))
            (frame,) = Framer().feed(await wire.pdu())
            assert isinstance(frame, Data), image.path
            statuses.append(frame.commands[0].parse().status)
        await wire.release()
    return statuses


def syntaxes(some: Sequence[Path]) -> Counter[UID]:
    """Return how many files are in each transfer syntax."""
    return Counter(read_file_meta_info(file).TransferSyntaxUID for file in some)


def taken(folder: Path) -> list[Path]:
    """Return what storescp wrote since the last time, out of the way of what comes next."""
    aside = folder / "before"
    aside.mkdir(exist_ok=True)
    return [path.rename(aside / f"{len(files(aside))}-{path.name}") for path in files(folder)]


async def test_every_image_arrives_at_storescp_byte_for_byte_in_its_own_transfer_syntax(
    network: Network, tmp_path: Path
) -> None:
    sent = [image for image in IMAGES if image.path.stem not in REFUSED]
    north, folder = network.sites["north"], tmp_path / "got"
    async with dcmtk.storescp(folder, "+uf") as port:
        title, who = await queue_for(network, new_title("STORE"), port, ["store"]), await caller(network)
        assert set(await send(north.port, who, title, sent)) == {0}
        await all_are(north, title, delivered=len(sent))
        listed = (await queued.ask(north, "queue", "list", "--done"))["rows"]
        ours = [row for row in listed if row["destination"] == title]
        assert sum(row["delivered"] for row in ours) == sum(row["total"] for row in ours) == len(sent)
        assert not [row for row in (await queued.ask(north, "queue", "list"))["rows"] if row["destination"] == title]
        got = files(folder)
        assert Counter(map(data_set_bytes, got)) == Counter(data_set_bytes(image.path) for image in sent)
        assert syntaxes(got) == Counter(image.transfer_syntax for image in sent)
    await nothing_left(network)


async def test_what_storescp_cannot_keep_arrives_byte_for_byte_at_an_archive_that_can(network: Network) -> None:
    """A deflated data set and one that is cut off (pynetdicom#930, dcm4che#929)."""
    sent = [image for image in IMAGES if image.path.stem in REFUSED]
    got: list[bytes] = []

    def store(event: Any) -> int:
        got.append(event.request.DataSet.getvalue())
        return 0x0000

    kinds = [(image.sop_class, str(image.transfer_syntax)) for image in sent]
    assert {abstract for abstract, _ in kinds} == {SecondaryCaptureImageStorage, RTPlanStorage}
    async with accepting(kinds, [(evt.EVT_C_STORE, store)]) as port:
        title, who = await queue_for(network, new_title("PACS"), port, ["store"]), await caller(network)
        assert await send(network.sites["north"].port, who, title, sent) == [0, 0]
        await all_are(network.sites["north"], title, delivered=2)
    assert sorted(got) == sorted(data_set_bytes(image.path) for image in sent)


async def test_storescu_sends_into_the_queue_what_it_sends_directly(network: Network, tmp_path: Path) -> None:
    """In each syntax the files that DCMTK can read; what it makes of them is its own affair, and the same both ways."""
    folder, north = tmp_path / "got", network.sites["north"]
    async with dcmtk.storescp(folder, "+uf") as port:
        title, who = await queue_for(network, new_title("STORE"), port, ["store"]), await caller(network)

        async def send_all(where: int) -> list[int]:
            """Send each syntax on an association of its own; return what storescu says of each."""
            codes = []
            for syntax, option in _OPTIONS.items():
                some = [image.path for image in IMAGES if image.transfer_syntax.keyword == syntax]
                some = [path for path in some if path.stem not in REFUSED]
                codes.append((await storescu(where, who, title, some, "-nh", option)).code)
            return codes

        codes = await send_all(port)
        expected = taken(folder)
        assert {meta.keyword for meta in syntaxes(expected)} == set(_OPTIONS)
        assert await send_all(north.port) == codes
        await all_are(north, title, delivered=len(expected))
        got = taken(folder)
        assert Counter(map(data_set_bytes, got)) == Counter(map(data_set_bytes, expected))
        assert syntaxes(got) == syntaxes(expected)


async def test_a_transfer_syntax_that_the_far_device_does_not_take_is_refused_by_its_mirror(
    network: Network, tmp_path: Path
) -> None:
    """storescp is probed by command, and says Implicit VR Little Endian; its site then answers nobody for it."""
    folder, north, south = tmp_path / "got", network.sites["north"], network.sites["south"]
    compressed = TEST_FILES / "SC_rgb_jpeg_gdcm.dcm"
    async with dcmtk.storescp(folder, "+xi") as port:
        title = await queue_for(network, new_title("STORE"), port, ["store"], choose=False)
        await queued.command(north, "delivery", "set", title, "queued")
        answer = await queued.ask(south, "device", "probe", title)
        assert len({pair["abstract"] for pair in answer["pairs"]}) > 80
        assert {pair["transfer"] for pair in answer["pairs"]} == {ImplicitVRLittleEndian}
        assert {pair["source"] for pair in answer["pairs"]} == {"probe"}
        who = await caller(network)
        await south.control("pause", paused=True)  # whatever is answered now, the far site does not say it
        ran = await storescu(north.port, who, title, [compressed], "-xs")
        assert ran.code != 0
        assert "JPEG Lossless" in ran.output  # storescu got one context, in the only syntax that there is
        assert "Accepted" in ran.output
        assert "to 'Little Endian Implicit'" in ran.output, ran.output
        await south.control("pause", paused=False)
        ran = await storescu(north.port, who, title, [CT], "-xi")
        assert ran.code == 0, ran.output
        await all_are(north, title, delivered=1)
        (file,) = files(folder)
        assert dcmread(file).PixelData == dcmread(CT).PixelData


async def test_storescu_hears_that_no_context_is_acceptable_if_the_far_device_takes_none_of_its_syntaxes(
    network: Network,
) -> None:
    async with accepting([(SecondaryCaptureImageStorage, [JPEGBaseline8Bit])]) as port:
        title, who = await queue_for(network, new_title("PACS"), port, ["store"]), await caller(network)
        north, plain = network.sites["north"], TEST_FILES / "SC_rgb_small_odd.dcm"
        ran = await storescu(north.port, who, title, [plain], "-xe")
        assert ran.code != 0
        assert "No Acceptable Presentation Contexts" in ran.output, ran.output
        assert await queued.counts(north, title) == {}
