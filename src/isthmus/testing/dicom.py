"""DICOM bytes for tests: short builders with defaults for what a test does not care about. Synthetic values only."""

from collections.abc import Sequence

from isthmus.dicom import uids
from isthmus.dicom.associate import (
    AssociateAccept,
    AssociateRequest,
    ContextResult,
    Decide,
    PresentationContext,
    build_accept,
    build_request,
)
from isthmus.dicom.command import NO_DATA_SET, CommandField, Tag, c_echo_rq, c_echo_rsp, encode
from isthmus.dicom.items import Item, RoleSelection
from isthmus.dicom.pdus import RELEASE_RP, RELEASE_RQ, Abort, Reject, message, p_data
from isthmus.kit.names import AETitle

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
MR_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.4"
TRANSFER_SYNTAXES = (uids.EXPLICIT_VR_LITTLE_ENDIAN, uids.IMPLICIT_VR_LITTLE_ENDIAN)
ECHO_CONTEXT = (uids.VERIFICATION, (uids.IMPLICIT_VR_LITTLE_ENDIAN,))
CT_CONTEXT = (CT_IMAGE_STORAGE, TRANSFER_SYNTAXES)


def associate_rq(
    called: str = "ARCHIVE",
    calling: str = "CT1",
    contexts: Sequence[tuple[str, Sequence[str]]] = (ECHO_CONTEXT, CT_CONTEXT),
    *,
    max_pdu_length: int = 16_384,
    roles: Sequence[RoleSelection] = (),
    user_items: Sequence[Item] = (),
) -> bytes:
    """Return an A-ASSOCIATE-RQ; contexts get the ids 1, 3, 5 ..."""
    return build_request(
        AETitle(called),
        AETitle(calling),
        contexts,
        max_pdu_length=max_pdu_length,
        roles=roles,
        user_items=user_items,
    ).raw


def associate_ac(
    request: bytes, refuse: Sequence[int] = (), *, max_pdu_length: int = 16_384, user_items: Sequence[Item] = ()
) -> bytes:
    """Return the A-ASSOCIATE-AC that takes the first transfer syntax of every context but the ids to refuse."""

    def decide(context: PresentationContext) -> str | ContextResult:
        if context.id in refuse:
            return ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED
        return context.transfer_syntaxes[0]

    return associate_ac_by(request, decide, max_pdu_length=max_pdu_length, user_items=user_items).raw


def associate_ac_by(
    request: bytes, decide: Decide, *, max_pdu_length: int = 16_384, user_items: Sequence[Item] = ()
) -> AssociateAccept:
    """Return the answer in which each context gets what `decide` says."""
    parsed = AssociateRequest.parse(request)
    return build_accept(parsed, decide, max_pdu_length=max_pdu_length, user_items=user_items)


def associate_rj(result: int = 1, source: int = 1, reason: int = 7) -> bytes:
    """Return an A-ASSOCIATE-RJ; by default: permanent, called AE title not recognized."""
    return Reject(result, source, reason).to_bytes()


def release_rq() -> bytes:
    """Return an A-RELEASE-RQ."""
    return RELEASE_RQ


def release_rp() -> bytes:
    """Return an A-RELEASE-RP."""
    return RELEASE_RP


def abort(source: int = 0, reason: int = 0) -> bytes:
    """Return an A-ABORT."""
    return Abort(source, reason).to_bytes()


def pdata(context_id: int, fragment: bytes, *, command: bool = False, last: bool = False) -> bytes:
    """Return one P-DATA-TF with one PDV."""
    return p_data(context_id, fragment, command=command, last=last)


def pdata_of(*pdvs: tuple[int, int, bytes]) -> bytes:
    """Return one P-DATA-TF with these PDVs: (context id, message control header, fragment)."""
    payload = b"".join(
        (len(fragment) + 2).to_bytes(4, "big") + bytes((context_id, flags)) + fragment
        for context_id, flags, fragment in pdvs
    )
    return b"\x04\x00" + len(payload).to_bytes(4, "big") + payload


def echo_rq(context_id: int = 1, message_id: int = 1) -> bytes:
    """Return the P-DATA-TF of a C-ECHO-RQ."""
    return message(context_id, c_echo_rq(message_id))


def echo_rsp(context_id: int = 1, message_id: int = 1, status: int = 0) -> bytes:
    """Return the P-DATA-TF of a C-ECHO-RSP."""
    return message(context_id, c_echo_rsp(message_id, status))


def store_command(
    message_id: int = 1,
    sop_class: str = CT_IMAGE_STORAGE,
    sop_instance: str = "1.2.3.4",
    *,
    originator: str | None = None,
) -> bytes:
    """Return the command set of a C-STORE-RQ."""
    elements: dict[Tag, int | str | bytes] = {
        Tag.AFFECTED_SOP_CLASS_UID: sop_class,
        Tag.COMMAND_FIELD: CommandField.C_STORE_RQ,
        Tag.MESSAGE_ID: message_id,
        Tag.PRIORITY: 0,
        Tag.DATA_SET_TYPE: 1,
        Tag.AFFECTED_SOP_INSTANCE_UID: sop_instance,
    }
    if originator is not None:
        elements |= {Tag.MOVE_ORIGINATOR_TITLE: originator, Tag.MOVE_ORIGINATOR_MESSAGE_ID: 1}
    return encode(elements)


def store_rq(
    data_set: bytes,
    context_id: int = 3,
    message_id: int = 1,
    *,
    max_pdu_length: int = 16_384,
    sop_instance: str = "1.2.3.4",
) -> bytes:
    """Return the P-DATA-TFs of a C-STORE-RQ with this data set, of at least one byte."""
    command = store_command(message_id, sop_instance=sop_instance)
    return message(context_id, command, data_set, max_pdu_length=max_pdu_length)


def store_rsp(context_id: int = 3, message_id: int = 1, status: int = 0, *, sop_instance: str = "1.2.3.4") -> bytes:
    """Return the P-DATA-TF of a C-STORE-RSP."""
    return message(
        context_id,
        encode(
            {
                Tag.AFFECTED_SOP_CLASS_UID: CT_IMAGE_STORAGE,
                Tag.COMMAND_FIELD: CommandField.C_STORE_RSP,
                Tag.MESSAGE_ID_BEING_RESPONDED_TO: message_id,
                Tag.DATA_SET_TYPE: NO_DATA_SET,
                Tag.STATUS: status,
                Tag.AFFECTED_SOP_INSTANCE_UID: sop_instance,
            }
        ),
    )


def move_command(destination: str, message_id: int = 1) -> bytes:
    """Return the command set of a C-MOVE-RQ (Study Root)."""
    return encode(
        {
            Tag.AFFECTED_SOP_CLASS_UID: uids.STUDY_ROOT_MOVE,
            Tag.COMMAND_FIELD: CommandField.C_MOVE_RQ,
            Tag.MESSAGE_ID: message_id,
            Tag.MOVE_DESTINATION: destination,
            Tag.PRIORITY: 0,
            Tag.DATA_SET_TYPE: 1,
        }
    )
