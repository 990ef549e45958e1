"""Sizes as people type them."""

import pytest

from isthmus.errors import OperatorError
from isthmus.kit.sizes import parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("200GB", 200_000_000_000),
        (" 1.5 tb ", 1_500_000_000_000),
        ("2GiB", 2 * 1024**3),
        ("500M", 500_000_000),
        ("4096", 4096),
        ("0", 0),
        ("12 B", 12),
    ],
)
def test_a_size_is_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1,5GB", "2 iB", "1e9", "20Gbit", "∞", "٣GB", "1 GB 2"])
def test_what_is_no_size_is_refused_with_what_is_meant(text: str) -> None:
    with pytest.raises(OperatorError, match="no size") as refused:
        parse_size(text)
    assert "200GB" in refused.value.hint
