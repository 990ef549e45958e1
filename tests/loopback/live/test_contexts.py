"""Presentation contexts that a grant leaves out, and commands that it forbids (section 2 of the rules), at the wire."""

from pathlib import Path

import pytest

from isthmus.dicom import uids
from isthmus.dicom.associate import AssociateAccept, AssociateRequest
from isthmus.dicom.items import ItemType, RoleSelection, make_item
from isthmus.testing.devices import Archive, Wire, calling, listening
from isthmus.testing.dicom import (
    CT_CONTEXT,
    CT_IMAGE_STORAGE,
    ECHO_CONTEXT,
    TRANSFER_SYNTAXES,
    abort,
    associate_ac,
    echo_rq,
    echo_rsp,
    pdata,
    store_rq,
)
from isthmus.testing.network import Network, NetworkOptions, until

GET_CONTEXT = (uids.STUDY_ROOT_GET, (uids.IMPLICIT_VR_LITTLE_ENDIAN,))
ABORT_INVALID_PARAMETER = abort(2, 6)


def extended(kind: ItemType, sop_class: str) -> bytes:
    uid = sop_class.encode()
    return len(uid).to_bytes(2, "big") + uid + b"\x01\x02"


def items_of(request: AssociateRequest, kind: ItemType) -> list[str]:
    user = request.user
    return {
        ItemType.ROLE_SELECTION: [role.sop_class for role in user.roles],
        ItemType.EXTENDED: list(user.extended),
        ItemType.COMMON_EXTENDED: list(user.common_extended),
    }[kind]


async def test_a_context_that_is_not_granted_is_taken_out_with_its_items_and_refused_in_the_answer(
    tmp_path: Path,
) -> None:
    archive = Archive()
    async with listening(archive) as pacs, Network.running(tmp_path, options=NetworkOptions()) as network:
        await network.pair(pacs, ["echo"])
        async with calling(network.sites["north"].port) as wire:
            answer = await wire.associate(
                "PACS",
                "WS",
                contexts=(CT_CONTEXT, ECHO_CONTEXT, CT_CONTEXT),
                roles=[RoleSelection(CT_IMAGE_STORAGE, True, True), RoleSelection(uids.VERIFICATION, True, False)],
                user_items=[
                    make_item(kind, extended(kind, sop_class))
                    for kind in (ItemType.EXTENDED, ItemType.COMMON_EXTENDED)
                    for sop_class in (CT_IMAGE_STORAGE, uids.VERIFICATION)
                ],
            )
            seen = archive.requests[0]
            assert [(context.id, context.abstract_syntax) for context in seen.contexts] == [(3, uids.VERIFICATION)]
            for kind in (ItemType.ROLE_SELECTION, ItemType.EXTENDED, ItemType.COMMON_EXTENDED):
                assert items_of(seen, kind) == [uids.VERIFICATION], kind
            accept = AssociateAccept.parse(answer)
            results = [(row.id, int(row.result), row.transfer_syntax) for row in accept.contexts]
            assert results == [
                (1, 1, TRANSFER_SYNTAXES[0]),
                (3, 0, uids.IMPLICIT_VR_LITTLE_ENDIAN),
                (5, 1, TRANSFER_SYNTAXES[0]),
            ]
            await wire.send(echo_rq(3))
            assert await wire.pdu() == echo_rsp(3)
            await wire.release()
        await network.quiet()


async def test_where_nothing_is_granted_the_router_answers_and_dials_nothing(tmp_path: Path) -> None:
    async with listening(Archive()) as pacs, Network.running(tmp_path, options=NetworkOptions()) as network:
        await network.pair(pacs, ["query"])
        north = network.sites["north"]
        for _ in range(2):  # a Router that did this once still hears what comes after it
            async with calling(north.port) as wire:
                accept = AssociateAccept.parse(await wire.associate("PACS", "WS"))
                assert [(row.id, int(row.result)) for row in accept.contexts] == [(1, 1), (3, 1)]
                await wire.release()
            await network.quiet()
        async with calling(north.port) as wire:
            await wire.associate("PACS", "WS")
            await wire.send(echo_rq(1))
            assert await wire.pdu() == ABORT_INVALID_PARAMETER
        async with calling(north.port) as wire:
            await wire.associate("PACS", "WS")
            await wire.send(abort())
        async with calling(north.port) as wire:
            await wire.associate("PACS", "WS")  # and hangs up
        await network.quiet()
        assert pacs.dialled == 0


@pytest.mark.parametrize("refused_by", ["grant", "device"])
async def test_data_on_a_context_that_was_not_accepted_aborts_both(tmp_path: Path, refused_by: str) -> None:
    archive = Archive(refuse=[3] if refused_by == "device" else [])
    async with listening(archive) as pacs, Network.running(tmp_path, options=NetworkOptions()) as network:
        await network.pair(pacs, ["echo"] if refused_by == "grant" else ["any"])
        async with calling(network.sites["north"].port) as wire:
            await wire.associate("PACS", "WS")
            await wire.send(store_rq(b"\x08\x00\x00\x00"))
            assert await wire.pdu() == ABORT_INVALID_PARAMETER
        await pacs.let_go()
        await network.quiet()
    assert archive.endings == ["aborted 2/6"]
    assert archive.bytes_in == 0


