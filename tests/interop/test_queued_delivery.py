"""Queued objects delivered to real archives, and what these say they take."""

from pathlib import Path

import pytest
from pydicom import dcmread
from tests.interop import dcmtk
from tests.interop.sites import CT, MR, TEST_FILES
from tests.loopback.queued.one_site import one_site

from isthmus.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN
from isthmus.testing.dicom import CT_IMAGE_STORAGE

pytestmark = pytest.mark.interop

_OTHERS = (TEST_FILES / "JPEG2000.dcm", TEST_FILES / "rtplan.dcm")


async def test_storescp_gets_queued_images_bit_for_bit_in_their_own_syntaxes(tmp_path: Path) -> None:
    images = [CT, MR, *_OTHERS]
    async with dcmtk.storescp(tmp_path / "got", title="ARCHIVE") as port, one_site(tmp_path) as one:
        await one.device(port)
        for path in images:
            head = dcmread(path, stop_before_pixels=True)
            await one.queue(
                [dcmtk.data_set_bytes(path)],
                sop_class=str(head.SOPClassUID),
                transfer_syntax=str(head.file_meta.TransferSyntaxUID),
                command=one.store_command(str(head.SOPClassUID), str(head.SOPInstanceUID)),
            )
        async with one.dispatcher.running():
            await one.all_are("delivered")
    got = {dcmtk.data_set_bytes(path) for path in dcmtk.files(tmp_path / "got")}
    assert got == {dcmtk.data_set_bytes(path) for path in images}


async def test_orthanc_says_what_it_takes(tmp_path: Path) -> None:
    async with dcmtk.orthanc(tmp_path / "orthanc", "ARCHIVE", {}) as port, one_site(tmp_path) as one:
        await one.device(port)
        one.mirror.apart_seconds = 0.0
        (device,) = one.site.live.core.directory.devices
        probing = one.mirror.probe(device, None, everything=True)
        await probing.wait()
        assert probing.refused is None
        assert (CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN) in one.site.live.core.directory.mirror[device.device_id]
        assert len({abstract for abstract, _ in probing.found}) > 80
