"""A-ASSOCIATE views: what they read, and that edits touch nothing else."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.dicom.associate import (
    AssociateAccept,
    AssociateRequest,
    ContextResult,
    build_accept,
    build_all_refused_accept,
    build_request,
)
from isthmus.dicom.items import AsyncOperations, Item, ItemType, RoleSelection, make_item
from isthmus.dicom.uids import STUDY_ROOT_GET, VERIFICATION
from isthmus.errors import RemoteMisuse
from isthmus.kit.names import AETitle
from isthmus.testing import depth, dicom
from isthmus.testing.dicom import CT_IMAGE_STORAGE, MR_IMAGE_STORAGE

VECTORS = tomllib.loads((Path(__file__).parents[2] / "vectors/dicom/associate.toml").read_text())["vector"]

UNKNOWN_SUB_ITEM = Item(0x7E, bytes.fromhex("7e01 0003 c0ffee"))
ASYNC = make_item(ItemType.ASYNC_OPERATIONS, bytes.fromhex("00000005"))
IDENTITY = make_item(ItemType.USER_IDENTITY_RQ, b"\x02\x01\x00\x05CROWN\x00\x06secret")


def about(kind: ItemType, uid: str, rest: bytes = b"\x01") -> Item:
    return make_item(kind, len(uid).to_bytes(2, "big") + uid.encode() + rest)


def rich_request() -> AssociateRequest:
    """A request with every kind of item there is, and one of each level that there is not."""
    raw = dicom.associate_rq(
        contexts=[
            (VERIFICATION, ["1.2.840.10008.1.2"]),
            (CT_IMAGE_STORAGE, ["1.2.840.10008.1.2.1"]),
            (CT_IMAGE_STORAGE, ["1.2.840.10008.1.2.4.70"]),
            (MR_IMAGE_STORAGE, ["1.2.840.10008.1.2"]),
        ],
        roles=[
            RoleSelection(CT_IMAGE_STORAGE, scu=True, scp=True),
            RoleSelection(MR_IMAGE_STORAGE, scu=False, scp=True),
        ],
        user_items=[
            about(ItemType.EXTENDED, MR_IMAGE_STORAGE),
            about(ItemType.COMMON_EXTENDED, MR_IMAGE_STORAGE, b"\0\0\0\0"),
            about(ItemType.EXTENDED, "1.2.3.not.proposed"),
            ASYNC,
            IDENTITY,
            UNKNOWN_SUB_ITEM,
        ],
    )
    body = raw[6:] + bytes.fromhex("e001 0002 beef")
    return AssociateRequest.parse(b"\x01\xaa" + len(body).to_bytes(4, "big") + body)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_vectors(vector: dict[str, Any]) -> None:
    body = dicom.associate_rq()[6:74] + bytes.fromhex(vector["items"])
    raw = b"\x01\x00" + len(body).to_bytes(4, "big") + body
    if "misuse" in vector:
        with pytest.raises(RemoteMisuse) as caught:
            AssociateRequest.parse(raw)
        assert [caught.value.source, caught.value.reason] == vector["misuse"]
        return
    request = AssociateRequest.parse(raw)
    contexts = [[context.id, context.abstract_syntax, [*context.transfer_syntaxes]] for context in request.contexts]
    seen = {
        "application_context": request.application_context,
        "contexts": contexts,
        "max_pdu_length": request.max_pdu_length,
    }
    assert seen == vector["fields"]
    assert request.raw == raw


def test_everything_in_a_request_is_read() -> None:
    request = rich_request()
    assert (request.called, request.calling, request.protocol_version) == ("ARCHIVE", "CT1", 1)
    assert [context.id for context in request.contexts] == [1, 3, 5, 7]
    assert request.roles[1] == RoleSelection(MR_IMAGE_STORAGE, scu=False, scp=True)
    assert request.user.async_operations == AsyncOperations(0, 5)
    assert request.user.extended == (MR_IMAGE_STORAGE, "1.2.3.not.proposed")
    assert request.user.common_extended == (MR_IMAGE_STORAGE,)
    assert request.user.user_identity_type == 2
    assert request.user.implementation_version == "ISTHMUS"


def test_what_an_identity_says_is_in_no_repr() -> None:
    assert "CROWN" not in repr(rich_request())
    assert "secret" not in repr(rich_request().user)


def test_refusing_a_context_takes_its_item_and_those_of_an_abstract_syntax_that_nothing_else_proposes() -> None:
    request = rich_request()
    edited = request.without_contexts({3, 7})
    gone = {
        RoleSelection(MR_IMAGE_STORAGE, scu=False, scp=True).to_item(),
        about(ItemType.EXTENDED, MR_IMAGE_STORAGE),
        about(ItemType.COMMON_EXTENDED, MR_IMAGE_STORAGE, b"\0\0\0\0"),
    }
    assert gone < set(request.user.items)
    assert edited.user.items == tuple(item for item in request.user.items if item not in gone)
    outside = [item for item in request.items if item.type != ItemType.USER_INFORMATION]
    assert [item for item in edited.items if item.type != ItemType.USER_INFORMATION] == [
        outside[0],
        outside[1],  # context 1
        outside[3],  # context 5
        outside[5],  # the unknown item
    ]
    assert edited.raw[:2] + edited.raw[6:74] == request.raw[:2] + request.raw[6:74]
    assert [context.id for context in edited.contexts] == [1, 5]
    assert edited.roles == (RoleSelection(CT_IMAGE_STORAGE, scu=True, scp=True),)
    assert edited.user.extended == ("1.2.3.not.proposed",)


def test_refusing_nothing_changes_nothing() -> None:
    request = rich_request()
    assert request.without_contexts(set()) is request
    assert request.without_contexts({99}) is request


def test_the_async_window_can_be_taken_out() -> None:
    """dcm4che#1120: a device that drops the line on one."""
    request = rich_request()
    edited = request.without_async_operations()
    assert edited.user.async_operations is None
    assert len(edited.raw) == len(request.raw) - len(ASYNC.raw)
    assert edited.user.items == tuple(item for item in request.user.items if item != ASYNC)
    assert edited.without_async_operations() is edited


