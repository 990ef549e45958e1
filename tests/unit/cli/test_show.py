import json

import pytest

from isthmus.cli import show


def test_a_table_has_headings_and_aligned_columns(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"site": "north", "online": True}, {"site": "a", "online": False, "extra": 1}]
    show.table(rows, {"site": "SITE", "online": "ONLINE"}, empty="none")
    assert capsys.readouterr().out == "SITE   ONLINE\nnorth  yes\na      no\n"


def test_an_empty_table_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    show.table([], {"site": "SITE"}, empty="No sites yet.")
    assert capsys.readouterr().out == "No sites yet.\n"


def test_facts_leave_out_what_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    show.facts([("site", "north"), ("bridge", None), ("id", "X")])
    assert capsys.readouterr().out == "site  north\nid    X\n"


def test_json_is_read_back_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    value = [{"title": "PACS", "port": None, "services": ["echo"]}]
    show.as_json(value)
    assert json.loads(capsys.readouterr().out) == value


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_500_000, "2.5 MB"), (4_000_000_000, "4.0 GB")]
)
def test_sizes_are_decimal(count: int, text: str) -> None:
    assert show.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (61, "1 min 1 s"), (7260, "2 h 1 min"), (90000, "1 d 1 h")]
)
def test_durations_have_their_two_largest_units(seconds: float, text: str) -> None:
    assert show.duration(seconds) == text


@pytest.mark.parametrize("nothing", [None, "", []])
def test_nothing_is_a_dash(nothing: object) -> None:
    assert show.words(nothing) == "-"


def test_what_is_inside_of_an_object_has_both_names() -> None:
    assert list(show.flat({"url": "u", "tls": {"to_device": True, "ca": None}})) == [
        ("url", "u"),
        ("tls to device", True),
        ("tls ca", None),
    ]


def test_an_echo_is_shown_leg_by_leg(capsys: pytest.CaptureFixture[str]) -> None:
    legs = [{"name": "C-ECHO", "seconds": 0.0012}, {"name": "release", "seconds": 0.01}]
    show.legs({"called": "PACS", "site": "south", "status": "success (0000)", "legs": legs, "seconds": 0.0112})
    assert capsys.readouterr().out.splitlines() == [
        "PACS of south: success (0000)",
        "       1.2 ms  C-ECHO",
        "      10.0 ms  release",
        "      11.2 ms  in all",
    ]


def test_a_finding_that_is_not_well_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"level": "ok", "what": "clock", "found": "right", "advice": ""},
        {"level": "bad", "what": "disk", "found": "full", "advice": "make room"},
    ]
    show.findings(rows)
    assert capsys.readouterr().out.splitlines() == [
        "ok    clock  right",
        "bad   disk   full",
        "             -> make room",
    ]


def test_what_would_upset_a_terminal_is_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    show.table([{"reason": "gone\x1b[2J\nfor good"}], {"reason": "WHY"}, empty="")
    show.facts([("comment", "a\x07b")])
    assert capsys.readouterr().out == "WHY\ngone?[2J?for good\ncomment  a?b\n"
