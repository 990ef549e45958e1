"""A Bridge that lies: it may withhold and delay, and cannot make this Router believe or do anything (T10)."""

from typing import Any

import pytest

from isthmus.contract.documents import DocumentKind, GrantedDevice, SignedDocument
from isthmus.contract.rest import SiteEntry
from isthmus.envelope.documents import sign_document
from isthmus.envelope.identity import Identity
from isthmus.envelope.prekeys import PrekeyPair, prekey_id
from isthmus.errors import AssociationRefused, OperatorError, Untrusted
from isthmus.kit.names import AETitle, SiteName

DAY = 86_400.0
PACS = GrantedDevice(title="NORTH_PACS", services=["store"])
MORE = GrantedDevice(title="NORTH_PACS", services=["any"])


@pytest.fixture
def ct(home: Any) -> Any:
    home.administration.device_add("CT1@192.0.2.10")
    return home.directory.caller(AETitle("CT1"), "192.0.2.10")


@pytest.fixture
def believed(home: Any, north: Any, ct: Any) -> SignedDocument:
    """North is accepted and grants its archive for storing: the state that no lie may change."""
    home.shows(north.entry())
    home.accept(north)
    statement: SignedDocument = north.statement(PACS)
    home.shows(north.entry(statement))
    home.alerts.clear()
    return statement


def services(home: Any, ct: Any) -> frozenset[str]:
    found = home.directory.resolve(ct, AETitle("NORTH_PACS"))
    assert isinstance(found.services, frozenset)
    return found.services


def replaced(entry: SiteEntry, **fields: object) -> SiteEntry:
    return entry.model_copy(update=fields)


def test_a_statement_signed_by_another_key_is_not_believed(home: Any, north: Any, ct: Any, believed: Any) -> None:
    rogue = Identity.generate(home.other("rogue").random)
    home.shows(north.entry(north.statement(MORE, signer=rogue)))
    assert services(home, ct) == {"store"}
    assert home.alerts


def test_a_statement_in_another_name_than_its_signers_is_not_believed(
    home: Any, north: Any, ct: Any, believed: Any
) -> None:
    rogue = Identity.generate(home.other("rogue").random)
    forged = north.statement(MORE, signer=rogue).model_copy(update={"router_id": north.router_id})
    home.shows(north.entry(forged))
    assert services(home, ct) == {"store"}
    assert home.alerts


def test_a_tampered_statement_is_not_believed(home: Any, north: Any, ct: Any, believed: Any) -> None:
    good = north.statement(PACS)
    home.shows(north.entry(good.model_copy(update={"payload": good.payload.replace(b"store", b"query")})))
    assert services(home, ct) == {"store"}
    assert home.alerts


@pytest.mark.parametrize(
    "lie",
    [{"to_site": "south"}, {"to_router_id": "A" * 36}, {"site": "south"}],
    ids=["for another site", "for another Router", "by another site"],
)
def test_a_good_statement_that_is_for_or_by_another_site_is_not_believed(
    home: Any, north: Any, ct: Any, believed: Any, lie: dict[str, str]
) -> None:
    home.shows(north.entry(north.statement(MORE, **lie)))
    assert services(home, ct) == {"store"}
    assert len(home.alerts) == 1


def test_one_sites_statement_does_not_pass_for_anothers(home: Any, north: Any, ct: Any, believed: Any) -> None:
    south = home.other("south")
    home.shows(north.entry(), south.entry())
    home.accept(south)
    home.shows(north.entry(south.statement(MORE)), south.entry(north.statement(MORE)))
    assert services(home, ct) == {"store"}
    assert len(home.alerts) == 2


def test_an_older_statement_is_refused_and_told_of_even_after_a_restart(
    home: Any, north: Any, ct: Any, believed: SignedDocument
) -> None:
    home.shows(north.entry(north.statement()))
    home.shows(north.entry(believed))
    assert any("older" in alert for alert in home.alerts)
    with pytest.raises(AssociationRefused):
        services(home, ct)
    again = home.restarted()
    assert again.verified[north.router_id].counter == 2
    assert again.verified[north.router_id].statement.devices == []


