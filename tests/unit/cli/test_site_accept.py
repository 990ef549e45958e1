"""Accepting a site is a question to a person, or an ID that a script was given; nothing else."""

from typing import Any

import pytest

from isthmus import cli

SPOKEN = "ABCDE-FGHIJ-KLMNO-PQRST-UVWXY-Z2345-67ABC-D"


class Router:
    """Records what it is asked; knows one site."""

    def __init__(self) -> None:
        self.accepted: list[str] = []

    def call(self, _data: object, _part: object, operation: str, **arguments: Any) -> dict[str, Any]:
        assert operation == "site_accept"
        if "router_id" in arguments:
            self.accepted.append(arguments["router_id"])
        return {"site": arguments["site"], "spoken": SPOKEN, "accepted_there": False}


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch) -> Router:
    router = Router()
    monkeypatch.setattr("isthmus.cli.site.call", router.call)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    return router


@pytest.mark.parametrize("answer", ["yes", " YES "])
def test_the_id_is_pinned_when_the_person_says_that_it_is_the_same(
    answer: str, router: Router, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("builtins.input", lambda _question: answer)
    assert cli.run(["site", "accept", "south"]) == 0
    assert router.accepted == [SPOKEN]
    shown = capsys.readouterr().out
    assert SPOKEN in shown
    assert "Nothing flows until they accept this site too" in shown


@pytest.mark.parametrize("answer", ["", "y", "no", "ja", SPOKEN])
def test_anything_but_yes_pins_nothing(answer: str, router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builtins.input", lambda _question: answer)
    assert cli.run(["site", "accept", "south"]) == 1
    assert router.accepted == []


def test_with_an_id_nobody_is_asked(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(_question: str) -> str:
        raise AssertionError("somebody was asked")

    monkeypatch.setattr("builtins.input", asked)
    assert cli.run(["site", "accept", "south", "--id", SPOKEN]) == 0
    assert router.accepted == [SPOKEN]


def test_the_end_of_input_is_no_yes(router: Router, monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(_question: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", ended)
    assert cli.run(["site", "accept", "south"]) == 1
    assert router.accepted == []
