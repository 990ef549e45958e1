"""Live or queued: what the owner of a device allows, what the sender's site chooses, and groups."""

import dataclasses
from typing import Any

import pytest
from tests.unit.router.refusals import DAY, OFFLINE, PERMANENT_CALLED, PERMANENT_CALLING, answer, title

from isthmus.bridge.gate import MAX_JSON_BYTES
from isthmus.contract.documents import GrantedDevice, Statement, grouped
from isthmus.dicom.services import Service
from isthmus.dicom.storage_classes import STORAGE_CLASSES
from isthmus.dicom.transfer_syntaxes import sensible_syntaxes
from isthmus.errors import AssociationRefused, OperatorError
from isthmus.kit.names import AETitle
from isthmus.router.routing.modes import Modes
from isthmus.router.routing.records import BOTH_MODES, DeliveryMode, DeliveryRule, Group, LocalDevice

LIVE, QUEUED = DeliveryMode.LIVE, DeliveryMode.QUEUED
PAIRS = [("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1")]
PACS = GrantedDevice(
    title="NORTH_PACS", name="Archive", services=["store"], modes=["live", "queued"], takes=grouped(PAIRS)
)


@pytest.fixture
def granted(home: Any, north: Any, ct: LocalDevice) -> None:
    home.shows(north.entry())
    home.accept(north)
    home.shows(north.entry(north.statement(PACS)))


def choose(home: Any, called: str, mode: DeliveryMode, sender: LocalDevice | None = None) -> None:
    home.store.save_delivery_rule(DeliveryRule(AETitle(called), None if sender is None else sender.device_id, mode))
    home.directory.reload()


def mode(home: Any, caller: LocalDevice, called: str) -> DeliveryMode:
    return Modes(home.directory).mode(caller, title(called))


def test_what_nobody_chose_is_live(home: Any, ct: LocalDevice, granted: None) -> None:
    assert mode(home, ct, "NORTH_PACS") is LIVE


def test_the_senders_site_chooses_for_all_its_devices(home: Any, ct: LocalDevice, granted: None) -> None:
    choose(home, "NORTH_PACS", QUEUED)
    assert mode(home, ct, "NORTH_PACS") is QUEUED


def test_a_rule_of_one_sender_goes_before_that_of_all(home: Any, ct: LocalDevice, granted: None) -> None:
    home.administration.device_add("WS@192.0.2.11")
    station = home.directory.caller(AETitle("WS"), "192.0.2.11")
    choose(home, "NORTH_PACS", QUEUED)
    choose(home, "NORTH_PACS", LIVE, station)
    assert (mode(home, station, "NORTH_PACS"), mode(home, ct, "NORTH_PACS")) == (LIVE, QUEUED)
    home.administration.device_remove("WS")
    assert len(home.store.delivery_rules()) == 1  # nobody else ever gets its id's rule


def test_an_alias_can_be_queued_while_the_title_itself_is_live(home: Any, ct: LocalDevice, granted: None) -> None:
    home.administration.alias_add("NORTH_PACS", "SLOT3")
    choose(home, "SLOT3", QUEUED)
    assert (mode(home, ct, "SLOT3"), mode(home, ct, "NORTH_PACS")) == (QUEUED, LIVE)
    home.store.delete_delivery_rule(AETitle("SLOT3"), None)
    choose(home, "NORTH_PACS", QUEUED)
    assert mode(home, ct, "SLOT3") is QUEUED


def test_a_rule_is_replaced_and_ended(home: Any, ct: LocalDevice, granted: None) -> None:
    for wanted in (QUEUED, LIVE, QUEUED):
        choose(home, "NORTH_PACS", wanted)
        choose(home, "NORTH_PACS", wanted, ct)
    assert home.store.delivery_rules() == [
        DeliveryRule(title("NORTH_PACS"), None, QUEUED),
        DeliveryRule(title("NORTH_PACS"), ct.device_id, QUEUED),
    ]
    assert home.store.delete_delivery_rule(title("NORTH_PACS"), ct.device_id) == 1
    assert home.store.delete_delivery_rule(title("NORTH_PACS"), None) == 1
    assert home.store.delivery_rules() == []


@pytest.mark.parametrize(("allowed", "wanted"), [(["live"], QUEUED), (["queued"], LIVE)])
def test_what_the_owner_does_not_allow_is_refused_by_the_table(
    home: Any, north: Any, ct: LocalDevice, granted: None, allowed: list[str], wanted: DeliveryMode
) -> None:
    home.shows(north.entry(north.statement(PACS.model_copy(update={"modes": allowed}))))
    choose(home, "NORTH_PACS", wanted)
    with pytest.raises(AssociationRefused) as refused:
        mode(home, ct, "NORTH_PACS")
    assert answer(refused) == PERMANENT_CALLING
    assert f"isthmus delivery set NORTH_PACS {allowed[0]}" in refused.value.hint


