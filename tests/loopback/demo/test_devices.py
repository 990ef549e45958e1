"""The demonstration's devices among themselves: what they cannot do directly, the relay need not be asked to carry."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pynetdicom import AE
from pynetdicom.presentation import VerificationPresentationContexts

from isthmus.demo.devices import Archive, DeviceFailed, Workstation, associated
from isthmus.demo.images import Image, bundled
from isthmus.errors import AssociationRefused
from isthmus.kit.names import HostPort
from isthmus.testing.dicom import associate_rj

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # it has opinions on its own test files


@pytest.fixture(scope="module")
def images() -> list[Image]:
    return bundled()


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    archive = Archive("PACS", tmp_path / "archive")
    archive.start()
    yield archive
    archive.stop()


@pytest.fixture
def workstation(tmp_path: Path, archive: Archive) -> Iterator[Workstation]:
    workstation = Workstation("WS", tmp_path / "workstation")
    workstation.start()
    archive.neighbours["WS"] = HostPort("127.0.0.1", workstation.port)
    yield workstation
    workstation.stop()


@pytest.fixture
def where(archive: Archive) -> HostPort:
    return HostPort("127.0.0.1", archive.port)


def test_the_archive_holds_what_it_was_sent_byte_for_byte(
    archive: Archive, workstation: Workstation, where: HostPort, images: list[Image]
) -> None:
    workstation.store(where, "PACS", images)
    assert {key: image.dataset for key, image in archive.objects.items()} == {
        image.key: image.dataset for image in images
    }


def test_studies_are_found_by_key_and_by_wild_card(
    workstation: Workstation, where: HostPort, images: list[Image]
) -> None:
    workstation.store(where, "PACS", images)
    every = workstation.find(where, "PACS")
    assert {answer.StudyInstanceUID for answer in every} == {image.study for image in images}
    assert {answer.RetrieveAETitle for answer in every} == {"PACS"}
    (one,) = workstation.find(where, "PACS", PatientName="CompressedSamples^CT*")
    assert one.PatientID == "1CT1"
    assert workstation.find(where, "PACS", PatientName="Nobody") == []


def test_moved_and_fetched_objects_come_as_they_are(
    workstation: Workstation, where: HostPort, images: list[Image]
) -> None:
    workstation.store(where, "PACS", images)
    study = images[1].study
    wanted = {image.key: image.dataset for image in images if image.study == study}
    assert len(wanted) > 1
    assert workstation.move(where, "PACS", study) == len(wanted)
    assert {key: image.dataset for key, image in workstation.objects.items()} == wanted
    workstation.forget()
    assert workstation.get(where, "PACS", study, images) == len(wanted)
    assert {key: image.dataset for key, image in workstation.objects.items()} == wanted


def test_a_move_to_a_destination_that_the_archive_does_not_know_fails(
    archive: Archive, workstation: Workstation, where: HostPort, images: list[Image]
) -> None:
    workstation.store(where, "PACS", images[:1])
    archive.neighbours.clear()
    with pytest.raises(DeviceFailed, match="0xA801"):
        workstation.move(where, "PACS", images[0].study)


def test_the_archive_vouches_for_what_it_has_and_for_nothing_else(
    workstation: Workstation, where: HostPort, images: list[Image]
) -> None:
    workstation.store(where, "PACS", images[:1])
    committed = workstation.commit(where, "PACS", images[:2], timeout=10)
    assert committed == {images[0].instance}


# pynetdicom forgets the socket of a connection that was refused, and Python finds it later
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_archive_that_is_switched_off_is_not_there_and_comes_back_on_its_port(
    archive: Archive, workstation: Workstation, where: HostPort
) -> None:
    archive.stop()
    with pytest.raises(DeviceFailed):
        workstation.echo(where, "PACS")
    archive.start()
    workstation.echo(where, "PACS")


def test_a_rejection_is_told_with_its_three_numbers(archive: Archive, workstation: Workstation) -> None:
    archive._device.require_called_aet = True
    with pytest.raises(AssociationRefused) as refused:
        workstation.echo(HostPort("127.0.0.1", archive.port), "OTHER")
    assert (refused.value.result, refused.value.source, refused.value.reason) == (1, 1, 7)


def test_a_refusal_is_told_as_one_however_the_toolkit_takes_it() -> None:
    refusal = associate_rj(1, 1, 3)

    def refuse(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the listener is closed at the end
            while True:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65_536)
                    connection.sendall(refusal)
                    connection.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=refuse, args=(listener,))
        thread.start()
        where = HostPort("127.0.0.1", listener.getsockname()[1])
        for _ in range(40):
            with (
                pytest.raises(AssociationRefused) as refused,
                associated(AE("WS"), where, "PACS", VerificationPresentationContexts),
            ):
                pass
            assert (refused.value.result, refused.value.source, refused.value.reason) == (1, 1, 3)
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()
