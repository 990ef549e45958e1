"""What an object says of its study, and how that is kept."""

import random

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from tests.unit.router.queued.study_objects import BIG_ENDIAN, DEFLATED, data_set

from isthmus.dicom import uids
from isthmus.errors import SealBroken
from isthmus.router.queued.studies import FIRST_BYTES, StudyFields, StudyReader, StudySealer, study_fields
from isthmus.testing import depth

JPEG = "1.2.840.10008.1.2.4.50"
SYNTAXES = (uids.IMPLICIT_VR_LITTLE_ENDIAN, uids.EXPLICIT_VR_LITTLE_ENDIAN, BIG_ENDIAN, DEFLATED, JPEG)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_the_fields_are_read_in_every_kind_of_transfer_syntax(syntax: str) -> None:
    assert study_fields(data_set(5, syntax), syntax) == StudyFields(
        study_uid="2.25.5",
        accession="A5",
        patient_id="P5",
        patient_name="Doe^Jané",
        description="Head, synthetic",
        study_date="20260102",
        modality="CT",
    )


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_an_object_cut_behind_its_study_uid_is_read_all_the_same(syntax: str) -> None:
    whole = data_set(5, syntax)
    cut = len(whole) - 8 if syntax == DEFLATED else whole.index(b"2.25.5") + 6
    found = study_fields(whole[:cut], syntax)
    assert found is not None
    assert found.study_uid == "2.25.5"


def test_an_object_without_a_study_uid_has_no_study() -> None:
    assert study_fields(data_set(StudyInstanceUID=None), uids.EXPLICIT_VR_LITTLE_ENDIAN) is None
    assert study_fields(b"", uids.EXPLICIT_VR_LITTLE_ENDIAN) is None


def test_names_in_japanese_with_escapes_are_read() -> None:
    raw = data_set(SpecificCharacterSet=None, PatientName=None)
    name = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"
    name += b" " * (len(name) % 2)
    before = b"\x08\x00\x05\x00CS\x10\x00\\ISO 2022 IR 87 "
    patient = b"\x10\x00\x10\x00PN" + len(name).to_bytes(2, "little") + name
    at = raw.index(b"\x10\x00\x20\x00LO")
    found = study_fields(before + raw[:at] + patient + raw[at:], uids.EXPLICIT_VR_LITTLE_ENDIAN)
    assert found is not None
    assert found.patient_name == "Yamada^Tarou=山田^太郎"


def test_whatever_bytes_come_nothing_is_raised() -> None:
    chance = random.Random(9)
    whole = {syntax: data_set(5, syntax) for syntax in SYNTAXES}
    reader = StudyReader()
    for _ in range(depth.count(push=400, nightly=100_000)):
        syntax = chance.choice(SYNTAXES)
        damaged = bytearray(whole[syntax][: chance.randrange(len(whole[syntax]))])
        for _ in range(chance.randrange(6) if damaged else 0):
            damaged[chance.randrange(min(len(damaged), 300))] = chance.randrange(256)
        reader.read(bytes(damaged), chance.choice(SYNTAXES))


def test_a_reader_that_remembers_says_the_same_as_one_that_does_not() -> None:
    reader = StudyReader()
    for syntax in SYNTAXES:
        for study in (1, 1, 2, 1, 3, 2):
            raw = data_set(study, syntax)
            assert reader.read(raw, syntax) == study_fields(raw, syntax)


def test_a_study_that_is_only_mentioned_in_a_sequence_is_not_taken_for_that_of_the_object() -> None:
    mentioned = Dataset()
    mentioned.StudyInstanceUID = "2.25.1"
    raw = data_set(2, StudiesContainingOtherReferencedInstancesSequence=Sequence([mentioned]))
    reader = StudyReader()
    reader.read(data_set(1), uids.EXPLICIT_VR_LITTLE_ENDIAN)
    found = reader.read(raw, uids.EXPLICIT_VR_LITTLE_ENDIAN)
    assert found is not None
    assert found.study_uid == "2.25.2"


def test_a_deflated_object_that_grows_without_end_is_read_only_so_far() -> None:
    bomb = data_set(1, DEFLATED, StudyDescription=None, ImageComments="x" * 10_000, PixelData=bytes(50_000_000))
    assert len(bomb) < FIRST_BYTES
    found = study_fields(bomb, DEFLATED)
    assert found is not None
    assert found.study_uid == "2.25.1"


def test_fields_do_not_show_when_they_are_printed() -> None:
    found = study_fields(data_set(), uids.EXPLICIT_VR_LITTLE_ENDIAN)
    assert "Doe" not in repr(found)


def test_a_sealed_study_opens_in_its_own_row_only() -> None:
    sealer = StudySealer(bytes(32))
    fields = StudyFields("2.25.1", accession="A1", patient_name="Doe^Jane")
    sealed = sealer.seal(fields)
    assert b"Doe" not in sealed
    assert sealer.open(sealed, sealer.mac("2.25.1")) == fields
    for row, key in ((sealer.mac("2.25.2"), sealer), (sealer.mac("2.25.1"), StudySealer(b"x" * 32))):
        with pytest.raises(SealBroken):
            key.open(sealed, row)


def test_a_study_is_found_by_whole_values_in_any_case_and_any_order_of_names() -> None:
    sealer = StudySealer(bytes(32))
    tokens = sealer.tokens(StudyFields("2.25.1", accession="a1", patient_id="P1 ", patient_name="Doe^Jane Mary=X"))
    assert set(sealer.search(accession="A1", patient_id="p1", name="mary doe")) <= tokens
    for missed in (sealer.search(accession="P1"), sealer.search(name="do"), sealer.search(patient_id="P")):
        assert missed
        assert not set(missed) <= tokens
    assert sealer.search(name="  ", accession=" ") == []