def test_an_older_site_that_says_nothing_of_modes_takes_live_only(
    home: Any, north: Any, ct: LocalDevice, granted: None
) -> None:
    home.shows(north.entry(north.statement(GrantedDevice(title="NORTH_PACS", services=["store"]))))
    assert mode(home, ct, "NORTH_PACS") is LIVE
    with pytest.raises(AssociationRefused):
        Modes(home.directory).devices(ct, title("NORTH_PACS"))


def test_without_a_choice_a_device_that_its_owner_has_queued_only_is_queued(
    home: Any, north: Any, ct: LocalDevice, granted: None
) -> None:
    home.shows(north.entry(north.statement(PACS.model_copy(update={"modes": ["queued", "some day"]}))))
    assert mode(home, ct, "NORTH_PACS") is QUEUED


def test_a_title_that_nobody_has_is_for_the_live_relay_to_refuse_unless_it_was_to_be_queued(
    home: Any, ct: LocalDevice
) -> None:
    assert mode(home, ct, "NOWHERE") is LIVE
    choose(home, "NOWHERE", QUEUED)
    with pytest.raises(AssociationRefused) as refused:
        mode(home, ct, "NOWHERE")
    assert answer(refused) == PERMANENT_CALLED


def test_a_site_that_is_offline_and_a_device_that_is_off_are_no_refusal_of_what_is_queued(
    home: Any, north: Any, ct: LocalDevice, granted: None
) -> None:
    home.shows(north.entry(north.statement(PACS.model_copy(update={"online": False})), online=False))
    with pytest.raises(AssociationRefused) as refused:
        home.directory.resolve(ct, title("NORTH_PACS"))
    assert answer(refused) == OFFLINE
    (device,) = Modes(home.directory).devices(ct, title("NORTH_PACS")).devices
    assert (device.title, device.site, device.router_id) == ("NORTH_PACS", "north", north.router_id)
    assert device.services == {Service.STORE}
    assert device.syntaxes == set(PAIRS)


def test_a_grant_that_is_withdrawn_or_has_run_out_is_a_refusal_of_what_is_queued(
    home: Any, north: Any, ct: LocalDevice, granted: None
) -> None:
    choose(home, "NORTH_PACS", QUEUED)
    home.clock.advance(31 * DAY)
    with pytest.raises(AssociationRefused) as refused:
        mode(home, ct, "NORTH_PACS")
    assert answer(refused) == OFFLINE  # what it said has run out, and may be said again
    north.now = home.clock.now()
    home.shows(north.entry(north.statement()))
    with pytest.raises(AssociationRefused) as refused:
        mode(home, ct, "NORTH_PACS")
    assert answer(refused) == PERMANENT_CALLING


def test_a_device_of_this_site_can_be_queued_too_and_while_it_is_disabled(home: Any, ct: LocalDevice) -> None:
    home.administration.device_add("PACS@192.0.2.20:104", title="HOME_PACS")
    choose(home, "HOME_PACS", QUEUED)
    home.administration.device_disable("PACS")
    assert mode(home, ct, "PACS") is QUEUED
    (device,) = Modes(home.directory).devices(ct, title("PACS")).devices
    assert (device.title, device.site, device.router_id) == ("HOME_PACS", None, None)
    assert device.services == {Service.ANY}


def test_a_group_is_queued_and_stands_for_its_members_in_order(home: Any, ct: LocalDevice, granted: None) -> None:
    home.administration.device_add("WS@192.0.2.11:104")
    home.store.save_group(Group(title("ALL"), (title("WS"), title("NORTH_PACS"))))
    home.directory.reload()
    assert mode(home, ct, "ALL") is QUEUED
    to = Modes(home.directory).devices(ct, title("ALL"))
    assert to.called == "ALL"
    assert [(device.title, device.site) for device in to.devices] == [("WS", None), ("NORTH_PACS", "north")]


def test_a_group_with_a_member_that_the_tables_refuse_is_refused_and_the_hint_names_it(
    home: Any, ct: LocalDevice, granted: None
) -> None:
    home.store.save_group(Group(title("ALL"), (title("NORTH_PACS"), title("GONE"))))
    home.directory.reload()
    with pytest.raises(AssociationRefused) as refused:
        Modes(home.directory).devices(ct, title("ALL"))
    assert answer(refused) == PERMANENT_CALLED
    assert "GONE, a member of ALL" in str(refused.value)
    assert "isthmus group remove ALL GONE" in refused.value.hint


def test_members_are_replaced_together_and_a_group_without_any_is_none(home: Any, ct: LocalDevice) -> None:
    home.store.save_group(Group(title("ALL"), (title("B"), title("A"))))
    assert home.store.groups() == [Group(title("ALL"), (title("B"), title("A")))]
    home.store.save_group(Group(title("ALL"), ()))
    home.directory.reload()
    assert home.directory.groups == []
    assert home.directory.group(title("ALL")) is None


