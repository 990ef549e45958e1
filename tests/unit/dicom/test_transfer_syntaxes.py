"""Which transfer syntaxes are worth asking for."""

from isthmus.dicom.storage_classes import STORAGE_CLASSES
from isthmus.dicom.transfer_syntaxes import IMAGE, UNCOMPRESSED, VIDEO, sensible_syntaxes, syntax_name
from isthmus.testing.dicom import CT_IMAGE_STORAGE


def test_a_report_is_never_sent_as_jpeg_and_a_ct_image_never_as_a_film() -> None:
    assert sensible_syntaxes("1.2.840.10008.5.1.4.1.1.88.22") == tuple(UNCOMPRESSED)
    assert sensible_syntaxes(CT_IMAGE_STORAGE) == (*UNCOMPRESSED, *IMAGE)
    assert set(VIDEO) <= set(sensible_syntaxes("1.2.840.10008.5.1.4.1.1.77.1.1.1"))


def test_a_dose_grid_or_a_map_has_pixel_data_and_may_be_compressed() -> None:
    for uid in ("1.2.840.10008.5.1.4.1.1.481.2", "1.2.840.10008.5.1.4.1.1.81.1"):
        assert "1.2.840.10008.1.2.5" in sensible_syntaxes(uid)


def test_a_class_that_nobody_knows_may_come_as_anything() -> None:
    assert set(sensible_syntaxes("1.2.3.4")) == {*UNCOMPRESSED, *IMAGE, *VIDEO}


def test_asking_for_everything_stays_within_some_associations() -> None:
    assert sum(len(sensible_syntaxes(uid)) for uid in STORAGE_CLASSES) <= 2_500


def test_a_syntax_without_a_name_is_called_by_its_uid() -> None:
    assert syntax_name("1.2.840.10008.1.2.4.90") == "JPEG 2000 Lossless"
    assert syntax_name("1.2.3") == "1.2.3"
