"""Deliveries against a scripted archive: what counts against an object, what against nothing, and in which order."""

import asyncio
import sqlite3
import tracemalloc
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from tests.unit.router.queued.delivery.bench import ARCHIVE, CT_PAIR, Bench, Break

from isthmus.contract.letters import ObjectKind, ReceiptState
from isthmus.dicom.uids import IMPLICIT_VR_LITTLE_ENDIAN, STORAGE_COMMITMENT_PUSH_MODEL
from isthmus.errors import SealBroken
from isthmus.router.queued.delivery import lane, recording
from isthmus.router.queued.delivery.recording import Journal
from isthmus.router.queued.ledger import deliveries
from isthmus.router.queued.ledger.deliveries import JOURNAL
from isthmus.router.queued.ledger.records import CopyState
from isthmus.router.queued.trouble import NoRoom
from isthmus.testing.depth import count
from isthmus.testing.dicom import MR_IMAGE_STORAGE
from isthmus.testing.network import until

DAY = 86_400.0


@pytest.fixture(autouse=True)
def _no_linger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "LINGER_SECONDS", 0.0)


async def test_objects_arrive_in_their_order_and_their_receipts_are_due(bench: Bench) -> None:
    numbers = await bench.queue(5)
    async with bench.dispatcher.running():
        await bench.all_are(CopyState.DELIVERED)
    assert bench.archive.got == numbers
    assert bench.archive.callers == ["NORTH_CT"]
    receipts = await bench.receipts()
    assert [(receipt.index, receipt.state, receipt.status) for receipt in receipts] == [
        (index, ReceiptState.DELIVERED, 0) for index in range(5)
    ]
    assert {receipt.envelope_id for receipt in receipts} == {(1).to_bytes(16, "big")}
    assert bench.finished_ == ["bundle1"]
    assert [outcome.copy.copy_id for outcome in bench.recorded_] == [1, 2, 3, 4, 5]


async def test_a_refused_object_is_held_with_status_and_comment_and_the_others_go_on(bench: Bench) -> None:
    await bench.queue(7)
    bench.archive.answer = lambda number: (0xC123, "Patient unknown") if number == 4 else 0
    async with bench.dispatcher.running():
        await bench.all_are(CopyState.DELIVERED, CopyState.HELD)
    assert bench.archive.got == [1, 2, 3, 4, 5, 6, 7]
    assert bench.archive.attempts == 1
    assert await bench.rows("copy_id, status, comment", state="held") == [
        (4, 0xC123, b"sealed comment " + b"Patient unknown"[::-1])
    ]
    (receipt,) = [one for one in await bench.receipts() if one.state is ReceiptState.HELD]
    assert (receipt.index, receipt.status, receipt.comment) == (3, 0xC123, "Patient unknown")
    assert bench.finished_ == []  # a person may still want it sent


async def test_a_duplicate_counts_as_delivered_and_is_flagged(bench: Bench) -> None:
    await bench.queue(2)
    bench.archive.answer = lambda number: 0x0111 if number == 1 else 0xB000
    async with bench.dispatcher.running():
        await bench.all_are(CopyState.DELIVERED)
    assert await bench.rows("flagged") == [1, 0]
    assert [receipt.flagged for receipt in await bench.receipts()] == [True, False]


async def test_a_transient_answer_brings_the_object_again_and_holds_it_after_an_hour(bench: Bench) -> None:
    await bench.queue(3)
    bench.archive.answer = lambda number: 0xA700 if number == 2 else 0
    async with bench.dispatcher.running():
        await until(lambda: len(bench.archive.got) == 3)
        await bench.settle()
        assert await bench.rows("state, tries") == [("delivered", 0), ("waiting", 1), ("delivered", 0)]
        await bench.pass_time(3600)
        assert await bench.states() == {"delivered": 2, "waiting": 1}
        await bench.pass_time(600)
        assert await bench.states() == {"delivered": 2, "held": 1}
    assert bench.archive.got.count(2) == 5
    assert await bench.rows("tries, status", state="held") == [(5, 0xA700)]


