"""What is accepted in the place of queued devices (PS3.8 9.3.3, table 9-18)."""

import pytest

from isthmus.dicom import uids
from isthmus.dicom.associate import AssociateAccept, AssociateRequest
from isthmus.dicom.items import ItemType, RoleSelection, make_item
from isthmus.dicom.services import Service
from isthmus.envelope.identity import RouterId
from isthmus.kit.names import AETitle, SiteName
from isthmus.router.queued.ingest.negotiation import OWN_PDU_LENGTH, answer, commits, unknown
from isthmus.router.routing.modes import QueuedDevice
from isthmus.router.routing.records import Pair
from isthmus.testing.dicom import CT_IMAGE_STORAGE, MR_IMAGE_STORAGE, associate_rq

JPEG = "1.2.840.10008.1.2.4.70"
IMPLICIT, EXPLICIT = uids.IMPLICIT_VR_LITTLE_ENDIAN, uids.EXPLICIT_VR_LITTLE_ENDIAN
COMMITMENT = uids.STORAGE_COMMITMENT_PUSH_MODEL
ACCEPTED, BY_USER, NO_ABSTRACT, NO_TRANSFER = 0, 1, 3, 4


def device(title: str, *pairs: Pair, services: tuple[Service, ...] = (Service.STORE,)) -> QueuedDevice:
    return QueuedDevice(AETitle(title), SiteName("south"), RouterId("R"), frozenset(services), frozenset(pairs))


PACS = device("PACS", (CT_IMAGE_STORAGE, IMPLICIT), (CT_IMAGE_STORAGE, JPEG))


def answered(*contexts: tuple[str, tuple[str, ...]], devices: tuple[QueuedDevice, ...] = (PACS,)) -> AssociateAccept:
    return answer(AssociateRequest.parse(associate_rq("PACS", "CT1", contexts)), devices)


def results(*contexts: tuple[str, tuple[str, ...]], devices: tuple[QueuedDevice, ...] = (PACS,)) -> list[object]:
    return [
        one.transfer_syntax if one.accepted else one.result for one in answered(*contexts, devices=devices).contexts
    ]


def test_the_first_proposed_transfer_syntax_that_the_device_takes_is_accepted() -> None:
    assert results((CT_IMAGE_STORAGE, (EXPLICIT, JPEG, IMPLICIT))) == [JPEG]
    assert results((CT_IMAGE_STORAGE, (IMPLICIT, JPEG))) == [IMPLICIT]


def test_a_context_of_a_class_that_the_device_does_not_take_is_refused_as_such() -> None:
    assert results((MR_IMAGE_STORAGE, (IMPLICIT,)), (CT_IMAGE_STORAGE, (EXPLICIT,))) == [NO_ABSTRACT, NO_TRANSFER]


def test_the_same_class_in_several_contexts_is_judged_context_by_context() -> None:  # dicom-rs#215
    assert results((CT_IMAGE_STORAGE, (JPEG,)), (CT_IMAGE_STORAGE, (EXPLICIT,)), (CT_IMAGE_STORAGE, (IMPLICIT,))) == [
        JPEG,
        NO_TRANSFER,
        IMPLICIT,
    ]


def test_a_group_takes_what_all_its_members_take() -> None:
    station = device("STATION", (CT_IMAGE_STORAGE, EXPLICIT), (CT_IMAGE_STORAGE, IMPLICIT), (MR_IMAGE_STORAGE, JPEG))
    assert results(
        (CT_IMAGE_STORAGE, (JPEG, EXPLICIT, IMPLICIT)),
        (CT_IMAGE_STORAGE, (JPEG,)),
        (MR_IMAGE_STORAGE, (JPEG,)),
        devices=(PACS, station),
    ) == [IMPLICIT, NO_TRANSFER, NO_ABSTRACT]


def test_verification_is_accepted_whatever_the_devices_take() -> None:
    assert results((uids.VERIFICATION, (IMPLICIT,))) == [IMPLICIT]


