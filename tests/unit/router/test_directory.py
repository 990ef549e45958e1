"""Who may reach whom, and what those hear who may not (dicom-rules: answers to an A-ASSOCIATE-RQ)."""

import dataclasses
import shlex
from typing import Any

import pytest

from isthmus.contract.documents import GrantedDevice, ReturnGrant, Statement
from isthmus.errors import AssociationRefused, Untrusted
from isthmus.kit.names import AETitle
from isthmus.router.records import LocalDevice, RemoteDevice

PERMANENT_CALLING = (1, 1, 3)
PERMANENT_CALLED = (1, 1, 7)
OFFLINE = (2, 3, 1)
DAY = 86_400.0

PACS = GrantedDevice(title="NORTH_PACS", name="Archive", services=["store", "query"])


def title(text: str) -> AETitle:
    return AETitle(text)


def answer(refused: pytest.ExceptionInfo[AssociationRefused]) -> tuple[int, int, int]:
    return (refused.value.result, refused.value.source, refused.value.reason)


@pytest.fixture
def ct(home: Any) -> LocalDevice:
    home.administration.device_add("CT1@192.0.2.10")
    device = home.directory.caller(title("CT1"), "192.0.2.10")
    assert isinstance(device, LocalDevice)
    return device


# -- who calls


def test_a_registered_device_at_its_address_is_known(home: Any, ct: LocalDevice) -> None:
    assert ct.title == "CT1"
    assert ct.port is None


def test_an_unknown_title_is_refused_and_the_hint_adds_it(home: Any) -> None:
    with pytest.raises(AssociationRefused) as refused:
        home.directory.identify(title("CT9"), "192.0.2.99", title("PACS"))
    assert answer(refused) == PERMANENT_CALLING
    assert "isthmus device add CT9@192.0.2.99" in refused.value.hint


def test_a_known_title_from_another_address_is_refused_and_the_hint_allows_it(home: Any, ct: LocalDevice) -> None:
    with pytest.raises(AssociationRefused) as refused:
        home.directory.identify(title("CT1"), "192.0.2.11", title("PACS"))
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
            home.directory.identify(title("CT9"), "192.0.2.99", title("PACS"))
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


# -- whom they call


def test_a_title_that_nobody_has_is_called_title_not_recognized(home: Any, ct: LocalDevice) -> None:
    with pytest.raises(AssociationRefused) as refused:
        home.directory.resolve(ct, title("NOWHERE"))
    assert answer(refused) == PERMANENT_CALLED
    assert "isthmus grant add NOWHERE --site home" in refused.value.hint


def test_devices_of_one_site_reach_each_other_without_a_grant(home: Any, ct: LocalDevice) -> None:
    home.administration.device_add("PACS@192.0.2.20:104", title="HOME_PACS")
    by_local_title = home.directory.resolve(ct, title("PACS"))
    assert isinstance(by_local_title, LocalDevice)
    assert home.directory.resolve(ct, title("HOME_PACS")) == by_local_title


def test_a_local_device_that_only_calls_cannot_be_called(home: Any, ct: LocalDevice) -> None:
    with pytest.raises(AssociationRefused) as refused:
        home.directory.resolve(ct, title("CT1"))
    assert answer(refused) == PERMANENT_CALLED
    assert "--port" in refused.value.hint


def test_a_disabled_local_device_is_refused_as_for_now(home: Any, ct: LocalDevice) -> None:
    home.administration.device_add("PACS@192.0.2.20:104")
    home.administration.device_disable("PACS")
    with pytest.raises(AssociationRefused) as refused:
        home.directory.resolve(ct, title("PACS"))
    assert answer(refused) == OFFLINE


def test_a_granted_device_of_an_accepted_site_is_found(home: Any, north: Any, ct: LocalDevice) -> None:
    home.shows(north.entry())
    home.accept(north)
    home.shows(north.entry(north.statement(PACS)))
    found = home.directory.resolve(ct, title("NORTH_PACS"))
    assert isinstance(found, RemoteDevice)
    assert found.router_id == north.router_id
    assert found.public_key == north.identity.public
    assert found.prekey.prekey_id == north.prekey.prekey_id
    assert found.services == {"store", "query"}
    assert (found.title, found.shown_as, found.site, found.name) == ("NORTH_PACS", "NORTH_PACS", "north", "Archive")


