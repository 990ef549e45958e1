"""Real DICOM devices for the demonstration, made of pynetdicom: they know of AE titles and ports, not of Isthmus."""

import fnmatch
import itertools
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pydicom
from pydicom.dataset import Dataset
from pynetdicom import AE, _config, build_context, build_role, evt
from pynetdicom.pdu import A_ASSOCIATE_RJ
from pynetdicom.presentation import AllStoragePresentationContexts
from pynetdicom.sop_class import (
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    StudyRootQueryRetrieveInformationModelFind,
    StudyRootQueryRetrieveInformationModelGet,
    StudyRootQueryRetrieveInformationModelMove,
    Verification,
)

from isthmus.demo.images import Image, load
from isthmus.errors import AssociationRefused, IsthmusError
from isthmus.kit.names import HostPort

_SUCCESS: Final = 0x0000
_PENDING: Final = 0xFF00
_CANCEL: Final = 0xFE00
_CANNOT_UNDERSTAND: Final = 0xC000
_MAX_PDU: Final = 131072
_LEVELS: Final = {"STUDY": "StudyInstanceUID", "SERIES": "SeriesInstanceUID", "IMAGE": "SOPInstanceUID"}
_UIDS: Final = tuple(_LEVELS.values())
_ALL_SYNTAXES: Final = [
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.5",
    *(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81, 90, 91)),
]

# Objects go out as the very bytes of their files; otherwise pynetdicom would decode and encode them on the way.
_config.STORE_SEND_CHUNKED_DATASET = True


class DeviceFailed(IsthmusError):
    """A device of the demonstration did not get the answer that the step needs."""


def contexts_for(images: Iterable[Image]) -> list[Any]:
    """Return one presentation context per kind of object and transfer syntax, so that nobody has to choose."""
    return [build_context(sop, syntax) for sop, syntax in sorted({(image.sop_class, image.syntax) for image in images})]


@contextmanager
def associated(
    device: AE, where: HostPort, called: str, contexts: list[Any], *, roles: list[Any] | None = None, **options: Any
) -> Iterator[Any]:
    """Hold an association to `called` at `where`; released at the end.

    Raises AssociationRefused with the A-ASSOCIATE-RJ that came, or DeviceFailed if nothing sensible did.
    """
    refusals: list[A_ASSOCIATE_RJ] = []

    def received(event: Any) -> None:
        if isinstance(event.pdu, A_ASSOCIATE_RJ):
            refusals.append(event.pdu)

    handlers = [*options.pop("evt_handlers", []), (evt.EVT_PDU_RECV, received)]
    association = device.associate(
        where.host,
        where.port,
        contexts=contexts,
        ae_title=called,
        max_pdu=_MAX_PDU,
        ext_neg=roles or [],
        evt_handlers=handlers,
        **options,
    )
    # pynetdicom now and then takes a rejection for an abort, so it is the PDU that counts.
    if refusals:
        answer = refusals[0]
        raise AssociationRefused(
            f"A-ASSOCIATE-RJ {answer.result}/{answer.source}/{answer.reason_diagnostic}",
            result=answer.result,
            source=answer.source,
            reason=answer.reason_diagnostic,
        )
    if not association.is_established:
        raise DeviceFailed(f"no association with {called}: it was aborted, or nobody answered at {where}")
    try:
        yield association
    finally:
        if association.is_established:
            association.release()


def _device(title: str) -> AE:
    device = AE(ae_title=title)
    device.acse_timeout = device.dimse_timeout = 30
    device.network_timeout = 120
    device.connection_timeout = 10
    device.maximum_pdu_size = _MAX_PDU
    device.add_supported_context(Verification)
    for context in AllStoragePresentationContexts:
        device.add_supported_context(context.abstract_syntax, _ALL_SYNTAXES, scu_role=True, scp_role=True)
    return device


class _Listener:
    """The part that both devices share: a DICOM port, and a folder into which C-STORE writes files."""

    def __init__(self, title: str, folder: Path) -> None:
        self.title: Final = title
        self.port = 0
        self._folder = folder
        self._device = _device(title)
        self._objects: dict[tuple[str, str], Image] = {}
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._server: Any = None
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def objects(self) -> dict[tuple[str, str], Image]:
        """What it holds now, by (SOP Instance UID, transfer syntax)."""
        with self._lock:
            return dict(self._objects)

    def forget(self) -> None:
        """Drop what it holds, so that what comes next starts from nothing."""
        with self._lock:
            self._objects.clear()

    def start(self) -> None:
        """Listen on a free port of this machine; when it was on before, on the port it had."""
        self._server = self._device.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store), *self._handlers()]
        )
        self.port = self._server.server_address[1]

    def stop(self) -> None:
        """Switch it off: the port is closed, what it holds stays."""
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    def _handlers(self) -> list[tuple[Any, Any]]:
        return []

    def _store(self, event: Any) -> int:
        path = self._folder / f"{next(self._numbers):06d}.dcm"  # no path is made from what a device sent
        path.write_bytes(event.encoded_dataset())
        image = load(path)
        with self._lock:
            self._objects[image.key] = image
        return _SUCCESS


