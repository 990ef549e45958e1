"""Status codes: every number has a class and a name."""

import pytest
from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS, code_to_category

from isthmus.dicom.status import StatusClass, status_class, status_name


def test_the_classes_are_those_of_another_implementation() -> None:
    for code in STORAGE_SERVICE_CLASS_STATUS:
        assert status_class(code).value == code_to_category(code).lower(), f"{code:04x}"


@pytest.mark.parametrize(
    ("code", "expected", "name"),
    [
        (0x0000, StatusClass.SUCCESS, "success (0000)"),
        (0xFF01, StatusClass.PENDING, "pending, optional keys not supported (FF01)"),
        (0xFE00, StatusClass.CANCEL, "cancelled (FE00)"),
        (0xB123, StatusClass.WARNING, "warning (B123)"),
        (0x0B00, StatusClass.FAILURE, "unknown status (0B00)"),
        (0xA7FF, StatusClass.FAILURE, "out of resources (A7FF)"),
        (0xC123, StatusClass.FAILURE, "cannot understand, or unable to process (C123)"),
        (0x7777, StatusClass.FAILURE, "unknown status (7777)"),
    ],
)
def test_a_status_has_a_class_and_a_name(code: int, expected: StatusClass, name: str) -> None:
    assert status_class(code) is expected
    assert status_name(code) == name


def test_every_number_has_both() -> None:
    for code in range(0x10000):
        assert status_class(code) in StatusClass
        assert status_name(code).endswith(f"({code:04X})")