def test_a_device_of_a_site_that_is_not_accepted_is_refused_and_the_hint_accepts_it(
    home: Any, north: Any, ct: LocalDevice
) -> None:
    home.shows(north.entry(north.statement(PACS)))
    with pytest.raises(AssociationRefused) as refused:
        home.directory.resolve(ct, title("NORTH_PACS"))
    assert answer(refused) == PERMANENT_CALLING
    assert "isthmus site accept north" in refused.value.hint


def test_a_device_that_is_granted_to_other_callers_only_is_refused(home: Any, north: Any, ct: LocalDevice) -> None:
    home.shows(north.entry())
    home.accept(north)
    home.shows(north.entry(north.statement(PACS.model_copy(update={"callers": ["MR1"]}))))
    with pytest.raises(AssociationRefused) as refused:
        home.directory.resolve(ct, title("NORTH_PACS"))
    assert answer(refused) == PERMANENT_CALLING
    assert "isthmus grant add NORTH_PACS --site home --services ... [--caller CT1]" in refused.value.hint


def test_a_grant_that_was_withdrawn_is_refused_as_not_granted(home: Any, north: Any, ct: LocalDevice) -> None:
    home.shows(north.entry())
    home.accept(north)
    home.shows(north.entry(north.statement(PACS)))
    home.shows(north.entry(north.statement()))
    with pytest.raises(AssociationRefused) as refused:
        home.directory.resolve(ct, title("NORTH_PACS"))
    assert answer(refused) == PERMANENT_CALLING
    assert "grant table of site north" in refused.value.hint


def test_a_site_that_withdrew_its_acceptance_is_refused_and_the_hint_says_where(
    home: Any, north: Any, ct: LocalDevice
) -> None:
    home.shows(north.entry())
    home.accept(north)
    home.shows(north.entry(north.statement(PACS)))
    home.shows(north.entry(north.statement(accepted=False)))
    with pytest.raises(AssociationRefused) as refused:
        home.directory.resolve(ct, title("NORTH_PACS"))
    assert answer(refused) == PERMANENT_CALLING
    assert "there: isthmus site accept home" in refused.value.hint


def test_a_grant_that_has_ended_is_refused(home: Any, north: Any, ct: LocalDevice) -> None:
    home.shows(north.entry())
    home.accept(north)
    home.shows(north.entry(north.statement(PACS.model_copy(update={"until": home.clock.now() + 60}))))
    assert home.directory.resolve(ct, title("NORTH_PACS"))
    home.clock.advance(61)
    with pytest.raises(AssociationRefused) as refused:
        home.directory.resolve(ct, title("NORTH_PACS"))
    assert answer(refused) == PERMANENT_CALLING


def test_a_site_known_to_be_offline_is_refused_as_for_now(home: Any, north: Any, ct: LocalDevice) -> None:
    home.shows(north.entry())
    home.accept(north)
    home.shows(north.entry(north.statement(PACS), online=False))
    with pytest.raises(AssociationRefused) as refused:
        home.directory.resolve(ct, title("NORTH_PACS"))
    assert answer(refused) == OFFLINE


def test_a_site_that_left_the_network_is_offline(home: Any, north: Any, ct: LocalDevice) -> None:
    home.shows(north.entry())
    home.accept(north)
    home.shows(north.entry(north.statement(PACS)))
    home.shows()
    with pytest.raises(AssociationRefused) as refused:
        home.directory.resolve(ct, title("NORTH_PACS"))
    assert answer(refused) == OFFLINE


def test_a_device_that_its_owner_disabled_is_offline(home: Any, north: Any, ct: LocalDevice) -> None:
    home.shows(north.entry())
    home.accept(north)
    home.shows(north.entry(north.statement(PACS.model_copy(update={"online": False}))))
    with pytest.raises(AssociationRefused) as refused:
        home.directory.resolve(ct, title("NORTH_PACS"))
    assert answer(refused) == OFFLINE


