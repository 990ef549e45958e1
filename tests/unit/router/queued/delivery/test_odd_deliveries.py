"""Deliveries of what is wrong in itself, of an archive that others want too, and of faults of our own."""

import pytest
from structlog.testing import capture_logs
from tests.unit.router.queued.delivery.bench import ARCHIVE, CT_PAIR, Bench, commit_command

from isthmus.contract.letters import ObjectKind
from isthmus.dicom.command import CommandField, CommandSet, Tag, encode, response
from isthmus.dicom.uids import IMPLICIT_VR_LITTLE_ENDIAN, STORAGE_COMMITMENT_PUSH_MODEL
from isthmus.router.queued.delivery import dispatcher, lane
from isthmus.router.queued.ledger.records import CopyState
from isthmus.testing.dicom import CT_IMAGE_STORAGE, MR_IMAGE_STORAGE, move_command, store_command
from isthmus.testing.network import until


@pytest.fixture(autouse=True)
def _no_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "LINGER_SECONDS", 0.0)


@pytest.mark.parametrize("abstract", ["1.2.\u00e9", "1" * 70_000])
@pytest.mark.parametrize("local", [False, True])
async def test_an_object_that_cannot_be_proposed_is_held_and_the_others_go_on(
    bench: Bench, abstract: str, local: bool
) -> None:
    bad = (abstract, IMPLICIT_VR_LITTLE_ENDIAN)
    await bench.queue(4, pairs=lambda index: bad if index in {0, 2} else CT_PAIR, local=local)
    async with bench.dispatcher.running():
        await bench.all_are(CopyState.DELIVERED, CopyState.HELD)
    assert bench.archive.got == [2, 4]
    assert "cannot be proposed to PACS" in (await bench.rows("reason", state="held"))[0]


async def test_a_fault_in_a_lane_is_logged_and_the_queue_goes_on_after_a_while(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "TROUBLE_SECONDS", 0.01)
    await bench.queue(3)
    faults = iter([True, True])

    def answer(_: int) -> int:
        if next(faults, False):
            raise ZeroDivisionError
        return 0

    bench.archive.answer = answer
    with capture_logs() as logs:
        async with bench.dispatcher.running():
            await bench.all_are(CopyState.DELIVERED)
    assert bench.archive.got == [1, 2, 3]
    assert [line["event"] for line in logs].count("a fault of Isthmus in a delivery: report it") == 1


async def test_a_local_member_of_a_group_sees_titles_of_its_own_site_as_it_knows_them(bench: Bench) -> None:
    bench.home.administration.device_add("WS@192.0.2.8", title="HOME_WS")
    await bench.queue(1, calling="HOME_CT", local=True, command=store_command(7, originator="HOME_WS"))
    async with bench.dispatcher.running():
        await bench.all_are(CopyState.DELIVERED)
    assert [command.title(Tag.MOVE_ORIGINATOR_TITLE) for command in bench.archive.commands] == ["WS"]


COMMIT_PAIR = (STORAGE_COMMITMENT_PUSH_MODEL, IMPLICIT_VR_LITTLE_ENDIAN)
FOREIGN = {
    "move": move_command("NORTH_WS"),
    "another class": store_command(7, sop_class=MR_IMAGE_STORAGE),
    "an action": commit_command(),
    "a response": response(CommandSet.parse(store_command(7)), 0),
    "no Message ID": encode({Tag.COMMAND_FIELD: CommandField.C_STORE_RQ, Tag.DATA_SET_TYPE: 1}),
    "no word of a data set": encode({Tag.COMMAND_FIELD: CommandField.C_STORE_RQ, Tag.MESSAGE_ID: 7}),
    "no data set": CommandSet.parse(store_command(7)).with_number(Tag.DATA_SET_TYPE, 0x0101).raw,
    "nothing that can be read": b"x",
}


@pytest.mark.parametrize("command", FOREIGN.values(), ids=FOREIGN)
async def test_a_store_with_another_request_as_its_command_set_is_held_and_never_sent(
    bench: Bench, command: bytes
) -> None:
    await bench.queue(1, command=command)
    good = await bench.queue(2)
    async with bench.dispatcher.running():
        await bench.all_are(CopyState.DELIVERED, CopyState.HELD)
    assert bench.archive.got == good
    assert (await bench.rows("copy_id", state="held")) == [1]
    assert (bench.archive.attempts, bench.archive.aborted) == (1, 0)


