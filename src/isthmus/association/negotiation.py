"""What a request and its answer agree on (PS3.8 section 7.1.1.13)."""

from collections.abc import Mapping
from dataclasses import dataclass

from isthmus.dicom.associate import AssociateAccept, AssociateRequest
from isthmus.dicom.pdus import Reject
from isthmus.dicom.uids import APPLICATION_CONTEXT


@dataclass(frozen=True, slots=True)
class AgreedContext:
    """A presentation context on which data may flow."""

    id: int
    abstract_syntax: str
    transfer_syntax: str


def agreed_contexts(request: AssociateRequest, accept: AssociateAccept) -> Mapping[int, AgreedContext]:
    """Return the contexts that were proposed and accepted, by id. An answer to what nobody proposed is not one."""
    proposed = {context.id: context.abstract_syntax for context in request.contexts}
    return {
        answer.id: AgreedContext(answer.id, proposed[answer.id], answer.transfer_syntax)
        for answer in accept.contexts
        if answer.accepted and answer.id in proposed
    }


def refusal_by_protocol(request: AssociateRequest) -> Reject | None:
    """Return the answer to a request that no DICOM acceptor could take: another protocol version or application."""
    if not request.protocol_version & 1:
        return Reject(1, 2, 2)
    if request.application_context != APPLICATION_CONTEXT:
        return Reject(1, 1, 2)
    return None