def test_two_statements_of_one_counter_are_not_both_believed(home: Any, north: Any, ct: Any, believed: Any) -> None:
    home.shows(north.entry(north.statement(MORE, counter=1)))
    assert services(home, ct) == {"store"}
    assert any("two different statements" in alert for alert in home.alerts)


@pytest.mark.parametrize("counter", [0, -1, 2**62 + 1])
def test_an_impossible_counter_is_not_believed(home: Any, north: Any, ct: Any, believed: Any, counter: int) -> None:
    home.shows(north.entry(north.statement(MORE, counter=counter)))
    assert services(home, ct) == {"store"}
    assert home.alerts


def test_what_the_bridge_withholds_holds_until_it_runs_out(home: Any, north: Any, ct: Any, believed: Any) -> None:
    home.shows(north.entry(None))
    assert services(home, ct) == {"store"}
    home.clock.advance(31 * DAY)
    with pytest.raises(AssociationRefused):
        services(home, ct)


def test_a_swapped_key_stops_everything_and_pins_nothing(home: Any, north: Any, ct: Any, believed: Any) -> None:
    impostor = home.other("north-again")
    impostor.name = "north"
    home.administration.device_add("PACS@192.0.2.20:104")
    home.administration.grant_add("PACS", site="north", services=["any"])
    home.shows(impostor.entry(impostor.statement(MORE)))
    assert any("another key" in alert for alert in home.alerts)
    with pytest.raises(AssociationRefused) as refused:
        services(home, ct)
    assert "isthmus site accept north" in refused.value.hint
    for router_id in (north.router_id, impostor.router_id):
        with pytest.raises(Untrusted):
            home.directory.pinned_key(router_id)
        with pytest.raises(AssociationRefused):
            home.directory.admit(router_id, "NORTH_CT", "PACS")
    (row,) = home.administration.site_list()
    assert row["key_changed"]
    assert home.restarted().acceptances["north"].public_key == north.identity.public
    assert home.restarted().key_changed(SiteName("north"))


def test_everything_flows_again_when_the_pinned_key_is_back(home: Any, north: Any, ct: Any, believed: Any) -> None:
    impostor = home.other("north-again")
    impostor.name = "north"
    home.shows(impostor.entry())
    home.shows(north.entry())
    assert services(home, ct) == {"store"}


def test_a_person_may_accept_the_new_key_of_a_site_and_its_titles_move_with_it(
    home: Any, north: Any, ct: Any, believed: Any
) -> None:
    successor = home.other("north-again")
    successor.name = "north"
    home.shows(successor.entry(successor.statement(MORE)))
    home.accept(successor)
    home.shows(successor.entry(successor.statement(MORE)))
    found = home.directory.resolve(ct, AETitle("NORTH_PACS"))
    assert found.public_key == successor.identity.public


def test_a_router_id_that_is_not_of_its_key_is_not_even_listed(home: Any, north: Any) -> None:
    other = home.other("rogue")
    home.shows(replaced(north.entry(), public_key=other.identity.public))
    assert home.administration.site_list() == []
    assert home.alerts
    with pytest.raises(OperatorError):
        home.accept(north)


def test_a_site_name_that_is_none_is_not_listed(home: Any, north: Any) -> None:
    home.shows(replaced(north.entry(), site="North; rm -rf"))
    assert home.administration.site_list() == []
    assert home.alerts


def test_a_public_key_of_the_wrong_length_is_an_alert_and_no_crash(home: Any, north: Any) -> None:
    home.shows(replaced(north.entry(), public_key=b"short"))
    assert home.alerts


def test_the_bridge_cannot_show_this_router_to_itself_as_another_site(home: Any, north: Any) -> None:
    own = replaced(north.entry(), router_id=home.keys.router_id, public_key=home.keys.identity.public)
    home.shows(own)
    assert home.administration.site_list() == []


def test_a_title_of_one_site_is_not_another_sites(home: Any, north: Any, ct: Any, believed: Any) -> None:
    thief = home.other("thief")
    home.shows(north.entry(), thief.entry())
    home.accept(thief)
    home.shows(north.entry(), thief.entry(thief.statement(MORE)))
    found = home.directory.resolve(ct, AETitle("NORTH_PACS"))
    assert found.router_id == north.router_id
    assert any("belongs to another site" in alert for alert in home.alerts)
    home.administration.site_remove("north")
    home.shows(north.entry(), thief.entry())
    assert home.directory.resolve(ct, AETitle("NORTH_PACS")).router_id == thief.router_id