async def test_a_transient_answer_that_passes_leaves_no_trace(bench: Bench) -> None:
    await bench.queue(1)
    answers = iter([0xA700, 0x0110, 0])
    bench.archive.answer = lambda _: next(answers)
    async with bench.dispatcher.running():
        await until(lambda: len(bench.archive.got) == 1)
        await bench.pass_time(700)
        await bench.all_are(CopyState.DELIVERED)


async def test_an_archive_that_answers_everything_transiently_is_left_alone(bench: Bench) -> None:
    await bench.queue(200)
    bench.archive.answer = lambda _: 0xA700
    async with bench.dispatcher.running():
        await until(lambda: len(bench.archive.got) >= 10)
        await bench.settle()
        assert len(bench.archive.got) == 10
        await bench.pass_time(60)
        assert len(bench.archive.got) < 25  # one a probe
        bench.archive.answer = lambda _: 0
        await bench.pass_time(700)
        await bench.all_are(CopyState.DELIVERED)


async def test_a_device_that_is_off_holds_up_its_objects_and_counts_nothing(bench: Bench) -> None:
    await bench.queue(4)
    bench.archive.on = False
    async with bench.dispatcher.running():
        await until(lambda: bench.archive.attempts == 1)
        await bench.pass_time(3600, step=20)
        assert 12 <= bench.archive.attempts <= 40  # backoff up to 5 min
        assert await bench.rows("state, tries, first_failed, next_try") == [("waiting", 0, None, 0.0)] * 4
        state = await bench.ledger.read(deliveries.destinations)
        assert (state[0].title, state[0].down, state[0].reason) == (ARCHIVE, True, "it is off")
        bench.archive.on = True
        await bench.pass_time(310, step=20)
        await bench.all_are(CopyState.DELIVERED)
        await bench.settle()
        assert (await bench.ledger.read(deliveries.destinations))[0].down is False


async def test_a_sign_of_life_ends_the_wait_within_a_minute(bench: Bench) -> None:
    await bench.queue(1)
    bench.archive.on = False
    async with bench.dispatcher.running():
        await bench.pass_time(3600, step=60)
        bench.archive.on = True
        device = next(one for one in bench.home.directory.devices if one.network_title == ARCHIVE)
        bench.dispatcher.heard(device, None, None)  # type: ignore[arg-type] # what was asked does not matter
        await bench.pass_time(20)
        await bench.all_are(CopyState.DELIVERED)


async def test_an_outage_is_remembered_and_tried_at_once_after_a_restart(bench: Bench) -> None:
    await bench.queue(1)
    bench.archive.on = False
    async with bench.dispatcher.running():
        await bench.pass_time(3600, step=60)
    since = (await bench.ledger.read(deliveries.destinations))[0].since
    attempts = bench.archive.attempts
    async with bench.again().running():
        await until(lambda: bench.archive.attempts > attempts)
        await bench.settle()
        state = (await bench.ledger.read(deliveries.destinations))[0]
        assert (state.down, state.since) == (True, since)


async def test_an_outage_of_a_day_alerts_once_and_one_of_fourteen_days_holds(bench: Bench) -> None:
    await bench.queue(3)
    bench.archive.on = False
    async with bench.dispatcher.running():
        await until(lambda: bench.archive.attempts == 1)
        await bench.settle()
        bench.home.clock.advance(DAY - 10)
        await bench.dispatcher.check()
        assert bench.alerts == []
        bench.home.clock.advance(20)
        await bench.dispatcher.check()
        await bench.dispatcher.check()
        assert len(bench.alerts) == 1
        assert "3 objects wait" in bench.alerts[0]
        bench.home.clock.advance(13 * DAY - 60)
        await bench.dispatcher.check()
        assert await bench.states() == {"waiting": 3}
        bench.home.clock.advance(120)
        await bench.dispatcher.check()
        assert await bench.states() == {"held": 3}
    assert [receipt.state for receipt in await bench.receipts()] == [ReceiptState.HELD] * 3


