import pydicom
import pytest

from isthmus.demo import images

BUNDLED = images.bundled()


def test_the_images_cover_the_usual_transfer_syntaxes() -> None:
    names = {pydicom.uid.UID(image.syntax).name for image in BUNDLED}
    assert len(names) >= 10
    for part in ("Implicit", "Big Endian", "Deflated", "RLE", "JPEG 2000", "JPEG-LS", "JPEG Baseline"):
        assert any(part in name for name in names), part


def test_no_two_images_are_filed_under_the_same_key() -> None:
    assert len({image.key for image in BUNDLED}) == len(BUNDLED)


@pytest.mark.parametrize("image", BUNDLED, ids=lambda image: image.path.name)
def test_the_dataset_is_what_follows_the_file_meta_information(image: images.Image) -> None:
    content = image.path.read_bytes()
    header = pydicom.filereader.read_file_meta_info(image.path)
    assert content.endswith(image.dataset)
    assert len(content) - len(image.dataset) == 132 + 12 + header.FileMetaInformationGroupLength


def test_canaries_are_names_and_uids_that_no_one_would_use_by_chance() -> None:
    found = images.canaries(BUNDLED)
    assert b"CompressedSamples^MR1" in found
    assert all(len(canary) >= 10 for canary in found)
    assert {image.instance.encode() for image in BUNDLED} <= found
