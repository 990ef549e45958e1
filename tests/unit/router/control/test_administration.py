"""What an operator may do, and what they are told when they may not."""

from pathlib import Path
from typing import Any

import pytest

from isthmus.errors import OperatorError
from isthmus.router.control.administration import OPERATIONS, open_administration
from isthmus.router.control.device_administration import FieldError
from isthmus.router.keys import Keys


def test_a_device_is_added_and_listed(home: Any) -> None:
    added = home.administration.device_add("PACS@192.0.2.20:104", name="Main archive")
    assert added["network_title"] == "PACS"
    assert added["enter"]["port"] == 11112
    (row,) = home.administration.device_list()
    assert (row["title"], row["host"], row["port"], row["name"]) == ("PACS", "192.0.2.20", 104, "Main archive")
    assert home.administration.device_show("PACS")["grants"] == []


@pytest.mark.parametrize(
    ("address", "word"),
    [
        ("PACS", "AET@HOST"),
        ("@192.0.2.20:104", "AE title"),
        ("MUCH_TOO_LONG_A_TITLE@192.0.2.20", "AE title"),
        ("PACS@192.0.2.20:99999", "port"),
        ("PACS@ho st:104", "host"),
    ],
)
def test_an_address_that_will_not_do_says_which_part(home: Any, address: str, word: str) -> None:
    with pytest.raises(OperatorError, match=word):
        home.administration.device_add(address)
    assert home.administration.device_list() == []


def test_two_devices_of_one_title_are_refused(home: Any) -> None:
    home.administration.device_add("PACS@192.0.2.20:104")
    with pytest.raises(FieldError, match="already") as refused:
        home.administration.device_add("PACS@192.0.2.21:104")
    assert refused.value.field == "address"


def test_a_title_that_is_anothers_network_title_is_refused(home: Any) -> None:
    home.administration.device_add("PACS@192.0.2.20:104", title="HOME_PACS")
    with pytest.raises(FieldError, match="network title of PACS"):
        home.administration.device_add("HOME_PACS@192.0.2.21:104")


def test_titles_that_differ_in_case_only_are_warned_of(home: Any) -> None:
    home.administration.device_add("PACS@192.0.2.20:104")
    assert "differ in case" in home.administration.device_add("Pacs@192.0.2.21:104")["notes"][0]
    with pytest.raises(FieldError):
        home.administration.setting_set(ignore_title_case=True)


def test_titles_that_differ_in_case_only_clash_if_case_is_ignored(home: Any) -> None:
    home.administration.setting_set(ignore_title_case=True)
    home.administration.device_add("PACS@192.0.2.20:104")
    with pytest.raises(FieldError):
        home.administration.device_add("Pacs@192.0.2.21:104")


def test_an_association_may_be_idle_for_a_day_unless_it_is_set(home: Any) -> None:
    assert home.directory.settings.idle_seconds == 86_400
    home.administration.setting_set(idle_minutes=5)
    assert home.restarted().settings.idle_seconds == 300
    home.administration.setting_set(idle_minutes=0)
    assert home.directory.settings.idle_seconds is None
    for wrong in (-1, 4, 525_601):
        with pytest.raises(FieldError, match="5 minutes"):
            home.administration.setting_set(idle_minutes=wrong)


def test_the_spool_gets_what_an_operator_gives_it_and_keeps_it_over_a_restart(home: Any) -> None:
    assert (home.directory.settings.spool_quota, home.directory.settings.spool_floor) == (0, 2 * 1024**3)
    home.administration.setting_set(spool_quota="200GB", spool_floor="5 GiB")
    assert home.restarted().settings.spool_quota == 200 * 10**9
    home.administration.setting_set(spool_quota="0")
    assert (home.directory.settings.spool_quota, home.directory.settings.spool_floor) == (0, 5 * 1024**3)
    for field, wrong, why in (
        ("spool_quota", "999MB", "1 GB at the least"),
        ("spool_quota", "9999999TB", "1 GB at the least"),
        ("spool_quota", "much", "no size"),
        ("spool_floor", "0", "500 MB"),
        ("spool_floor", "499MB", "500 MB"),
        ("spool_floor", "-1", "no size"),
    ):
        with pytest.raises(FieldError, match=why) as refused:
            home.administration.setting_set(**{field: wrong})
        assert refused.value.field == field
    assert home.directory.settings.spool_floor == 5 * 1024**3