class Archive(_Listener):
    """An archive: keeps what it is sent; C-FIND, C-MOVE and C-GET of the study root; storage commitment.

    `neighbours` is its table of AE titles, as every archive has one: where to find a move destination.
    """

    def __init__(self, title: str, folder: Path) -> None:
        super().__init__(title, folder)
        self.neighbours: dict[str, HostPort] = {}
        self._owed: dict[Any, list[tuple[str, Dataset]]] = {}
        for service in (
            StudyRootQueryRetrieveInformationModelFind,
            StudyRootQueryRetrieveInformationModelMove,
            StudyRootQueryRetrieveInformationModelGet,
            StorageCommitmentPushModel,
        ):
            self._device.add_supported_context(service)

    def _handlers(self) -> list[tuple[Any, Any]]:
        return [
            (evt.EVT_C_FIND, self._find),
            (evt.EVT_C_MOVE, self._move),
            (evt.EVT_C_GET, self._get),
            (evt.EVT_N_ACTION, self._promise),
            (evt.EVT_CONN_CLOSE, self._report),
        ]

    def _find(self, event: Any) -> Iterator[tuple[int, Dataset | None]]:
        keys = event.identifier
        unique = _LEVELS.get(keys.get("QueryRetrieveLevel", ""))
        if unique is None:
            yield _CANNOT_UNDERSTAND, None
            return
        seen: set[str] = set()
        for image in self.objects.values():
            header = pydicom.dcmread(image.path, stop_before_pixels=True)
            if event.is_cancelled:
                yield _CANCEL, None
                return
            if str(header.get(unique)) in seen or not _matches(header, keys):
                continue
            seen.add(str(header.get(unique)))
            answer = Dataset()
            for element in keys:
                answer.add_new(element.tag, element.VR, header[element.tag].value if element.tag in header else None)
            answer.QueryRetrieveLevel = keys.QueryRetrieveLevel
            answer.RetrieveAETitle = self.title
            yield _PENDING, answer

    def _move(self, event: Any) -> Iterator[Any]:
        where = self.neighbours.get(event.move_destination.strip())
        if where is None:
            yield None, None  # pynetdicom answers 0xA801, move destination unknown
            return
        found = self._wanted(event.identifier)
        yield where.host, where.port, {"contexts": contexts_for(found), "max_pdu": _MAX_PDU}
        yield from self._send(event, found)

    def _get(self, event: Any) -> Iterator[Any]:
        yield from self._send(event, self._wanted(event.identifier))

    def _send(self, event: Any, found: list[Image]) -> Iterator[Any]:
        yield len(found)
        for image in found:
            if event.is_cancelled:
                yield _CANCEL, None
                return
            yield _PENDING, pydicom.dcmread(image.path)

    def _wanted(self, keys: Dataset) -> list[Image]:
        selection = Dataset()
        for name in _UIDS:
            if name in keys:
                setattr(selection, name, keys.get(name))
        return [
            image
            for image in self.objects.values()
            if _matches(pydicom.dcmread(image.path, stop_before_pixels=True), selection)
        ]

    def _promise(self, event: Any) -> tuple[int, None]:
        caller = str(event.assoc.requestor.ae_title).strip()
        self._owed.setdefault(event.assoc, []).append((caller, event.action_information))
        return _SUCCESS, None

    def _report(self, event: Any) -> None:
        """Send the N-EVENT-REPORTs on a new association the other way, as archives do (PS3.4 annex J.3.3)."""
        for caller, request in self._owed.pop(event.assoc, []):
            where = self.neighbours.get(caller)
            if where is None:
                continue
            have = {instance for instance, _ in self.objects}
            report = Dataset()
            report.TransactionUID = request.TransactionUID
            wanted = request.ReferencedSOPSequence
            report.ReferencedSOPSequence = [item for item in wanted if item.ReferencedSOPInstanceUID in have]
            missing = len(wanted) - len(report.ReferencedSOPSequence)
            roles = [build_role(StorageCommitmentPushModel, scp_role=True)]
            context = [build_context(StorageCommitmentPushModel)]
            with associated(self._device, where, caller, context, roles=roles) as association:
                association.send_n_event_report(
                    report, 2 if missing else 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
                )


