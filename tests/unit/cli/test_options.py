from datetime import datetime
from pathlib import Path

import pytest

from isthmus.cli.options import Part, folder_of, parse_duration, parse_end_of_day
from isthmus.errors import OperatorError


@pytest.mark.parametrize(
    ("text", "seconds"), [("30s", 30), ("5m", 300), ("24h", 86400), ("14d", 1209600), ("2w", 1209600), (" 1D ", 86400)]
)
def test_a_duration_is_a_number_and_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "14", "d", "1.5h", "-1d", "14 d", "1y"])
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(OperatorError) as refused:
        parse_duration(text)
    assert "14d" in refused.value.hint


def test_until_a_day_means_until_its_last_moment_here() -> None:
    last = datetime.fromtimestamp(parse_end_of_day("2027-03-31") - 1).astimezone()
    assert (last.year, last.month, last.day, last.hour, last.minute) == (2027, 3, 31, 23, 59)


@pytest.mark.parametrize("text", ["tomorrow", "31.3.2027", "2027-02-30", ""])
def test_what_is_not_a_date_is_refused(text: str) -> None:
    with pytest.raises(OperatorError):
        parse_end_of_day(text)


def test_the_data_folder_is_the_one_that_was_named() -> None:
    assert folder_of(Part.ROUTER, Path("/some/where")) == Path("/some/where")


def test_the_usual_data_folders_of_router_and_bridge_differ() -> None:
    assert folder_of(Part.ROUTER, None) != folder_of(Part.BRIDGE, None)