async def test_an_association_that_breaks_under_one_object_does_not_stop_the_others(bench: Bench) -> None:
    numbers = await bench.queue(6)

    def answer(number: int) -> int:
        if number == 2:
            raise Break(sent=False)
        return 0

    bench.archive.answer = answer
    async with bench.dispatcher.running():
        await until(lambda: bench.archive.attempts == 1)
        await bench.pass_time(5, step=1)
        assert sorted(bench.archive.got) == [number for number in numbers if number != 2]
        assert await bench.rows("state, tries", copy_id=2) == [("waiting", 0)]
        await bench.pass_time(4 * 3600, step=60)
        # The second time others had gone since, so that it counts; from then on it is alone, and may be an outage.
        assert (await bench.rows("state, tries", copy_id=2)) == [("waiting", 1)]
        assert bench.archive.aborted > 20
        for _ in range(12):  # others pass and it does not: that is its own doing
            await bench.queue(1)
            await bench.pass_time(1200, step=60)
        assert (await bench.rows("state", copy_id=2)) == ["held"]
        assert (await bench.states())["delivered"] == 17


async def test_a_repeat_after_an_answer_that_never_came_is_flagged(bench: Bench) -> None:
    await bench.queue(3)
    breaks = iter([True])

    def answer(number: int) -> int:
        if number == 2 and next(breaks, False):
            raise Break(sent=True)
        return 0

    bench.archive.answer = answer
    async with bench.dispatcher.running():
        await until(lambda: bench.archive.attempts == 1)
        await bench.pass_time(60, step=5)
        await bench.all_are(CopyState.DELIVERED)
    assert await bench.rows("flagged") == [0, 1, 0]


def _no_room(*_: object) -> None:
    raise NoRoom("the disk is full")


async def test_a_kill_in_the_middle_repeats_one_object_at_most_and_flags_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.queue(40)
    reached = asyncio.Event()
    save = deliveries.save

    async def before() -> None:
        if len(bench.archive.got) == 20:
            reached.set()
            await asyncio.Event().wait()  # the device has it; the Router never hears

    bench.archive.before = before
    async with bench.dispatcher.running():
        monkeypatch.setattr(deliveries, "save", _no_room)
        await reached.wait()
        for task in list(bench.dispatcher._tasks._running):
            task.cancel()  # at once, with nothing written any more
    monkeypatch.setattr(deliveries, "save", save)
    assert await bench.states() == {"waiting": 40}  # only the journal knows
    bench.archive.before = None
    assert len(bench.archive.got) == 20
    async with bench.again().running():
        await bench.all_are(CopyState.DELIVERED)
    assert await bench.rows("copy_id", flagged=1) == [21]
    assert bench.archive.got == list(range(1, 41))  # the archive notes an object when it answers
    assert len(await bench.receipts()) == 40


async def test_a_comment_outlives_a_kill(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await bench.queue(2)
    bench.archive.answer = lambda number: (0xC000, "Bad tag") if number == 1 else 0
    save = deliveries.save
    async with bench.dispatcher.running():
        monkeypatch.setattr(deliveries, "save", _no_room)
        await until(lambda: len(bench.archive.got) == 2)
        for task in list(bench.dispatcher._tasks._running):
            task.cancel()
    monkeypatch.setattr(deliveries, "save", save)
    async with bench.again().running():
        assert await bench.rows("state, status, comment", copy_id=1) == [("held", 0xC000, b"sealed comment gat daB")]
        await bench.all_are(CopyState.DELIVERED, CopyState.HELD)


async def test_the_answer_to_an_object_is_in_the_journal_before_the_next_one_is_whole(bench: Bench) -> None:
    await bench.queue(10)
    seen: list[tuple[list[int], set[int]]] = []

    async def before() -> None:
        ends, started = Journal(bench.ledger.path.with_name(JOURNAL)).read()
        seen.append((sorted(ends), set(started)))

    bench.archive.before = before
    async with bench.dispatcher.running():
        await bench.all_are(CopyState.DELIVERED)
    assert seen == [(list(range(1, number)), {number}) for number in range(1, 11)]


async def test_a_journal_that_was_cut_in_a_line_still_counts(tmp_path: Path) -> None:
    (tmp_path / "journal").write_bytes(b'{"copy": 3}\n{"no": 1}\n\xff\n{"copy": 4, "sta')
    assert Journal(tmp_path / "journal").read() == ({}, {3: {"copy": 3}})


async def test_a_ledger_that_cannot_be_written_stops_the_sending_and_loses_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "MOST_BEHIND", 5)
    monkeypatch.setattr(recording, "AGAIN_SECONDS", 0.01)
    await bench.queue(30)
    full = True
    save = deliveries.save

    def fails(*arguments: Any) -> Any:
        if full:
            raise NoRoom("the disk is full")
        return save(*arguments)

    monkeypatch.setattr(deliveries, "save", fails)
    async with bench.dispatcher.running():
        await until(lambda: len(bench.archive.got) == 5)
        await bench.settle()
        assert len(bench.archive.got) == 5
        full = False
        await bench.all_are(CopyState.DELIVERED)
    assert bench.archive.got == list(range(1, 31))


