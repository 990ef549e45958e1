"""What a hurried operator types wrong: one line, what to do about it, and nothing changed."""

import json
import time
from pathlib import Path

import pytest

from isthmus import cli
from isthmus.bridge import app as bridge_app
from isthmus.cli import logs
from isthmus.contract.invites import Invite
from isthmus.kit.names import SiteName
from isthmus.router.keys import Keys, Membership


@pytest.fixture
def router(tmp_path: Path) -> Path:
    keys = Keys.open(tmp_path / "router", now=time.time())
    keys.join(Membership("https://bridge.example.org", bytes(32), SiteName("north")))
    return tmp_path / "router"


@pytest.fixture
def bridge(tmp_path: Path) -> Path:
    folder = tmp_path / "bridge"
    folder.mkdir()
    (folder / "identity.key").write_bytes(bytes(32))
    (folder / "address.json").write_text('{"url": "https://bridge.example.org"}')
    return folder


class Typed:
    """Types commands, and returns the line and the hint with which they were refused."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def refused(self, line: str, folder: Path) -> tuple[str, str]:
        assert cli.run([*line.split(), "--data", str(folder)]) in {1, 2}
        lines = self._capsys.readouterr().err.splitlines()
        assert len(lines) == 2, lines
        assert lines[1].startswith("  hint: ")
        return lines[0], lines[1]

    def understood(self, line: str, folder: Path) -> str:
        assert cli.run([*line.split(), "--data", str(folder)]) == 0
        return self._capsys.readouterr().out


@pytest.fixture(autouse=True)
def no_bridge_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run_bridge(*_args: object) -> None:
        raise AssertionError("it starts")

    monkeypatch.setattr(bridge_app, "run_bridge", run_bridge)
    monkeypatch.setattr(logs, "configure", lambda *, verbose: None)  # it is for the whole process


@pytest.fixture
def typed(capsys: pytest.CaptureFixture[str]) -> Typed:
    return Typed(capsys)


INVITE = str(Invite("https://bridge.example.org", bytes(32), SiteName("north"), bytes(32)))


@pytest.mark.parametrize(
    "line", ["router status", "router pause", "router run", f"router join {INVITE}", "device list", "doctor"]
)
def test_the_folder_of_a_bridge_is_not_taken_for_a_routers(line: str, typed: Typed, bridge: Path) -> None:
    before = sorted(bridge.iterdir())
    line, hint = typed.refused(line, bridge)
    assert "the data folder of a Bridge" in line
    assert "--data" in hint
    assert sorted(bridge.iterdir()) == before


@pytest.mark.parametrize("line", ["bridge run", "bridge status", "bridge invite north"])
def test_the_folder_of_a_router_is_not_taken_for_a_bridges(line: str, typed: Typed, router: Path) -> None:
    before = sorted(router.iterdir())
    line, _ = typed.refused(line, router)
    assert "the data folder of a Router" in line
    assert sorted(router.iterdir()) == before


@pytest.mark.parametrize("line", ["router status", "router run", "bridge run", "bridge sites", "doctor"])
def test_a_file_is_not_taken_for_a_data_folder(line: str, typed: Typed, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line, hint = typed.refused(line, tmp_path / "file")
    assert "is not a folder" in line
    assert "--data" in hint


def test_a_router_that_joined_nothing_does_not_run_and_leaves_no_folder(typed: Typed, tmp_path: Path) -> None:
    _, hint = typed.refused("router run", tmp_path / "nowhere")
    assert "isthmus router join" in hint
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "options",
    [
        "--public-url bridge.example.org",
        "--public-url ftp://bridge.example.org",
        "--public-url https://",
        "--public-url https://bridge.example.org:99999",
        "--public-url https://bridge.example.org/isthmus",
        "--no-tls --certificate chain.pem --key key.pem",
        "--listen 0.0.0.0",
    ],
)
def test_a_bridge_that_no_router_could_reach_does_not_start(options: str, typed: Typed, tmp_path: Path) -> None:
    line, _ = typed.refused(f"bridge run {options}", tmp_path / "bridge")
    assert any(word.lstrip("-") in line for word in options.split())
    assert not (tmp_path / "bridge").exists()


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("device add WS@192.0.2.30:104 --tls-ca ca.pem", "--tls-ca"),
        ("device set PACS --tls-key key.pem", "--tls-key"),
        ("device set PACS --tls-any-host", "--tls-any-host"),
        ("device set PACS --plain --tls", "--plain"),
        ("device set PACS", "nothing to change"),
        (f"device set PACS --name {'x' * 65}", "64 characters"),
        ("device set PACS --name a\x1bb", "printable"),
        ("alias add FAR_PACS@ PACS2", "site name"),
        ("site accept north --id x", "this site"),
        ("audit --limit 0", "--limit"),
        ("audit --limit -5", "--limit"),
        ("device list more words", "more words"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_changes_nothing(line: str, word: str, typed: Typed, router: Path) -> None:
    typed.understood("device add PACS@192.0.2.20:104", router)
    before = typed.understood("device list --json", router)
    said, _ = typed.refused(line, router)
    assert word in said
    assert typed.understood("device list --json", router) == before
    assert json.loads(typed.understood("alias list --json", router)) == []


@pytest.mark.parametrize("note", ['{"address": 5, "token": "x"}', '{"address": "127.0.0.1:80"}', "{", "[]"])
def test_a_damaged_note_of_where_a_part_listens_is_named(note: str, typed: Typed, router: Path) -> None:
    (router / "control.json").write_text(note)
    line, _ = typed.refused("router status", router)
    assert f"{router / 'control.json'} is damaged" in line