def test_titles_change_in_place_and_padding_of_the_other_stays() -> None:
    """pynetdicom#646, #746, #921: a title padded with NULs and garbage keeps its bytes."""
    raw = bytearray(dicom.associate_rq())
    raw[26:42] = b"CT1\0\xffgarbage\0\0\0\0"
    request = AssociateRequest.parse(bytes(raw))
    assert request.calling == "CT1"
    edited = request.with_titles(called=AETitle("OTHER"))
    assert edited.called == "OTHER"
    assert edited.raw == bytes(raw[:10]) + b"OTHER           " + bytes(raw[26:])
    assert request.with_titles(calling=AETitle("A")).raw[26:42] == b"A".ljust(16)


def test_blank_titles_are_read_as_blank() -> None:
    raw = bytearray(dicom.associate_rq())
    raw[10:42] = b" " * 16 + b"\0" * 16
    request = AssociateRequest.parse(bytes(raw))
    assert (request.called, request.calling) == ("", "")


def test_uids_over_64_characters_are_taken_as_they_are() -> None:
    """pynetdicom#769."""
    uid = "1.2." + "9" * 100
    request = AssociateRequest.parse(dicom.associate_rq(contexts=[(uid, [uid])]))
    assert request.contexts[0].abstract_syntax == uid
    assert request.contexts[0].transfer_syntaxes == (uid,)


def test_128_contexts_of_one_abstract_syntax_stay_apart() -> None:
    """pynetdicom#84, fo-dicom#590, dicom-rs#215: ids pass unchanged, contexts are never merged."""
    contexts = [(CT_IMAGE_STORAGE, [f"1.2.{number}"]) for number in range(128)]
    request = AssociateRequest.parse(dicom.associate_rq(contexts=contexts))
    assert [context.id for context in request.contexts] == [*range(1, 256, 2)]
    accept = build_accept(request, lambda context: context.transfer_syntaxes[0])
    assert [context.transfer_syntax for context in accept.contexts] == [f"1.2.{number}" for number in range(128)]


def test_refused_contexts_are_added_to_an_answer_in_the_order_of_ids() -> None:
    request = AssociateRequest.parse(dicom.associate_rq(contexts=[(f"1.{n}", [f"9.{n}", "9"]) for n in range(5)]))
    answer = AssociateAccept.parse(
        dicom.associate_ac(request.without_contexts({1, 5, 9}).raw, user_items=[UNKNOWN_SUB_ITEM])
    )
    edited = answer.with_refused_contexts([(9, "9.4"), (1, "9.0"), (5, "9.2")])
    assert [(one.id, one.result, one.transfer_syntax) for one in edited.contexts] == [
        (1, 1, "9.0"),
        (3, 0, "9.1"),
        (5, 1, "9.2"),
        (7, 0, "9.3"),
        (9, 1, "9.4"),
    ]
    assert edited.accepted_ids == {3, 7}
    assert set(answer.items) <= set(edited.items)
    assert edited.raw[:2] + edited.raw[6:74] == answer.raw[:2] + answer.raw[6:74]
    assert answer.with_refused_contexts([]) is answer


def test_an_answer_to_a_context_that_the_device_never_saw_does_not_open_it() -> None:
    request = AssociateRequest.parse(dicom.associate_rq())
    answer = AssociateAccept.parse(dicom.associate_ac(request.raw))
    edited = answer.with_refused_contexts([(3, "1.2.840.10008.1.2")])
    assert edited.accepted_ids == {1}
    assert [context.id for context in edited.contexts] == [1, 3]


