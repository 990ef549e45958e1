"""What a Router does about single DIMSE commands: next to nothing, and never answer one.

Two things need a look into command sets (isthmus.dicom.command): a grant of `retrieve` without `store` forbids the
requestor to store, and a C-MOVE or N-ACTION opens the way back for what it causes.
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
    """What the grant says about the requestor's commands."""

    forbid_store: bool = False

    def check(self, command: CommandSet) -> ReturnWanted | None:
        """Return the way back that a requestor's command opens. Raises AssociationAborted if it is not granted."""
        match command.command_field:
            case CommandField.C_STORE_RQ if self.forbid_store:
                raise AssociationAborted(
                    "the requestor sent a C-STORE-RQ, and its grant is for retrieve only",
                    hint="grant the service `store` too if that is meant",
                )
            case CommandField.C_MOVE_RQ if command.move_destination:
                return ReturnWanted(Way.STORE, command.move_destination)
            case CommandField.N_ACTION_RQ:
                return ReturnWanted(Way.COMMITMENT, None)
            case _:
                return None
