"""What we publish of our own tables, and which offers were taken before."""

from typing import Any

from tests.unit.router.refusals import DAY, statement_to


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
    assert home.directory.remember_offer(bytes(16), home.clock.now() + 60)
    assert not home.directory.remember_offer(bytes(16), home.clock.now() + 60)
    assert not home.restarted().remember_offer(bytes(16), home.clock.now() + 60)


def test_an_offer_is_known_even_if_the_clock_goes_an_hour_forth_and_back(home: Any) -> None:
    home.directory.remember_offer(bytes(16), home.clock.now() + 60)
    home.clock.advance(3600)
    home.directory.remember_offer(b"another offer 01", home.clock.now() + 60)
    assert not home.directory.remember_offer(bytes(16), home.clock.now() + 60)
    home.clock.advance(DAY)
    assert home.directory.remember_offer(bytes(16), home.clock.now() + 60)  # out of its time by a day: forgotten
