"""Titles in command sets: a C-MOVE-RQ and a C-STORE-RQ name devices, whom others may know by another title."""

import pytest

from isthmus.dicom.command import CommandSet
from isthmus.dicom.pdus import message
from isthmus.dicom.pdv import Command
from isthmus.kit.names import AETitle
from isthmus.relay.titles import renamed
from isthmus.testing.dicom import echo_rq, move_command, store_command

NAMES = {"WS": AETitle("WORKSTATION_0001"), "LONG_TITLE": AETitle("L")}


def rename(title: AETitle) -> AETitle:
    return NAMES.get(title, title)


@pytest.mark.parametrize("title", ["WS", "LONG_TITLE"])
def test_a_move_destination_is_renamed_and_all_else_stays(title: str) -> None:
    new = renamed(Command(1, move_command(title)), rename)
    assert new == move_command(NAMES[title])


def test_a_move_originator_is_renamed() -> None:
    new = renamed(Command(1, store_command(originator="WS")), rename)
    assert new is not None
    assert CommandSet.parse(new).move_originator_title == "WORKSTATION_0001"


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(move_command("OTHER"), id="another destination"),
        pytest.param(move_command(""), id="no destination"),
        pytest.param(store_command(), id="no originator"),
        pytest.param(store_command(originator="OTHER"), id="another originator"),
        pytest.param(echo_rq()[12:], id="an echo"),
        pytest.param(b"\xff", id="no command set"),
    ],
)
def test_what_names_nobody_with_another_title_stays_as_it_is(raw: bytes) -> None:
    assert renamed(Command(1, raw), rename) is None


def test_a_renamed_command_set_is_a_message_still() -> None:
    new = renamed(Command(1, move_command("WS")), rename)
    assert new is not None
    assert len(message(1, new)) > len(message(1, move_command("WS")))
