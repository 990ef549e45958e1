"""Who of other sites reaches our devices, and the way back of a C-MOVE or N-ACTION."""

from typing import Any

import pytest
from tests.unit.router.refusals import DAY, OFFLINE, PERMANENT_CALLED, PERMANENT_CALLING, answer, statement_to, title

from isthmus.errors import AssociationRefused, Untrusted


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
    monkeypatch.setattr("isthmus.router.routing.directory._MOST_TITLES", 2)
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
