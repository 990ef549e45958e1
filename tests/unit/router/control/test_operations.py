"""As whom `isthmus echo` calls, if nobody says."""

from typing import Any

import pytest
from tests.unit.router.refusals import title

from isthmus.contract.documents import GrantedDevice
from isthmus.errors import OperatorError
from isthmus.router.control.operations import choose_caller

FOR_MR = GrantedDevice(title="NORTH_PACS", services=["echo"], callers=["MR1"])


@pytest.fixture
def granted_to_mr(home: Any, north: Any, ct: Any) -> None:
    """CT1 and MR1 of ours; north grants its archive to MR1."""
    home.administration.device_add("MR1@192.0.2.12")
    home.shows(north.entry())
    home.accept(north)
    home.shows(north.entry(north.statement(FOR_MR)))


def test_an_echo_calls_as_the_first_device_that_reaches_the_called_one(home: Any, granted_to_mr: None) -> None:
    assert choose_caller(home.directory, title("NORTH_PACS")).title == "MR1"


@pytest.mark.parametrize("called", ["PACS", "HOME_PACS"])
def test_an_echo_never_calls_a_device_as_itself(home: Any, called: str) -> None:
    home.administration.device_add("PACS@192.0.2.20:104", title="HOME_PACS")
    with pytest.raises(OperatorError, match="no device to call") as error:
        choose_caller(home.directory, title(called))
    assert "isthmus device add" in error.value.hint
    home.administration.device_add("WS@192.0.2.30")
    assert choose_caller(home.directory, title(called)).title == "WS"


def test_an_echo_never_calls_as_a_device_that_is_disabled(home: Any, granted_to_mr: None) -> None:
    home.administration.device_disable("MR1")
    with pytest.raises(OperatorError, match=r"CT1 would be refused \(1/1/3\)"):
        choose_caller(home.directory, title("NORTH_PACS"))


def test_an_echo_that_no_device_may_make_says_what_lacks_and_what_mends_it(home: Any, granted_to_mr: None) -> None:
    with pytest.raises(OperatorError, match="NOWHERE is unknown") as error:
        choose_caller(home.directory, title("NOWHERE"))
    assert "isthmus grant add NOWHERE" in error.value.hint


def test_an_echo_to_a_site_that_is_offline_says_that_rather_than_what_other_devices_lack(
    home: Any, north: Any, granted_to_mr: None
) -> None:
    home.shows(north.entry(north.statement(FOR_MR), online=False))
    with pytest.raises(OperatorError, match=r"MR1 would be refused \(2/3/1\)"):
        choose_caller(home.directory, title("NORTH_PACS"))
