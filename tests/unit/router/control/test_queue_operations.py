"""The queue as an operator sees it and acts on it, over a real spool and ledger."""

import os
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pydicom
import pytest
from tests.unit.router.queued.study_objects import data_set

from isthmus.contract.letters import ObjectKind, Receipt, ReceiptState
from isthmus.dicom import uids
from isthmus.envelope.records import ObjectMeta
from isthmus.errors import OperatorError
from isthmus.kit.names import AETitle, SiteName
from isthmus.router.control.queue_operations import Bells, QueueOperations
from isthmus.router.queued.ledger import studies, views
from isthmus.router.queued.ledger.database import Ledger
from isthmus.router.queued.ledger.records import COMMENT_LABEL
from isthmus.router.queued.ledger.studies import KEPT_SECONDS, StudyBook
from isthmus.router.queued.spool.bundles import Destination, Route, Spool
from isthmus.router.queued.spool.room import Room
from isthmus.router.queued.studies import StudySealer

CT = "1.2.840.10008.5.1.4.1.1.2"
SECRET = bytes(range(32))


@dataclass
class Queue:
    """A spool with what an operator reaches it by."""

    home: Any
    spool: Spool
    operations: QueueOperations
    sealer: StudySealer
    woken: list[str] = field(default_factory=list)
    posted: list[bool] = field(default_factory=list)

    async def store(
        self, study: int, count: int, *titles: str, site: str | None = None, raw: bytes | None = None
    ) -> None:
        """Queue `count` objects of a study, for devices here or of `site`."""
        places = tuple(Destination(AETitle(title), None if site is None else SiteName(site)) for title in titles)
        bundle = await self.spool.take(Route(AETitle("CT1"), AETitle(titles[0]), places))
        for number in range(count):
            meta = ObjectMeta(
                kind=ObjectKind.STORE,
                calling="CT1",
                called=titles[0],
                association=bytes(16),
                command=b"",
                sop_class=CT,
                sop_instance=f"2.25.9{study}{number}",
                transfer_syntax=uids.EXPLICIT_VR_LITTLE_ENDIAN,
                received=self.home.clock.now(),
            )
            writer = bundle.begin(meta)
            writer.write(raw or data_set(study))
            await writer.finish()
        self.spool.give_back(bundle)
        await bundle.settled()
        await self.spool.close_idle()

    async def sql(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        def work(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
            return connection.execute(statement, values).fetchall()

        return await self.spool.ledger.run(work)

    async def states(self) -> list[str]:
        return [row[0] for row in await self.sql("SELECT state FROM copies ORDER BY copy_id")]

    async def only(self) -> dict[str, Any]:
        answer = await self.operations.queue_list()
        (row,) = answer["rows"]
        return dict(row)


@pytest.fixture
async def queue(home: Any, tmp_path: Path) -> AsyncIterator[Queue]:
    sealer = StudySealer(SECRET)
    ledger = Ledger.open(tmp_path / "ledger.db")
    room = Room(tmp_path, home.clock, floor=0)
    spool = Spool(tmp_path / "spool", SECRET, ledger, home.clock, room, os.urandom, study=StudyBook(sealer))
    woken: list[str] = []
    posted: list[bool] = []
    bells = Bells(deliver=woken.append, post=lambda: posted.append(True))
    operations = QueueOperations(spool, sealer, home.directory, home.audit, home.clock, bells)
    async with spool.running():
        yield Queue(home, spool, operations, sealer, woken, posted)
    await ledger.close()


async def test_a_study_is_listed_with_how_far_it_is_and_nothing_of_the_patient(queue: Queue) -> None:
    await queue.store(1, 5, "PACS")
    await queue.sql("UPDATE copies SET state = 'delivered' WHERE copy_id <= 2")
    row = await queue.only()
    assert (row["description"], row["sender"], row["destination"]) == ("Head, synthetic", "CT1", "PACS")
    assert (row["delivered"], row["total"], row["waiting"]) == (2, 5, 3)
    assert "Doe" not in str(row)
    assert "P1" not in row.values()


async def test_studies_come_in_their_order_however_few_one_query_takes(
    queue: Queue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "_TOGETHER", 2)
    for study in range(1, 6):
        await queue.store(study, study, "PACS", "AI")
    await queue.store(9, 1, "PACS", raw=b"nothing that can be read")
    ids = [row[0] for row in await queue.sql("SELECT study_id FROM studies ORDER BY study_id DESC")]
    lines = await queue.spool.ledger.read(lambda connection: views.lines(connection, [*ids, None], 0.0))
    assert [(line.study_id, line.destination, line.total) for line in lines] == [
        *((study_id, title, 5 - place) for place, study_id in enumerate(ids) for title in ("AI", "PACS")),
        (None, "PACS", 1),
    ]


async def test_each_destination_of_a_group_has_its_own_row(queue: Queue) -> None:
    await queue.store(1, 2, "PACS", "AI")
    rows = (await queue.operations.queue_list())["rows"]
    assert {(row["destination"], row["total"]) for row in rows} == {("PACS", 2), ("AI", 2)}


async def test_what_was_delivered_is_listed_when_asked_for(queue: Queue) -> None:
    await queue.store(1, 2, "PACS")
    await queue.sql("UPDATE copies SET state = 'delivered'")
    assert (await queue.operations.queue_list())["rows"] == []
    assert len((await queue.operations.queue_list(done=True))["rows"]) == 1


async def test_objects_without_a_study_are_listed_together_and_can_be_acted_on(queue: Queue) -> None:
    await queue.store(1, 3, "PACS", raw=b"no data set")
    assert (await queue.only())["study"] == "other"
    assert (await queue.operations.queue_hold("other"))["objects"] == 3


async def test_a_study_is_found_by_accession_patient_and_name_and_each_look_is_in_the_audit(queue: Queue) -> None:
    await queue.store(1, 1, "PACS")
    await queue.store(2, 1, "PACS")
    (row,) = await queue.operations.queue_find(accession="a2", patient_id="P2", name="doe")
    assert (row["patient_name"], row["study_uid"]) == ("Doe^Jané", "2.25.2")
    assert len(await queue.operations.queue_find(name="Jané Doe")) == 2
    assert await queue.operations.queue_find(accession="A2", patient_id="P1") == []
    await queue.operations.queue_list()
    await queue.operations.queue_list(again=True)
    looks = [row for row in queue.home.audit.rows(10) if row.what.value == "looked"]
    assert [row.services for row in looks] == ["queue_list", "queue_find", "queue_find", "queue_find"]
    assert looks[-1].outcome == row["study"]
    assert "Doe" not in str(looks)
    assert "A2" not in str(looks)
    with pytest.raises(OperatorError, match="nothing to find"):
        await queue.operations.queue_find()


async def test_the_ledger_file_says_nothing_of_the_patient(queue: Queue) -> None:
    await queue.store(1, 3, "PACS")
    content = b"".join(path.read_bytes() for path in queue.spool.ledger.path.parent.glob("ledger.db*"))
    assert b"CT1" in content
    for secret in ("Doe", "Jané", "Head, synthetic", "2.25.1", "20260102"):
        assert secret.encode() not in content


async def test_why_and_what_the_device_said_is_shown(queue: Queue) -> None:
    await queue.store(1, 3, "PACS")
    comment = queue.spool.seal_local(COMMENT_LABEL, b"Patient Doe unknown")
    await queue.sql(
        "UPDATE copies SET state = 'held', status = 49152, reason = 'refused', comment = ? WHERE copy_id < 3", comment
    )
    row = await queue.only()
    assert (row["held"], row["reason"]) == (2, "refused (status C000H)")
    shown = await queue.operations.queue_show(row["study"][:5])
    assert shown["held"][0]["comment"] == "Patient Doe unknown"
    assert (shown["held"][0]["count"], shown["held"][0]["status"]) == (2, "C000H")
    assert shown["rows"][0]["patient_name"] == "Doe^Jané"


async def test_an_outage_of_the_device_is_the_reason(queue: Queue) -> None:
    await queue.store(1, 1, "PACS")
    await queue.sql("INSERT INTO destinations VALUES ('PACS', 1, 1000, 2000, 7, 'no connection')")
    row = await queue.only()
    assert (row["reason"], row["since"]) == ("PACS does not answer: no connection", 1000)


async def test_what_waits_for_a_site_that_is_not_accepted_says_so(queue: Queue) -> None:
    await queue.store(1, 1, "FAR", site="south")
    assert (await queue.only())["reason"] == "site south is not accepted any more"


async def test_an_end_is_expected_from_how_fast_it_went_lately(queue: Queue) -> None:
    await queue.store(1, 30, "PACS")
    now = queue.home.clock.now()
    await queue.sql("UPDATE copies SET state = 'delivered', since = ? - copy_id WHERE copy_id <= 10", now)
    assert (await queue.only())["expected"] == pytest.approx(now + 20, abs=1)


async def test_nobody_says_when_nothing_went_lately(queue: Queue) -> None:
    await queue.store(1, 30, "PACS")
    await queue.sql("UPDATE copies SET state = 'delivered', since = 0 WHERE copy_id <= 10")
    assert (await queue.only())["expected"] is None


async def test_held_by_hand_nothing_goes_until_it_is_released(queue: Queue) -> None:
    await queue.store(1, 3, "PACS")
    study = (await queue.only())["study"]
    assert (await queue.operations.queue_hold(study))["objects"] == 3
    assert await queue.states() == ["held"] * 3
    assert (await queue.operations.queue_release(study))["objects"] == 3
    assert await queue.states() == ["waiting"] * 3
    assert queue.woken[-1] == "PACS"


async def test_release_lets_nothing_go_that_a_device_refused(queue: Queue) -> None:
    await queue.store(1, 1, "PACS")
    await queue.sql("UPDATE copies SET state = 'held', reason = 'refused'")
    study = (await queue.only())["study"]
    assert (await queue.operations.queue_release(study))["objects"] == 0
    assert (await queue.operations.queue_retry(study))["objects"] == 1
    assert await queue.states() == ["waiting"]


async def test_an_action_is_for_one_destination_if_so_asked(queue: Queue) -> None:
    await queue.store(1, 2, "PACS", "AI")
    study = (await queue.operations.queue_list())["rows"][0]["study"]
    assert (await queue.operations.queue_hold(study, "AI"))["objects"] == 2
    held = await queue.sql("SELECT DISTINCT destination FROM copies WHERE state = 'held'")
    assert held == [("AI",)]


async def test_first_puts_a_study_before_all_others_and_the_last_one_put_first_wins(queue: Queue) -> None:
    await queue.store(1, 1, "PACS")
    await queue.store(2, 1, "PACS")
    for study in (1, 2):
        (row,) = await queue.operations.queue_find(accession=f"A{study}")
        await queue.operations.queue_first(row["study"])
    order = await queue.sql("SELECT copy_id FROM copies ORDER BY priority DESC, copy_id")
    assert order == [(2,), (1,)]


async def test_cancelled_objects_are_gone_with_their_bundle(queue: Queue) -> None:
    await queue.store(1, 3, "PACS")
    study = (await queue.only())["study"]
    assert (await queue.operations.queue_cancel(study))["objects"] == 3
    assert list(queue.spool.folder.iterdir()) == []
    assert (await queue.operations.queue_list())["rows"] == []


async def test_what_is_on_its_way_to_another_site_is_too_late_to_stop(queue: Queue) -> None:
    await queue.store(1, 3, "FAR", site="south")
    await queue.sql("UPDATE copies SET state = 'posted', envelope_id = x'01', envelope_index = 0 WHERE copy_id = 1")
    await queue.sql("UPDATE copies SET envelope_id = x'02', envelope_index = 1 WHERE copy_id = 2")
    study = (await queue.only())["study"]
    for act in (queue.operations.queue_hold, queue.operations.queue_cancel):
        answer = await act(study)
        assert answer["too_late"] == 2
    assert await queue.states() == ["posted", "waiting", "cancelled"]


async def test_what_another_site_holds_is_sent_there_again_in_a_new_envelope(queue: Queue) -> None:
    await queue.store(1, 1, "FAR", site="south")
    await queue.sql("UPDATE copies SET state = 'held', envelope_id = x'01', envelope_index = 0, tries = 5")
    await queue.operations.queue_retry((await queue.only())["study"])
    assert await queue.sql("SELECT state, envelope_id, envelope_index, tries FROM copies") == [
        ("waiting", None, None, 0)
    ]
    assert queue.posted == [True]


async def test_what_the_router_of_another_site_lost_is_sent_there_once_more(queue: Queue) -> None:
    await queue.store(1, 3, "FAR", site="south")
    await queue.sql("UPDATE copies SET state = 'posted', envelope_id = x'01', envelope_index = 0 WHERE copy_id = 1")
    await queue.sql("UPDATE copies SET state = 'received', envelope_id = x'01', envelope_index = 1 WHERE copy_id = 2")
    await queue.sql("UPDATE copies SET state = 'delivered' WHERE copy_id = 3")
    study = (await queue.only())["study"]
    assert (await queue.operations.queue_retry(study))["objects"] == 0
    assert (await queue.operations.queue_retry(study, lost_there=True))["objects"] == 2
    assert await queue.sql("SELECT state, envelope_id FROM copies") == [
        ("waiting", None),
        ("waiting", None),
        ("delivered", None),
    ]


async def test_what_a_device_may_have_twice_is_counted(queue: Queue) -> None:
    await queue.store(1, 3, "PACS")
    await queue.sql("UPDATE copies SET state = 'delivered', flagged = copy_id < 3")
    (row,) = await queue.operations.queue_find(accession="A1")
    assert (await queue.operations.queue_show(row["study"]))["repeats"] == {"PACS": 2}


async def test_the_sender_is_told_what_a_person_does_with_its_objects_here(queue: Queue) -> None:
    await queue.store(1, 1, "PACS")
    await queue.sql("UPDATE bundles SET direction = 'in', far_router = 'ROUTER'")
    await queue.sql("UPDATE copies SET envelope_id = ?, envelope_index = 0", bytes(16))
    study = (await queue.only())["study"]
    await queue.operations.queue_hold(study)
    await queue.operations.queue_release(study)
    await queue.operations.queue_cancel(study)
    rows = await queue.sql("SELECT receipt FROM receipts_due ORDER BY receipt_id")
    receipts = [Receipt.parse(row[0].encode()) for row in rows]
    assert [receipt.state for receipt in receipts] == [ReceiptState.HELD, ReceiptState.RECEIVED, ReceiptState.HELD]
    assert "gave it up" in receipts[-1].comment
    assert len(queue.posted) == 3


@pytest.mark.parametrize("text", ["", "12", "nothing!", "ffffffff", "' OR 1=1"])
async def test_a_name_of_no_study_is_refused(queue: Queue, text: str) -> None:
    await queue.store(1, 1, "PACS")
    with pytest.raises(OperatorError):
        await queue.operations.queue_cancel(text)
    assert await queue.states() == ["waiting"]


async def test_what_is_exported_is_dicom_as_it_came_under_names_that_tell_nothing(queue: Queue, tmp_path: Path) -> None:
    await queue.store(1, 3, "PACS")
    await queue.sql("UPDATE copies SET state = 'delivered' WHERE copy_id = 1")
    study = (await queue.only())["study"]
    answer = await queue.operations.queue_export(study, str(tmp_path / "out"))
    assert (answer["written"], answer["number"]) == (2, 3)
    more = await queue.operations.queue_export(
        study, str(tmp_path / "out"), after=answer["after"], number=answer["number"]
    )
    assert more["after"] is None
    files = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in files] == ["000001.dcm", "000002.dcm"]
    read = pydicom.dcmread(files[0])
    assert read.file_meta.MediaStorageSOPInstanceUID == "2.25.911"
    assert read.file_meta.TransferSyntaxUID == uids.EXPLICIT_VR_LITTLE_ENDIAN
    assert read.PatientName == "Doe^Jané"
    assert files[0].read_bytes().endswith(data_set(1))
    assert files[0].stat().st_mode & 0o077 == 0


async def test_an_export_replaces_no_file(queue: Queue, tmp_path: Path) -> None:
    await queue.store(1, 1, "PACS")
    out = tmp_path / "out"
    out.mkdir()
    (out / "000001.dcm").write_bytes(b"somebody's")
    with pytest.raises(OperatorError, match="cannot write"):
        await queue.operations.queue_export((await queue.only())["study"], str(out))
    assert {path.name: path.read_bytes() for path in out.iterdir()} == {"000001.dcm": b"somebody's"}


async def test_a_study_is_erased_seven_days_after_its_last_delivery_and_not_before(queue: Queue) -> None:
    await queue.store(1, 2, "PACS")
    await queue.store(2, 1, "PACS")
    await queue.sql("UPDATE copies SET state = 'delivered' WHERE copy_id < 3")
    now = queue.home.clock.now()
    run = queue.spool.ledger.run
    assert await run(lambda connection: studies.settle(connection, now, most=10)) == 1
    assert await run(lambda connection: studies.erase(connection, now + KEPT_SECONDS - 1, most=10)) == 0
    assert len(await queue.operations.queue_find(accession="A1")) == 1
    assert await run(lambda connection: studies.erase(connection, now + KEPT_SECONDS, most=10)) == 1
    assert await queue.operations.queue_find(accession="A1") == []
    assert await queue.sql("SELECT COUNT(*) FROM studies") == [(1,)]
    assert await queue.sql("SELECT COUNT(*) FROM objects WHERE study_id IS NULL") == [(2,)]


async def test_a_study_of_which_more_comes_is_not_erased(queue: Queue) -> None:
    await queue.store(1, 1, "PACS")
    await queue.sql("UPDATE copies SET state = 'delivered'")
    now = queue.home.clock.now()
    await queue.spool.ledger.run(lambda connection: studies.settle(connection, now, most=10))
    await queue.store(1, 1, "PACS")
    await queue.spool.ledger.run(lambda connection: studies.erase(connection, now + KEPT_SECONDS, most=10))
    assert len(await queue.operations.queue_find(accession="A1")) == 1


async def test_rows_of_bundles_that_are_gone_are_forgotten_when_they_are_old(queue: Queue) -> None:
    for study in (1, 2, 3):
        await queue.store(study, 2, "PACS")
    ids = [row[0] for row in await queue.sql("SELECT bundle_id FROM bundles ORDER BY bundle_id")]
    await queue.sql("UPDATE copies SET state = 'delivered' WHERE bundle_id < ?", ids[2])
    for bundle_id in ids:
        await queue.spool.release(bundle_id)
    now = queue.home.clock.now()
    run = queue.spool.ledger.run
    assert await run(lambda connection: studies.forget(connection, now - 1, most=10)) == 0
    assert await run(lambda connection: studies.forget(connection, now + 1, most=10)) == 2
    assert await queue.sql("SELECT COUNT(*) FROM copies WHERE state = 'delivered'") == [(0,)]