def test_a_device_cannot_take_the_title_of_a_group_and_goes_before_one_all_the_same(home: Any, ct: LocalDevice) -> None:
    home.store.save_group(Group(title("ALL"), (title("CT1"),)))
    home.directory.reload()
    with pytest.raises(Exception, match="a group already"):
        home.administration.device_add("ALL@192.0.2.30:104")
    home.store.save_group(Group(title("CT1"), (title("ALL"),)))
    home.directory.reload()
    assert home.directory.group(title("CT1")) is None


def test_modes_and_what_a_device_takes_are_published_once_for_each_device(home: Any, pacs: None) -> None:
    device = home.administration.find("PACS")
    assert device.options.modes == BOTH_MODES
    with home.store.transaction() as connection:
        connection.executemany(
            "INSERT INTO mirror VALUES (?, ?, ?, 'probe', 1.0)", [(device.device_id, *pair) for pair in PAIRS]
        )
    home.administration.grant_add("PACS", site="north", services=["echo"], caller="MR1")
    (statement,) = (draft.content for draft in home.directory._drafts(home.clock.now()) if draft.name != "titles")
    assert [granted.modes for granted in statement.devices] == [["live", "queued"]] * 2
    assert [sorted(granted.syntaxes) for granted in statement.devices] == [sorted(PAIRS), []]


def test_what_fifty_devices_take_fits_into_one_statement_and_comes_out_as_it_was(
    home: Any, north: Any, pacs: None
) -> None:
    everything = [(abstract, transfer) for abstract in STORAGE_CLASSES for transfer in sensible_syntaxes(abstract)]
    for number in range(50):
        home.administration.device_add(f"PACS{number}@192.0.2.7:104")
        home.administration.grant_add(f"PACS{number}", site="north", services=["store"])
        device = home.administration.find(f"PACS{number}")
        with home.store.transaction() as connection:
            connection.executemany(
                "INSERT INTO mirror VALUES (?, ?, ?, 'probe', 1.0)", [(device.device_id, *pair) for pair in everything]
            )
    home.directory.reload()
    (statement,) = (draft.content for draft in home.directory._drafts(home.clock.now()) if draft.name != "titles")
    payload = statement.to_payload()
    assert len(payload) < MAX_JSON_BYTES // 2  # it is sent as base64, with a signature
    read = Statement.parse(payload)
    assert set(read.devices[-1].syntaxes) == set(everything)


def test_a_statement_that_is_short_to_say_and_long_to_keep_is_refused(north: Any) -> None:
    some = [f"1.2.{number}" for number in range(1000)]
    fits = Statement.parse(north.statement(PACS.model_copy(update={"takes": [(some, some[:400])]})).payload)
    assert len(fits.devices[0].syntaxes) == 400_000
    beyond = fits.model_copy(update={"devices": [PACS.model_copy(update={"takes": [(some, some[:401])]})]})
    with pytest.raises(ValueError, match="400000 pairs"):
        Statement.parse(beyond.to_payload())


def test_a_device_that_is_queued_only_admits_nothing_live_but_what_a_move_of_ours_asked_for(
    home: Any, north: Any, pacs: None
) -> None:
    device = home.administration.find("PACS")
    options = dataclasses.replace(device.options, modes=(QUEUED,))
    home.store.save_device(dataclasses.replace(device, options=options))
    home.directory.reload()
    assert home.directory.devices[0].options.modes == (QUEUED,)
    assert home.directory.admit(north.router_id, "MR1", "HOME_PACS", mode=QUEUED)
    with pytest.raises(AssociationRefused) as refused:
        home.directory.admit(north.router_id, "MR1", "HOME_PACS", mode=LIVE)
    assert answer(refused) == PERMANENT_CALLING
    assert "--modes live,queued" in refused.value.hint
    home.directory.open_return(north.router_id, title("MR1"), title("PACS"), frozenset({"store"}))
    assert home.directory.admit(north.router_id, "MR1", "HOME_PACS", mode=LIVE)


def test_an_owner_states_the_modes_of_a_device_and_nothing_that_is_none(home: Any) -> None:
    row = home.administration.device_add("PACS@192.0.2.20:104", modes=["queued"])
    assert row["modes"] == (QUEUED,)
    assert home.administration.device_set("PACS", name="Archive")["modes"] == (QUEUED,)
    assert home.administration.device_set("PACS", modes=["queued", "live"])["modes"] == BOTH_MODES
    for wrong in ([], ["sometimes"]):
        with pytest.raises(OperatorError, match="live, queued or both"):
            home.administration.device_set("PACS", modes=wrong)
