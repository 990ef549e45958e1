"""UID tables: well-formed, and no UID in two services."""

import re
from itertools import combinations

from isthmus.dicom import uids
from isthmus.dicom.storage_classes import STORAGE_CLASSES

TABLES = [
    uids.QUERY_CLASSES,
    uids.MOVE_CLASSES,
    uids.GET_CLASSES,
    uids.MPPS_CLASSES,
    uids.PRINT_CLASSES,
    frozenset(STORAGE_CLASSES),
    frozenset({uids.VERIFICATION, uids.STORAGE_COMMITMENT_PUSH_MODEL, uids.MODALITY_WORKLIST_FIND}),
]


def test_no_uid_is_in_two_tables() -> None:
    for one, other in combinations(TABLES, 2):
        assert not one & other


def test_uids_are_uids() -> None:
    for uid in (uid for table in TABLES for uid in table):
        assert re.fullmatch(r"1\.2\.840\.10008(\.(0|[1-9]\d*))+", uid)


def test_our_implementation_names_itself_within_the_limits() -> None:
    assert re.fullmatch(r"2\.25\.[1-9]\d*", uids.IMPLEMENTATION_CLASS_UID)
    assert len(uids.IMPLEMENTATION_CLASS_UID) <= 64
    assert len(uids.IMPLEMENTATION_VERSION_NAME) <= 16