def test_a_statement_that_ran_out_stops_associations(home: Any, north: Any, ct: LocalDevice) -> None:
    home.shows(north.entry())
    home.accept(north)
    home.shows(north.entry(north.statement(PACS)))
    home.clock.advance(31 * DAY)
    with pytest.raises(AssociationRefused) as refused:
        home.directory.resolve(ct, title("NORTH_PACS"))
    assert answer(refused) == OFFLINE
    home.shows(north.entry())
    assert any("has run out" in alert for alert in home.alerts)


def test_what_was_verified_is_known_after_a_restart_and_offline_until_the_bridge_says_otherwise(
    home: Any, north: Any, ct: LocalDevice
) -> None:
    home.shows(north.entry())
    home.accept(north)
    home.shows(north.entry(north.statement(PACS)))
    with pytest.raises(AssociationRefused) as refused:
        home.restarted().resolve(ct, title("NORTH_PACS"))
    assert answer(refused) == OFFLINE


def test_an_alias_reaches_the_remote_device_and_its_own_title_still_does(
    home: Any, north: Any, ct: LocalDevice
) -> None:
    home.shows(north.entry())
    home.accept(north)
    home.shows(north.entry(north.statement(PACS)))
    home.administration.alias_add("NORTH_PACS@north", "PACS2")
    found = home.directory.resolve(ct, title("PACS2"))
    assert (found.title, found.shown_as) == ("NORTH_PACS", "PACS2")
    assert home.directory.resolve(ct, title("NORTH_PACS")).shown_as == "NORTH_PACS"


def test_a_return_grant_lets_exactly_its_caller_reach_exactly_its_title(home: Any, north: Any, ct: LocalDevice) -> None:
    home.administration.device_add("MR1@192.0.2.12")
    mr = home.directory.caller(title("MR1"), "192.0.2.12")
    opened = ReturnGrant(caller="CT1", title="NORTH_WS", services=["store"], until=home.clock.now() + 7 * DAY)
    home.shows(north.entry())
    home.accept(north)
    home.shows(north.entry(north.statement(returns=(opened,))))
    assert home.directory.resolve(ct, title("NORTH_WS")).services == {"store"}
    with pytest.raises(AssociationRefused) as refused:
        home.directory.resolve(mr, title("NORTH_WS"))
    assert answer(refused) == PERMANENT_CALLING
    home.clock.advance(8 * DAY)
    with pytest.raises(AssociationRefused):
        home.directory.resolve(ct, title("NORTH_WS"))


# -- who calls from elsewhere


@pytest.fixture
def pacs(home: Any, north: Any) -> None:
    """Our archive, granted to north, which is accepted."""
    home.administration.device_add("PACS@192.0.2.20:104", title="HOME_PACS")
    home.shows(north.entry())
    home.accept(north)
    home.administration.grant_add("PACS", site="north", services=["store"])


def test_a_granted_association_of_an_accepted_site_is_admitted(home: Any, north: Any, pacs: None) -> None:
    admission = home.directory.admit(north.router_id, "NORTH_CT", "HOME_PACS")
    assert (admission.device.title, admission.called_as, admission.calling_as) == ("PACS", "PACS", "NORTH_CT")
    assert (admission.site, admission.services) == ("north", {"store"})
    assert admission.public_key == north.identity.public
    assert admission.return_ok


def test_an_association_of_a_site_that_is_not_accepted_is_refused(home: Any, north: Any) -> None:
    home.administration.device_add("PACS@192.0.2.20:104")
    home.administration.grant_add("PACS", site="north", services=["any"])
    home.shows(north.entry())
    with pytest.raises(AssociationRefused) as refused:
        home.directory.admit(north.router_id, "NORTH_CT", "PACS")
    assert answer(refused) == PERMANENT_CALLING
    assert "isthmus site accept north" in refused.value.hint


def test_an_association_without_a_grant_is_refused_and_the_hint_grants_it(home: Any, north: Any) -> None:
    home.administration.device_add("PACS@192.0.2.20:104")
    home.shows(north.entry())
    home.accept(north)
    with pytest.raises(AssociationRefused) as refused:
        home.directory.admit(north.router_id, "NORTH_CT", "PACS")
    assert answer(refused) == PERMANENT_CALLING
    assert "isthmus grant add PACS --site north --services ... [--caller NORTH_CT]" in refused.value.hint