def test_a_network_title_of_another_site_is_refused_with_the_choices(home: Any, north: Any) -> None:
    home.administration.device_add("WS@192.0.2.30:104")
    home.shows(north.entry())
    home.accept(north)
    home.administration.grant_add("WS", site="north", services=["any"])
    home.directory.admit(north.router_id, "PACS", "WS")
    with pytest.raises(FieldError) as refused:
        home.administration.device_add("PACS@192.0.2.20:104")
    for choice in ("--title", "isthmus alias add", "rename"):
        assert choice in refused.value.hint
    assert home.administration.device_add("PACS@192.0.2.20:104", title="HOME_PACS")["notes"]


def test_a_device_is_changed_where_it_is_said_and_nowhere_else(home: Any, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_text("certificates")
    home.administration.device_add("PACS@192.0.2.20:104", name="Archive", associate_timeout=60.0)
    changed = home.administration.perform(
        "device_set",
        {"device": "PACS", "max_associations": 4, "from_address": ["198.51.100.1"], "tls": {"ca": str(ca)}},
    )
    assert (changed["name"], changed["associate_timeout"], changed["max_associations"]) == ("Archive", 60.0, 4)
    assert changed["from_addresses"] == ["198.51.100.1/32"]
    assert changed["tls"]["ca"] == str(ca)
    assert home.administration.device_set("PACS", plain=True)["tls"] is None
    assert home.administration.device_set("PACS", from_address=[])["from_addresses"] == []
    moved = home.administration.device_set("PACS", address="PACS2@192.0.2.21")
    assert (moved["title"], moved["network_title"], moved["port"]) == ("PACS2", "PACS2", None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"associate_timeout": 0.0},
        {"associate_timeout": 30_000.0},
        {"max_associations": -1},
        {"callers_as": "MUCH_TOO_LONG_A_TITLE"},
        {"from_address": ["somewhere"]},
        {"tls": {"ca": "/no/such/file"}},
        {"title": ""},
    ],
)
def test_an_option_that_will_not_do_names_its_field(home: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(FieldError) as refused:
        home.administration.perform("device_add", {"address": "PACS@192.0.2.20:104", **wrong})
    assert refused.value.field == next(iter(wrong))


def test_removing_a_device_removes_its_grants(home: Any) -> None:
    home.administration.device_add("PACS@192.0.2.20:104")
    home.administration.grant_add("PACS", site="north", services=["echo"])
    home.administration.device_remove("PACS")
    assert home.administration.grant_list() == []


def test_a_device_that_is_not_there_is_named_with_those_that_are(home: Any) -> None:
    home.administration.device_add("PACS@192.0.2.20:104")
    with pytest.raises(FieldError, match=r"no device WS here \(devices: PACS\)"):
        home.administration.device_show("WS")


def test_a_grant_says_for_what_since_there_is_no_default(home: Any) -> None:
    home.administration.device_add("PACS@192.0.2.20:104")
    for services in ([], ["  "]):
        with pytest.raises(FieldError, match="no default"):
            home.administration.grant_add("PACS", site="north", services=services)
    with pytest.raises(FieldError, match="no service 'storage'"):
        home.administration.grant_add("PACS", site="north", services=["storage"])
    assert home.administration.grant_list() == []


def test_a_grant_to_a_site_that_is_not_accepted_yet_is_kept_with_a_note(home: Any, north: Any) -> None:
    home.administration.device_add("PACS@192.0.2.20:104")
    home.shows(north.entry())
    granted = home.administration.grant_add("PACS", site="north", services=["store", "any"])
    assert granted["services"] == ["any"]
    assert "isthmus site accept north" in granted["notes"][0]
    home.accept(north)
    assert home.administration.grant_add("PACS", site="north", services=["store"])["notes"] == []


def test_the_same_grant_twice_is_one_grant(home: Any) -> None:
    home.administration.device_add("PACS@192.0.2.20:104")
    first = home.administration.grant_add("PACS", site="north", services=["store"])
    again = home.administration.grant_add("PACS", site="north", services=["store"])
    assert first["grant_id"] == again["grant_id"]
    home.administration.grant_remove(first["grant_id"])
    assert home.administration.grant_list() == []
    with pytest.raises(FieldError, match="no grant"):
        home.administration.grant_remove(first["grant_id"])


def test_a_grant_that_could_never_hold_is_refused(home: Any) -> None:
    home.administration.device_add("PACS@192.0.2.20:104")
    home.administration.device_add("CT1@192.0.2.10")
    for wrong in (
        {"device": "PACS", "site": "north", "services": ["any"], "until": home.clock.now()},
        {"device": "PACS", "site": "home", "services": ["any"]},
        {"device": "CT1", "site": "north", "services": ["any"]},
        {"device": "PACS", "site": "North!", "services": ["any"]},
    ):
        with pytest.raises(FieldError):
            home.administration.perform("grant_add", wrong)
    assert home.administration.grant_list() == []


def test_showing_a_site_pins_nothing(home: Any, north: Any) -> None:
    home.shows(north.entry())
    shown = home.administration.site_accept("north")
    assert shown["spoken"] == north.router_id.spoken
    assert not shown["accepted_here"]
    assert home.store.acceptances() == []


def test_a_router_id_that_differs_pins_nothing(home: Any, north: Any) -> None:
    home.shows(north.entry())
    with pytest.raises(FieldError, match="another Router ID"):
        home.administration.site_accept("north", router_id=home.other("rogue").router_id.spoken)
    with pytest.raises(FieldError, match="mistyped"):
        home.administration.site_accept("north", router_id=north.router_id.spoken[:-1] + "A")
    assert home.store.acceptances() == []


def test_a_router_id_may_be_typed_as_it_was_heard(home: Any, north: Any) -> None:
    home.shows(north.entry())
    heard = north.router_id.spoken.lower().replace("-", " ")
    assert home.administration.site_accept("north", router_id=heard)["accepted_here"]
    assert home.directory.pinned_key(north.router_id) == north.identity.public


def test_one_key_is_not_accepted_under_two_names(home: Any, north: Any) -> None:
    home.shows(north.entry())
    home.accept(north)
    home.shows(north.entry(), north.entry().model_copy(update={"site": "south"}))
    with pytest.raises(FieldError, match="accepted already"):
        home.administration.site_accept("south", router_id=north.router_id.spoken)


def test_a_site_that_the_bridge_does_not_show_cannot_be_accepted(home: Any, north: Any) -> None:
    with pytest.raises(FieldError, match="shown no site north"):
        home.accept(north)


def test_a_site_that_is_not_accepted_cannot_be_removed(home: Any, north: Any) -> None:
    home.shows(north.entry())
    with pytest.raises(FieldError, match="not accepted"):
        home.administration.site_remove("north")


def test_the_site_list_says_who_accepted_whom(home: Any, north: Any) -> None:
    home.shows(north.entry())
    (row,) = home.administration.site_list()
    assert (row["accepted_here"], row["accepted_there"], row["online"]) == (False, False, True)
    home.accept(north)
    home.shows(north.entry(north.statement()))
    (row,) = home.administration.site_list()
    assert (row["accepted_here"], row["accepted_there"]) == (True, True)


def test_the_directory_says_what_to_type_into_a_device(home: Any, north: Any) -> None:
    from isthmus.contract.documents import GrantedDevice
    from isthmus.kit.names import HostPort

    home.administration.listening(HostPort("192.0.2.5", 104))
    home.shows(north.entry())
    home.accept(north)
    home.shows(north.entry(north.statement(GrantedDevice(title="NORTH_PACS", services=["store"]))))
    home.administration.alias_add("NORTH_PACS", "PACS2")
    (row,) = home.administration.directory()
    assert (row["shown_as"], row["title"], row["host"], row["port"]) == ("PACS2", "NORTH_PACS", "192.0.2.5", 104)
    assert row["online"]


def test_an_alias_that_is_a_title_here_is_refused(home: Any) -> None:
    home.administration.device_add("PACS@192.0.2.20:104")
    with pytest.raises(FieldError, match="already"):
        home.administration.alias_add("NORTH_PACS", "PACS")
    home.administration.alias_add("NORTH_PACS", "PACS2")
    with pytest.raises(FieldError, match="alias"):
        home.administration.device_add("PACS2@192.0.2.21:104")
    assert home.administration.alias_list() == [{"shown_as": "PACS2", "title": "NORTH_PACS"}]
    home.administration.alias_remove("PACS2")
    with pytest.raises(FieldError):
        home.administration.alias_remove("PACS2")


def test_an_alias_for_a_device_of_another_site_than_named_is_refused(home: Any, north: Any) -> None:
    home.administration.device_add("WS@192.0.2.30:104")
    home.shows(north.entry())
    home.accept(north)
    home.administration.grant_add("WS", site="north", services=["any"])
    home.directory.admit(north.router_id, "NORTH_CT", "WS")
    with pytest.raises(FieldError, match="no device of site south"):
        home.administration.alias_add("NORTH_CT@south", "CT_N")
    home.administration.alias_add("NORTH_CT@north", "CT_N")


def test_an_operation_that_there_is_not_or_with_wrong_arguments_is_an_operators_error(home: Any) -> None:
    with pytest.raises(OperatorError, match="knows no operation"):
        home.administration.perform("listening", {"dicom": "x"})
    with pytest.raises(FieldError) as refused:
        home.administration.perform("device_add", {"address": "A@b", "colour": "red"})
    assert refused.value.field == "colour"
    with pytest.raises(FieldError) as refused:
        home.administration.perform("grant_add", {"device": "A", "site": "b", "services": "store"})
    assert refused.value.field == "services"


def test_every_operation_is_a_method(home: Any) -> None:
    assert all(callable(getattr(home.administration, name)) for name in OPERATIONS)


def test_every_change_is_in_the_audit(home: Any, north: Any) -> None:
    home.shows(north.entry())
    home.administration.device_add("PACS@192.0.2.20:104")
    home.administration.device_disable("PACS")
    home.administration.device_enable("PACS")
    home.administration.device_set("PACS", name="Archive")
    home.accept(north)
    grant = home.administration.grant_add("PACS", site="north", services=["echo"])["grant_id"]
    home.administration.grant_remove(grant)
    home.administration.alias_add("NORTH_PACS", "PACS2")
    home.administration.alias_remove("PACS2")
    home.administration.site_remove("north")
    home.administration.setting_set(audit_days=90)
    home.administration.device_remove("PACS")
    told = [row["services"] for row in reversed(home.administration.audit())]
    assert told == [
        "device_add",
        "device_disable",
        "device_enable",
        "device_set",
        "site_accept",
        "grant_add",
        "grant_remove",
        "alias_add",
        "alias_remove",
        "site_remove",
        "setting_set",
        "device_remove",
    ]


def test_the_administration_of_a_stopped_router_works_on_the_same_tables(home: Any) -> None:
    home.administration.device_add("PACS@192.0.2.20:104")
    home.store.close()
    with open_administration(home.folder) as administration:
        assert administration.perform("device_list", {})[0]["title"] == "PACS"
        with pytest.raises(OperatorError, match="in use"), open_administration(home.folder):
            pass
    with open_administration(home.folder) as administration:
        assert administration.status()["spoken"] == home.keys.router_id.spoken


def test_a_folder_without_a_router_is_not_made_into_one(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="no Router"), open_administration(tmp_path / "typo"):
        pass
    assert not (tmp_path / "typo").exists()


def test_status_says_who_this_router_is(home: Any) -> None:
    status = home.administration.status()
    assert (status["site"], status["bridge"]) == ("home", "https://bridge.example")
    assert status["spoken"] == home.keys.router_id.spoken
    assert isinstance(home.keys, Keys)