def test_refused_contexts_find_their_place_in_an_answer_without_any() -> None:
    bare = build_accept(AssociateRequest.parse(dicom.associate_rq(contexts=[])), lambda _: ContextResult.NO_REASON)
    edited = bare.with_refused_contexts([(3, "1.2"), (1, "1.3")])
    assert [item.type for item in edited.items] == [0x10, 0x21, 0x21, 0x50]
    assert [context.id for context in edited.contexts] == [1, 3]


def test_when_nothing_is_left_the_answer_refuses_everything() -> None:
    answer = build_all_refused_accept(rich_request())
    assert [(one.id, one.result) for one in answer.contexts] == [(1, 1), (3, 1), (5, 1), (7, 1)]
    assert answer.accepted_ids == frozenset()
    assert (answer.called, answer.calling) == ("ARCHIVE", "CT1")


def test_two_answers_to_one_context_are_misuse() -> None:
    answer = AssociateAccept.parse(dicom.associate_ac(dicom.associate_rq(contexts=[("1.2", ["1.3"])])))
    doubled = answer.raw[6:] + answer.items[1].raw
    with pytest.raises(RemoteMisuse):
        AssociateAccept.parse(b"\x02\x00" + len(doubled).to_bytes(4, "big") + doubled)


def test_an_answered_context_of_three_bytes_is_misuse() -> None:
    body = dicom.associate_ac(dicom.associate_rq())[6:74] + b"\x21\0\0\3\1\0\0"
    with pytest.raises(RemoteMisuse):
        AssociateAccept.parse(b"\x02\0" + len(body).to_bytes(4, "big") + body)


@pytest.mark.parametrize("raw", [b"", b"\x01", dicom.associate_rq()[:-1], dicom.associate_rq() + b"\0", dicom.abort()])
def test_bytes_that_are_no_whole_request_are_misuse(raw: bytes) -> None:
    with pytest.raises(RemoteMisuse):
        AssociateRequest.parse(raw)


uids = st.text("0123456789.", min_size=1, max_size=70)
contexts = st.lists(st.tuples(uids, st.lists(uids, max_size=5)), max_size=128)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@settings(max_examples=depth.count(push=50, nightly=2_000), deadline=None)
@given(contexts=contexts, refused=st.sets(st.integers(0, 255)), length=st.integers(0, 2**32 - 1))
def test_decode_encode_decode(contexts: list[tuple[str, list[str]]], refused: set[int], length: int) -> None:
    request = build_request(AETitle("A"), AETitle("B"), contexts, max_pdu_length=length)
    assert [(one.abstract_syntax, [*one.transfer_syntaxes]) for one in request.contexts] == contexts
    assert request.max_pdu_length == length
    edited = request.without_contexts(refused)
    assert [one for one in request.contexts if one.id not in refused] == [*edited.contexts]
    answer = build_accept(edited, lambda context: next(iter(context.transfer_syntaxes), ""))
    back = answer.with_refused_contexts([(one.id, "1.2") for one in request.contexts if one.id in refused])
    assert [one.id for one in back.contexts] == [one.id for one in request.contexts]
    assert back.accepted_ids == {one.id for one in edited.contexts}
    assert AssociateAccept.parse(back.raw) == back


def test_a_get_with_roles_keeps_them_byte_for_byte() -> None:
    """pynetdicom#977, dcmjs-dimse#81: C-GET lives by its role items."""
    roles = [RoleSelection(CT_IMAGE_STORAGE, scu=False, scp=True)]
    request = AssociateRequest.parse(
        dicom.associate_rq(contexts=[(STUDY_ROOT_GET, ["1.2"]), (CT_IMAGE_STORAGE, ["1.2"])], roles=roles)
    )
    assert roles[0].to_item() in request.without_contexts({1}).user.items
    assert roles[0].to_item() not in request.without_contexts({3}).user.items


@pytest.mark.parametrize("title", ["lower_case-title", "WITH_UNDERSCORE", "A" * 16])
def test_titles_that_configuration_would_refuse_are_tolerated_on_receive(title: str) -> None:
    """fo-dicom#1323, Orthanc on underscores."""
    assert AssociateRequest.parse(dicom.associate_rq(title, title)).called == title


def test_each_direction_keeps_its_own_maximum_length_through_every_edit() -> None:
    """dicom-rs#163, #712, #689: the two limits are never mixed."""
    request = AssociateRequest.parse(dicom.associate_rq(max_pdu_length=65_535)).without_contexts({1})
    accept = AssociateAccept.parse(dicom.associate_ac(request.raw, max_pdu_length=0)).with_refused_contexts(
        [(1, "1.2")]
    )
    assert request.with_titles(called=AETitle("X")).max_pdu_length == 65_535
    assert accept.max_pdu_length == 0
