"""AE titles in command sets, where a device knows another one by a title that the network does not.

Only two elements name a device: Move Destination (0000,0600) of a C-MOVE-RQ, and Move Originator (0000,1030) of a
C-STORE-RQ. Between two Routers travel network titles. Titles inside data sets are left alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from isthmus.dicom.command import CommandField, Tag
from isthmus.dicom.pdv import Command
from isthmus.errors import RemoteMisuse
from isthmus.kit.names import AETitle

MAX_COMMAND: Final = 64 * 1024
"""Bytes of unfinished command sets that are held for it: real ones have some hundred."""

Rename = Callable[[AETitle], AETitle]

_ELEMENTS: Final = {CommandField.C_MOVE_RQ: Tag.MOVE_DESTINATION, CommandField.C_STORE_RQ: Tag.MOVE_ORIGINATOR_TITLE}


@dataclass(frozen=True, slots=True)
class Titles:
    """How the titles that a device uses become those of the network, and the other way round."""

    to_network: Rename
    to_device: Rename


def renamed(command: Command, rename: Rename) -> bytes | None:
    """Return the command set with its title renamed; None if it names nobody, or nobody with another title."""
    try:
        fields = command.parse()
    except RemoteMisuse:
        return None  # for the devices to judge
    kind = fields.command_field
    tag = _ELEMENTS.get(kind) if isinstance(kind, CommandField) else None
    title = fields.title(tag) if tag is not None else None
    if tag is None or not title:
        return None
    other = rename(title)
    return None if other == title else fields.with_title(tag, other).raw
