"""Services: which presentation contexts a grant lets through."""

import pytest
from pynetdicom import sop_class

from isthmus.dicom.associate import AssociateRequest
from isthmus.dicom.command import CommandField
from isthmus.dicom.items import RoleSelection
from isthmus.dicom.services import Decision, Service, allowed_contexts, service_of
from isthmus.dicom.storage_classes import STORAGE_CLASSES
from isthmus.dicom.uids import (
    MODALITY_WORKLIST_FIND,
    STORAGE_COMMITMENT_PUSH_MODEL,
    STUDY_ROOT_FIND,
    STUDY_ROOT_GET,
    STUDY_ROOT_MOVE,
    VERIFICATION,
)
from isthmus.testing import dicom
from isthmus.testing.dicom import CT_IMAGE_STORAGE

PRIVATE = "1.2.840.113619.99.1"
CONTEXTS = [
    VERIFICATION,  # 1
    CT_IMAGE_STORAGE,  # 3
    STUDY_ROOT_FIND,  # 5
    STUDY_ROOT_MOVE,  # 7
    STUDY_ROOT_GET,  # 9
    MODALITY_WORKLIST_FIND,  # 11
    "1.2.840.10008.3.1.2.3.3",  # 13, MPPS
    STORAGE_COMMITMENT_PUSH_MODEL,  # 15
    "1.2.840.10008.5.1.1.9",  # 17, print
    PRIVATE,  # 19
]


HARMLESS = frozenset({CommandField.C_ECHO_RQ, CommandField.C_CANCEL_RQ})


def decide(*services: Service, roles: tuple[RoleSelection, ...] = ()) -> Decision:
    raw = dicom.associate_rq(contexts=[(uid, ["1.2.840.10008.1.2"]) for uid in CONTEXTS], roles=roles)
    return allowed_contexts(AssociateRequest.parse(raw), frozenset(services))


@pytest.mark.parametrize(
    ("service", "kept"),
    [
        (Service.ECHO, {1}),
        (Service.STORE, {3}),
        (Service.QUERY, {5}),
        (Service.RETRIEVE, {7, 9}),
        (Service.WORKLIST, {11}),
        (Service.MPPS, {13}),
        (Service.COMMITMENT, {15}),
        (Service.PRINT, {17}),
        (Service.ANY, set(range(1, 20, 2))),
    ],
)
def test_each_service_keeps_its_own_contexts(service: Service, kept: set[int]) -> None:
    decision = decide(service)
    assert set(decision.kept) == kept
    assert set(decision.refused) == set(range(1, 20, 2)) - kept


def test_no_service_keeps_nothing() -> None:
    assert decide() == Decision(frozenset(), frozenset(range(1, 20, 2)), HARMLESS)


def test_retrieve_alone_keeps_storage_only_for_the_answers_of_a_get_and_forbids_stores() -> None:
    roles = (RoleSelection(CT_IMAGE_STORAGE, scu=False, scp=True),)
    assert decide(Service.RETRIEVE, roles=roles) == Decision(
        frozenset({3, 7, 9}),
        frozenset(range(1, 20, 2)) - {3, 7, 9},
        HARMLESS | {CommandField.C_MOVE_RQ, CommandField.C_GET_RQ},
    )


@pytest.mark.parametrize("also", [Service.STORE, Service.ANY])
def test_retrieve_with_store_forbids_nothing(also: Service) -> None:
    roles = (RoleSelection(CT_IMAGE_STORAGE, scu=True, scp=True),)
    decision = decide(Service.RETRIEVE, also, roles=roles)
    assert 3 in decision.kept
    assert decision.requests is None or CommandField.C_STORE_RQ in decision.requests


def test_both_roles_proposed_are_not_a_way_to_store_with_retrieve_alone() -> None:
    """Siemens syngo proposes both for C-GET."""
    roles = (RoleSelection(CT_IMAGE_STORAGE, scu=True, scp=True),)
    assert CommandField.C_STORE_RQ not in (decide(Service.RETRIEVE, roles=roles).requests or ())


@pytest.mark.parametrize(
    ("service", "asks"),
    [
        (Service.ECHO, set()),
        (Service.STORE, {CommandField.C_STORE_RQ}),
        (Service.QUERY, {CommandField.C_FIND_RQ}),
        (Service.WORKLIST, {CommandField.C_FIND_RQ}),
        (Service.COMMITMENT, {CommandField.N_ACTION_RQ, CommandField.N_EVENT_REPORT_RQ}),
    ],
)
def test_each_service_lets_a_requestor_ask_its_own_commands_only(service: Service, asks: set[CommandField]) -> None:
    """storescp, for one, takes a C-STORE-RQ on any context, and dcmqrscp a C-MOVE-RQ."""
    assert decide(service).requests == HARMLESS | asks
    assert decide(service, Service.ANY).requests is None


def test_store_alone_does_not_let_a_requestor_be_the_scp_of_storage() -> None:
    roles = (RoleSelection(CT_IMAGE_STORAGE, scu=False, scp=True),)
    assert decide(Service.STORE, roles=roles).kept == frozenset()


def test_a_commitment_report_comes_from_a_requestor_that_is_the_scp() -> None:
    """dcm4che#663."""
    roles = (RoleSelection(STORAGE_COMMITMENT_PUSH_MODEL, scu=False, scp=True),)
    assert decide(Service.COMMITMENT, roles=roles).kept == {15}


def test_a_requestor_that_would_be_the_scp_of_a_query_is_refused() -> None:
    roles = (RoleSelection(STUDY_ROOT_FIND, scu=False, scp=True),)
    assert decide(Service.QUERY, roles=roles).kept == frozenset()


def test_every_storage_class_of_another_implementation_is_in_the_table() -> None:
    of_the_standard = {uid for uid in sop_class._STORAGE_CLASSES.values() if uid.startswith("1.2.840.10008.")}
    assert len(of_the_standard) > 100
    assert of_the_standard <= set(STORAGE_CLASSES)


def test_query_and_retrieve_classes_are_where_another_implementation_has_them() -> None:
    tables = [
        sop_class._QR_CLASSES,
        sop_class._HANGING_PROTOCOL_CLASSES,
        sop_class._COLOR_PALETTE_CLASSES,
        sop_class._IMPLANT_TEMPLATE_CLASSES,
        sop_class._PROTOCOL_APPROVAL_CLASSES,
        sop_class._DEFINED_PROCEDURE_CLASSES,
        sop_class._INVENTORY_CLASSES,
    ]
    for name, uid in (pair for table in tables for pair in table.items()):
        expected = Service.RETRIEVE if name.endswith(("Move", "Get")) else Service.QUERY
        assert service_of(uid) is expected, name
    for uid in sop_class._PRINT_MANAGEMENT_CLASSES.values():
        assert service_of(uid) is Service.PRINT


def test_a_private_class_has_no_service() -> None:
    """fo-dicom#355, #2017: it passes under `any`, and only there."""
    assert service_of(PRIVATE) is None
