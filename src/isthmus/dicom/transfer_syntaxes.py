"""Transfer syntaxes (PS3.5 section 10, PS3.6 table A-1), and which of them make sense for a Storage SOP class."""

from typing import Final

from isthmus.dicom.storage_classes import STORAGE_CLASSES
from isthmus.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN

UNCOMPRESSED: Final[dict[str, str]] = {
    IMPLICIT_VR_LITTLE_ENDIAN: "Implicit VR Little Endian",
    EXPLICIT_VR_LITTLE_ENDIAN: "Explicit VR Little Endian",
    "1.2.840.10008.1.2.1.99": "Deflated Explicit VR Little Endian",
    "1.2.840.10008.1.2.2": "Explicit VR Big Endian",
}
"""UID -> name, for data sets of any kind."""

IMAGE: Final[dict[str, str]] = {
    "1.2.840.10008.1.2.4.50": "JPEG Baseline",
    "1.2.840.10008.1.2.4.51": "JPEG Extended",
    "1.2.840.10008.1.2.4.57": "JPEG Lossless",
    "1.2.840.10008.1.2.4.70": "JPEG Lossless, First-Order Prediction",
    "1.2.840.10008.1.2.4.80": "JPEG-LS Lossless",
    "1.2.840.10008.1.2.4.81": "JPEG-LS Near-Lossless",
    "1.2.840.10008.1.2.4.90": "JPEG 2000 Lossless",
    "1.2.840.10008.1.2.4.91": "JPEG 2000",
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
    "1.2.840.10008.1.2.4.201": "High-Throughput JPEG 2000 Lossless",
    "1.2.840.10008.1.2.4.202": "High-Throughput JPEG 2000 RPCL Lossless",
    "1.2.840.10008.1.2.4.203": "High-Throughput JPEG 2000",
    "1.2.840.10008.1.2.5": "RLE Lossless",
}
"""UID -> name, for data sets with pixel data."""

VIDEO: Final[dict[str, str]] = {
    "1.2.840.10008.1.2.4.100": "MPEG2 Main Profile, Main Level",
    "1.2.840.10008.1.2.4.101": "MPEG2 Main Profile, High Level",
    "1.2.840.10008.1.2.4.102": "MPEG-4 AVC/H.264 High Profile, Level 4.1",
    "1.2.840.10008.1.2.4.103": "MPEG-4 AVC/H.264 BD-compatible High Profile, Level 4.1",
    "1.2.840.10008.1.2.4.104": "MPEG-4 AVC/H.264 High Profile, Level 4.2, 2D",
    "1.2.840.10008.1.2.4.105": "MPEG-4 AVC/H.264 High Profile, Level 4.2, 3D",
    "1.2.840.10008.1.2.4.106": "MPEG-4 AVC/H.264 Stereo High Profile, Level 4.2",
    "1.2.840.10008.1.2.4.107": "HEVC/H.265 Main Profile, Level 5.1",
    "1.2.840.10008.1.2.4.108": "HEVC/H.265 Main 10 Profile, Level 5.1",
}
"""UID -> name, for moving pictures."""

_NAMES: Final = {**UNCOMPRESSED, **IMAGE, **VIDEO}
_PICTURES: Final = ("image", "multi-frame", "pyramidal", "segmentation", "enhanced us", "rt dose", " map ", "raw data")


def syntax_name(uid: str) -> str:
    """Return the name of a transfer syntax, or its UID if it is private or newer than this table."""
    return _NAMES.get(uid, uid)


def sensible_syntaxes(storage_class: str) -> tuple[str, ...]:
    """Return the transfer syntaxes in which objects of a Storage SOP class are sent; of one not known here, all."""
    name = STORAGE_CLASSES.get(storage_class, "video image").lower()
    syntaxes = tuple(UNCOMPRESSED)
    if any(word in name for word in _PICTURES):
        syntaxes += tuple(IMAGE)
    if "video" in name or "multi-frame true color" in name:
        syntaxes += tuple(VIDEO)
    return syntaxes
