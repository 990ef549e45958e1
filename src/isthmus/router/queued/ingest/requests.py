"""What becomes of a request of a sending device, judged by its command set alone (PS3.7, PS3.4 annexes B and J)."""

from dataclasses import dataclass, field
from enum import Enum, auto

from isthmus.association.negotiation import AgreedContext
from isthmus.contract.letters import ObjectKind
from isthmus.dicom import uids
from isthmus.dicom.command import CommandField, CommandSet, Tag, response
from isthmus.dicom.pdv import Command
from isthmus.dicom.status import (
    CANNOT_UNDERSTAND,
    DOES_NOT_MATCH_SOP_CLASS,
    INVALID_SOP_INSTANCE,
    MISSING_ATTRIBUTE,
    NO_SUCH_ACTION,
    OUT_OF_RESOURCES,
    PROCESSING_FAILURE,
    SOP_CLASS_NOT_SUPPORTED,
    SUCCESS,
    UNRECOGNIZED_OPERATION,
)
from isthmus.envelope.records import is_syntax_uid
from isthmus.errors import RemoteMisuse
from isthmus.router.queued.trouble import NoRoom, SpoolFailed

_COMMITMENT_ACTION = 1  # PS3.4 table J.3-1


class Does(Enum):
    """What to do with a request."""

    KEEP = auto()  # its data set becomes an object
    ANSWER = auto()  # take its data set, if there is one, and say `status`
    IGNORE = auto()


@dataclass(frozen=True, slots=True)
class Request:
    """A request and what becomes of it. `kind`, `sop_class` and `sop_instance` are of what is kept."""

    context: AgreedContext
    command: CommandSet
    does: Does
    data_follows: bool
    status: int = SUCCESS
    comment: str = ""
    kind: ObjectKind = ObjectKind.STORE
    sop_class: str = ""
    sop_instance: str = field(default="", repr=False)

    def answer(self, status: int, comment: str = "") -> bytes:
        """Return the command set of the response."""
        return response(self.command, status, comment=comment)


def judge(raw: Command, context: AgreedContext) -> Request:
    """Return what becomes of a request on this context. Raises RemoteMisuse if it cannot be answered at all."""
    command = raw.parse()
    kind = command.command_field
    if kind is CommandField.C_CANCEL_RQ:
        return Request(context, command, Does.IGNORE, data_follows=False)
    if command.is_response or kind is None or command.message_id is None:
        raise RemoteMisuse(f"{command} is no request that could be answered", reason=6)
    if kind is CommandField.C_STORE_RQ:
        return _store(command, context)
    if kind is CommandField.N_ACTION_RQ and context.abstract_syntax == uids.STORAGE_COMMITMENT_PUSH_MODEL:
        return _commit(command, context)
    if kind is CommandField.C_ECHO_RQ:
        return _answered(command, context, SUCCESS)
    return _answered(command, context, UNRECOGNIZED_OPERATION, "objects for this device are queued")


def trouble(error: Exception) -> tuple[int, str]:
    """Return status and Error Comment for an object that is not kept because of `error`."""
    if isinstance(error, NoRoom):
        return OUT_OF_RESOURCES, "no room in the spool of the Router"
    if isinstance(error, SpoolFailed):
        return OUT_OF_RESOURCES, "the storage of the Router failed"
    return PROCESSING_FAILURE, "a fault of the Router"


def _store(command: CommandSet, context: AgreedContext) -> Request:
    if command.number(Tag.DATA_SET_TYPE) is None:  # the element is mandatory; a data set always follows (PS3.7 9.3.1.1)
        comment = "not said that a data set follows"
        return _answered(command, context, CANNOT_UNDERSTAND, comment, data_follows=True)
    if not command.data_set_present:
        return _answered(command, context, CANNOT_UNDERSTAND, "a C-STORE without a data set")
    sop_class = command.affected_sop_class or context.abstract_syntax
    sop_instance = command.affected_sop_instance or ""
    if sop_class != context.abstract_syntax:
        comment = "the SOP class is not that of the presentation context"
        return _answered(command, context, DOES_NOT_MATCH_SOP_CLASS, comment, data_follows=True)
    if not (is_syntax_uid(sop_class) and is_syntax_uid(context.transfer_syntax)):
        comment = "the UID of the SOP class or transfer syntax is none"
        return _answered(command, context, SOP_CLASS_NOT_SUPPORTED, comment, data_follows=True)
    if not sop_instance:
        return _answered(command, context, INVALID_SOP_INSTANCE, "no SOP Instance UID", data_follows=True)
    return Request(context, command, Does.KEEP, data_follows=True, sop_class=sop_class, sop_instance=sop_instance)


def _commit(command: CommandSet, context: AgreedContext) -> Request:
    if command.number(Tag.ACTION_TYPE_ID) not in {None, _COMMITMENT_ACTION}:  # some leave it out
        return _answered(command, context, NO_SUCH_ACTION)
    if not command.data_set_present:
        return _answered(command, context, MISSING_ATTRIBUTE, "an N-ACTION without a data set")
    sop_class = command.requested_sop_class or context.abstract_syntax
    if sop_class != context.abstract_syntax or not is_syntax_uid(context.transfer_syntax):
        comment = "the SOP class is not that of the presentation context"
        return _answered(command, context, SOP_CLASS_NOT_SUPPORTED, comment)
    return Request(
        context,
        command,
        Does.KEEP,
        data_follows=True,
        kind=ObjectKind.COMMIT,
        sop_class=sop_class,
        sop_instance=command.uid(Tag.REQUESTED_SOP_INSTANCE_UID) or "",
    )


def _answered(
    command: CommandSet, context: AgreedContext, status: int, comment: str = "", *, data_follows: bool | None = None
) -> Request:
    follows = command.data_set_present if data_follows is None else data_follows
    return Request(context, command, Does.ANSWER, follows, status, comment)
