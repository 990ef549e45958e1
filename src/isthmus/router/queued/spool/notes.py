"""Envelopes that bring nothing new: each is noted behind the records of the bundles that hold its objects already.

A group of two devices at one site is two envelopes of the same objects, of which one is kept. What the other asks for
would be in the ledger alone, and be lost with it. A note is a header like that in front of the records, and goes with
the bundle's file.
"""

import os
from pathlib import Path
from typing import BinaryIO

from isthmus.errors import SealBroken
from isthmus.kit import platform
from isthmus.router.queued.spool import header as headers
from isthmus.router.queued.spool.header import BundleHeader, Inbound
from isthmus.router.queued.spool.secrets import SpoolSecrets


def add(path: Path, header: BundleHeader, start: int, secrets: SpoolSecrets) -> int:
    """Note an envelope in the file of a bundle whose records end at `start`, and make that durable.

    Returns by how many bytes the file grew: what a crash left behind the last whole note makes way. Raises OSError.
    """
    content = header.content
    assert isinstance(content, Inbound)
    with path.open("rb", buffering=0) as file:
        size = file.seek(0, 2)
        known, end = read(file, path.name, start, secrets)
    if any(note.manifest.envelope_id == content.manifest.envelope_id for note in known):
        return 0
    note = headers.pack(header, path.name, secrets)
    handle = platform.open_spool_file(path, create=False, write=True)
    try:
        platform.write_at(handle, note, end)
        os.ftruncate(handle, end + len(note))
        platform.sync_data(handle)
    finally:
        os.close(handle)
    return end + len(note) - size


def read(file: BinaryIO, name: str, start: int, secrets: SpoolSecrets) -> tuple[list[Inbound], int]:
    """Return the envelopes that are noted from `start` on, and where the last whole note ends."""
    found: list[Inbound] = []
    while True:
        try:
            unpacked = headers.unpack(file, name, secrets, start=start)
        except SealBroken:  # of a write that never ended, or damaged: nobody can say what it asked for
            break
        if unpacked is None or not isinstance(unpacked[0].content, Inbound):
            break
        found.append(unpacked[0].content)
        start += unpacked[1]
    return found, start