@pytest.mark.parametrize(
    ("kind", "pair", "command"),
    [
        pytest.param(ObjectKind.COMMIT, COMMIT_PAIR, store_command(7), id="a store in the place of a commitment"),
        pytest.param(
            ObjectKind.COMMIT, COMMIT_PAIR, commit_command(REQUESTED_SOP_CLASS_UID=CT_IMAGE_STORAGE), id="another class"
        ),
        pytest.param(
            ObjectKind.COMMIT, COMMIT_PAIR, commit_command(COMMAND_FIELD=CommandField.N_SET_RQ), id="another operation"
        ),
        pytest.param(ObjectKind.COMMIT, CT_PAIR, store_command(7), id="a commitment on a context of storage"),
        pytest.param(ObjectKind.STORE, COMMIT_PAIR, commit_command(), id="a commitment that waits for nothing"),
    ],
)
async def test_a_request_for_commitment_that_is_none_is_held_and_never_sent(
    bench: Bench, kind: ObjectKind, pair: tuple[str, str], command: bytes
) -> None:
    bench.home.administration.grant_add("PACS", site="north", services=["any"])
    await bench.queue(1, kind=kind, pair=pair, command=command)
    async with bench.dispatcher.running():
        await bench.all_are(CopyState.HELD)
    assert not bench.archive.commands


async def test_a_command_set_that_leaves_its_class_out_is_sent(bench: Bench) -> None:
    command = encode({Tag.COMMAND_FIELD: CommandField.C_STORE_RQ, Tag.MESSAGE_ID: 7, Tag.DATA_SET_TYPE: 1})
    await bench.queue(1, command=command)
    async with bench.dispatcher.running():
        await bench.all_are(CopyState.DELIVERED)


async def test_a_device_with_two_associations_keeps_one_for_live_callers(bench: Bench) -> None:
    bench.home.administration.device_set("PACS", max_associations=2)
    await bench.queue(600)
    async with bench.dispatcher.running():
        await bench.all_are(CopyState.DELIVERED)
    assert bench.archive.most_open == 1


async def test_a_device_with_one_association_is_left_to_a_live_caller_that_found_it_taken(bench: Bench) -> None:
    bench.home.administration.device_set("PACS", max_associations=1)
    device = next(one for one in bench.home.directory.devices if one.network_title == ARCHIVE)
    await bench.queue(20)

    async def before() -> None:
        if len(bench.archive.got) == 4:  # while the fifth is being sent
            bench.dispatcher.crowded(device)

    bench.archive.before = before
    async with bench.dispatcher.running():
        await until(lambda: len(bench.archive.got) >= 5 and bench.archive.open == 0)
        await bench.pass_time(25, step=5)
        assert (len(bench.archive.got), bench.archive.released, bench.archive.attempts) == (5, 1, 1)
        await bench.pass_time(10, step=5)
        await bench.all_are(CopyState.DELIVERED)
    assert bench.archive.got == list(range(1, 21))


async def test_a_device_that_takes_several_goes_on_when_a_live_caller_finds_them_taken(bench: Bench) -> None:
    bench.home.administration.device_set("PACS", max_associations=3)
    device = next(one for one in bench.home.directory.devices if one.network_title == ARCHIVE)
    await bench.queue(20)

    async def before() -> None:
        bench.dispatcher.crowded(device)

    bench.archive.before = before
    async with bench.dispatcher.running():
        await bench.all_are(CopyState.DELIVERED)
    assert bench.archive.attempts == 1


async def test_a_stop_ends_the_associations_after_the_object_that_is_sent_and_nothing_wakes_them(bench: Bench) -> None:
    await bench.queue(20)

    async def before() -> None:
        if len(bench.archive.got) == 4:
            bench.dispatcher.stop()

    bench.archive.before = before
    async with bench.dispatcher.running():
        await until(lambda: len(bench.archive.got) >= 5 and bench.archive.open == 0)
        bench.dispatcher.wake(ARCHIVE)
        bench.dispatcher.wake("ANOTHER")
        await bench.pass_time(120)
        assert (len(bench.archive.got), bench.archive.released, bench.archive.attempts) == (5, 1, 1)
    assert await bench.states() == {"delivered": 5, "waiting": 15}
