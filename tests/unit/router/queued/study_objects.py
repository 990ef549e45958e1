"""Synthetic objects of studies, as data set bytes."""

import zlib
from io import BytesIO
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filebase import DicomIO
from pydicom.filewriter import write_dataset

from isthmus.dicom import uids

BIG_ENDIAN = "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"


def data_set(study: int = 1, transfer_syntax: str = uids.EXPLICIT_VR_LITTLE_ENDIAN, **changes: Any) -> bytes:
    """Return an object of a study; what is changed to None is left out."""
    dataset = Dataset()
    values = {
        "SpecificCharacterSet": "ISO_IR 192",
        "StudyDate": "20260102",
        "AccessionNumber": f"A{study}",
        "Modality": "CT",
        "StudyDescription": "Head, synthetic",
        "PatientName": "Doe^Jané",
        "PatientID": f"P{study}",
        "StudyInstanceUID": f"2.25.{study}",
        "SeriesInstanceUID": "2.25.77",
        "PixelData": bytes(2000),
    }
    for name, value in (values | changes).items():
        if value is not None:
            setattr(dataset, name, value)
    dataset["PixelData"].VR = "OW"
    buffer = DicomIO(BytesIO())
    buffer.is_little_endian = transfer_syntax != BIG_ENDIAN
    buffer.is_implicit_VR = transfer_syntax == uids.IMPLICIT_VR_LITTLE_ENDIAN
    write_dataset(buffer, dataset)
    raw = buffer.parent.getvalue()
    if transfer_syntax == DEFLATED:
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        return packer.compress(raw) + packer.flush()
    return bytes(raw)