def test_a_grant_to_one_caller_admits_that_caller_only(home: Any, north: Any, pacs: None) -> None:
    home.administration.device_add("WS@192.0.2.30:104")
    home.administration.grant_add("WS", site="north", services=["store"], caller="NORTH_CT")
    assert home.directory.admit(north.router_id, "NORTH_CT", "WS").device.title == "WS"
    with pytest.raises(AssociationRefused):
        home.directory.admit(north.router_id, "NORTH_MR", "WS")


def test_a_grant_to_one_site_admits_no_other_site(home: Any, north: Any, pacs: None) -> None:
    south = home.other("south")
    home.shows(north.entry(), south.entry())
    home.accept(south)
    with pytest.raises(AssociationRefused) as refused:
        home.directory.admit(south.router_id, "SOUTH_CT", "HOME_PACS")
    assert answer(refused) == PERMANENT_CALLING


def test_a_grant_of_ours_ends_when_it_says(home: Any, north: Any, pacs: None) -> None:
    home.administration.device_add("WS@192.0.2.30:104")
    home.administration.grant_add("WS", site="north", services=["any"], until=home.clock.now() + 60)
    assert home.directory.admit(north.router_id, "NORTH_CT", "WS").services == {"any"}
    home.clock.advance(60)
    with pytest.raises(AssociationRefused):
        home.directory.admit(north.router_id, "NORTH_CT", "WS")


def test_several_grants_add_up(home: Any, north: Any, pacs: None) -> None:
    home.administration.grant_add("PACS", site="north", services=["query"], caller="NORTH_CT")
    assert home.directory.admit(north.router_id, "NORTH_CT", "HOME_PACS").services == {"store", "query"}
    assert home.directory.admit(north.router_id, "NORTH_MR", "HOME_PACS").services == {"store"}


def test_other_sites_know_a_device_by_its_network_title_only(home: Any, north: Any, pacs: None) -> None:
    with pytest.raises(AssociationRefused) as refused:
        home.directory.admit(north.router_id, "NORTH_CT", "PACS")
    assert answer(refused) == PERMANENT_CALLED


def test_a_disabled_device_of_ours_is_refused_as_for_now(home: Any, north: Any, pacs: None) -> None:
    home.administration.device_disable("PACS")
    with pytest.raises(AssociationRefused) as refused:
        home.directory.admit(north.router_id, "NORTH_CT", "HOME_PACS")
    assert answer(refused) == OFFLINE


def test_a_site_that_calls_in_the_name_of_our_own_device_is_refused(home: Any, north: Any, pacs: None) -> None:
    with pytest.raises(AssociationRefused) as refused:
        home.directory.admit(north.router_id, "HOME_PACS", "HOME_PACS")
    assert answer(refused) == PERMANENT_CALLING


def test_a_calling_title_belongs_to_the_site_that_used_it_first(home: Any, north: Any, pacs: None) -> None:
    south = home.other("south")
    home.shows(north.entry(), south.entry())
    home.accept(south)
    home.administration.grant_add("PACS", site="south", services=["any"])
    home.directory.admit(north.router_id, "SHARED_CT", "HOME_PACS")
    with pytest.raises(AssociationRefused) as refused:
        home.directory.admit(south.router_id, "SHARED_CT", "HOME_PACS")
    assert answer(refused) == PERMANENT_CALLING
    assert "isthmus site release SHARED_CT" in refused.value.hint
    home.administration.title_release("SHARED_CT")
    assert home.directory.admit(south.router_id, "SHARED_CT", "HOME_PACS").site == "south"


def test_refused_calling_titles_bind_nothing(home: Any, north: Any) -> None:
    home.administration.device_add("PACS@192.0.2.20:104")
    home.shows(north.entry())
    home.accept(north)
    with pytest.raises(AssociationRefused):
        home.directory.admit(north.router_id, "NORTH_CT", "PACS")
    assert home.store.seen_titles() == {}


