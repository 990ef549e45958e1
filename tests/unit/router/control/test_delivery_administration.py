"""What an operator chooses for queued delivery, and what they are told when they may not."""

from typing import Any

import pytest

from isthmus.contract.documents import GrantedDevice, grouped
from isthmus.errors import OperatorError
from isthmus.router.control.device_administration import FieldError
from isthmus.router.routing.records import CapRule, Direction

CT = ("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1")


def _offer(title: str, *modes: str, known: bool = True) -> GrantedDevice:
    return GrantedDevice(title=title, services=["store"], modes=list(modes), takes=grouped([CT] if known else []))


@pytest.fixture
def offers(home: Any, north: Any) -> None:
    """Three archives of north: one takes both modes, one live only, of one nobody knows what it takes."""
    statement = north.statement(
        _offer("BOTH", "live", "queued"), _offer("LIVE", "live"), _offer("NEW", "live", "queued", known=False)
    )
    home.shows(north.entry(statement))
    home.accept(north)
    home.shows(north.entry(statement))  # what it says counts from now on
    home.administration.device_add("CT1@192.0.2.10")


def test_a_choice_is_listed_and_shown_in_the_directory(home: Any, offers: None) -> None:
    answer = home.administration.delivery_set("BOTH", "queued")
    assert (answer["mode"], answer["from_device"], answer["notes"]) == ("queued", None, [])
    home.administration.delivery_set("BOTH", "live", from_device="CT1")
    assert {(row["from_device"], row["mode"]) for row in home.administration.delivery_list()} == {
        (None, "queued"),
        ("CT1", "live"),
    }
    shown = {row["title"]: row["delivery"] for row in home.administration.directory()}
    assert shown == {"BOTH": "queued, live from CT1", "LIVE": "live", "NEW": "live"}


def test_what_the_owner_does_not_allow_is_refused(home: Any, offers: None) -> None:
    with pytest.raises(FieldError, match="does not allow queued") as refused:
        home.administration.delivery_set("LIVE", "queued")
    assert refused.value.field == "mode"
    assert home.administration.delivery_list() == []


def test_a_choice_through_an_alias_asks_the_owner_of_the_device(home: Any, offers: None) -> None:
    home.administration.alias_add("LIVE", "PACS2")
    with pytest.raises(FieldError, match="does not allow"):
        home.administration.delivery_set("PACS2", "queued")


def test_queued_to_a_device_that_nobody_asked_what_it_takes_is_warned_of(home: Any, offers: None) -> None:
    assert "isthmus device probe NEW" in home.administration.delivery_set("NEW", "queued")["notes"][0]
    assert home.administration.delivery_set("NEW", "live")["notes"] == []


def test_a_title_that_no_site_has_shown_is_taken_with_a_note(home: Any) -> None:
    assert "no site has shown ELSEWHERE" in home.administration.delivery_set("ELSEWHERE", "queued")["notes"][0]


def test_a_choice_is_forgotten_once(home: Any, offers: None) -> None:
    home.administration.delivery_set("BOTH", "queued")
    assert home.administration.delivery_unset("BOTH")["delivery"] == "live"
    with pytest.raises(FieldError, match="nothing is chosen"):
        home.administration.delivery_unset("BOTH")


def test_a_word_that_is_no_mode_is_refused(home: Any) -> None:
    with pytest.raises(OperatorError, match="no delivery mode"):
        home.administration.delivery_set("BOTH", "later")


def test_a_group_gets_loses_and_replaces_members(home: Any, offers: None) -> None:
    home.administration.group_add("STROKE", member=["BOTH"])
    assert home.administration.group_add("STROKE", member=["NEW", "BOTH"])["members"] == ["BOTH", "NEW"]
    assert home.administration.group_set("STROKE", member=["NEW"])["members"] == ["NEW"]
    assert home.administration.group_remove("STROKE", member=["NEW"])["members"] == []
    assert home.administration.group_list() == []


def test_a_group_is_forgotten_as_a_whole(home: Any, offers: None) -> None:
    home.administration.group_add("STROKE", member=["BOTH", "NEW"])
    assert home.administration.group_show("STROKE")["members"] == ["BOTH", "NEW"]
    home.administration.group_remove("STROKE")
    with pytest.raises(FieldError, match="no group"):
        home.administration.group_show("STROKE")


@pytest.mark.parametrize(
    ("title", "member", "word"),
    [
        ("CT1", "BOTH", "already"),
        ("BOTH", "NEW", "another site"),
        ("STROKE", "STROKE", "groups hold devices"),
        ("STROKE", "LIVE", "does not allow"),
    ],
)
def test_a_group_that_would_not_work_is_refused(home: Any, offers: None, title: str, member: str, word: str) -> None:
    with pytest.raises(FieldError, match=word):
        home.administration.group_add(title, member=[member])
    assert home.administration.group_list() == []


def test_a_group_has_no_delivery_mode_of_its_own(home: Any, offers: None) -> None:
    home.administration.group_add("STROKE", member=["BOTH"])
    with pytest.raises(FieldError, match="always queued"):
        home.administration.delivery_set("STROKE", "live")


def test_caps_are_set_replaced_shown_and_lifted(home: Any) -> None:
    operations = home.administration
    operations.bandwidth_set(up="50Mbit/s", start="07:00", end="19:00")
    operations.bandwidth_set(up="400Mbit/s", down="400Mbit/s")
    rows = operations.bandwidth_set(up="60Mbit/s", start="07:00", end="19:00")
    assert [(row["direction"], row["rate"], row["when"]) for row in rows] == [
        ("down", "400 Mbit/s", "all day"),
        ("up", "60 Mbit/s", "07:00 to 19:00"),
        ("up", "400 Mbit/s", "all day"),
    ]
    assert home.store.bandwidth_rules()[-1] == CapRule(Direction.UP, 7_500_000, 420, 1140)
    assert {row["direction"] for row in operations.bandwidth_clear(up=True)} == {"down"}
    assert operations.bandwidth_clear() == []


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"up": "50"},
        {"up": "50Mbit/s", "start": "07:00"},
        {"up": "50Mbit/s", "start": "07:00", "end": "07:00"},
        {"down": "50Mbit/s", "start": "7", "end": "19:00"},
    ],
)
def test_a_cap_that_makes_no_sense_is_refused(home: Any, given: dict[str, str]) -> None:
    with pytest.raises(FieldError):
        home.administration.bandwidth_set(**given)
    assert home.administration.bandwidth_show() == []


def test_every_change_is_in_the_audit(home: Any, offers: None) -> None:
    home.administration.delivery_set("BOTH", "queued")
    home.administration.group_add("STROKE", member=["BOTH"])
    home.administration.bandwidth_set(up="50Mbit/s")
    operations = [row["services"] for row in home.administration.audit(limit=3)]
    assert operations == ["bandwidth_set", "group_add", "delivery_set"]
