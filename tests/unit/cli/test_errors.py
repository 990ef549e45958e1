from pathlib import Path

import pytest

from isthmus import cli
from isthmus.cli import call as calling
from isthmus.errors import OperatorError, ProviderTrouble, Retry


def _fails_with(error: Exception, monkeypatch: pytest.MonkeyPatch, folder: Path) -> int:
    def raise_it(*_args: object) -> None:
        raise error

    monkeypatch.setattr(calling, "_do_here", raise_it)
    return cli.run(["device", "list", "--data", str(folder)])


def test_a_mistyped_command_gets_one_line_and_the_command_that_helps(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["grant", "ad"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        'isthmus: Unknown command "ad". Did you mean "add"? Available commands: add, list, remove.',
        "  hint: isthmus grant --help",
    ]


def test_a_missing_option_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["grant", "add", "PACS", "--site", "north"]) == 2
    error = capsys.readouterr().err
    assert "--services" in error
    assert "hint: isthmus grant add --help" in error


def test_what_an_operator_cannot_have_is_one_line_with_its_hint(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert _fails_with(OperatorError("no such\ndevice", hint="isthmus device list"), monkeypatch, tmp_path) == 1
    assert capsys.readouterr().err == "isthmus: no such device\n  hint: isthmus device list\n"


def test_trouble_of_a_provider_is_no_traceback_either(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert _fails_with(ProviderTrouble("the Bridge is away", retry=Retry.LATER), monkeypatch, tmp_path) == 1
    assert capsys.readouterr().err == "isthmus: the Bridge is away\n"


def test_a_file_that_may_not_be_written_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert _fails_with(PermissionError(13, "Permission denied", "/some/file"), monkeypatch, tmp_path) == 1
    line, hint = capsys.readouterr().err.splitlines()
    assert line == "isthmus: Permission denied: /some/file"
    assert "--data" in hint


def test_a_bug_is_one_line_that_says_how_to_report_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("ISTHMUS_DEBUG", raising=False)
    assert _fails_with(ZeroDivisionError("division by zero"), monkeypatch, tmp_path) == 70
    line, hint = capsys.readouterr().err.splitlines()
    assert line == "isthmus: ZeroDivisionError: division by zero"
    assert "ISTHMUS_DEBUG=1" in hint


def test_a_bug_shows_its_traceback_to_those_who_ask_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ISTHMUS_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        _fails_with(ZeroDivisionError(), monkeypatch, tmp_path)


def test_ctrl_c_ends_quietly(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*_args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(calling, "_do_here", interrupted)
    assert cli.run(["device", "list", "--data", str(tmp_path)]) == 130
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("part", ["device list", "bridge sites"])
def test_a_folder_without_a_part_is_said_with_the_command_that_makes_one(
    part: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.run([*part.split(), "--data", str(tmp_path / "nowhere")]) == 1
    line, hint = capsys.readouterr().err.splitlines()
    assert str(tmp_path / "nowhere") in line
    assert hint.startswith("  hint: isthmus ")
    assert not (tmp_path / "nowhere").exists()
