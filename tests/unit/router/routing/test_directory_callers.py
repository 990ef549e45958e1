"""Which device of ours calls, and what those hear who are none (PS3.8 9.3.4)."""

import dataclasses
import shlex
from typing import Any

import pytest
from tests.unit.router.refusals import PERMANENT_CALLING, answer, title

from isthmus.errors import AssociationRefused
from isthmus.router.routing.records import DeviceTls, LocalDevice


def test_a_registered_device_at_its_address_is_known(home: Any, ct: LocalDevice) -> None:
    assert ct.title == "CT1"
    assert ct.port is None


def test_an_unknown_title_is_refused_and_the_hint_adds_it(home: Any) -> None:
    with pytest.raises(AssociationRefused) as refused:
        home.directory.identify(title("CT9"), "192.0.2.99", title("PACS"), over_tls=False)
    assert answer(refused) == PERMANENT_CALLING
    assert "isthmus device add CT9@192.0.2.99" in refused.value.hint


def test_a_known_title_from_another_address_is_refused_and_the_hint_allows_it(home: Any, ct: LocalDevice) -> None:
    with pytest.raises(AssociationRefused) as refused:
        home.directory.identify(title("CT1"), "192.0.2.11", title("PACS"), over_tls=False)
    assert answer(refused) == PERMANENT_CALLING
    assert "isthmus device set CT1 --from-address 192.0.2.11" in refused.value.hint


def test_an_address_range_lets_a_device_call_from_all_of_it(home: Any) -> None:
    home.administration.device_add("WS@192.0.2.30", from_address=["198.51.100.0/24"])
    assert home.directory.caller(title("WS"), "198.51.100.7").title == "WS"
    assert home.directory.caller(title("WS"), "192.0.2.30").title == "WS"


def test_an_ipv4_address_in_ipv6_clothes_is_the_same_address(home: Any, ct: LocalDevice) -> None:
    assert home.directory.caller(title("CT1"), "::ffff:192.0.2.10").title == "CT1"


def test_a_device_registered_by_name_is_known_by_its_addresses(home: Any) -> None:
    home.administration.device_add("ARC@archive.hospital.example:104")
    assert home.directory.caller(title("ARC"), "192.0.2.20").title == "ARC"
    with pytest.raises(AssociationRefused):
        home.directory.caller(title("ARC"), "192.0.2.21")


def test_a_device_on_the_same_machine_may_be_registered_as_localhost(home: Any) -> None:
    home.administration.device_add("HERE@localhost:104")
    assert home.directory.caller(title("HERE"), "127.0.0.1").title == "HERE"
    assert home.directory.caller(title("HERE"), "::1").title == "HERE"


def test_a_device_that_must_use_tls_is_refused_and_listed_when_it_calls_without(home: Any) -> None:
    home.administration.device_add("CT2@192.0.2.12", tls=DeviceTls(to_device=False, from_device=True))
    with pytest.raises(AssociationRefused) as refused:
        home.directory.identify(title("CT2"), "192.0.2.12", title("PACS"), over_tls=False)
    assert answer(refused) == PERMANENT_CALLING
    assert "isthmus device set CT2 --plain" in refused.value.hint
    assert [row["title"] for row in home.administration.unknown_callers()] == ["CT2"]
    assert home.directory.identify(title("CT2"), "192.0.2.12", title("PACS"), over_tls=True).title == "CT2"


@pytest.mark.parametrize("over_tls", [False, True])
def test_a_device_that_need_not_use_tls_may(home: Any, ct: LocalDevice, over_tls: bool) -> None:
    assert home.directory.identify(title("CT1"), "192.0.2.10", title("PACS"), over_tls=over_tls) == ct


def test_a_disabled_device_is_refused_and_the_hint_enables_it(home: Any, ct: LocalDevice) -> None:
    home.administration.device_disable("CT1")
    with pytest.raises(AssociationRefused) as refused:
        home.directory.caller(title("CT1"), "192.0.2.10")
    assert answer(refused) == PERMANENT_CALLING
    assert "isthmus device enable CT1" in refused.value.hint


def test_titles_are_compared_with_their_case_unless_the_operator_says_otherwise(home: Any, ct: LocalDevice) -> None:
    with pytest.raises(AssociationRefused):
        home.directory.caller(title("ct1"), "192.0.2.10")
    home.administration.setting_set(ignore_title_case=True)
    assert home.directory.caller(title("ct1"), "192.0.2.10").title == "CT1"


@pytest.mark.parametrize("nasty", ["$(reboot)", ";reboot;", "a b", "'", "\x1b[2J"])
def test_a_hint_may_be_pasted_into_a_shell_whatever_a_device_calls_itself(home: Any, nasty: str) -> None:
    with pytest.raises(AssociationRefused) as refused:
        home.directory.caller(title(nasty), "192.0.2.99")
    command = refused.value.hint[refused.value.hint.index("isthmus") :]
    shown = nasty.replace("\x1b", "?")
    assert shlex.split(command) == ["isthmus", "device", "add", f"{shown}@192.0.2.99"]
    assert "\x1b" not in str(refused.value)


def test_unknown_callers_are_counted_and_survive_a_restart(home: Any) -> None:
    for _ in range(3):
        with pytest.raises(AssociationRefused):
            home.directory.identify(title("CT9"), "192.0.2.99", title("PACS"), over_tls=False)
        home.clock.advance(1)
    home.directory.unknown_callers.flush()
    for directory in (home.directory, home.restarted()):
        (seen,) = directory.unknown_callers.listed()
        assert (seen.title, seen.address, seen.called, seen.count) == ("CT9", "192.0.2.99", "PACS", 3)
        assert seen.last - seen.first == 2


def test_a_thousand_unknown_callers_are_kept_and_no_more(home: Any) -> None:
    for number in range(1200):
        home.directory.unknown_callers.note(title(f"X{number}"), "192.0.2.99", title("PACS"), home.clock.now())
    home.directory.unknown_callers.flush()
    listed = home.restarted().unknown_callers.listed()
    assert len(listed) == 1000
    assert {caller.title for caller in listed} == {f"X{number}" for number in range(200, 1200)}


def test_a_caller_that_is_registered_is_unknown_no_longer(home: Any) -> None:
    home.directory.unknown_callers.note(title("CT1"), "192.0.2.10", title("PACS"), home.clock.now())
    home.administration.device_add("CT1@192.0.2.10")
    assert home.administration.unknown_callers() == []


def test_devices_are_the_same_after_a_restart(home: Any) -> None:
    home.administration.device_add(
        "PACS@192.0.2.20:104",
        name="Main archive",
        title="HOME_PACS",
        from_address=["198.51.100.0/24", "2001:db8::/32"],
        associate_timeout=60.0,
        max_associations=4,
        strip_async=True,
        callers_as="ISTHMUS",
    )
    assert home.restarted().devices == home.directory.devices
    assert dataclasses.asdict(home.directory.devices[0].options)["callers_as"] == "ISTHMUS"
