"""DICOM networking's known hard cases, each met by somebody in the field, with the issue where it was told.

Cases that need a foreign tool to be believed are beside it: C-MOVE and C-GET in `test_dcmtk`, role selection, storage
commitment, identities, C-CANCEL and private SOP classes in `test_pynetdicom`, data sets and transfer syntaxes in
`test_transfer_syntaxes`, large and random PDUs in `test_fidelity`.
"""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
from tests.interop.sites import Pair, caller, joined, new_title, publish

from isthmus.dicom import uids
from isthmus.dicom.associate import AssociateAccept, AssociateRequest, ContextResult, PresentationContext
from isthmus.dicom.command import NO_DATA_SET, CommandField, Tag, encode
from isthmus.dicom.items import AsyncOperations, Item, RoleSelection
from isthmus.dicom.pdus import message, p_data
from isthmus.errors import OperatorError
from isthmus.testing.devices import Archive, calling, listening
from isthmus.testing.dicom import (
    CT_IMAGE_STORAGE,
    abort,
    associate_ac,
    associate_ac_by,
    associate_rj,
    associate_rq,
    echo_rq,
    echo_rsp,
    move_command,
    pdata,
    pdata_of,
    release_rp,
    release_rq,
    store_command,
    store_rq,
    store_rsp,
)
from isthmus.testing.network import Network, until

pytestmark = [pytest.mark.interop, pytest.mark.asyncio(loop_scope="module")]

COMMITMENT = uids.STORAGE_COMMITMENT_PUSH_MODEL
WELL_KNOWN_INSTANCE = "1.2.840.10008.1.20.1.1"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def network(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Network]:
    async with Network.running(tmp_path_factory.mktemp("network")) as network:
        yield network


async def passes(pair: Pair, data: bytes, *, back: bool = False) -> None:
    """Send bytes from one device; fail unless the other gets exactly them."""
    one, other = (pair.far, pair.near) if back else (pair.near, pair.far)
    sending = asyncio.gather(one.send(data), other.reader.readexactly(len(data)))
    async with asyncio.timeout(20):
        assert (await sending)[1] == data


# -- titles


Pad = Callable[[bytes], bytes]


@pytest.mark.parametrize(
    "pad",
    [
        lambda t: t.ljust(16, b"\0"),
        lambda t: (t + b"\0").ljust(16, b"\xfe"),
        lambda t: (b"  " + t).ljust(16),
        lambda t: t.ljust(15) + b"\0",
    ],
    ids=["NUL", "garbage after a NUL", "leading spaces", "spaces and a NUL"],
)
async def test_titles_padded_with_anything_are_compared_trimmed_and_keep_their_bytes(
    network: Network, pad: Pad
) -> None:
    """pynetdicom#646, #746, #921; Orthanc 1.13.0."""

    def request(called: str, calling: str) -> bytes:
        raw = bytearray(associate_rq(called, calling))
        raw[10:26], raw[26:42] = pad(called.encode()), pad(calling.encode())
        return bytes(raw)

    async with joined(network, request) as pair:
        assert pair.far.request == pair.near.request
        assert pair.near.accept == pair.far.accept


async def test_a_blank_calling_title_is_refused_and_listed(network: Network) -> None:
    """pynetdicom#746."""
    async with listening(Archive()) as device:
        title = await publish(network, new_title("PACS"), device.port)
        async with calling(network.sites["north"].port) as wire:
            assert await wire.associate(title, "") == associate_rj(1, 1, 3)
    unknown = await network.sites["north"].control("unknown_callers")
    assert any(row["title"] == "" and row["called"] == title for row in unknown)


