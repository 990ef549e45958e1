"""`isthmus site renew-mailbox`: what it asks the Router, and what it says."""

import json
from typing import Any

import pytest

from isthmus import cli

ROW = {"site": "north", "online": False, "accepted_here": True, "alerts": ["objects for site north wait here"]}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    asked: list[tuple[str, dict[str, Any]]] = []

    def call(_data: object, _part: object, operation: str, **arguments: Any) -> dict[str, Any]:
        asked.append((operation, arguments))
        return ROW

    monkeypatch.setattr("isthmus.cli.site.call_running", call)
    return asked


def test_a_person_is_told_what_happens_next_and_what_else_stands_against_the_site(
    asked: list[tuple[str, dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["site", "renew-mailbox", "north"]) == 0
    assert asked == [("site_renew_mailbox", {"site": "north"})]
    shown = capsys.readouterr().out
    assert "north leaves its letters in a new mailbox" in shown
    assert "It is offline now." in shown
    assert "north: objects for site north wait here" in shown


def test_a_script_gets_the_row_of_the_site(
    asked: list[tuple[str, dict[str, Any]]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["site", "renew-mailbox", "north", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == ROW


def test_without_a_running_router_it_says_so(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["site", "renew-mailbox", "north", "--data", str(tmp_path)]) == 1
    assert "no Router is running" in capsys.readouterr().err
