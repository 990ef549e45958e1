"""Queued objects on real sockets: what a device gets, byte for byte, whatever it answers and however it ends."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.loopback.queued.one_site import one_site

from isthmus.contract.letters import ObjectKind
from isthmus.dicom.associate import AssociateRequest, ContextResult, PresentationContext
from isthmus.dicom.command import CommandField, CommandSet, Tag, encode, response
from isthmus.dicom.fragments import FragmentReader
from isthmus.dicom.framing import Data, Framer
from isthmus.dicom.pdus import RELEASE_RP, message
from isthmus.dicom.storage_classes import STORAGE_CLASSES
from isthmus.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, STORAGE_COMMITMENT_PUSH_MODEL
from isthmus.router.queued.delivery import lane, sending
from isthmus.router.queued.ledger import deliveries
from isthmus.testing.devices import Wire, listening
from isthmus.testing.dicom import (
    CT_IMAGE_STORAGE,
    MR_IMAGE_STORAGE,
    abort,
    associate_ac_by,
    associate_rj,
    store_command,
)
from isthmus.testing.network import until

CHANCE = random.Random(1)


class Device:
    """Takes what it is sent and keeps it. `answer` gives the response to a command set, or bytes to send instead."""

    def __init__(self, *, max_pdu_length: int = 16_384) -> None:
        self.max_pdu_length = max_pdu_length
        self.takes: Callable[[PresentationContext], bool] = lambda _: True
        self.answer: Callable[[CommandSet, int], bytes | int] = lambda _command, _number: 0
        self.requests: list[AssociateRequest] = []
        self.commands: list[CommandSet] = []
        self.data_sets: list[bytes] = []
        self.fragments: list[int] = []
        self.pdus: list[int] = []
        self.endings: list[str] = []
        self.reject = b""

    async def __call__(self, wire: Wire) -> None:
        request = await wire.pdu()
        if self.reject:
            await wire.send(self.reject)
            await wire.ended()
            return
        self.requests.append(AssociateRequest.parse(request))

        def decide(context: PresentationContext) -> str | ContextResult:
            return context.transfer_syntaxes[0] if self.takes(context) else ContextResult.ABSTRACT_SYNTAX_NOT_SUPPORTED

        await wire.send(associate_ac_by(request, decide, max_pdu_length=self.max_pdu_length).raw)
        framer, reader = Framer(), FragmentReader()
        command, data = bytearray(), bytearray()
        while run := await wire.read_some():
            for frame in framer.feed(run):
                if not isinstance(frame, Data):
                    self.endings.append("released" if frame.raw[0] == 5 else "aborted")
                    if frame.raw[0] == 5:
                        await wire.send(RELEASE_RP)
                    return
                for fragment in reader.feed(bytes(frame.run)):
                    self.fragments.append(len(fragment.data))
                    (command if fragment.command else data).extend(fragment.data)
                    if not fragment.last or (fragment.command and CommandSet.parse(bytes(command)).data_set_present):
                        continue
                    fields = CommandSet.parse(bytes(command))
                    self.commands.append(fields)
                    self.data_sets.append(bytes(data))
                    command, data = bytearray(), bytearray()
                    answer = self.answer(fields, len(self.commands))
                    if isinstance(answer, int):
                        answer = message(fragment.context_id, response(fields, answer, comment="as it is"))
                    await wire.send(answer)
        self.endings.append("lost")


@pytest.fixture(autouse=True)
def _no_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "LINGER_SECONDS", 0.0)


@pytest.mark.parametrize("max_pdu_length", [0, 20, 16_384, 65_535, 1 << 20])
async def test_a_data_set_arrives_as_it_came_within_the_devices_limit(tmp_path: Path, max_pdu_length: int) -> None:
    data_sets = [CHANCE.randbytes(length) for length in (1, 2, 1001, 30_000, 3_000_002 if max_pdu_length != 20 else 7)]
    device = Device(max_pdu_length=max_pdu_length)
    async with listening(device) as listener, one_site(tmp_path) as one:
        await one.device(listener.port)
        await one.queue(data_sets)
        async with one.dispatcher.running():
            await one.all_are("delivered")
    assert device.data_sets == data_sets
    assert [command.message_id for command in device.commands] == [1, 2, 3, 4, 5]
    assert device.commands[0].raw == store_command(1, sop_instance="1.2.3.1")
    assert sum(length % 2 for length in device.fragments) == sum(len(data) % 2 for data in data_sets)
    assert max(device.fragments) <= (max_pdu_length - 6 if max_pdu_length else 128 * 1024 - 6)
    assert device.endings == ["released"]


async def test_refused_objects_among_good_ones_leave_the_association_as_it_is(tmp_path: Path) -> None:
    device = Device()
    device.answer = lambda _, number: 0xA900 if number in {2, 5} else 0
    async with listening(device) as listener, one_site(tmp_path) as one:
        await one.device(listener.port)
        await one.queue([b"ab"] * 6)
        async with one.dispatcher.running():
            await one.all_are("delivered", "held")
        assert await one.states() == ["delivered", "held", "delivered", "delivered", "held", "delivered"]
        assert len(device.requests) == 1
        rows = await one.ledger.read(
            lambda connection: connection.execute("SELECT status, comment FROM copies WHERE state = 'held'").fetchall()
        )
        assert [row[0] for row in rows] == [0xA900, 0xA900]
        assert one.spool.open_local("comment", rows[0][1]) == b"as it is"


async def test_a_device_that_is_off_is_delivered_to_when_it_is_there(tmp_path: Path) -> None:
    device = Device()
    async with one_site(tmp_path) as one:
        async with listening(device) as listener:
            port = listener.port
        await one.device(port)
        await one.queue([b"abcd"])
        async with one.dispatcher.running():

            async def down() -> bool:
                found = await one.ledger.read(deliveries.destinations)
                return bool(found) and found[0].down

            await until(down)
            async with listening(device) as listener:
                await one.site.control("device_set", device="ARCHIVE", port=listener.port)
                await one.all_are("delivered")
    assert device.data_sets == [b"abcd"]


@pytest.mark.parametrize("end", [abort(0, 0), b"", RELEASE_RP])
async def test_an_association_that_ends_under_an_object_brings_it_again_and_flags_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: bytes
) -> None:
    monkeypatch.setattr("isthmus.router.queued.delivery.judging._BREAK_SECONDS", (0.0,))
    device = Device()
    device.answer = lambda _, number: end or abort(2, 1) if number == 2 else 0
    async with listening(device) as listener, one_site(tmp_path) as one:
        await one.device(listener.port)
        await one.queue([b"ab", b"cd", b"ef"])
        async with one.dispatcher.running():
            await one.all_are("delivered")
        flagged = await one.ledger.read(
            lambda connection: connection.execute("SELECT flagged FROM copies ORDER BY copy_id").fetchall()
        )
        assert flagged == [(0,), (1,), (0,)]
    assert sorted(device.data_sets) == [b"ab", b"cd", b"cd", b"ef"]


async def test_a_device_that_rejects_the_association_counts_nothing_against_the_object(tmp_path: Path) -> None:
    device = Device()
    device.reject = associate_rj(2, 3, 2)
    async with listening(device) as listener, one_site(tmp_path) as one:
        await one.device(listener.port)
        await one.queue([b"ab"])
        async with one.dispatcher.running():
            await until(lambda: listener.dialled >= 2)
            device.reject = b""
            await one.all_are("delivered")
        tries = await one.ledger.read(lambda connection: connection.execute("SELECT tries FROM copies").fetchall())
        assert tries == [(0,)]


async def test_a_pair_that_is_refused_is_asked_for_again_and_held(tmp_path: Path) -> None:
    device = Device()
    device.takes = lambda context: context.abstract_syntax != MR_IMAGE_STORAGE
    async with listening(device) as listener, one_site(tmp_path) as one:
        await one.device(listener.port)
        await one.queue([b"ab"], sop_class=MR_IMAGE_STORAGE)
        await one.queue([b"cd"])
        async with one.dispatcher.running():
            await one.all_are("delivered", "held")
        assert await one.states() == ["held", "delivered"]
    proposals = [[context.abstract_syntax for context in request.contexts] for request in device.requests]
    assert proposals == [[MR_IMAGE_STORAGE, CT_IMAGE_STORAGE], [MR_IMAGE_STORAGE]]


async def test_a_commitment_request_goes_as_it_came_and_its_status_is_kept(tmp_path: Path) -> None:
    command = encode(
        {
            Tag.REQUESTED_SOP_CLASS_UID: STORAGE_COMMITMENT_PUSH_MODEL,
            Tag.COMMAND_FIELD: CommandField.N_ACTION_RQ,
            Tag.MESSAGE_ID: 99,
            Tag.DATA_SET_TYPE: 1,
            Tag.REQUESTED_SOP_INSTANCE_UID: "1.2.840.10008.1.20.1.1",
            Tag.ACTION_TYPE_ID: 1,
        }
    )
    report = encode(
        {
            Tag.AFFECTED_SOP_CLASS_UID: STORAGE_COMMITMENT_PUSH_MODEL,
            Tag.COMMAND_FIELD: CommandField.N_EVENT_REPORT_RQ,
            Tag.MESSAGE_ID: 5,
            Tag.DATA_SET_TYPE: 0x0101,
            Tag.AFFECTED_SOP_INSTANCE_UID: "1.2.840.10008.1.20.1.1",
            Tag.EVENT_TYPE_ID: 1,
        }
    )
    device = Device()

    def answer(fields: CommandSet, number: int) -> bytes | int:
        if fields.command_field is CommandField.N_ACTION_RQ:  # and a report on the same association, which is declined
            return message(1, report) + message(1, response(fields, 0))
        return b""

    device.answer = answer
    async with listening(device) as listener, one_site(tmp_path) as one:
        await one.device(listener.port)
        syntaxes = {"sop_class": STORAGE_COMMITMENT_PUSH_MODEL, "transfer_syntax": IMPLICIT_VR_LITTLE_ENDIAN}
        await one.queue([b"\x08\0\x95\x11\0\0\0\0"], command=command, kind=ObjectKind.COMMIT, **syntaxes)
        async with one.dispatcher.running():
            await one.all_are("delivered")
            await until(lambda: len(device.commands) == 2)
    assert device.commands[0].raw == CommandSet.parse(command).with_number(Tag.MESSAGE_ID, 1).raw
    assert device.commands[1].command_field is CommandField.N_EVENT_REPORT_RSP
    assert (device.commands[1].number(Tag.MESSAGE_ID_BEING_RESPONDED_TO), device.commands[1].status) == (5, 0x0110)


async def test_a_device_that_never_answers_is_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "RESPONSE_SECONDS", 0.2)
    device = Device()
    device.answer = lambda _command, _number: b""
    async with listening(device) as listener, one_site(tmp_path) as one:
        await one.device(listener.port)
        await one.queue([b"ab"])
        async with one.dispatcher.running():
            await until(lambda: device.endings == ["aborted"])
        assert await one.states() == ["waiting"]


async def test_a_probe_finds_what_a_device_takes_and_asks_one_syntax_a_context(tmp_path: Path) -> None:
    device = Device()
    known = {CT_IMAGE_STORAGE, MR_IMAGE_STORAGE}
    jpeg = "1.2.840.10008.1.2.4.70"
    takes = {EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, jpeg}
    device.takes = lambda context: context.abstract_syntax in known and context.transfer_syntaxes[0] in takes
    async with listening(device) as listener, one_site(tmp_path) as one:
        await one.device(listener.port)
        one.mirror.apart_seconds = 0.0
        found = next(iter(one.site.live.core.directory.devices))
        probing = one.mirror.probe(found, None, everything=True)
        await probing.wait()
        assert probing.refused is None
        expected = {(abstract, transfer) for abstract in known for transfer in takes}
        assert one.site.live.core.directory.mirror[found.device_id] == expected
        assert {source for *_, source in one.mirror.pairs(found)} == {"probe"}
    assert all(len(request.contexts) <= 100 for request in device.requests)
    assert all(len(context.transfer_syntaxes) == 1 for request in device.requests for context in request.contexts)
    assert len({context.abstract_syntax for context in device.requests[-1].contexts}) == 2  # the others are unknown
    assert len(device.requests) <= len(STORAGE_CLASSES) // 100 + 2
    assert set(device.endings) == {"released"}
    assert {request.calling for request in device.requests} == {"ISTHMUS"}


async def test_what_a_device_accepts_of_others_is_noted_and_what_a_person_says_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isthmus.router.queued.mirror._NOTE_SECONDS", 0.0)
    device = Device()
    async with listening(device) as listener, one_site(tmp_path) as one:
        await one.device(listener.port)
        directory = one.site.live.core.directory
        found = next(iter(directory.devices))
        await one.queue([b"ab"])
        async with one.dispatcher.running():
            await one.all_are("delivered")
            await until(lambda: directory.mirror.get(found.device_id) is not None)
        assert one.mirror.pairs(found) == [(CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN, "seen")]
        one.mirror.declare(found, [("1.2.3", "1.2.4")])
        assert (await one.site.control("device_show", device="ARCHIVE"))["title"] == "ARCHIVE"
        assert directory.mirror[found.device_id] == {(CT_IMAGE_STORAGE, EXPLICIT_VR_LITTLE_ENDIAN), ("1.2.3", "1.2.4")}
        one.mirror.forget(found)
        assert not directory.mirror.get(found.device_id)


async def test_a_device_in_a_queue_that_nobody_knows_is_probed_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device()
    device.takes = lambda context: context.abstract_syntax == CT_IMAGE_STORAGE
    async with listening(device) as listener, one_site(tmp_path) as one:
        one.mirror.apart_seconds = 0.0
        live = one.site.live
        task = live.core.tasks.spawn(one.mirror.keep_probing(), name="keep probing")
        await one.device(listener.port)
        found = next(iter(live.core.directory.devices))
        classes = [CT_IMAGE_STORAGE, MR_IMAGE_STORAGE]  # as with a grant to another site
        monkeypatch.setattr(one.mirror, "_classes", lambda *_, **__: classes)
        one.mirror._look.set()
        await until(lambda: bool(live.core.directory.mirror.get(found.device_id)))
        task.cancel()
    assert {pair[0] for pair in live.core.directory.mirror[found.device_id]} == {CT_IMAGE_STORAGE}
