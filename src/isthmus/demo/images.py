"""The images of the demonstration: real files that come with pydicom, each in its own transfer syntax."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pydicom

# One file per transfer syntax and kind of object; the MR image is the same one in six encodings.
_FILES: Final = (
    "CT_small.dcm",
    "MR_small.dcm",
    "MR_small_implicit.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_RLE.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "JPEG2000.dcm",
    "JPEG-lossy.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
    "image_dfl.dcm",
    "waveform_ecg.dcm",
    "test-SR.dcm",
    "examples_ybr_color.dcm",
    "examples_palette.dcm",
)
_GROUP_LENGTH_BYTES: Final = 12  # (0002,0000) UL 4, always explicit VR little endian: PS3.10 section 7.1
_PREAMBLE_BYTES: Final = 132


@dataclass(frozen=True, slots=True)
class Image:
    """One DICOM object on disk: `dataset` is its bytes after the file meta information, as they go on the wire."""

    path: Path
    sop_class: str
    instance: str
    study: str
    syntax: str
    dataset: bytes

    @property
    def key(self) -> tuple[str, str]:
        """What an archive files it under here: the same instance may be there in several transfer syntaxes."""
        return self.instance, self.syntax


def load(path: Path) -> Image:
    """Return the image in a DICOM file. Raises what pydicom and the file system raise."""
    content = path.read_bytes()
    header = pydicom.dcmread(path, stop_before_pixels=True)
    meta_bytes = int.from_bytes(content[_PREAMBLE_BYTES + 8 : _PREAMBLE_BYTES + _GROUP_LENGTH_BYTES], "little")
    return Image(
        path=path,
        sop_class=str(header.file_meta.MediaStorageSOPClassUID),
        instance=str(header.file_meta.MediaStorageSOPInstanceUID),
        study=str(header.StudyInstanceUID),
        syntax=str(header.file_meta.TransferSyntaxUID),
        dataset=content[_PREAMBLE_BYTES + _GROUP_LENGTH_BYTES + meta_bytes :],
    )


def bundled() -> list[Image]:
    """Return the images that pydicom's own package contains; nothing is downloaded."""
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    return [load(folder / name) for name in _FILES]


def canaries(images: list[Image]) -> set[bytes]:
    """Return byte strings that only somebody who can read the images would know: names, patient IDs, instance UIDs."""
    found = {image.instance.encode() for image in images}
    for image in images:
        header = pydicom.dcmread(image.path, stop_before_pixels=True)
        found |= {str(header.get(field, "")).strip("^ ").encode() for field in ("PatientName", "StudyInstanceUID")}
    return {canary for canary in found if len(canary) >= len("Lestrade^G")}