class Workstation(_Listener):
    """A workstation: calls archives, and listens for what they send it."""

    def __init__(self, title: str, folder: Path) -> None:
        super().__init__(title, folder)
        self._committed: dict[str, set[str]] = {}
        self._reported = threading.Condition()
        self._device.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)

    def _handlers(self) -> list[tuple[Any, Any]]:
        return [(evt.EVT_N_EVENT_REPORT, self._commitment)]

    def echo(self, where: HostPort, called: str) -> None:
        """C-ECHO. Raises AssociationRefused or DeviceFailed."""
        with associated(self._device, where, called, [build_context(Verification)]) as association:
            _check(association.send_c_echo(), "C-ECHO")

    def store(self, where: HostPort, called: str, images: list[Image]) -> None:
        """C-STORE each image on one association. Raises AssociationRefused or DeviceFailed."""
        with associated(self._device, where, called, contexts_for(images)) as association:
            for image in images:
                _check(association.send_c_store(image.path), f"C-STORE of {image.path.name}")

    def find(self, where: HostPort, called: str, **keys: str) -> list[Dataset]:
        """C-FIND studies. Raises AssociationRefused or DeviceFailed."""
        query = Dataset()
        query.QueryRetrieveLevel = "STUDY"
        query.StudyInstanceUID = query.PatientID = ""
        for name, value in keys.items():
            setattr(query, name, value)
        model = StudyRootQueryRetrieveInformationModelFind
        with associated(self._device, where, called, [build_context(model)]) as association:
            answers = list(association.send_c_find(query, model))
        _check(answers[-1][0], "C-FIND")
        return [identifier for _, identifier in answers[:-1]]

    def move(self, where: HostPort, called: str, study: str) -> int:
        """C-MOVE a study to itself; return how many sub-operations the archive counted. Raises as `find`."""
        model = StudyRootQueryRetrieveInformationModelMove
        with associated(self._device, where, called, [build_context(model)]) as association:
            answers = list(association.send_c_move(_study(study), self.title, model))
        _check(answers[-1][0], "C-MOVE")
        return int(answers[-1][0].NumberOfCompletedSuboperations)

    def get(self, where: HostPort, called: str, study: str, images: list[Image]) -> int:
        """C-GET a study on the same association; return the number of sub-operations. Raises as `find`.

        `images` say which kinds of object it proposes to take.
        """
        model = StudyRootQueryRetrieveInformationModelGet
        kinds = {image.sop_class for image in images}
        with associated(
            self._device,
            where,
            called,
            [build_context(model), *contexts_for(images)],
            roles=[build_role(kind, scp_role=True) for kind in kinds],
            evt_handlers=[(evt.EVT_C_STORE, self._store)],
        ) as association:
            answers = list(association.send_c_get(_study(study), model))
        _check(answers[-1][0], "C-GET")
        return int(answers[-1][0].NumberOfCompletedSuboperations)

    def commit(self, where: HostPort, called: str, images: list[Image], timeout: float) -> set[str]:
        """Ask for storage commitment; return the instances the archive's N-EVENT-REPORT vouches for.

        Raises as `find`, and DeviceFailed if no report comes within `timeout` seconds.
        """
        request = Dataset()
        request.TransactionUID = pydicom.uid.generate_uid()
        request.ReferencedSOPSequence = []
        for instance, sop_class in sorted({(image.instance, image.sop_class) for image in images}):
            item = Dataset()
            item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = sop_class, instance
            request.ReferencedSOPSequence.append(item)
        context = [build_context(StorageCommitmentPushModel)]
        with associated(self._device, where, called, context) as association:
            status, _ = association.send_n_action(
                request, 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
            _check(status, "N-ACTION")
        with self._reported:
            if not self._reported.wait_for(lambda: request.TransactionUID in self._committed, timeout):
                raise DeviceFailed(f"no N-EVENT-REPORT came within {timeout:.0f} s")
            return self._committed[request.TransactionUID]

    def _commitment(self, event: Any) -> tuple[int, None]:
        report = event.event_information
        with self._reported:
            self._committed[report.TransactionUID] = {
                item.ReferencedSOPInstanceUID for item in report.get("ReferencedSOPSequence", [])
            }
            self._reported.notify_all()
        return _SUCCESS, None


def _study(study: str) -> Dataset:
    keys = Dataset()
    keys.QueryRetrieveLevel = "STUDY"
    keys.StudyInstanceUID = study
    return keys


def _check(status: Dataset, what: str) -> None:
    if "Status" not in status:
        raise DeviceFailed(f"{what} got no answer: the association was lost")
    if status.Status != _SUCCESS:
        raise DeviceFailed(f"{what} was answered with status 0x{status.Status:04X}")


def _matches(header: Dataset, keys: Dataset) -> bool:
    """Match single values, UID lists and wild cards (PS3.4 C.2.2.2); what this archive cannot match, it returns."""
    for element in keys:
        if not element.value or element.VR in {"SQ", "DA", "TM", "DT"} or element.keyword == "QueryRetrieveLevel":
            continue
        allowed = element.value if element.VM > 1 else [element.value]
        held = str(header[element.tag].value) if element.tag in header else ""
        if not any(fnmatch.fnmatchcase(held, str(pattern)) for pattern in allowed):
            return False
    return True
