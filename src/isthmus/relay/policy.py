"""What a Router does about single DIMSE commands: next to nothing, and never answer one.

Two things need a look into command sets (isthmus.dicom.command): the requestor may only ask what its grant is for,
since some devices heed the command more than its presentation context, and a C-MOVE or N-ACTION opens the way back
for what it causes.
"""

from dataclasses import dataclass
from enum import Enum

from isthmus.dicom.command import CommandField, CommandSet
from isthmus.errors import AssociationAborted
from isthmus.kit.names import AETitle


class Way(Enum):
    """What the way back is for."""

    STORE = "store"  # the sub-operations of a C-MOVE
    COMMITMENT = "commitment"  # the N-EVENT-REPORT that an N-ACTION asks for


@dataclass(frozen=True, slots=True)
class ReturnWanted:
    """The called device will call `title` (None: the calling title of this association) because it was asked to."""

    way: Way
    title: AETitle | None


@dataclass(frozen=True, slots=True)
class CommandPolicy:
    """What the grant says about the requestor's commands.

    `requests`: what it may ask, None for anything. Its answers to what the device asks are always free.
    """

    requests: frozenset[CommandField] | None = None

    def check(self, command: CommandSet) -> ReturnWanted | None:
        """Return the way back that a requestor's command opens. Raises AssociationAborted if it is not granted."""
        if self.requests is not None and not command.is_response and command.command_field not in self.requests:
            raise AssociationAborted(
                f"the requestor sent a {command}, which its grant does not cover",
                hint="`isthmus grant list` shows the services; add the one that is meant",
            )
        match command.command_field:
            case CommandField.C_MOVE_RQ if command.move_destination:
                return ReturnWanted(Way.STORE, command.move_destination)
            case CommandField.N_ACTION_RQ:
                return ReturnWanted(Way.COMMITMENT, None)
            case _:
                return None
