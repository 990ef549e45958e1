"""Synthetic DICOM objects to send: noise under valid headers, no patient's data."""

import os
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    MultiFrameGrayscaleWordSecondaryCaptureImageStorage,
    generate_uid,
)

_FRAME_BYTES = 512 * 512 * 2
_BIG_FRAMES = 496
# The longest Pixel Data of whole frames that a 32-bit length can state: 4.29 GB (PS3.5 7.1.1)
_HUGE_FRAMES = 0xFFFF_FFFE // _FRAME_BYTES


@dataclass(frozen=True)
class Load:
    """A set of objects that goes over one association."""

    name: str
    folder: Path
    objects: int
    size: int
    """Bytes of all files together."""


def cache() -> Path:
    """Return the folder that keeps the objects from one run to the next."""
    folder = Path(tempfile.gettempdir()) / f"isthmus-bench-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


def ct_images(count: int = 400) -> Load:
    """Return `count` CT images of 512 x 512 16-bit pixels, 525 kB each, of one series."""
    folder = cache() / f"ct-{count}"
    if not folder.exists():
        making = _making(folder)
        study, series, frame_of_reference = (generate_uid(None) for _ in range(3))
        for number in range(1, count + 1):
            image = _image(CTImageStorage, "CT", study, series)
            image.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
            image.InstanceNumber = number
            image.FrameOfReferenceUID = frame_of_reference
            image.PositionReferenceIndicator = ""
            image.ImagePositionPatient = [-200, -200, number]
            image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
            image.PixelSpacing = [0.78125, 0.78125]
            image.SliceThickness = 1
            image.KVP = 120
            image.AcquisitionNumber = 1
            image.RescaleIntercept = -1024
            image.RescaleSlope = 1
            image.PixelData = os.urandom(_FRAME_BYTES)
            image["PixelData"].VR = "OW"
            image.save_as(making / f"{number:05}.dcm", enforce_file_format=True)
        making.rename(folder)
    return _loaded(f"{count} CT images", folder)


def multi_frame_objects(count: int = 2) -> Load:
    """Return `count` multi-frame objects of 496 frames, 260 MB each."""
    folder = cache() / f"multi-frame-{count}"
    if not folder.exists():
        making = _making(folder)
        for number in range(1, count + 1):
            _write_multi_frame(making / f"{number}.dcm", _BIG_FRAMES)
        making.rename(folder)
    return _loaded(f"{count} multi-frame objects", folder)


def huge_object() -> Load:
    """Return one object of 4.29 GB, the most that a defined length can state; remove it with `discard`."""
    folder = cache() / "huge"
    if not folder.exists():
        making = _making(folder)
        _write_multi_frame(making / "1.dcm", _HUGE_FRAMES)
        making.rename(folder)
    return _loaded("one object of 4 GB", folder)


def discard(load: Load) -> None:
    """Remove the files of a load."""
    for file in load.folder.iterdir():
        file.unlink()
    load.folder.rmdir()


def warm(load: Load) -> None:
    """Read every file once, so that the first round finds them in memory like the others."""
    for file in load.folder.iterdir():
        with file.open("rb", buffering=0) as content:
            while content.read(1 << 20):
                pass


def _making(folder: Path) -> Path:
    """Return an empty folder beside the wanted one; it is renamed when complete, so half a set is never used."""
    return Path(tempfile.mkdtemp(prefix=f"{folder.name}.", dir=folder.parent))


def _loaded(name: str, folder: Path) -> Load:
    files = list(folder.iterdir())
    return Load(name, folder, len(files), sum(file.stat().st_size for file in files))


def _write_multi_frame(path: Path, frames: int) -> None:
    """Write the header with pydicom and stream the frames behind it: eight random frames, over and over."""
    image = _image(MultiFrameGrayscaleWordSecondaryCaptureImageStorage, "OT", generate_uid(None), generate_uid(None))
    image.ConversionType = "SYN"
    image.BurnedInAnnotation = "NO"
    image.InstanceNumber = 1
    image.NumberOfFrames = frames
    image.FrameIncrementPointer = 0x00181063
    image.FrameTime = 40
    image.RescaleIntercept = 0
    image.RescaleSlope = 1
    image.RescaleType = "US"
    image.PresentationLUTShape = "IDENTITY"
    image.save_as(path, enforce_file_format=True)
    noise = [os.urandom(_FRAME_BYTES) for _ in range(8)]
    with path.open("ab") as file:
        file.write(struct.pack("<HH2s2xI", 0x7FE0, 0x0010, b"OW", frames * _FRAME_BYTES))
        for number in range(frames):
            file.write(noise[number % len(noise)])


def _image(sop_class: str, modality: str, study: str, series: str) -> Dataset:
    image = Dataset()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.SOPClassUID = sop_class
    image.SOPInstanceUID = generate_uid(None)
    image.StudyInstanceUID = study
    image.SeriesInstanceUID = series
    image.Modality = modality
    image.StudyDate, image.StudyTime = "20200101", "000000"
    image.PatientName, image.PatientID = "Synthetic^Noise", "SYNTHETIC"
    image.PatientBirthDate = image.PatientSex = ""
    image.AccessionNumber = image.ReferringPhysicianName = image.Manufacturer = ""
    image.StudyID, image.SeriesNumber = "1", 1
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.Rows = image.Columns = 512
    image.BitsAllocated = image.BitsStored = 16
    image.HighBit, image.PixelRepresentation = 15, 0
    return image
