"""What a request and its answer agree on."""

import pytest

from isthmus.association.negotiation import AgreedContext, agreed_contexts, refusal_by_protocol
from isthmus.dicom.associate import AssociateAccept, AssociateRequest
from isthmus.dicom.pdus import Reject
from isthmus.testing import dicom
from isthmus.testing.dicom import CT_IMAGE_STORAGE


def test_a_context_is_agreed_if_it_was_proposed_and_accepted() -> None:
    request = AssociateRequest.parse(dicom.associate_rq())
    accept = AssociateAccept.parse(dicom.associate_ac(request.raw, refuse=[1]))
    assert agreed_contexts(request, accept) == {3: AgreedContext(3, CT_IMAGE_STORAGE, "1.2.840.10008.1.2.1")}


def test_an_answer_to_what_nobody_proposed_agrees_on_nothing() -> None:
    full = AssociateRequest.parse(dicom.associate_rq())
    accept = AssociateAccept.parse(dicom.associate_ac(full.raw))
    assert set(agreed_contexts(full.without_contexts({3}), accept)) == {1}


@pytest.mark.parametrize(
    ("at", "value", "answer"),
    [
        (6, b"\0\1", None),
        (6, b"\0\3", None),
        (6, b"\0\2", Reject(1, 2, 2)),
        (6, b"\0\0", Reject(1, 2, 2)),
        (78, b"1.2.840.10008.3.1.1.2", Reject(1, 1, 2)),
    ],
)
def test_another_version_or_application_is_refused(at: int, value: bytes, answer: Reject | None) -> None:
    raw = dicom.associate_rq()
    raw = raw[:at] + value + raw[at + len(value) :]
    assert refusal_by_protocol(AssociateRequest.parse(raw)) == answer