async def test_a_called_device_that_answers_on_a_refused_context_aborts_both(tmp_path: Path) -> None:
    got = []

    async def wrong(wire: Wire) -> None:
        await wire.send(associate_ac(await wire.pdu(), refuse=[3]))
        await wire.pdu()
        await wire.send(echo_rsp(3))
        got.append(await wire.pdu())

    async with listening(wrong) as pacs, Network.running(tmp_path, options=NetworkOptions()) as network:
        await network.pair(pacs)
        async with calling(network.sites["north"].port) as wire:
            await wire.associate("PACS", "WS")
            await wire.send(echo_rq())
            assert await wire.pdu() == ABORT_INVALID_PARAMETER
        await pacs.let_go()
        await network.quiet()
    assert got == [ABORT_INVALID_PARAMETER]


async def test_a_grant_of_retrieve_alone_lets_answers_through_and_aborts_a_store_of_the_requestor(
    tmp_path: Path,
) -> None:
    archive = Archive()
    async with listening(archive) as pacs, Network.running(tmp_path, options=NetworkOptions()) as network:
        await network.pair(pacs, ["retrieve"])
        port = network.sites["north"].port
        async with calling(port) as wire:  # as the SCU of storage only: no context of it is kept
            answer = await wire.associate("PACS", "WS", contexts=(GET_CONTEXT, CT_CONTEXT))
            assert [int(row.result) for row in AssociateAccept.parse(answer).contexts] == [0, 1]
            await wire.release()
        async with calling(port) as wire:
            answer = await wire.associate(
                "PACS", "WS", contexts=(GET_CONTEXT, CT_CONTEXT), roles=[RoleSelection(CT_IMAGE_STORAGE, True, True)]
            )
            assert [int(row.result) for row in AssociateAccept.parse(answer).contexts] == [0, 0]
            await wire.send(store_rq(b"\x08\x00\x00\x00"))
            answer = await wire.pdu()
            assert answer[0] == 7
            assert answer[8] == 2
        await pacs.let_go()
        await network.quiet()
    assert archive.endings[0] == "released"
    assert archive.endings[1].startswith("aborted 2/")
    assert archive.commands == []


@pytest.mark.parametrize("services", [["echo"], ["query"], ["echo", "worklist"]])
async def test_a_command_that_is_not_granted_reaches_nobody_on_whatever_context_it_comes(
    tmp_path: Path, services: list[str]
) -> None:
    """storescp takes a C-STORE-RQ on any context that it accepted."""
    archive = Archive()
    async with listening(archive) as pacs, Network.running(tmp_path, options=NetworkOptions()) as network:
        await network.pair(pacs, services)
        contexts = ((uids.STUDY_ROOT_FIND, TRANSFER_SYNTAXES), ECHO_CONTEXT)
        async with calling(network.sites["north"].port) as wire:
            answer = await wire.associate("PACS", "WS", contexts=contexts)
            (granted, *_) = AssociateAccept.parse(answer).accepted_ids
            await wire.send(store_rq(b"\x08\x00\x00\x00", context_id=granted))
            assert (await wire.pdu())[:1] == b"\x07"
        await pacs.let_go()
        await network.quiet()
    assert archive.commands == []
    assert archive.bytes_in == 0


async def test_a_command_set_that_cannot_be_read_is_for_the_called_device_to_judge(tmp_path: Path) -> None:
    """Unless only some services are granted: then it might be a command that is forbidden."""
    unreadable = pdata(3, b"\x00\x00\x00\x01\xff\xff\xff\xff" + bytes(20), command=True, last=True)
    archive = Archive()
    async with listening(archive) as pacs, Network.running(tmp_path, options=NetworkOptions()) as network:
        await network.pair(pacs)
        async with calling(network.sites["north"].port) as wire:
            await wire.associate("PACS", "WS")
            await wire.send(unreadable)
            await pacs.until(lambda: archive.endings == ["gave up"])  # the device saw it
        await network.quiet()
        await network.sites["south"].control("grant_remove", grant=1)

        async def withdrawn() -> bool:
            return not await network.sites["north"].control("directory")

        await until(withdrawn)
        await network.grant("south", "PACS", "north", ["retrieve"])
        async with calling(network.sites["north"].port) as wire:
            roles = [RoleSelection(CT_IMAGE_STORAGE, True, True)]
            await wire.associate("PACS", "WS", contexts=(GET_CONTEXT, CT_CONTEXT), roles=roles)
            await wire.send(unreadable)
            answer = await wire.pdu()
            assert answer[0] == 7
            assert answer[8] == 2
        await pacs.let_go()
        await network.quiet()
    assert archive.endings[1:] == ["aborted 2/6"]