async def test_titles_differ_by_case_unless_the_site_says_otherwise(network: Network) -> None:
    """Orthanc 0.7.3, StrictAetComparison."""
    archive, north, south = Archive(), network.sites["north"], network.sites["south"]
    async with listening(archive) as device:
        who, title = await caller(network), await publish(network, new_title("PACS"), device.port)
        async with calling(north.port) as wire:
            assert await wire.associate(title.lower(), who) == associate_rj(1, 1, 7)
        try:
            for site in (north, south):
                await site.control("setting_set", ignore_title_case=True)
            async with calling(north.port) as wire:
                assert (await wire.associate(title.lower(), who.lower()))[:1] == b"\x02"
                await wire.release()
        finally:
            for site in (north, south):
                await site.control("setting_set", ignore_title_case=False)


async def test_a_title_that_differs_by_case_only_is_warned_of(network: Network) -> None:
    """Orthanc 0.7.3."""
    title = await caller(network, "Case")
    added = await network.sites["north"].control("device_add", address=f"{title.upper()}@127.0.0.1")
    assert any("case" in note for note in added["notes"])


async def test_a_title_over_16_characters_is_refused_when_it_is_configured(network: Network) -> None:
    """fo-dicom#1323."""
    with pytest.raises(OperatorError, match="AE title"):
        await network.sites["north"].control("device_add", address="SEVENTEEN_LETTERS@127.0.0.1")


async def test_underscores_and_lower_case_are_titles_too(network: Network) -> None:
    """Orthanc, "AET with underscore not allowed"."""
    async with listening(Archive()) as device:
        title = await publish(network, new_title("my_pacs-"), device.port)
        who = await caller(network, "ct_room_")
        async with calling(network.sites["north"].port) as wire:
            assert (await wire.associate(title, who))[:1] == b"\x02"
            await wire.release()


async def test_the_same_title_from_another_address_is_another_device(network: Network) -> None:
    """Orthanc 1.7.4, 1.10.1; pynetdicom#199: here a device is its title and its address."""
    async with listening(Archive()) as device:
        who, title = await caller(network), await publish(network, new_title("PACS"), device.port)
        async with calling(network.sites["north"].port, source="127.0.0.2") as wire:
            assert await wire.associate(title, who) == associate_rj(1, 1, 3)
        assert device.dialled == 0


async def test_a_title_of_another_site_is_not_taken_by_a_device_here(network: Network) -> None:
    """pynetdicom#199: remotely a device is its title and its site."""
    async with listening(Archive()) as device:
        title = await publish(network, new_title("PACS"), device.port)
        with pytest.raises(OperatorError, match="another site"):
            await network.sites["north"].control("device_add", address=f"{title}@127.0.0.1:104")


async def test_one_listener_is_many_devices_to_a_scanner_with_few_slots(network: Network) -> None:
    """mercure docs/intro.rst, "sometimes only three": one host and port, and aliases."""
    one, two = Archive(), Archive()
    async with listening(one) as first, listening(two) as second:
        who = await caller(network, "CT")
        title = await publish(network, new_title("PACS"), first.port)
        other, alias = await publish(network, new_title("RIS"), second.port), new_title("SLOT")
        await network.sites["north"].control("alias_add", title=other, shown_as=alias)
        for called in (title, alias):
            async with calling(network.sites["north"].port) as wire:
                assert (await wire.associate(called, who))[:1] == b"\x02"
                await wire.release()
    assert (one.released, two.released) == (1, 1)


# -- PDUs


@pytest.mark.parametrize(
    ("asked", "answered"), [(0, 0), (16_384, 131_072), (131_072, 4_096), (0, 16_384), (16_384, 0), (7, 1_000_000)]
)
async def test_each_directions_maximum_pdu_length_passes_and_zero_is_no_limit(
    network: Network, asked: int, answered: int
) -> None:
    """pynetdicom#317, #701; fo-dicom#1597; dicom-rs#163, #712, #689: the limits are the devices' own."""
    async with joined(
        network,
        lambda called, calling: associate_rq(called, calling, max_pdu_length=asked),
        lambda request: associate_ac(request, max_pdu_length=answered),
    ) as pair:
        assert AssociateRequest.parse(pair.far.request).max_pdu_length == asked
        assert AssociateAccept.parse(pair.near.accept).max_pdu_length == answered
        await passes(pair, pdata(3, bytes((answered or 1_000_000) - 6)))
        await passes(pair, pdata(3, bytes(max((asked or 1_000_000) - 6, 0))), back=True)


