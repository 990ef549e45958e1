"""Services around queued delivery, with real archives: commitment behind its objects, and C-MOVE that goes live."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import build_role, evt
from pynetdicom.sop_class import (
    CTImageStorage,
    MRImageStorage,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelMove,
)
from tests.interop import dcmtk, queued
from tests.interop.pynet import accepting, association, of_north
from tests.interop.queued import all_are, counts, queue_for, storescu
from tests.interop.sites import CT, MR, caller, new_title, publish

from isthmus.testing.network import Network, until

pytestmark = [pytest.mark.interop, pytest.mark.asyncio(loop_scope="module")]

_WELL_KNOWN = "1.2.840.10008.1.20.1.1"  # Storage Commitment Push Model SOP Instance


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def network(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Network]:
    async with queued.sites(tmp_path_factory.mktemp("network")) as network:
        yield network


def wanted(transaction: str, images: list[Dataset]) -> Dataset:
    """Return the action information of a request to commit to images (PS3.4 table J.3-1)."""
    asked = Dataset()
    asked.TransactionUID = transaction
    asked.ReferencedSOPSequence = []
    for image in images:
        reference = Dataset()
        reference.ReferencedSOPClassUID, reference.ReferencedSOPInstanceUID = image.SOPClassUID, image.SOPInstanceUID
        asked.ReferencedSOPSequence.append(reference)
    return asked


async def test_a_commitment_request_waits_behind_its_objects_while_the_archive_is_off_and_is_reported_back(
    network: Network,
) -> None:
    """One image arrives before the archive goes off; the other, and the request for both, are queued while it is."""
    happened: list[str] = []
    asked: list[Dataset] = []
    reported: list[Dataset] = []
    images = [dcmread(CT), dcmread(MR)]
    transaction = generate_uid()

    def store(event: Any) -> int:
        happened.append(event.request.AffectedSOPInstanceUID)
        return 0x0000

    def action(event: Any) -> tuple[int, None]:
        happened.append("asked")
        asked.append(event.action_information)
        return 0x0000, None

    def report(event: Any) -> tuple[int, None]:
        reported.append(event.event_information)
        return 0x0000, None

    kinds = [CTImageStorage, MRImageStorage, StorageCommitmentPushModel]
    archive_handlers = [(evt.EVT_C_STORE, store), (evt.EVT_N_ACTION, action)]
    north, south = network.sites["north"], network.sites["south"]
    async with accepting(
        [StorageCommitmentPushModel], [(evt.EVT_N_EVENT_REPORT, report)], scu_role=False, scp_role=True
    ) as scanner_port:
        scanner = await caller(network, "CT", port=scanner_port)
        async with accepting(kinds, archive_handlers) as archive_port:
            archive = await queue_for(network, new_title("PACS"), archive_port, ["store", "commitment"])
            contexts = [(kind, ExplicitVRLittleEndian) for kind in kinds]
            first = await of_north(network, scanner, archive, contexts, lambda one: one.send_c_store(images[0]).Status)
            assert first == 0
            await all_are(north, archive, delivered=1)

        def store_and_ask(one: Any) -> list[int]:
            status = one.send_c_store(images[1]).Status
            answer, _ = one.send_n_action(wanted(transaction, images), 1, StorageCommitmentPushModel, _WELL_KNOWN)
            return [status, answer.Status]

        assert await of_north(network, scanner, archive, contexts, store_and_ask) == [0, 0]
        await until(lambda: stopped(south, archive), queued.PATIENCE)
        assert happened == [images[0].SOPInstanceUID]
        async with accepting(kinds, archive_handlers, port=archive_port):
            await all_are(north, archive, delivered=3)
            assert happened == [*(image.SOPInstanceUID for image in images), "asked"]

            def call_back() -> int:
                roles = [build_role(StorageCommitmentPushModel, scp_role=True)]
                with association(south.port, archive, scanner, [StorageCommitmentPushModel], ext_neg=roles) as one:
                    answer, _ = one.send_n_event_report(asked[0], 1, StorageCommitmentPushModel, _WELL_KNOWN)
                    return int(answer.Status)

            assert await asyncio.to_thread(call_back) == 0
    assert [one.TransactionUID for one in (*asked, *reported)] == [transaction] * 2
    references = reported[0].ReferencedSOPSequence
    assert [one.ReferencedSOPInstanceUID for one in references] == [image.SOPInstanceUID for image in images]


async def stopped(site: Any, title: str) -> bool:
    """Return whether a site has seen that its device is off, with objects that wait for it."""
    return any("does not answer" in row["reason"] and row["waiting"] for row in await queued.rows(site, title))


async def test_what_an_archive_moves_to_a_queued_device_goes_live_so_that_its_counts_are_true(
    network: Network, tmp_path: Path
) -> None:
    """dcmqrscp of north sends to a station of south, queued for it, that takes the CT image and refuses the MR one."""
    study = generate_uid()
    paths = []
    for path in (CT, MR):
        image = dcmread(path)
        image.StudyInstanceUID, image.PatientID, image.StudyID = study, "QUEUED", "1"
        image.save_as(tmp_path / path.name)
        paths.append(tmp_path / path.name)
    got: list[str] = []

    def store(event: Any) -> int:
        got.append(event.request.AffectedSOPClassUID)
        return 0x0000 if event.request.AffectedSOPClassUID == CTImageStorage else 0xA900

    north, south = network.sites["north"], network.sites["south"]
    archive = new_title("QR")
    async with accepting([CTImageStorage, MRImageStorage], [(evt.EVT_C_STORE, store)]) as station_port:
        station = await queue_for(network, new_title("STATION"), station_port, ["store"])
        known = {station: ("127.0.0.1", north.port)}
        async with dcmtk.dcmqrscp(tmp_path / "archive", archive, known) as archive_port:
            await publish(network, archive, archive_port, ["retrieve"], owner="north", to="south")
            filled = await storescu(archive_port, station, archive, paths)
            assert filled.code == 0, filled.output

            def move(one: Any) -> Any:
                identifier = Dataset()
                identifier.QueryRetrieveLevel, identifier.StudyInstanceUID = "STUDY", study
                answers = one.send_c_move(identifier, station, StudyRootQueryRetrieveInformationModelMove)
                return [status for status, _ in answers][-1]

            def whole() -> Any:
                models = [StudyRootQueryRetrieveInformationModelMove]
                with association(south.port, station, archive, models) as one:
                    return move(one)

            last = await asyncio.to_thread(whole)
            assert sorted(got) == [CTImageStorage, MRImageStorage]
            assert (last.NumberOfCompletedSuboperations, last.NumberOfFailedSuboperations) == (1, 1), last
            assert await counts(north, station) == {}
            ran = await storescu(north.port, archive, station, [CT])  # what it sends unasked is queued as ever
            assert ran.code == 0, ran.output
            await all_are(north, station, delivered=1)
            assert len(got) == 3
