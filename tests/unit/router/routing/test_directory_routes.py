"""Whom a device of ours reaches, and what it hears if nobody (PS3.8 9.3.4)."""

from typing import Any

import pytest
from tests.unit.router.refusals import DAY, OFFLINE, PERMANENT_CALLED, PERMANENT_CALLING, answer, title

from isthmus.contract.documents import GrantedDevice, ReturnGrant
from isthmus.errors import AssociationRefused
from isthmus.router.routing.records import LocalDevice, RemoteDevice

PACS = GrantedDevice(title="NORTH_PACS", name="Archive", services=["store", "query"])


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