async def test_a_pdv_of_two_bytes_passes(network: Network) -> None:
    """dicom-rs#703."""
    async with joined(network) as pair:
        await passes(pair, pdata_of((3, 0, b"")) + pdata_of((3, 0, b""), (3, 2, b"")))


async def test_a_pdv_of_odd_length_passes(network: Network) -> None:
    """mercure#45 (65535), fo-dicom#284 ("Odd Fragment Length")."""
    async with joined(network) as pair:
        await passes(pair, pdata_of((3, 0, bytes(65_533)), (3, 2, b"x")))


async def test_a_command_set_and_its_data_set_in_one_pdu_pass(network: Network) -> None:
    """dcm4che dcmPackPDV; PS3.8 annex E."""
    async with joined(network) as pair:
        await passes(pair, pdata_of((3, 1, store_command()[:30]), (3, 3, store_command()[30:]), (3, 2, bytes(500))))


async def test_fragments_of_two_messages_that_interleave_pass_as_they_came(network: Network) -> None:
    """fo-dicom#1359: whose bytes they are is for the devices to say."""
    async with joined(network) as pair:
        await passes(pair, pdata_of((3, 0, b"one"), (1, 3, echo_rq()[12:])) + pdata_of((3, 2, b"one again")))


async def test_an_association_whose_device_is_lost_in_a_message_is_never_used_again(network: Network) -> None:
    """fo-dicom#1359."""
    async with joined(network) as pair:
        await passes(pair, message(3, store_command()) + pdata(3, bytes(1000)))
        pair.far.reset()
        assert await pair.near.pdu() == abort(2, 0)
        async with calling(network.sites["north"].port) as wire:
            assert (await wire.associate(pair.called, pair.caller))[:1] == b"\x02"
        assert pair.device.dialled == 2


async def test_a_data_set_without_a_last_fragment_streams(network: Network) -> None:
    """io-dicom#50 (unbounded growth)."""
    async with joined(network) as pair:
        await passes(pair, message(3, store_command()) + pdata(3, bytes(65_536)) * 64)
        await passes(pair, echo_rsp(), back=True)


@pytest.mark.parametrize("back", [False, True], ids=["from the caller", "from the called"])
async def test_a_command_set_without_a_last_fragment_ends_both_sides(network: Network, back: bool) -> None:
    """io-dicom#50: a megabyte of unfinished command sets is the most."""
    async with joined(network) as pair:
        one, other = (pair.far, pair.near) if back else (pair.near, pair.far)
        sending = asyncio.ensure_future(one.send(pdata(3, bytes(60_000), command=True) * 20))  # noqa: TID251 - below
        while (pdu := await other.pdu())[:1] == b"\x04":
            pass
        assert pdu == abort(2, 6)
        while (pdu := await one.pdu())[:1] == b"\x04":
            pass
        assert pdu == abort(2, 6)
        await asyncio.gather(sending, return_exceptions=True)


@pytest.mark.parametrize("back", [False, True], ids=["from the caller", "from the called"])
async def test_a_command_set_that_is_none_is_for_the_devices_to_judge(network: Network, back: bool) -> None:
    """fo-dicom#323: bytes pass, whatever they say."""
    async with joined(network) as pair:
        await passes(pair, pdata(3, b"\xff" * 99, command=True, last=True), back=back)
        await passes(pair, echo_rq())


async def test_a_store_under_a_grant_of_retrieve_alone_ends_both_sides_and_never_arrives(network: Network) -> None:
    """Rules section 3: Storage contexts are there for C-GET's answers; the requestor may not store on them."""
    roles = [RoleSelection(CT_IMAGE_STORAGE, scu=True, scp=True)]
    for sent in (store_rq(bytes(100)), pdata(3, b"\xff" * 99, command=True, last=True)):
        async with joined(
            network, lambda called, calling: associate_rq(called, calling, roles=roles), services=["retrieve"]
        ) as pair:
            await pair.near.send(sent)
            assert (await pair.near.pdu())[:1] == b"\x07"
            assert (await pair.far.pdu())[:1] == b"\x07"


@pytest.mark.parametrize(
    "noise",
    [
        b"GET / HTTP/1.1\r\nHost: pacs\r\n\r\n",
        bytes.fromhex("0100ffffffff"),
        bytes.fromhex("0400ffffffff"),
        b"\x16\x03\x01\x02\x00\x01",
    ],
    ids=["HTTP", "4 GiB A-ASSOCIATE-RQ", "4 GiB P-DATA-TF", "TLS"],
)
async def test_what_is_no_dicom_is_dropped_at_once_and_others_are_served(network: Network, noise: bytes) -> None:
    """fo-dicom#1678 (tried to allocate 1.4 GB)."""
    async with calling(network.sites["north"].port) as wire:
        await wire.send(noise)
        assert (await wire.ended(3))[:1] in {b"", b"\x07"}
    async with joined(network) as pair:
        await passes(pair, echo_rq())


# -- negotiation


async def test_128_presentation_contexts_keep_their_ids_to_255(network: Network) -> None:
    """pynetdicom#84, #118, #459, #980; fo-dicom#590, #1350."""
    contexts = [(f"1.2.3.{number}", [uids.IMPLICIT_VR_LITTLE_ENDIAN]) for number in range(128)]
    async with joined(network, lambda called, calling: associate_rq(called, calling, contexts)) as pair:
        assert pair.far.request == pair.near.request
        accept = AssociateAccept.parse(pair.near.accept)
        assert accept.accepted_ids == frozenset(range(1, 256, 2))
        await passes(pair, p_data(255, b"last", command=False, last=True))


async def test_an_abstract_syntax_in_several_contexts_is_answered_by_the_far_device_alone(network: Network) -> None:
    """dicom-rs#215; Orthanc 1.12.2, "PACS not consistent in accepted presentation contexts"."""
    syntaxes = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5"]
    results = {1: ContextResult.TRANSFER_SYNTAXES_NOT_SUPPORTED, 5: ContextResult.NO_REASON}

    def decide(context: PresentationContext) -> str | ContextResult:
        return results.get(context.id, context.transfer_syntaxes[0])

    async with joined(
        network,
        lambda called, calling: associate_rq(called, calling, [(CT_IMAGE_STORAGE, [one]) for one in syntaxes]),
        lambda request: associate_ac_by(request, decide).raw,
    ) as pair:
        assert pair.far.request == pair.near.request
        assert pair.near.accept == pair.far.accept
        answers = AssociateAccept.parse(pair.near.accept).contexts
        assert [(one.id, one.result) for one in answers] == [(1, 4), (3, 0), (5, 2), (7, 0)]


def window(invoked: int, performed: int) -> Item:
    return Item(0x53, b"\x53\0\0\4" + invoked.to_bytes(2, "big") + performed.to_bytes(2, "big"))


@pytest.mark.parametrize("sizes", [(0, 0), (1, 1), (5, 3), (65535, 65535)])
async def test_the_async_window_passes_both_ways(network: Network, sizes: tuple[int, int]) -> None:
    """dcm4che#1120, fo-dicom#349, #356, #1597, pynetdicom#706: answers then come in any order, by Message ID."""
    async with joined(
        network,
        lambda called, calling: associate_rq(called, calling, user_items=[window(*sizes)]),
        lambda request: associate_ac(request, user_items=[window(2, 1)]),
    ) as pair:
        assert AssociateRequest.parse(pair.far.request).user.async_operations == AsyncOperations(*sizes)
        assert AssociateAccept.parse(pair.near.accept).user.async_operations == AsyncOperations(2, 1)
        await passes(pair, store_rq(bytes(10), message_id=1) + store_rq(bytes(10), message_id=2))
        await passes(pair, store_rsp(message_id=2) + store_rsp(message_id=1), back=True)


async def test_the_async_window_can_be_kept_from_a_device_that_cannot_bear_it(network: Network) -> None:
    """dcm4che#1120: GE's 1.2.840.113619.6.55 drops the line on 0/0."""
    async with joined(
        network,
        lambda called, calling: associate_rq(called, calling, user_items=[window(0, 0)]),
        strip_async=True,
    ) as pair:
        assert AssociateRequest.parse(pair.far.request).user.async_operations is None
        assert pair.far.request == AssociateRequest.parse(pair.near.request).without_async_operations().raw


async def test_uids_over_64_characters_pass(network: Network) -> None:
    """pynetdicom#769 (aborts the association)."""
    long = "1.2.826.0.1.3680043.10.99." + "1234567890." * 8 + "1"
    async with joined(network, lambda called, calling: associate_rq(called, calling, [(long, [long + ".7"])])) as pair:
        assert pair.far.request == pair.near.request
        await passes(pair, message(1, store_command(sop_class=long, sop_instance=long), bytes(8)))


# -- messages


def nested(depth: int) -> bytes:
    """Return a data set of sequences in sequences, implicit VR, undefined lengths."""
    return b"\x08\x00\x40\x11\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * depth


@pytest.mark.parametrize(
    "data_set",
    [nested(20_000), b"\x10\x00\x10\x00UN\0\0\xff\xff\xff\xff" + bytes(99), b"\x08\x00", bytes(70_001), b""],
    ids=["nested sequences", "a senseless length", "half a tag", "odd length", "nothing"],
)
async def test_data_sets_are_never_looked_into(network: Network, data_set: bytes) -> None:
    """Orthanc CVE-2026-10528 and CVE-2026-5437…5445; mercure#50; fo-dicom#1847."""
    async with joined(network) as pair:
        last = pdata(3, b"", last=True)
        await passes(pair, message(3, store_command(), data_set) + (b"" if data_set else last))
        await passes(pair, store_rsp(), back=True)


async def test_identifiers_of_a_query_are_left_alone(network: Network) -> None:
    """Orthanc's GenericNoWildcardInDates, GenericNoUniversalWildcard: what a PACS rejects is its own to say."""
    command = encode(
        {
            Tag.AFFECTED_SOP_CLASS_UID: uids.STUDY_ROOT_FIND,
            Tag.COMMAND_FIELD: CommandField.C_FIND_RQ,
            Tag.MESSAGE_ID: 1,
            Tag.PRIORITY: 0,
            Tag.DATA_SET_TYPE: 1,
        }
    )
    identifier = b"\x08\x00\x20\x00DA\x02\x00* \x10\x00\x10\x00PN\x02\x00* "
    async with joined(network) as pair:
        await passes(pair, message(1, command, identifier))


async def test_the_archives_own_counters_of_a_c_move_pass_up_to_65535(network: Network) -> None:
    """Orthanc issue #128 (1.5.3); pynetdicom 3.0.0."""

    def answer(status: int, remaining: int, completed: int) -> bytes:
        return message(
            1,
            encode(
                {
                    Tag.AFFECTED_SOP_CLASS_UID: uids.STUDY_ROOT_MOVE,
                    Tag.COMMAND_FIELD: CommandField.C_MOVE_RSP,
                    Tag.MESSAGE_ID_BEING_RESPONDED_TO: 1,
                    Tag.DATA_SET_TYPE: NO_DATA_SET,
                    Tag.STATUS: status,
                    Tag.REMAINING_SUB_OPERATIONS: remaining,
                    Tag.COMPLETED_SUB_OPERATIONS: completed,
                    Tag.FAILED_SUB_OPERATIONS: 0,
                    Tag.WARNING_SUB_OPERATIONS: 3,
                }
            ),
        )

    async with joined(network) as pair:
        await passes(pair, message(1, move_command("ANYWHERE"), bytes(20)))
        for counters in ((0xFF00, 65_535, 0), (0xFF00, 0, 65_535), (0xB000, 0, 1), (0x0000, 0, 0)):
            await passes(pair, answer(*counters), back=True)


async def test_a_report_without_an_event_and_an_action_without_a_type_pass(network: Network) -> None:
    """fo-dicom#323, pynetdicom#1027: optional elements are not demanded."""
    action = encode(
        {
            Tag.REQUESTED_SOP_CLASS_UID: COMMITMENT,
            Tag.COMMAND_FIELD: CommandField.N_ACTION_RQ,
            Tag.MESSAGE_ID: 1,
            Tag.DATA_SET_TYPE: 1,
            Tag.REQUESTED_SOP_INSTANCE_UID: WELL_KNOWN_INSTANCE,
        }
    )
    answer = encode(
        {
            Tag.COMMAND_FIELD: CommandField.N_EVENT_REPORT_RSP,
            Tag.MESSAGE_ID_BEING_RESPONDED_TO: 5,
            Tag.DATA_SET_TYPE: NO_DATA_SET,
            Tag.STATUS: 0,
        }
    )
    contexts = [(COMMITMENT, [uids.IMPLICIT_VR_LITTLE_ENDIAN])]
    async with joined(network, lambda called, calling: associate_rq(called, calling, contexts)) as pair:
        await passes(pair, message(1, action, bytes(4)))
        await passes(pair, message(1, answer))
        await passes(pair, message(1, encode({})), back=True)


def event_report() -> bytes:
    return message(
        1,
        encode(
            {
                Tag.AFFECTED_SOP_CLASS_UID: COMMITMENT,
                Tag.COMMAND_FIELD: CommandField.N_EVENT_REPORT_RQ,
                Tag.MESSAGE_ID: 1,
                Tag.DATA_SET_TYPE: 1,
                Tag.AFFECTED_SOP_INSTANCE_UID: WELL_KNOWN_INSTANCE,
                Tag.EVENT_TYPE_ID: 1,
            }
        ),
        bytes(64),
    )


async def test_a_report_that_comes_during_release_is_delivered_before_its_answer(network: Network) -> None:
    """pynetdicom 3.0.0 (#820): P-DATA after A-RELEASE-RQ, from the side that was asked."""
    async with joined(network) as pair:
        await pair.near.send(release_rq())
        assert await pair.far.pdu() == release_rq()
        await pair.far.send(event_report() + release_rp())
        got = await pair.near.reader.readexactly(len(event_report()))
        assert got == event_report()
        assert await pair.near.pdu() == release_rp()


async def test_data_in_the_same_breath_as_a_release_arrives_before_it(network: Network) -> None:
    """pynetdicom 3.0.0."""
    async with joined(network) as pair:
        data = store_rq(bytes(100_000))
        await pair.near.send(data + release_rq())
        assert await pair.far.reader.readexactly(len(data)) == data
        assert await pair.far.pdu() == release_rq()


async def test_a_cancel_is_not_held_up_by_answers_that_nobody_reads(network: Network) -> None:
    """fo-dicom#624, pynetdicom#52, #553; Orthanc 1.8.1: it travels the other way."""
    cancel = encode(
        {
            Tag.COMMAND_FIELD: CommandField.C_CANCEL_RQ,
            Tag.MESSAGE_ID_BEING_RESPONDED_TO: 1,
            Tag.DATA_SET_TYPE: NO_DATA_SET,
        }
    )
    answers = pdata(1, bytes(100_000)) * 400
    async with joined(network) as pair:
        sending = asyncio.ensure_future(pair.far.send(answers))  # noqa: TID251 - awaited below
        session = next(one for one in network.sites["south"].live.sessions.values() if one.parties is not None)
        await until(lambda: session.connection is not None and session.connection._paused)
        await passes(pair, message(1, cancel))
        assert not sending.done()
        async with asyncio.timeout(20):
            assert await pair.near.reader.readexactly(len(answers)) == answers
        await sending


# -- endings


async def test_an_abort_in_a_data_set_lets_the_other_side_go_at_once(network: Network) -> None:
    """MIG, pynetdicom#769: with the reason, after what came before it."""
    async with joined(network) as pair:
        begun = message(3, store_command()) + pdata(3, bytes(50_000))
        await pair.near.send(begun + abort(2, 5))
        async with asyncio.timeout(5):
            assert await pair.far.reader.readexactly(len(begun)) == begun
            assert await pair.far.pdu() == abort(2, 5)
    await network.quiet()


async def test_a_device_lost_inside_a_pdu_is_a_reset_for_the_other_side(network: Network) -> None:
    """MIG; rules section 4: abort bytes inside a PDU would be taken for payload."""
    async with joined(network) as pair:
        piece = pdata(3, bytes(2_000_000))[:1_000_000]
        await pair.near.send(piece)
        got = await pair.far.reader.readexactly(500_000)
        pair.near.reset()
        got += await pair.far.ended(5)
        assert piece.startswith(got)
    await network.quiet()


async def test_a_second_association_on_the_same_connection_is_not_taken(network: Network) -> None:
    """fo-dicom#896: after a release the connection is over."""
    async with joined(network) as pair:
        await pair.near.send(release_rq())
        assert await pair.far.pdu() == release_rq()
        await pair.far.send(release_rp())
        assert await pair.near.pdu() == release_rp()
        await pair.near.send(pair.near.request)
        assert await pair.near.pdu() == abort(2, 2)
        assert pair.device.dialled == 1


async def test_every_image_of_an_association_stays_in_it(network: Network) -> None:
    """connect#1901: receivers need all images in one association."""
    archive = Archive()
    async with listening(archive) as device:
        who, title = await caller(network), await publish(network, new_title("PACS"), device.port, ["store"])
        for _ in range(2):
            async with calling(network.sites["north"].port) as wire:
                await wire.associate(title, who)
                for number in range(20):
                    await wire.send(store_rq(bytes(1000), 3, number))
                    assert await wire.pdu() == store_rsp(3, number)
                await wire.release()
        assert device.dialled == 2
    assert archive.commands == [CommandField.C_STORE_RQ] * 40
    assert archive.released == 2


async def test_a_devices_limit_is_its_own_rejection_and_can_be_known_here(network: Network) -> None:
    """dicomweb-proxy#23, arc#1712, pynetdicom#791: transient, "local limit exceeded"; without a call to the device."""
    async with joined(network, max_associations=1) as pair:
        async with calling(network.sites["north"].port) as wire:
            assert await wire.associate(pair.called, pair.caller) == associate_rj(2, 3, 2)
        assert pair.device.dialled == 1
        await passes(pair, echo_rq())


async def test_an_association_may_be_silent_for_hours_and_its_sockets_are_kept_alive(network: Network) -> None:
    """pynetdicom#286, #619, #825, dcm4che#1505; arc dcmSendPendingCMoveInterval: hours, or a long C-MOVE in silence."""
    async with joined(network) as pair:
        await passes(pair, message(1, move_command("ANYWHERE"), bytes(20)))
        for site in network.sites.values():
            live = [one for one in site.live.sessions.values() if one.parties and one.parties.called == pair.called]
            (session,) = live
            assert session.connection is not None
            deadline = session.connection.side.deadline()
            assert deadline is not None
            assert deadline - time.monotonic() > 23 * 3600
            assert session.connection._socket is not None
            assert session.connection._socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