async def test_a_pair_that_the_device_does_not_take_is_asked_for_again_and_then_held(bench: Bench) -> None:
    other = (MR_IMAGE_STORAGE, IMPLICIT_VR_LITTLE_ENDIAN)
    await bench.queue(6, pairs=lambda index: other if index % 2 else CT_PAIR)
    bench.archive.takes = lambda pair: pair == CT_PAIR
    async with bench.dispatcher.running():
        await bench.all_are(CopyState.DELIVERED, CopyState.HELD)
    assert bench.archive.asked_again == [other]
    assert await bench.rows("state") == ["delivered", "held"] * 3
    assert "MR Image Storage" in (await bench.rows("reason", state="held"))[0]
    assert bench.archive.released == 1


async def test_a_pair_that_is_taken_only_when_asked_again_is_held_in_the_end(bench: Bench) -> None:
    await bench.queue(2)
    bench.archive.takes = lambda _: False
    bench.archive.takes_again = lambda _: True
    async with bench.dispatcher.running():
        await bench.all_are(CopyState.HELD)
    assert bench.archive.asked_again == [CT_PAIR]
    assert bench.archive.attempts == 2


async def test_one_association_proposes_each_pair_once_and_never_over_128(bench: Bench) -> None:
    await bench.queue(300, pairs=lambda index: (f"1.2.840.10008.5.1.4.1.1.{index % 150 + 1000}", "1.2.3"))
    bench.home.administration.grant_add("PACS", site="north", services=["any"])
    async with bench.dispatcher.running():
        await bench.all_are(CopyState.DELIVERED)
    assert all(len(set(pairs)) == len(pairs) <= 128 for pairs in bench.archive.proposals)


async def test_a_caller_that_the_device_does_not_know_does_not_stop_the_others(bench: Bench) -> None:
    await bench.queue(2, calling="NORTH_MR")
    await bench.queue(2, calling="NORTH_CT")
    bench.archive.refuses_callers = {"NORTH_MR"}
    async with bench.dispatcher.running():
        await until(lambda: len(bench.archive.got) == 2)
        assert bench.archive.got == [3, 4]
        await bench.pass_time(900, step=30)
        assert await bench.rows("state", calling="NORTH_MR") == ["waiting"] * 2
        bench.archive.refuses_callers = set()
        await bench.pass_time(310, step=30)
        await bench.all_are(CopyState.DELIVERED)


async def test_what_is_sent_first_goes_before_what_is_older(bench: Bench) -> None:
    await bench.queue(3)
    urgent = await bench.queue(2, priority=5)
    async with bench.dispatcher.running():
        await bench.all_are(CopyState.DELIVERED)
    assert bench.archive.got == [*urgent, 1, 2, 3]


async def test_a_sender_that_is_granted_no_more_has_its_objects_held(bench: Bench) -> None:
    await bench.queue(3)
    (grant,) = bench.home.administration.grant_list()
    bench.home.administration.grant_remove(grant["grant_id"])
    async with bench.dispatcher.running():
        await bench.all_are(CopyState.HELD)
    assert bench.archive.attempts == 0
    assert "not granted" in (await bench.rows("reason"))[0]


