"""Queued objects written out as DICOM files (PS3.10 section 7), for when a person has to carry them another way.

File names are numbers: nothing that a device sent makes a path.
"""

import asyncio
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Final

from pydicom.dataset import FileMetaDataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID

from isthmus.dicom import uids
from isthmus.envelope.records import ObjectMeta
from isthmus.errors import SealBroken
from isthmus.kit import platform
from isthmus.router.queued.spool.bundles import Spool

_MOST_BYTES: Final = 256 * 1024 * 1024  # in one go: whoever waits for the answer is told how far it is
_MOST_OBJECTS: Final = 2_000
_PREAMBLE: Final = bytes(128) + b"DICM"


@dataclass(frozen=True, slots=True)
class ExportedObject:
    """An object that is to be written, and where it is."""

    object_id: bytes
    bundle_id: int
    bundle: str
    position: int
    length: int


@dataclass(slots=True)
class Exported:
    """How far it is: `number` of the next file, the place `after` which to go on, and how many were damaged."""

    number: int
    after: tuple[int, int]
    damaged: int = 0


def to_export(
    connection: sqlite3.Connection, study_id: int | None, destination: str | None, after: tuple[int, int]
) -> list[ExportedObject]:
    """Return the next objects of a study that are not delivered everywhere, in the order in which they came."""
    rows = connection.execute(
        "SELECT DISTINCT o.object_id, o.bundle_id, b.name, o.position, o.length FROM copies AS c"
        " JOIN objects AS o ON o.object_id = c.object_id JOIN bundles AS b ON b.bundle_id = o.bundle_id"
        " WHERE c.study_id IS ?1 AND (?2 IS NULL OR c.destination = ?2) AND c.kind = 'store' AND NOT b.gone"
        " AND c.state IN ('waiting', 'posted', 'received', 'held') AND (o.bundle_id, o.position) > (?3, ?4)"
        " ORDER BY o.bundle_id, o.position LIMIT ?5",
        (study_id, destination, *after, _MOST_OBJECTS),
    ).fetchall()
    found, size = [], 0
    for row in rows:
        found.append(ExportedObject(*row))
        size += row[4]
        if size >= _MOST_BYTES:
            break
    return found


async def export(spool: Spool, objects: Sequence[ExportedObject], folder: Path, number: int) -> Exported:
    """Write objects into `folder` as `000001.dcm` and so on, from `number` on. Raises OSError; replaces no file."""
    await asyncio.to_thread(folder.mkdir, mode=0o700, parents=True, exist_ok=True)
    done = Exported(number, (-1, -1))
    for item in objects:
        async with spool.reader(item.bundle) as reader:
            try:
                meta, pieces = await asyncio.to_thread(reader.open_object, item.object_id, item.position, item.length)
                await asyncio.to_thread(_write, folder / f"{done.number:06}.dcm", meta, pieces)
            except SealBroken:
                done.damaged += 1
            else:
                done.number += 1
        done.after = item.bundle_id, item.position
    return done


def _write(path: Path, meta: ObjectMeta, pieces: Iterator[bytes]) -> None:
    partial = path.with_suffix(".partial")
    try:
        with os.fdopen(platform.open_spool_file(partial, create=True, write=True), "wb") as file:
            file.write(_PREAMBLE + _meta_group(meta))
            for piece in pieces:
                file.write(piece)
        path.hardlink_to(partial)  # unlike a rename it never replaces what is there
    finally:
        partial.unlink(missing_ok=True)


def _meta_group(meta: ObjectMeta) -> bytes:
    group = FileMetaDataset()
    group.FileMetaInformationVersion = b"\x00\x01"
    group.MediaStorageSOPClassUID = UID(meta.sop_class)
    group.MediaStorageSOPInstanceUID = UID(meta.sop_instance)
    group.TransferSyntaxUID = UID(meta.transfer_syntax)
    group.ImplementationClassUID = UID(uids.IMPLEMENTATION_CLASS_UID)
    group.ImplementationVersionName = uids.IMPLEMENTATION_VERSION_NAME
    buffer = BytesIO()
    write_file_meta_info(buffer, group, enforce_standard=True)
    return buffer.getvalue()
