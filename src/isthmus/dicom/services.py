"""Services: what a grant names. A service is a set of (abstract syntax, role of the requestor)."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from enum import Enum
from typing import Final

from isthmus.dicom import uids
from isthmus.dicom.associate import AssociateRequest, PresentationContext
from isthmus.dicom.command import CommandField
from isthmus.dicom.items import RoleSelection
from isthmus.dicom.storage_classes import STORAGE_CLASSES


class Service(Enum):
    """What an owner may grant. The values are the words of configuration, CLI and pages."""

    ECHO = "echo"
    STORE = "store"
    QUERY = "query"
    RETRIEVE = "retrieve"
    WORKLIST = "worklist"
    MPPS = "mpps"
    COMMITMENT = "commitment"
    PRINT = "print"
    ANY = "any"
    """Every abstract syntax, private and unknown ones too."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Which presentation contexts of a request go to the device, and which are refused here."""

    kept: frozenset[int]
    refused: frozenset[int]
    requests: frozenset[CommandField] | None
    """What the requestor may ask, whatever the context; None: anything. Devices exist that go by the command alone,
    and would take a C-STORE-RQ on a context of Verification."""


def service_of(abstract_syntax: str) -> Service | None:
    """Return the service an abstract syntax belongs to; None for a private or unknown one, which only `any` covers."""
    return _SERVICES.get(abstract_syntax)


def allowed_contexts(request: AssociateRequest, services: AbstractSet[Service]) -> Decision:
    """Judge each presentation context of a request by the services granted to its caller."""
    allowed = [context for context in request.contexts if _allowed(context, request.roles, services)]
    kept = frozenset(context.id for context in allowed)
    requests = None if Service.ANY in services else _HARMLESS.union(*(_REQUESTS[service] for service in services))
    return Decision(kept, frozenset(context.id for context in request.contexts) - kept, requests)


def _allowed(context: PresentationContext, roles: tuple[RoleSelection, ...], services: AbstractSet[Service]) -> bool:
    if Service.ANY in services:
        return True
    service = service_of(context.abstract_syntax)
    if service is None:
        return False
    asked = [role for role in roles if role.sop_class == context.abstract_syntax]
    as_scu = not asked or any(role.scu for role in asked)  # without role selection the requestor is the SCU
    as_scp = any(role.scp for role in asked)
    if service is Service.STORE:
        return (Service.STORE in services and as_scu) or (Service.RETRIEVE in services and as_scp)
    if service is Service.COMMITMENT:
        return Service.COMMITMENT in services  # the archive's report comes from a requestor that is the SCP
    return service in services and as_scu


_HARMLESS: Final = frozenset({CommandField.C_ECHO_RQ, CommandField.C_CANCEL_RQ})
_REQUESTS: Final[dict[Service, frozenset[CommandField]]] = {
    Service.ECHO: frozenset(),
    Service.STORE: frozenset({CommandField.C_STORE_RQ}),
    Service.QUERY: frozenset({CommandField.C_FIND_RQ}),
    Service.RETRIEVE: frozenset({CommandField.C_MOVE_RQ, CommandField.C_GET_RQ}),
    Service.WORKLIST: frozenset({CommandField.C_FIND_RQ}),
    Service.MPPS: frozenset(
        {
            CommandField.N_CREATE_RQ,
            CommandField.N_SET_RQ,
            CommandField.N_GET_RQ,
            CommandField.N_EVENT_REPORT_RQ,
        }
    ),
    Service.COMMITMENT: frozenset({CommandField.N_ACTION_RQ, CommandField.N_EVENT_REPORT_RQ}),
    Service.PRINT: frozenset(field for field in CommandField if field.name.startswith("N_")),
}
"""What a requestor asks in each service (PS3.4), in either role."""

_SERVICES: Final[dict[str, Service]] = {
    uids.VERIFICATION: Service.ECHO,
    uids.MODALITY_WORKLIST_FIND: Service.WORKLIST,
    uids.STORAGE_COMMITMENT_PUSH_MODEL: Service.COMMITMENT,
    **dict.fromkeys(uids.QUERY_CLASSES, Service.QUERY),
    **dict.fromkeys(uids.MOVE_CLASSES | uids.GET_CLASSES, Service.RETRIEVE),
    **dict.fromkeys(uids.MPPS_CLASSES, Service.MPPS),
    **dict.fromkeys(uids.PRINT_CLASSES, Service.PRINT),
    **dict.fromkeys(STORAGE_CLASSES, Service.STORE),
}