async def test_a_disabled_device_keeps_its_objects_waiting(bench: Bench) -> None:
    await bench.queue(2)
    bench.home.administration.device_disable("PACS")
    async with bench.dispatcher.running():
        await bench.pass_time(60)
        assert await bench.states() == {"waiting": 2}
        bench.home.administration.device_enable("PACS")
        await bench.pass_time(310, step=30)
        await bench.all_are(CopyState.DELIVERED)


async def test_the_sender_is_shown_by_its_alias_and_a_local_one_by_its_own_title(bench: Bench) -> None:
    bench.home.administration.device_add("CT@192.0.2.9", title="HOME_CT")
    await bench.queue(1, calling="HOME_CT", local=True)
    await bench.queue(1, calling="NORTH_CT")
    bench.home.directory.admit(bench.far, "NORTH_CT", ARCHIVE)  # type: ignore[arg-type] # a RouterId in fact
    bench.home.administration.device_set("PACS", callers_as="ISTHMUS")
    async with bench.dispatcher.running():
        await bench.all_are(CopyState.DELIVERED)
    assert bench.archive.callers == ["CT", "ISTHMUS"]
    assert len(await bench.receipts()) == 1


async def test_a_commitment_request_waits_for_all_before_it_and_for_nothing_after(bench: Bench) -> None:
    commit = (STORAGE_COMMITMENT_PUSH_MODEL, IMPLICIT_VR_LITTLE_ENDIAN)
    bench.home.administration.grant_add("PACS", site="north", services=["store", "commitment"])
    first = await bench.queue(2)
    request = await bench.queue(1, kind=ObjectKind.COMMIT, pair=commit, priority=9)
    other = await bench.queue(1, calling="NORTH_MR", kind=ObjectKind.COMMIT, pair=commit)
    later = await bench.queue(1)
    fails = {first[1]}
    bench.archive.answer = lambda number: 0xA700 if number in fails else 0
    async with bench.dispatcher.running():
        await until(lambda: len(bench.archive.got) == 4)
        await bench.settle()
        assert sorted(bench.archive.got) == sorted([*first, *other, *later])
        fails.clear()
        await bench.pass_time(130)
        await bench.all_are(CopyState.DELIVERED)
        assert bench.archive.got[-2:] == [first[1], *request]


async def test_a_commitment_request_after_an_outage_of_two_hours_reaches_the_archive_behind_its_objects(
    bench: Bench,
) -> None:
    """Issue 3: storage commitment with a 2 h outage between store and request, and one that begins before the store."""
    commit = (STORAGE_COMMITMENT_PUSH_MODEL, IMPLICIT_VR_LITTLE_ENDIAN)
    bench.home.administration.grant_add("PACS", site="north", services=["store", "commitment"])
    stored = await bench.queue(3)
    async with bench.dispatcher.running():
        await bench.all_are(CopyState.DELIVERED)
        bench.archive.on = False
        missed = await bench.queue(2)
        await bench.pass_time(7200, step=60)
        request = await bench.queue(1, kind=ObjectKind.COMMIT, pair=commit)
        await bench.pass_time(600, step=60)
        assert bench.archive.got == stored
        assert (await bench.states())["waiting"] == 3
        bench.archive.on = True
        await bench.pass_time(310)
        await bench.all_are(CopyState.DELIVERED)
    assert bench.archive.got == [*stored, *missed, *request]
    assert await bench.rows("copy_id", flagged=1) == []


async def test_a_held_object_opens_the_barrier(bench: Bench) -> None:
    commit = (STORAGE_COMMITMENT_PUSH_MODEL, IMPLICIT_VR_LITTLE_ENDIAN)
    bench.home.administration.grant_add("PACS", site="north", services=["store", "commitment"])
    await bench.queue(2)
    await bench.queue(1, kind=ObjectKind.COMMIT, pair=commit)
    bench.archive.answer = lambda number: 0xC000 if number == 2 else 0
    async with bench.dispatcher.running():
        await bench.all_are(CopyState.DELIVERED, CopyState.HELD)
    assert bench.archive.got == [1, 2, 3]


async def test_an_object_that_cannot_be_read_is_held_and_the_others_go_on(bench: Bench) -> None:
    await bench.queue(4)
    bench.objects.unreadable = {1: SealBroken("a segment does not verify"), 3: SealBroken("a record is cut")}
    async with bench.dispatcher.running():
        await bench.all_are(CopyState.DELIVERED, CopyState.HELD)
    assert bench.archive.got == [2, 4]
    assert await bench.rows("reason", state="held") == ["damaged in the spool"] * 2