@pytest.mark.parametrize("abstract", [uids.STUDY_ROOT_FIND, uids.STUDY_ROOT_MOVE, uids.MODALITY_WORKLIST_FIND])
def test_what_needs_the_device_itself_is_refused_even_if_it_takes_that(abstract: str) -> None:
    able = device("PACS", (abstract, IMPLICIT), services=(Service.ANY,))
    assert results((abstract, (IMPLICIT,)), devices=(able,)) == [NO_ABSTRACT]


def test_storage_that_is_not_granted_is_refused_by_the_user_as_it_is_live() -> None:
    asked = device("PACS", (CT_IMAGE_STORAGE, IMPLICIT), services=(Service.QUERY,))
    assert results((CT_IMAGE_STORAGE, (IMPLICIT,)), devices=(asked,)) == [BY_USER]


def test_a_private_class_is_accepted_where_any_is_granted_and_the_device_takes_it() -> None:
    private = "1.3.12.2.1107.5.9.1"
    able = device("PACS", (private, IMPLICIT), services=(Service.ANY,))
    assert results((private, (IMPLICIT,)), devices=(able,)) == [IMPLICIT]
    assert results((private, (IMPLICIT,))) == [BY_USER]


def test_commitment_is_accepted_in_the_syntax_that_every_archive_takes_unless_more_is_known() -> None:
    able = device("PACS", (CT_IMAGE_STORAGE, IMPLICIT), services=(Service.STORE, Service.COMMITMENT))
    assert results((COMMITMENT, (EXPLICIT, IMPLICIT)), (COMMITMENT, (JPEG,)), devices=(able,)) == [
        IMPLICIT,
        NO_TRANSFER,
    ]
    knows = device("PACS", (COMMITMENT, EXPLICIT), services=(Service.COMMITMENT,))
    assert results((COMMITMENT, (IMPLICIT, EXPLICIT)), devices=(knows,)) == [EXPLICIT]
    assert results((COMMITMENT, (IMPLICIT,))) == [BY_USER]


def test_the_first_member_that_may_gets_the_request_for_commitment() -> None:
    station, archive, other = (
        device("STATION"),
        device("ARCHIVE", services=(Service.COMMITMENT,)),
        device("OTHER", services=(Service.ANY,)),
    )
    assert commits([station, archive, other]) is archive
    assert commits([station]) is None


def test_a_device_of_which_nothing_is_known_is_found() -> None:
    blank = device("BLANK")
    assert unknown([PACS, blank]) is blank
    assert unknown([PACS]) is None


def test_nothing_is_negotiated_but_contexts_and_our_own_pdu_length() -> None:
    items = [
        make_item(ItemType.ASYNC_OPERATIONS, b"\0\x08\0\x08"),
        make_item(ItemType.USER_IDENTITY_RQ, b"\x01\x01\0\4user\0\0"),
        make_item(ItemType.EXTENDED, len(CT_IMAGE_STORAGE).to_bytes(2, "big") + CT_IMAGE_STORAGE.encode() + b"\1"),
    ]
    request = associate_rq(
        "PACS", "CT1", [(CT_IMAGE_STORAGE, (IMPLICIT,))], max_pdu_length=0, user_items=items,
        roles=[RoleSelection(CT_IMAGE_STORAGE, scu=True, scp=True)],
    )  # fmt: skip
    accept = answer(AssociateRequest.parse(request), [PACS])
    assert {item.type for item in accept.user.items} == {
        ItemType.MAX_LENGTH,
        ItemType.IMPLEMENTATION_UID,
        ItemType.IMPLEMENTATION_VERSION,
    }
    assert accept.max_pdu_length == OWN_PDU_LENGTH
    assert accept.user.implementation_uid == uids.IMPLEMENTATION_CLASS_UID
    assert accept.accepted_ids == {1}
