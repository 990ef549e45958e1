"""What `isthmus queue` prints and asks, of a Router that says what a test tells it to."""

import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from isthmus import cli
from isthmus.cli import queue

ROW: dict[str, Any] = {
    "study": "3f29ab10",
    "mac": "3f29ab10" * 8,
    "description": "Head, synthetic",
    "sender": "CT1",
    "destination": "SOUTH_PACS",
    "site": "south",
    "total": 1200,
    "delivered": 1012,
    "waiting": 100,
    "posted": 80,
    "received": 0,
    "held": 8,
    "cancelled": 0,
    "reason": "refused (status C000H)",
    "since": 1_800_000_000.0,
    "expected": None,
    "first": True,
    "study_date": "20260102",
    "modality": "CT",
}


class Router:
    """Answers operations, and notes what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answers: list[Any] = []

    def __call__(self, _data: object, _part: object, operation: str, **arguments: Any) -> Any:
        self.asked.append((operation, {name: value for name, value in arguments.items() if value is not None}))
        return self.answers.pop(0)


@pytest.fixture
def router(monkeypatch: pytest.MonkeyPatch) -> Router:
    router = Router()
    monkeypatch.setattr(queue, "call_running", router)
    return router


@pytest.fixture
def type_in(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def shell(line: str, *, status: int = 0) -> str:
        done = cli.run(line.split())
        captured = capsys.readouterr()
        assert done == status, captured.err
        return captured.out

    return shell


def _listed(**changes: Any) -> dict[str, Any]:
    return {"studies": 1, "more": 0, "rows": [ROW | changes]}


def test_the_list_says_how_far_a_study_is_and_where_the_rest_is(router: Router, type_in: Callable[..., str]) -> None:
    router.answers = [_listed()]
    text = type_in("queue list")
    for words in (
        "3f29ab10",
        "1,012 of 1,200",
        "SOUTH_PACS@south",
        "100 waits here; 80 on its way; 8 held (first)",
        "C000H",
    ):
        assert words in text


def test_the_list_says_that_there_is_more(router: Router, type_in: Callable[..., str]) -> None:
    router.answers = [{**_listed(), "more": 12}]
    assert "12 studies more" in type_in("queue list --limit 1")
    assert router.asked == [("queue_list", {"limit": 1, "done": False})]


def test_programs_get_json(router: Router, type_in: Callable[..., str]) -> None:
    router.answers = [_listed()]
    assert json.loads(type_in("queue list --json"))["rows"][0]["delivered"] == 1012


def test_watching_without_a_terminal_prints_a_line_for_each_change_only(
    router: Router, type_in: Callable[..., str]
) -> None:
    router.answers = [_listed(), _listed(), _listed(delivered=1020)]
    lines = type_in("queue watch --every 0.5 --count 3").splitlines()
    assert [line.split("  ")[2] for line in lines] == ["1,012 of 1,200", "1,020 of 1,200"]
    assert [arguments["again"] for _, arguments in router.asked] == [False, True, True]


def test_nothing_is_given_up_without_a_yes(
    router: Router, type_in: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("no\n"))
    assert "Nothing was given up" in type_in("queue cancel 3f29ab10", status=1)
    assert router.asked == []
    router.answers = [{"study": "3f29ab10", "objects": 8, "too_late": 80}]
    text = type_in("queue cancel 3f29ab10 --yes --destination SOUTH_PACS")
    assert "8 objects" in text
    assert "80 are on their way" in text
    assert router.asked == [("queue_cancel", {"study": "3f29ab10", "destination": "SOUTH_PACS"})]


def test_an_export_goes_on_until_there_is_no_more(router: Router, type_in: Callable[..., str]) -> None:
    router.answers = [
        {"written": 2, "damaged": 1, "after": [7, 500], "number": 3},
        {"written": 1, "damaged": 0, "after": [8, 100], "number": 4},
        {"written": 0, "damaged": 0, "after": None, "number": 4},
    ]
    text = type_in("queue export 3f29ab10 /tmp/out")
    assert "3 files are in /tmp/out" in text
    assert "1 objects are damaged" in text
    assert [arguments.get("after") for _, arguments in router.asked] == [None, [7, 500], [8, 100]]


def test_what_is_found_is_shown_with_the_patient(router: Router, type_in: Callable[..., str]) -> None:
    router.answers = [[ROW | {"patient_name": "Doe^Jane", "patient_id": "4711", "accession": "A1"}]]
    assert "Doe^Jane" in type_in("queue find --name Doe --patient-id 4711")
    assert router.asked == [("queue_find", {"name": "Doe", "patient_id": "4711"})]


def test_a_study_is_shown_with_the_words_of_the_device(router: Router, type_in: Callable[..., str]) -> None:
    held = {
        "destination": "SOUTH_PACS",
        "count": 8,
        "reason": "refused",
        "status": "C000H",
        "comment": "cannot understand",
        "since": 1_800_000_000.0,
    }
    router.answers = [{"rows": [ROW | {"patient_name": "Doe^Jane"}], "held": [held], "repeats": {"SOUTH_PACS": 3}}]
    text = type_in("queue show 3f29")
    assert "cannot understand" in text
    assert "SOUTH_PACS may have 3 of them twice" in text


@pytest.mark.parametrize("verb", ["first", "retry", "hold", "release"])
def test_each_action_is_for_a_study(router: Router, type_in: Callable[..., str], verb: str) -> None:
    router.answers = [{"study": "3f29ab10", "objects": 2, "too_late": 0}]
    assert "2 objects of study 3f29ab10" in type_in(f"queue {verb} 3f29ab10")
    assert router.asked[0][0] == f"queue_{verb}"