async def test_a_device_that_takes_several_associations_gets_four_at_most(bench: Bench) -> None:
    bench.home.administration.device_set("PACS", max_associations=9)
    await bench.queue(600)
    async with bench.dispatcher.running():
        await bench.all_are(CopyState.DELIVERED)
    assert 2 <= bench.archive.most_open <= 4
    assert sorted(bench.archive.got) == list(range(1, 601))


async def test_a_device_with_one_association_is_never_given_two(bench: Bench) -> None:
    await bench.queue(200)
    async with bench.dispatcher.running():
        await bench.all_are(CopyState.DELIVERED)
    assert bench.archive.most_open == 1
    assert bench.archive.attempts == 1


async def test_what_an_operator_cancelled_while_it_was_sent_is_delivered_all_the_same(bench: Bench) -> None:
    await bench.queue(1)

    async def before() -> None:
        await bench.ledger.run(lambda connection: connection.execute("UPDATE copies SET state = 'cancelled'"))

    bench.archive.before = before
    async with bench.dispatcher.running():
        await until(lambda: bench.archive.got == [1])
        await bench.all_are(CopyState.DELIVERED)


async def test_t20_six_hours_without_the_archive_hold_nothing_and_end_at_once(bench: Bench) -> None:
    many = count(push=300, nightly=10_000)
    await bench.queue(many)
    bench.archive.on = False
    async with bench.dispatcher.running():
        await bench.pass_time(6 * 3600, step=60)
        assert await bench.states() == {"waiting": many}
        bench.archive.on = True
        attempts = bench.archive.attempts
        began = bench.home.clock.monotonic()
        while bench.archive.attempts == attempts:
            await bench.pass_time(10)
        await until(lambda: bool(bench.archive.got))
        assert bench.home.clock.monotonic() - began <= 310  # the next probe; from its good answer on no time passes
        await bench.all_are(CopyState.DELIVERED)
    assert len(bench.archive.got) == many
    assert await bench.rows("copy_id", flagged=1) == []


async def test_t21_bad_objects_among_many_are_held_and_hold_nobody_up(bench: Bench) -> None:
    many = count(push=300, nightly=10_000)
    await bench.queue(many)
    bench.archive.answer = lambda number: 0xC000 + number % 7 if number % 100 == 50 else 0
    async with bench.dispatcher.running():
        await bench.all_are(CopyState.DELIVERED, CopyState.HELD)
    assert await bench.states() == {"delivered": many - many // 100, "held": many // 100}
    assert bench.archive.got == list(range(1, many + 1))
    assert bench.archive.attempts == 1


async def test_memory_does_not_grow_with_what_waits(bench: Bench) -> None:
    many = count(push=3_000, nightly=100_000)
    await bench.queue(1)

    def multiply(connection: sqlite3.Connection) -> None:
        numbers = "WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
        connection.execute(
            f"{numbers} INSERT INTO objects SELECT CAST(printf('%016d', i) AS BLOB), bundle_id, position, length,"
            " digest, kind, calling, called, association, sop_class, transfer_syntax, instance_mac, study_id, received,"
            " payload FROM n, objects",
            (many,),
        )
        connection.execute(
            f"{numbers} INSERT INTO copies (object_id, bundle_id, destination, calling, kind, state, since)"
            " SELECT CAST(printf('%016d', i) AS BLOB), bundle_id, destination, calling, kind, state, since"
            " FROM n, copies",
            (many,),
        )

    await bench.ledger.run(multiply)
    bench.objects.numbers = defaultdict(int, bench.objects.numbers)
    tracemalloc.start()
    try:
        async with bench.dispatcher.running():
            await until(lambda: len(bench.archive.got) >= 600, 60)
            before = tracemalloc.get_traced_memory()[0]
            await until(lambda: len(bench.archive.got) >= 1_800, 60)
            after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 2 * 1024 * 1024
    assert peak < 8 * 1024 * 1024