def test_a_site_cannot_take_every_title_there_is(
    home: Any, north: Any, pacs: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isthmus.router.directory._MOST_TITLES", 2)
    for name in ("CT1", "CT2"):
        home.directory.admit(north.router_id, name, "HOME_PACS")
    with pytest.raises(AssociationRefused) as refused:
        home.directory.admit(north.router_id, "CT3", "HOME_PACS")
    assert answer(refused) == PERMANENT_CALLING
    assert home.directory.admit(north.router_id, "CT1", "HOME_PACS")


def test_a_device_may_see_all_foreign_callers_under_one_title(home: Any, north: Any, pacs: None) -> None:
    home.administration.device_set("PACS", callers_as="ISTHMUS")
    assert home.directory.admit(north.router_id, "NORTH_CT", "HOME_PACS").calling_as == "ISTHMUS"
    home.administration.device_set("PACS", callers_as="")
    assert home.directory.admit(north.router_id, "NORTH_CT", "HOME_PACS").calling_as == "NORTH_CT"


def test_a_caller_with_an_alias_is_shown_under_it(home: Any, north: Any, pacs: None) -> None:
    home.administration.alias_add("NORTH_CT", "CT_N")
    assert home.directory.admit(north.router_id, "NORTH_CT", "HOME_PACS").calling_as == "CT_N"


def test_only_an_accepted_site_has_a_pinned_key(home: Any, north: Any) -> None:
    home.shows(north.entry())
    with pytest.raises(Untrusted):
        home.directory.pinned_key(north.router_id)
    home.accept(north)
    assert home.directory.pinned_key(north.router_id) == north.identity.public
    home.administration.site_remove("north")
    with pytest.raises(Untrusted):
        home.directory.pinned_key(north.router_id)


# -- the way back


def test_a_return_grant_admits_the_archive_for_a_week_and_survives_a_restart(home: Any, north: Any) -> None:
    home.administration.device_add("WS@192.0.2.30:104")
    home.shows(north.entry())
    home.accept(north)
    home.directory.open_return(north.router_id, title("NORTH_PACS"), title("WS"), frozenset({"store"}))
    for directory in (home.directory, home.restarted()):
        admission = directory.admit(north.router_id, "NORTH_PACS", "WS")
        assert admission.services == {"store"}
        with pytest.raises(AssociationRefused):
            directory.admit(north.router_id, "NORTH_CT", "WS")
    home.clock.advance(7 * DAY)
    with pytest.raises(AssociationRefused):
        home.directory.admit(north.router_id, "NORTH_PACS", "WS")


def test_a_return_grant_is_told_to_the_other_site_at_once(home: Any, north: Any) -> None:
    home.administration.device_add("WS@192.0.2.30:104")
    home.shows(north.entry())
    home.accept(north)
    told: list[int] = []
    home.directory.on_change(lambda: told.append(1))
    home.directory.open_return(north.router_id, title("NORTH_PACS"), title("WS"), frozenset({"store"}))
    assert told
    (opened,) = statement_to(home, "north").returns
    assert (opened.caller, opened.title, opened.services) == ("NORTH_PACS", "WS", ["store"])
    assert opened.until == home.clock.now() + 7 * DAY


def test_a_return_grant_is_renewed_once_a_day_and_not_with_each_move(home: Any, north: Any) -> None:
    home.administration.device_add("WS@192.0.2.30:104")
    home.shows(north.entry())
    home.accept(north)
    told: list[int] = []
    home.directory.on_change(lambda: told.append(1))
    for _ in range(5):
        home.directory.open_return(north.router_id, title("NORTH_PACS"), title("WS"), frozenset({"store"}))
    assert len(told) == 1
    home.clock.advance(1.5 * DAY)
    home.directory.open_return(north.router_id, title("NORTH_PACS"), title("WS"), frozenset({"store"}))
    assert len(told) == 2


def test_a_return_to_a_title_that_is_not_ours_opens_nothing(home: Any, north: Any) -> None:
    home.shows(north.entry())
    home.accept(north)
    home.directory.open_return(north.router_id, title("NORTH_PACS"), title("SOUTH_WS"), frozenset({"store"}))
    assert home.store.returns() == []


@pytest.mark.parametrize("off", ["setting", "grant"])
def test_no_return_turns_the_way_back_off(home: Any, north: Any, off: str) -> None:
    home.administration.device_add("WS@192.0.2.30:104")
    home.shows(north.entry())
    home.accept(north)
    if off == "setting":
        home.administration.setting_set(open_returns=False)
    else:
        home.administration.grant_add("WS", site="north", services=["echo"], no_return=True)
        assert not home.directory.admit(north.router_id, "NORTH_PACS", "WS").return_ok
    home.directory.open_return(north.router_id, title("NORTH_PACS"), title("WS"), frozenset({"store"}))
    assert home.store.returns() == []


# -- our own statements


def statement_to(home: Any, site: str) -> Statement:
    home.store.forget_published()
    payloads = [document.payload for document in home.directory.own_documents(home.clock.now())[2:]]
    (found,) = [row for row in map(Statement.parse, payloads) if row.to_site == site]
    return found


def test_a_statement_says_what_is_granted_and_holds_for_thirty_days(home: Any, north: Any, pacs: None) -> None:
    statement = statement_to(home, "north")
    assert (statement.site, statement.to_router_id, statement.accepted) == ("home", north.router_id, True)
    assert statement.not_after == home.clock.now() + 30 * DAY
    (device,) = statement.devices
    assert (device.title, device.services, device.callers) == ("HOME_PACS", ["store"], None)


def test_a_site_is_told_nothing_of_what_others_are_granted(home: Any, north: Any, pacs: None) -> None:
    south = home.other("south")
    home.shows(north.entry(), south.entry())
    home.accept(south)
    assert statement_to(home, "south").devices == []
    assert "192.0.2" not in statement_to(home, "north").to_payload().decode()


def test_documents_are_due_when_new_when_changed_and_once_a_day(home: Any, north: Any, pacs: None) -> None:
    def publish() -> list[str]:
        due = home.directory.own_documents(home.clock.now())
        for document in due:
            home.directory.published(document, home.clock.now())
        return [document.kind.name for document in due]

    assert publish() == ["PREKEY", "TITLES", "STATEMENT"]
    assert publish() == []
    home.administration.grant_add("PACS", site="north", services=["query"])
    assert publish() == ["STATEMENT"]
    home.clock.advance(DAY)
    assert publish() == ["PREKEY", "TITLES", "STATEMENT"]


def test_each_statement_has_a_higher_counter_than_the_one_before(home: Any, north: Any, pacs: None) -> None:
    counters = [statement_to(home, "north").counter for _ in range(3)]
    assert counters == sorted(set(counters))


def test_a_restored_router_goes_on_above_its_own_counter_at_the_bridge(home: Any, north: Any, pacs: None) -> None:
    home.shows(north.entry(), own_counter=5000)
    assert statement_to(home, "north").counter > 5000


def test_a_bridge_that_lost_statements_is_given_all_of_them_again(home: Any, north: Any, pacs: None) -> None:
    for document in home.directory.own_documents(home.clock.now()):
        home.directory.published(document, home.clock.now())
    home.shows(north.entry(), own_counter=0)
    assert len(home.directory.own_documents(home.clock.now())) == 3


def test_a_bridge_cannot_use_up_the_counters(home: Any, north: Any, pacs: None) -> None:
    home.shows(north.entry(), own_counter=2**63)
    assert statement_to(home, "north").counter < 100
    assert any("impossible counter" in alert for alert in home.alerts)


def test_removing_a_site_withdraws_the_statement(home: Any, north: Any, pacs: None) -> None:
    home.administration.site_remove("north")
    statement = statement_to(home, "north")
    assert not statement.accepted
    assert statement.devices == []


def test_a_disabled_device_is_told_to_be_offline(home: Any, north: Any, pacs: None) -> None:
    home.administration.device_disable("PACS")
    assert not statement_to(home, "north").devices[0].online


# -- offers


def test_an_offer_is_taken_once_even_after_a_restart(home: Any) -> None:
    assert not home.directory.known_offer(bytes(16))
    assert home.directory.remember_offer(bytes(16), home.clock.now() + 60)
    assert not home.directory.remember_offer(bytes(16), home.clock.now() + 60)
    assert home.restarted().known_offer(bytes(16))


def test_an_offer_is_known_even_if_the_clock_goes_an_hour_forth_and_back(home: Any) -> None:
    home.directory.remember_offer(bytes(16), home.clock.now() + 60)
    home.clock.advance(3600)
    home.directory.remember_offer(b"another offer 01", home.clock.now() + 60)
    assert home.directory.known_offer(bytes(16))
    home.clock.advance(DAY)
    home.directory.remember_offer(b"another offer 02", home.clock.now() + 60)
    assert not home.directory.known_offer(bytes(16))


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
