"""Deliveries of what is wrong in itself, of an archive that others want too, and of faults of our own."""

import pytest
from structlog.testing import capture_logs
from tests.unit.router.queued.delivery.bench import CT_PAIR, Bench

from isthmus.dicom.command import Tag
from isthmus.dicom.uids import IMPLICIT_VR_LITTLE_ENDIAN
from isthmus.router.queued.delivery import dispatcher, lane
from isthmus.router.queued.ledger.records import CopyState
from isthmus.testing.dicom import store_command


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
