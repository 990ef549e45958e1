"""The images that come with pydicom, as they are on disk: their data sets are never decoded."""

from dataclasses import dataclass
from pathlib import Path

from pydicom.filereader import read_file_meta_info
from pydicom.uid import UID, MediaStorageDirectoryStorage
from tests.interop.sites import TEST_FILES


@dataclass(frozen=True, slots=True)
class Image:
    """A file as it is sent: its data set is never decoded."""

    path: Path
    sop_class: str
    sop_instance: str
    transfer_syntax: UID


def images() -> list[Image]:
    """Return every file of pydicom's that says what it is."""
    found = []
    for path in sorted(TEST_FILES.glob("*.dcm")):
        if path.read_bytes()[128:132] != b"DICM":
            continue
        meta = read_file_meta_info(path)
        if not {"TransferSyntaxUID", "MediaStorageSOPClassUID", "FileMetaInformationGroupLength"} <= set(meta.dir()):
            continue
        if meta.MediaStorageSOPClassUID != MediaStorageDirectoryStorage and meta.MediaStorageSOPInstanceUID:
            uids = str(meta.MediaStorageSOPClassUID), str(meta.MediaStorageSOPInstanceUID)
            found.append(Image(path, *uids, meta.TransferSyntaxUID))
    return found


IMAGES = images()
REFUSED = {"image_dfl", "rtplan_truncated"}
"""What storescp itself cannot keep bit for bit: it aborts."""
