"""Services and negotiations beyond DCMTK's tools, between pynetdicom's applications across the relay."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import build_role, evt
from pynetdicom.pdu_primitives import (
    AsynchronousOperationsWindowNegotiation,
    SOPClassCommonExtendedNegotiation,
    SOPClassExtendedNegotiation,
    UserIdentityNegotiation,
)
from pynetdicom.service_class import StorageServiceClass
from pynetdicom.sop_class import (
    CTImageStorage,
    ModalityPerformedProcedureStep,
    MRImageStorage,
    StorageCommitmentPushModel,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    Verification,
    register_uid,
)
from structlog.testing import capture_logs
from tests.interop.pynet import Heard, accepting, association, of_north
from tests.interop.sites import CT, MR, caller, new_title, publish

from isthmus.testing.network import Network, until

pytestmark = [pytest.mark.interop, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def network(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Network]:
    async with Network.running(tmp_path_factory.mktemp("network")) as network:
        yield network


async def test_mpps_is_created_and_set(network: Network) -> None:
    got: list[tuple[str, str, str]] = []

    def create(event: Any) -> tuple[int, Dataset]:
        step = event.attribute_list
        got.append(("create", event.request.AffectedSOPInstanceUID, step.PerformedProcedureStepStatus))
        return 0x0000, step

    def change(event: Any) -> tuple[int, Dataset]:
        step = event.modification_list
        got.append(("set", event.request.RequestedSOPInstanceUID, step.PerformedProcedureStepStatus))
        return 0x0000, step

    uid = generate_uid()

    def work(one: Any) -> list[int]:
        step = Dataset()
        step.PerformedProcedureStepStatus = "IN PROGRESS"
        created, _ = one.send_n_create(step, ModalityPerformedProcedureStep, uid)
        step.PerformedProcedureStepStatus = "COMPLETED"
        changed, _ = one.send_n_set(step, ModalityPerformedProcedureStep, uid)
        return [created.Status, changed.Status]

    handlers = [(evt.EVT_N_CREATE, create), (evt.EVT_N_SET, change)]
    async with accepting([ModalityPerformedProcedureStep], handlers) as port:
        title, who = await publish(network, new_title("RIS"), port, ["mpps"]), await caller(network, "CT")
        assert await of_north(network, who, title, [ModalityPerformedProcedureStep], work) == [0, 0]
    assert got == [("create", uid, "IN PROGRESS"), ("set", uid, "COMPLETED")]


async def test_storage_commitment_is_reported_on_a_reverse_association(network: Network) -> None:
    """adapter#20, dcm4che#663: the report comes on a new association whose requestor is the SCP, by role selection."""
    reported: list[Dataset] = []
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    transaction = generate_uid()

    def report(event: Any) -> tuple[int, None]:
        reported.append(event.event_information)
        return 0x0000, None

    def action(event: Any) -> tuple[int, None]:
        assert event.action_information.TransactionUID == transaction
        loop.call_soon_threadsafe(asked.set)
        return 0x0000, None

    reports = [(evt.EVT_N_EVENT_REPORT, report)]
    async with (
        accepting([StorageCommitmentPushModel], reports, scu_role=False, scp_role=True) as scanner_port,
        accepting([StorageCommitmentPushModel], [(evt.EVT_N_ACTION, action)]) as archive_port,
    ):
        scanner = await caller(network, "CT", port=scanner_port)
        archive = await publish(network, new_title("PACS"), archive_port, ["commitment"])

        def ask(one: Any) -> int:
            wanted = Dataset()
            wanted.TransactionUID = transaction
            wanted.ReferencedSOPSequence = []
            status, _ = one.send_n_action(wanted, 1, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1")
            return int(status.Status)

        assert await of_north(network, scanner, archive, [StorageCommitmentPushModel], ask) == 0
        await asked.wait()

        def call_back() -> int:
            roles = [build_role(StorageCommitmentPushModel, scp_role=True)]
            south = network.sites["south"].port
            with association(south, archive, scanner, [StorageCommitmentPushModel], ext_neg=roles) as one:
                information = Dataset()
                information.TransactionUID = transaction
                status, _ = one.send_n_event_report(
                    information, 1, StorageCommitmentPushModel, "1.2.840.10008.1.20.1.1"
                )
                return int(status.Status)

        assert await asyncio.to_thread(call_back) == 0
    (one,) = reported
    assert one.TransactionUID == transaction


async def test_a_c_get_brings_images_by_role_selection_under_a_grant_of_retrieve_alone(network: Network) -> None:
    """pynetdicom#810: stores travel from the acceptor to the requestor on the same association."""
    got: list[str] = []

    def get(event: Any) -> Iterator[Any]:
        yield 2
        for file in (CT, MR):
            yield 0xFF00, dcmread(file)

    def store(event: Any) -> int:
        got.append(event.request.AffectedSOPInstanceUID)
        return 0x0000

    def work(one: Any) -> list[tuple[int, int | None]]:
        wanted = Dataset()
        wanted.QueryRetrieveLevel = "PATIENT"
        answers = [status for status, _ in one.send_c_get(wanted, StudyRootQueryRetrieveInformationModelGet)]
        return [(answer.Status, answer.get("NumberOfCompletedSuboperations")) for answer in answers]

    syntaxes = [CTImageStorage, MRImageStorage]
    roles = [build_role(syntax, scp_role=True) for syntax in syntaxes]
    contexts = [StudyRootQueryRetrieveInformationModelGet, *((syntax, ExplicitVRLittleEndian) for syntax in syntaxes)]
    async with accepting(
        [StudyRootQueryRetrieveInformationModelGet, *syntaxes], [(evt.EVT_C_GET, get)], scu_role=True, scp_role=True
    ) as port:
        title, who = await publish(network, new_title("PACS"), port, ["retrieve"]), await caller(network)
        answers = await of_north(
            network, who, title, contexts, work, ext_neg=roles, handlers=[(evt.EVT_C_STORE, store)]
        )
    assert answers == [(0xFF00, 1), (0xFF00, 2), (0x0000, 2)]
    assert got == [dcmread(file).SOPInstanceUID for file in (CT, MR)]


async def test_the_async_window_passes_both_ways(network: Network) -> None:
    """fo-dicom#356, pynetdicom#706: pynetdicom sees what was proposed, and answers 1/1 whatever its handler says."""
    proposed: list[tuple[int, int]] = []

    def window(event: Any) -> tuple[int, int]:
        proposed.append((event.nr_invoked, event.nr_performed))
        return 3, 2

    item = AsynchronousOperationsWindowNegotiation()
    item.maximum_number_operations_invoked, item.maximum_number_operations_performed = 7, 5

    async with accepting([Verification], [(evt.EVT_ASYNC_OPS, window)]) as port:
        title, who = await publish(network, new_title("PACS"), port), await caller(network)
        heard = Heard()
        await of_north(
            network, who, title, [Verification], lambda one: one.send_c_echo(), ext_neg=[item],
            handlers=[(evt.EVT_PDU_RECV, heard)],
        )  # fmt: skip
    assert proposed == [(7, 5)]
    answer = heard.pdus[0].user_information.async_ops_window
    assert (answer.maximum_number_operations_invoked, answer.maximum_number_operations_performed) == (1, 1)


@pytest.mark.parametrize("kind", [2, 3, 4, 5], ids=["passcode", "Kerberos", "SAML", "JWT"])
async def test_a_user_identity_and_its_answer_pass_and_are_never_logged(network: Network, kind: int) -> None:
    """fo-dicom#1110, dcm4chee-arc-light#3237, dicom-rs#402: sub-items 58H and 59H."""
    seen: list[tuple[int, bytes, bytes]] = []

    def who_is_it(event: Any) -> tuple[bool, bytes]:
        seen.append((event.user_id_type, event.primary_field, event.secondary_field))
        return True, b"TICKET-OF-THE-ARCHIVE"

    item = UserIdentityNegotiation()
    passcode = b"CANARY-PASSCODE" if kind == 2 else b""
    item.user_identity_type, item.primary_field, item.secondary_field = kind, b"CANARY-USER", passcode
    item.positive_response_requested = True
    async with accepting([Verification], [(evt.EVT_USER_ID, who_is_it)]) as port:
        title, who = await publish(network, new_title("PACS"), port), await caller(network)
        heard = Heard()
        with capture_logs() as logs:
            await of_north(
                network, who, title, [Verification], lambda _: None, ext_neg=[item],
                handlers=[(evt.EVT_PDU_RECV, heard)],
            )  # fmt: skip
    assert [(one, first, second or b"") for one, first, second in seen] == [(kind, b"CANARY-USER", passcode)]
    answer = heard.pdus[0].user_information.user_identity
    if kind == 2:  # pynetdicom answers the others only
        assert answer is None
    else:
        assert answer.server_response == b"TICKET-OF-THE-ARCHIVE"
    assert logs
    assert not any(word in str(logs) for word in ("CANARY", "TICKET"))


async def test_a_user_identity_that_the_archive_refuses_is_the_archives_own_rejection(network: Network) -> None:
    item = UserIdentityNegotiation()
    item.user_identity_type, item.primary_field = 1, b"NOBODY"
    item.positive_response_requested = True
    heard = Heard()
    async with accepting([Verification], [(evt.EVT_USER_ID, lambda _: (False, None))]) as port:
        title, who = await publish(network, new_title("PACS"), port), await caller(network)
        with pytest.raises(AssertionError):
            await of_north(
                network, who, title, [Verification], lambda _: None, ext_neg=[item],
                handlers=[(evt.EVT_PDU_RECV, heard)],
            )  # fmt: skip
    (answer,) = heard.pdus
    assert heard.kinds == ["A_ASSOCIATE_RJ"]
    assert (answer.result, answer.source, answer.reason_diagnostic) == (2, 2, 1)  # pynetdicom's answer to it


def extended(uid: str, information: bytes) -> SOPClassExtendedNegotiation:
    item = SOPClassExtendedNegotiation()
    item.sop_class_uid, item.service_class_application_information = uid, information
    return item


@pytest.mark.parametrize("answers", [True, False], ids=["answered", "left out"])
async def test_extended_negotiation_passes_and_is_left_out_if_the_far_side_leaves_it_out(
    network: Network, answers: bool
) -> None:
    """fo-dicom#900 (wrongly echoed as accepted)."""
    seen: list[dict[str, bytes]] = []
    uid = StudyRootQueryRetrieveInformationModelFind

    def negotiate(event: Any) -> dict[str, bytes]:
        seen.append(dict(event.app_info))
        return {uid: b"\x01\x00\x01"} if answers else {}

    heard = Heard()
    async with accepting([uid], [(evt.EVT_SOP_EXTENDED, negotiate)]) as port:
        title, who = await publish(network, new_title("PACS"), port), await caller(network)
        await of_north(
            network, who, title, [uid], lambda _: None, ext_neg=[extended(uid, b"\x01\x01\x01\x01\x00")],
            handlers=[(evt.EVT_PDU_RECV, heard)],
        )  # fmt: skip
    assert seen == [{uid: b"\x01\x01\x01\x01\x00"}]
    items = heard.pdus[0].user_information.ext_neg
    assert [item.service_class_application_information for item in items] == ([b"\x01\x00\x01"] if answers else [])


async def test_common_extended_negotiation_passes(network: Network) -> None:
    """fo-dicom#740; other proxies drop it."""
    seen: list[Any] = []
    item = SOPClassCommonExtendedNegotiation()
    item.sop_class_uid, item.service_class_uid = CTImageStorage, "1.2.840.10008.4.2"
    item.related_general_sop_class_identification = [MRImageStorage]

    def negotiate(event: Any) -> dict[str, Any]:
        seen.append(event.items)
        return {}

    async with accepting([CTImageStorage], [(evt.EVT_SOP_COMMON, negotiate)]) as port:
        title, who = await publish(network, new_title("PACS"), port), await caller(network)
        await of_north(network, who, title, [CTImageStorage], lambda _: None, ext_neg=[item])
    (items,) = seen
    assert items[CTImageStorage].related_general_sop_class_identification == [MRImageStorage]


async def test_a_private_sop_class_passes_under_a_grant_of_any(network: Network) -> None:
    """fo-dicom#355, #2017."""
    private = "1.2.826.0.1.3680043.10.99.7"
    register_uid(private, "IsthmusPrivateStorage", StorageServiceClass)
    got: list[tuple[str, str]] = []

    def store(event: Any) -> int:
        got.append((event.context.abstract_syntax, event.request.AffectedSOPInstanceUID))
        return 0x0000

    image = dcmread(CT)
    image.SOPClassUID = private
    async with accepting([private], [(evt.EVT_C_STORE, store)]) as port:
        title, who = await publish(network, new_title("PACS"), port, ["any"]), await caller(network)
        context = (private, ExplicitVRLittleEndian)
        status = await of_north(network, who, title, [context], lambda one: one.send_c_store(image))
    assert status.Status == 0
    assert got == [(private, image.SOPInstanceUID)]


async def test_a_cancel_reaches_the_archive_while_its_answers_stream(network: Network) -> None:
    """fo-dicom#624, pynetdicom#52, #553: it travels the other way and is never held up by answers."""
    cancelled = threading.Event()
    model = StudyRootQueryRetrieveInformationModelFind

    def find(event: Any) -> Iterator[tuple[int, Dataset | None]]:
        for number in range(100_000):
            if event.is_cancelled:
                cancelled.set()
                yield 0xFE00, None
                return
            answer = Dataset()
            answer.QueryRetrieveLevel = "STUDY"
            answer.StudyInstanceUID = f"1.2.3.{number}"
            yield 0xFF00, answer

    def work(one: Any) -> tuple[int, int]:
        wanted = Dataset()
        wanted.QueryRetrieveLevel = "STUDY"
        wanted.StudyInstanceUID = ""
        count, last = 0, 0
        for status, _ in one.send_c_find(wanted, model, msg_id=9):
            count, last = count + 1, status.Status
            if count == 3:
                one.send_c_cancel(9, query_model=model)
        return count, last

    async with accepting([model], [(evt.EVT_C_FIND, find)]) as port:
        title, who = await publish(network, new_title("PACS"), port, ["query"]), await caller(network)
        count, last = await of_north(network, who, title, [model], work)
    assert cancelled.is_set()
    assert last == 0xFE00
    assert 3 < count < 100_000


@pytest.mark.parametrize("status", [0xA700, 0x0122, 0xC123, 0xB000, 0xA900])
async def test_the_status_and_comment_of_an_archive_arrive_unchanged(network: Network, status: int) -> None:
    def store(event: Any) -> Dataset:
        answer = Dataset()
        answer.Status = status
        answer.ErrorComment = f"the archive says {status:04X}"
        return answer

    image = dcmread(CT)
    async with accepting([CTImageStorage], [(evt.EVT_C_STORE, store)]) as port:
        title, who = await publish(network, new_title("PACS"), port, ["store"]), await caller(network)
        context = (CTImageStorage, ExplicitVRLittleEndian)
        answer = await of_north(network, who, title, [context], lambda one: one.send_c_store(image))
    assert answer.Status == status
    assert answer.ErrorComment == f"the archive says {status:04X}"


async def test_an_abort_of_the_caller_reaches_the_archive(network: Network) -> None:
    heard = Heard()
    async with accepting([Verification], [(evt.EVT_PDU_RECV, heard)]) as port:
        title, who = await publish(network, new_title("PACS"), port), await caller(network)
        await of_north(network, who, title, [Verification], lambda one: one.abort())
        await until(lambda: "A_ABORT_RQ" in heard.kinds)
    assert heard.pdus[-1].source == 0


async def test_a_release_is_the_archives_own_answer(network: Network) -> None:
    """pynetdicom#619: a graceful release may mean "study complete"."""
    at_archive, at_caller = Heard(), Heard()
    async with accepting([Verification], [(evt.EVT_PDU_RECV, at_archive)]) as port:
        title, who = await publish(network, new_title("PACS"), port), await caller(network)
        await of_north(network, who, title, [Verification], lambda _: None, handlers=[(evt.EVT_PDU_RECV, at_caller)])
        await until(lambda: len(at_archive.kinds) == 2)
    assert at_archive.kinds == ["A_ASSOCIATE_RQ", "A_RELEASE_RQ"]
    assert at_caller.kinds == ["A_ASSOCIATE_AC", "A_RELEASE_RP"]