def test_a_title_of_this_site_is_no_other_sites(home: Any, north: Any, ct: Any, believed: Any) -> None:
    home.shows(north.entry(north.statement(PACS, GrantedDevice(title="CT1", services=["any"]))))
    assert "CT1" not in home.directory.owners
    assert any("is a device of this site" in alert for alert in home.alerts)


def test_a_title_that_could_not_be_sent_is_passed_over(home: Any, north: Any, ct: Any, believed: Any) -> None:
    home.shows(north.entry(north.statement(PACS, GrantedDevice(title="MUCH_TOO_LONG_A_TITLE", services=["any"]))))
    assert services(home, ct) == {"store"}
    assert home.alerts


def test_a_prekey_signed_by_another_is_not_used(home: Any, north: Any, ct: Any, believed: Any) -> None:
    rogue = home.other("rogue")
    forged = rogue.prekey_document()
    home.shows(replaced(north.entry(), prekey=forged))
    home.shows(replaced(north.entry(), prekey=forged.model_copy(update={"router_id": north.router_id})))
    assert home.directory.resolve(ct, AETitle("NORTH_PACS")).prekey.prekey_id == north.prekey.prekey_id
    assert home.alerts


@pytest.mark.parametrize(
    "change",
    [
        {"public_key": b"x" * 32, "prekey_id": prekey_id(b"x" * 32)},
        {"public_key": b"\xff" * 1216, "prekey_id": prekey_id(b"\xff" * 1216)},
        {"kem": "X25519"},
        {"prekey_id": bytes(16)},
    ],
    ids=["too short", "no key", "another kind", "another name"],
)
def test_a_prekey_that_nobody_can_seal_to_does_not_take_the_place_of_a_good_one(
    home: Any, north: Any, ct: Any, believed: Any, change: dict[str, Any]
) -> None:
    newer = PrekeyPair.generate(north.random, home.clock.now() + 60).published()
    payload = newer.model_copy(update=change).to_payload()
    unusable = sign_document(north.identity, DocumentKind.PREKEY, payload)
    home.shows(replaced(north.entry(), prekey=unusable))
    assert home.directory.resolve(ct, AETitle("NORTH_PACS")).prekey.prekey_id == north.prekey.prekey_id
    assert any("prekey of site north is not usable" in alert for alert in home.alerts)


def test_an_older_prekey_does_not_come_back(home: Any, north: Any, ct: Any, believed: Any) -> None:
    newer = PrekeyPair.generate(north.random, home.clock.now() + DAY)
    home.shows(replaced(north.entry(), prekey=north.prekey_document(newer)))
    home.shows(north.entry())
    assert home.directory.resolve(ct, AETitle("NORTH_PACS")).prekey.prekey_id == newer.prekey_id
    assert any("prekey" in alert for alert in home.alerts)


def test_a_prekey_that_ran_out_is_not_sealed_to(home: Any, north: Any, ct: Any, believed: Any) -> None:
    home.clock.advance(29 * DAY)
    north.now = home.clock.now()
    home.shows(north.entry(north.statement(PACS)))
    home.clock.advance(2 * DAY)
    with pytest.raises(AssociationRefused) as refused:
        services(home, ct)
    assert (refused.value.result, refused.value.source, refused.value.reason) == (2, 3, 1)


def test_a_statement_of_a_site_that_nobody_accepted_changes_nothing(home: Any, north: Any, ct: Any) -> None:
    home.shows(north.entry(north.statement(MORE)))
    assert home.store.verified() == []
    assert home.store.seen_titles() == {}
    assert home.administration.directory() == []


def test_an_alert_is_told_once_and_shown_while_it_lasts(home: Any, north: Any, ct: Any, believed: Any) -> None:
    old = north.statement(MORE, counter=-1)
    for _ in range(3):
        home.shows(north.entry(old))
    assert len(home.alerts) == 1
    assert home.administration.site_list()[0]["alerts"]
    home.shows(north.entry())
    assert home.administration.site_list()[0]["alerts"] == []
