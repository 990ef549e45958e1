"""What the Router accepts in the place of queued devices: what all of them take, as their owners know it (PS3.8 9.3.3).

Nothing but the contexts and our own maximum PDU length is answered: no asynchronous operations window (so that one
operation is outstanding at a time), no roles (the requestor is the SCU), no user identity, no extended negotiation.
"""

from collections.abc import Sequence
from typing import Final

from isthmus.dicom import uids
from isthmus.dicom.associate import (
    AssociateAccept,
    AssociateRequest,
    ContextResult,
    PresentationContext,
    build_accept,
)
from isthmus.dicom.services import Service, allowed_contexts, service_of
from isthmus.router.routing.modes import QueuedDevice

OWN_PDU_LENGTH: Final = 128 * 1024
"""The longest P-DATA-TF that is taken, in bytes without its header; what toolkits send at most."""


def answer(request: AssociateRequest, devices: Sequence[QueuedDevice]) -> AssociateAccept:
    """Return the A-ASSOCIATE-AC to `request`, all contexts of which may be refused.

    Storage is accepted where every device is granted for it and takes it, with the first proposed transfer syntax
    that all of them take. Verification is the Router's own. Storage commitment is for the device that `commits` names.
    """
    kept = [allowed_contexts(request, device.services).kept for device in devices]
    known = [_by_class(device) for device in devices]
    commit = commits(devices)

    def decide(context: PresentationContext) -> str | ContextResult:
        abstract = context.abstract_syntax
        if abstract == uids.VERIFICATION:
            return _first(context, None)
        if abstract == uids.STORAGE_COMMITMENT_PUSH_MODEL:
            return ContextResult.USER_REJECTION if commit is None else _commitment(context, commit)
        if service_of(abstract) not in {Service.STORE, None}:
            return ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED
        if not all(context.id in ids for ids in kept):
            return ContextResult.USER_REJECTION
        taken = [classes.get(abstract, set()) for classes in known]
        if not all(taken):
            return ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED
        return _first(context, set.intersection(*taken))

    return build_accept(request, decide, max_pdu_length=OWN_PDU_LENGTH)


def commits(devices: Sequence[QueuedDevice]) -> QueuedDevice | None:
    """Return who gets a request for storage commitment: the first that may, since it is to be answered once."""
    granted = {Service.COMMITMENT, Service.ANY}
    return next((device for device in devices if device.services & granted), None)


def unknown(devices: Sequence[QueuedDevice]) -> QueuedDevice | None:
    """Return a device of which nobody knows what it takes."""
    return next((device for device in devices if not device.syntaxes), None)


def _commitment(context: PresentationContext, device: QueuedDevice) -> str | ContextResult:
    known = _by_class(device).get(context.abstract_syntax)
    if known is not None:
        return _first(context, known)
    for transfer in (uids.IMPLICIT_VR_LITTLE_ENDIAN, uids.EXPLICIT_VR_LITTLE_ENDIAN):  # the former all have to take
        if transfer in context.transfer_syntaxes:
            return transfer
    return ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED


def _by_class(device: QueuedDevice) -> dict[str, set[str]]:
    """Return the transfer syntaxes that a device takes, by abstract syntax."""
    classes: dict[str, set[str]] = {}
    for abstract, transfer in device.syntaxes:
        classes.setdefault(abstract, set()).add(transfer)
    return classes


def _first(context: PresentationContext, taken: set[str] | None) -> str | ContextResult:
    """Return the first proposed transfer syntax of those that are taken; None: all are."""
    for transfer in context.transfer_syntaxes:
        if taken is None or transfer in taken:
            return transfer
    return ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED
