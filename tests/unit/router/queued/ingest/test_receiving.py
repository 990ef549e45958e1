"""Dialogues with the Router in the place of a queued device, with a spool that is told when objects are durable."""

import pytest
from structlog.testing import capture_logs
from tests.unit.router.queued.ingest.dialogue import CONTEXTS, dialogue

from isthmus.association.negotiation import AgreedContext
from isthmus.dicom import uids
from isthmus.dicom.command import NO_DATA_SET, CommandField, Tag, encode
from isthmus.dicom.pdus import RELEASE_RQ, message
from isthmus.router.queued.trouble import NoRoom, SpoolFailed
from isthmus.testing.dicom import (
    CT_IMAGE_STORAGE,
    MR_IMAGE_STORAGE,
    echo_rq,
    move_command,
    pdata,
    pdata_of,
    store_command,
    store_rq,
)

DATA_SET = bytes(range(256)) * 300


def command(field: int, **more: int | str) -> bytes:
    elements: dict[Tag, int | str | bytes] = {
        Tag.COMMAND_FIELD: field,
        Tag.MESSAGE_ID: 7,
        Tag.DATA_SET_TYPE: NO_DATA_SET,
    }
    return encode(elements | {Tag[name]: value for name, value in more.items()})


def n_action(data_set: bool = True, **more: int | str) -> bytes:
    given: dict[str, int | str] = {
        "REQUESTED_SOP_CLASS_UID": uids.STORAGE_COMMITMENT_PUSH_MODEL,
        "REQUESTED_SOP_INSTANCE_UID": "1.2.840.10008.1.20.1.1",
        "ACTION_TYPE_ID": 1,
    }
    if data_set:
        given["DATA_SET_TYPE"] = 1
    return command(CommandField.N_ACTION_RQ, **(given | more))


async def test_an_object_is_answered_when_it_is_durable_and_not_before() -> None:
    async with dialogue() as one:
        one.bundle.durable.clear()
        assert one.send(store_rq(DATA_SET, message_id=5))
        await one.settled()
        assert one.session.said == []
        one.bundle.durable.set()
        await one.settled()
        answer, context_id = one.only_answer()
        assert (answer.status, answer.responds_to, context_id) == (0x0000, 5, 3)
        assert answer.command_field is CommandField.C_STORE_RSP
        assert answer.affected_sop_class == CT_IMAGE_STORAGE
        assert answer.affected_sop_instance == "1.2.3.4"
        ((meta, kept),) = one.bundle.objects
        assert kept == DATA_SET
        assert (meta.sop_class, meta.sop_instance) == (CT_IMAGE_STORAGE, "1.2.3.4")
        assert meta.transfer_syntax == uids.EXPLICIT_VR_LITTLE_ENDIAN
        assert meta.command == store_command(5)


@pytest.mark.parametrize("size", [1, 2, 7, 100, 5000])
async def test_bytes_may_come_in_pieces_of_any_size(size: int) -> None:
    async with dialogue() as one:
        wire = store_rq(DATA_SET[:3000], max_pdu_length=512) + echo_rq() + RELEASE_RQ
        stream, release = wire[: -len(RELEASE_RQ)], wire[-len(RELEASE_RQ) :]
        for start in range(0, len(stream), size):
            one.send(stream[start : start + size])
            await one.settled()
        one.send(release)
        await one.settled()
        assert one.statuses == [0, 0]
        assert one.session.said[-1] == "RELEASE_RP"
        assert one.bundle.objects[0][1] == DATA_SET[:3000]


async def test_command_and_data_set_may_share_a_pdu_and_fragments_may_be_odd_or_empty() -> None:  # PS3.8 annex E
    async with dialogue() as one:
        whole = store_command(1)
        one.send(pdata_of((3, 1, whole[:9]), (3, 3, whole[9:]), (3, 0, b"odd"), (3, 0, b""), (3, 2, b"")))
        await one.settled()
        assert one.statuses == [0]
        assert one.bundle.objects[0][1] == b"odd"


async def test_messages_that_come_while_a_response_is_owed_wait_their_turn_and_are_not_read_on() -> None:
    async with dialogue() as one:
        one.bundle.durable.clear()
        first, second = store_rq(b"one" * 100, message_id=1), store_rq(b"two" * 100, message_id=2)
        assert not one.send(first + second)
        assert not one.send(echo_rq(message_id=3))
        assert not one.send(RELEASE_RQ)
        await one.settled()
        assert one.session.said == []
        assert one.session.resumed == 0
        one.bundle.durable.set()
        await one.settled()
        assert [said if isinstance(said, str) else said[0].responds_to for said in one.session.said] == [
            1, 2, 3, "RELEASE_RP",
        ]  # fmt: skip
        assert [kept for _, kept in one.bundle.objects] == [b"one" * 100, b"two" * 100]
        assert one.session.resumed >= 1


async def test_a_release_is_answered_after_what_is_pending() -> None:
    async with dialogue() as one:
        one.bundle.durable.clear()
        one.send(store_rq(DATA_SET))
        one.send(RELEASE_RQ)
        await one.settled()
        assert one.session.said == []
        one.bundle.durable.set()
        await one.settled()
        assert one.session.said[-1] == "RELEASE_RP"
        assert one.statuses == [0]


@pytest.mark.parametrize(
    ("error", "status", "comment"),
    [
        (NoRoom("12 of 10 bytes"), 0xA700, b"no room in the spool of the Router"),
        (SpoolFailed("EIO"), 0xA700, b"the storage of the Router failed"),
        (RuntimeError("a bug"), 0x0110, b"a fault of the Router"),
    ],
)
async def test_an_object_that_is_not_kept_is_refused_with_a_comment(
    error: Exception, status: int, comment: bytes
) -> None:
    async with dialogue() as one:
        one.bundle.fails = error
        one.send(store_rq(DATA_SET))
        await one.settled()
        one.bundle.fails = None
        one.send(store_rq(DATA_SET, message_id=2))
        await one.settled()
        assert one.statuses == [status, 0]
        answer = one.session.said[0]
        assert not isinstance(answer, str)
        assert (answer[0].value(Tag.ERROR_COMMENT) or b"").rstrip() == comment
        assert one.troubles == [error]


async def test_without_room_an_object_is_taken_to_its_end_and_refused() -> None:
    async with dialogue() as one:
        one.bundle.no_room = NoRoom("full")
        assert one.send(store_rq(DATA_SET))
        await one.settled()
        assert one.statuses == [0xA700]
        assert one.bundle.writers == []


async def test_a_spool_that_does_not_keep_up_stops_the_device_until_it_does() -> None:
    async with dialogue() as one:
        one.bundle.full = True
        wire = store_rq(DATA_SET)
        assert not one.send(wire[:20_000])
        assert not one.send(wire[20_000:])
        await one.settled()
        assert one.session.resumed == 0
        one.bundle.full = False
        one.bundle.on_writable()
        assert one.session.resumed == 1
        assert one.statuses == [0]


async def test_a_device_that_does_not_read_its_answers_is_not_read_either() -> None:
    async with dialogue() as one:
        sent = 0
        while one.send(echo_rq()):
            await one.settled()
            sent += 1
            assert sent < 10_000
        await one.settled()
        unread = sum(len(run) for run in one.session.runs)
        before = one.session.resumed
        one.link.consumed(unread)
        assert one.session.resumed == before + 1


async def test_a_class_that_is_not_that_of_the_context_is_refused_after_its_data_set() -> None:
    async with dialogue() as one:
        one.send(message(3, store_command(1, sop_class=MR_IMAGE_STORAGE), DATA_SET))
        one.send(echo_rq())
        await one.settled()
        assert one.statuses == [0xA900, 0]
        assert one.bundle.writers == []


async def test_an_object_without_instance_uid_or_data_set_is_refused() -> None:
    async with dialogue() as one:
        one.send(message(3, store_command(1, sop_instance=""), DATA_SET))
        await one.settled()
        one.send(message(3, command(CommandField.C_STORE_RQ, AFFECTED_SOP_CLASS_UID=CT_IMAGE_STORAGE)))
        await one.settled()
        assert one.statuses == [0x0117, 0xC000]


async def test_an_object_of_which_it_is_not_said_that_it_follows_is_refused_and_not_kept() -> None:
    unsaid = encode(
        {
            Tag.AFFECTED_SOP_CLASS_UID: CT_IMAGE_STORAGE,
            Tag.COMMAND_FIELD: CommandField.C_STORE_RQ,
            Tag.MESSAGE_ID: 7,
            Tag.AFFECTED_SOP_INSTANCE_UID: "1.2.3",
        }
    )
    async with dialogue() as one:
        one.send(message(3, unsaid, DATA_SET))
        await one.settled()
        one.send(store_rq(DATA_SET))
        await one.settled()
        assert one.statuses == [0xC000, 0]
        assert len(one.bundle.objects) == 1


@pytest.mark.parametrize("sop_class", ["1.2.\ufffd", "1." + "2" * 63, "1.2.CT"])
async def test_an_object_of_a_class_that_is_no_uid_is_refused_and_the_association_goes_on(sop_class: str) -> None:
    agreed = AgreedContext(3, sop_class, uids.EXPLICIT_VR_LITTLE_ENDIAN)
    async with dialogue(contexts={**CONTEXTS, 3: agreed}) as one:
        named = sop_class if sop_class.isascii() else ""  # then it is that of the context
        one.send(message(3, store_command(1, sop_class=named), DATA_SET))
        one.send(echo_rq())
        await one.settled()
        assert one.statuses == [0x0122, 0]
        assert one.bundle.writers == []


@pytest.mark.parametrize("sop_instance", ["1.2.X-7", "1." + "2" * 80, "1..02."])
async def test_an_object_with_an_odd_instance_uid_is_kept(sop_instance: str) -> None:
    async with dialogue() as one:
        one.send(message(3, store_command(1, sop_instance=sop_instance), DATA_SET))
        await one.settled()
        assert one.statuses == [0]
        assert one.bundle.objects[0][0].sop_instance == sop_instance


async def test_a_request_for_commitment_under_another_class_is_refused() -> None:
    async with dialogue() as one:
        one.send(message(5, n_action(REQUESTED_SOP_CLASS_UID=CT_IMAGE_STORAGE), DATA_SET))
        await one.settled()
        assert one.statuses == [0x0122]
        assert one.commits == []


async def test_verification_is_answered_by_the_router() -> None:
    async with dialogue() as one:
        one.send(echo_rq(message_id=9))
        await one.settled()
        answer, context_id = one.only_answer()
        assert (answer.command_field, answer.status, answer.responds_to) == (CommandField.C_ECHO_RSP, 0, 9)
        assert context_id == 1


async def test_other_requests_are_unrecognized_operations_with_their_data_set_or_without() -> None:
    async with dialogue() as one:
        one.send(message(3, move_command("WS"), DATA_SET))
        await one.settled()
        one.send(message(3, command(CommandField.N_GET_RQ)))
        await one.settled()
        one.send(message(3, n_action(), DATA_SET))  # on a context of CT
        await one.settled()
        assert one.statuses == [0x0211, 0x0211, 0x0211]
        assert one.commits == []


async def test_a_cancel_is_ignored_while_an_object_is_made_durable() -> None:
    async with dialogue() as one:
        one.bundle.durable.clear()
        one.send(store_rq(DATA_SET))
        one.send(message(3, command(CommandField.C_CANCEL_RQ, MESSAGE_ID_BEING_RESPONDED_TO=1)))
        one.bundle.durable.set()
        await one.settled()
        assert one.statuses == [0]
        assert one.session.aborts == []


async def test_a_request_for_commitment_is_kept_and_answered_with_success() -> None:
    async with dialogue() as one:
        one.send(message(5, n_action(), DATA_SET))
        await one.settled()
        answer, context_id = one.only_answer()
        assert (answer.command_field, answer.status, context_id) == (CommandField.N_ACTION_RSP, 0, 5)
        assert answer.number(Tag.ACTION_TYPE_ID) == 1
        assert answer.affected_sop_class == uids.STORAGE_COMMITMENT_PUSH_MODEL
        assert one.commits == [DATA_SET]


async def test_an_action_without_a_type_is_taken_and_another_type_is_not() -> None:  # pynetdicom#1027
    async with dialogue() as one:
        one.send(message(5, encode({
            Tag.COMMAND_FIELD: CommandField.N_ACTION_RQ, Tag.MESSAGE_ID: 7, Tag.DATA_SET_TYPE: 1,
        }), DATA_SET))  # fmt: skip
        await one.settled()
        one.send(message(5, n_action(ACTION_TYPE_ID=2), DATA_SET))
        await one.settled()
        one.send(message(5, n_action(data_set=False)))
        await one.settled()
        assert one.statuses == [0, 0x0123, 0x0120]
        assert len(one.commits) == 1


async def test_a_request_for_commitment_that_cannot_be_kept_is_refused() -> None:
    async with dialogue() as one:
        one.bundle.fails = NoRoom("full")
        one.send(message(5, n_action(), DATA_SET))
        await one.settled()
        assert one.statuses == [0xA700]


@pytest.mark.parametrize(
    "wire",
    [
        pytest.param(pdata(3, b"data", last=True), id="a data set without its command set"),
        pytest.param(pdata(3, store_command(1), command=True, last=True) + echo_rq(), id="a command in a data set"),
        pytest.param(
            pdata(3, store_command(1), command=True, last=True) + pdata(5, b"x", last=True),
            id="the data set of another context",
        ),
        pytest.param(
            pdata(3, store_command(1)[:20], command=True) + pdata(1, b"x", command=True), id="two commands at once"
        ),
        pytest.param(pdata(3, b"\0\0\0\0\xff\xff\xff\xff", command=True, last=True), id="not a command set"),
        pytest.param(message(3, encode({Tag.COMMAND_FIELD: 1, Tag.DATA_SET_TYPE: 1})), id="no message id"),
        pytest.param(message(3, command(CommandField.C_STORE_RSP)), id="a response to nothing"),
    ],
)
async def test_what_is_malformed_ends_in_an_abort_and_what_had_begun_is_given_up(wire: bytes) -> None:
    async with dialogue() as one:
        with capture_logs():
            one.send(store_rq(DATA_SET))
            await one.settled()
            one.send(wire)
            assert one.send(echo_rq())  # what comes behind it is not looked at
            await one.settled()
        assert len(one.session.aborts) == 1
        assert one.session.aborts[0][0] == 2
        assert one.statuses == [0]
        assert len(one.bundle.objects) == 1
        assert all(writer.abandoned for writer in one.bundle.writers[1:])
        assert one.over == 1


async def test_an_abort_inside_an_object_gives_up_that_object_only() -> None:
    async with dialogue() as one:
        one.send(store_rq(DATA_SET))
        await one.settled()
        one.send(store_rq(DATA_SET, message_id=2)[:20_000])
        one.link.signal(b"")
        assert [writer.abandoned for writer in one.bundle.writers] == [False, True]
        assert len(one.bundle.objects) == 1
        assert one.over == 1
        one.link.finish()
        one.link.close()
        assert one.over == 1


async def test_an_abort_while_an_object_is_made_durable_keeps_it_and_says_nothing() -> None:
    async with dialogue() as one:
        one.bundle.durable.clear()
        one.send(store_rq(DATA_SET))
        await one.settled()
        one.link.signal(b"")
        assert one.over == 0  # the bundle is in use
        one.bundle.durable.set()
        await one.settled()
        assert one.over == 1
        assert len(one.bundle.objects) == 1
        assert one.session.said == []


async def test_answers_keep_to_the_pdu_length_of_the_device() -> None:
    async with dialogue(max_pdu_length=64) as one:
        one.send(store_rq(DATA_SET, max_pdu_length=4096))
        await one.settled()
        assert one.statuses == [0]
        (run,) = one.session.runs
        position = 0
        while position < len(run):
            length = int.from_bytes(run[position + 2 : position + 6], "big")
            assert length <= 64
            position += 6 + length
