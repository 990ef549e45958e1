"""The commands on a Router that does not run: real keys and tables in a folder, no network."""

import contextlib
import json
import time
from pathlib import Path

import pytest

from isthmus import cli
from isthmus.contract.invites import Invite
from isthmus.kit.names import AETitle, SiteName
from isthmus.router.keys import Keys, Membership
from isthmus.router.routing.callers import UnknownCallers
from isthmus.router.routing.store import Store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    keys = Keys.open(tmp_path / "router", now=time.time())
    keys.join(Membership("https://bridge.example.org", bytes(32), SiteName("north")))
    return tmp_path / "router"


class Shell:
    """Types commands at one Router."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._folder = folder
        self._capsys = capsys

    def __call__(self, line: str, *, status: int = 0) -> str:
        done = cli.run([*line.split(), "--data", str(self._folder)])
        captured = self._capsys.readouterr()
        assert done == status, captured.err
        return captured.out if status == 0 else captured.err


@pytest.fixture
def shell(folder: Path, capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(folder, capsys)


def test_adding_a_device_prints_what_to_enter_in_it(shell: Shell) -> None:
    text = shell("device add PACS@127.0.0.1:104 --name Archive")
    assert "Added PACS" in text
    assert "port      11112" in text
    assert "host      127.0.0.1" in text


def test_a_device_that_was_added_is_listed_for_people_and_for_programs(shell: Shell) -> None:
    shell("device add CT1@192.0.2.10 --title NORTH_CT --from-address 192.0.2.0/28 --from-address 198.51.100.7")
    assert "CT1" in shell("device list")
    (row,) = json.loads(shell("device list --json"))
    assert (row["title"], row["network_title"], row["port"]) == ("CT1", "NORTH_CT", None)
    assert row["from_addresses"] == ["192.0.2.0/28", "198.51.100.7/32"]


def test_a_device_is_changed_option_by_option(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").touch()
    shell("device add PACS@192.0.2.20:104")
    shell(f"device set PACS --max-associations 4 --strip-async --tls --tls-ca {tmp_path / 'ca.pem'}")
    (row,) = json.loads(shell("device list --json"))
    assert (row["max_associations"], row["strip_async"], row["port"]) == (4, True, 104)
    assert row["tls"] == {
        "to_device": True,
        "from_device": False,
        "ca": str(tmp_path / "ca.pem"),
        "certificate": None,
        "key": None,
        "check_host_name": True,
    }
    shell("device set PACS --plain --no-strip-async --port 11104")
    (row,) = json.loads(shell("device list --json"))
    assert (row["tls"], row["strip_async"], row["port"], row["max_associations"]) == (None, False, 11104, 4)


def test_a_device_can_be_disabled_enabled_and_removed(shell: Shell) -> None:
    shell("device add PACS@192.0.2.20:104")
    shell("device disable PACS")
    assert json.loads(shell("device list --json"))[0]["disabled"] is True
    shell("device enable PACS")
    assert json.loads(shell("device list --json"))[0]["disabled"] is False
    shell("device remove PACS")
    assert json.loads(shell("device list --json")) == []


def test_a_mistyped_title_is_answered_with_those_there_are(shell: Shell) -> None:
    shell("device add PACS@192.0.2.20:104")
    error = shell("device show PACSS", status=1)
    assert "PACSS" in error
    assert "devices: PACS" in error


def test_a_grant_is_shown_with_its_device_and_can_be_withdrawn(shell: Shell) -> None:
    shell("device add PACS@192.0.2.20:104")
    text = shell("grant add PACS --site south --caller WS --services echo,query --until 2099-12-31")
    assert text.startswith("Grant 1: WS of south may reach PACS for echo,query.")
    assert "Note: " in text  # the site is not there yet, which is said and not refused
    assert "1: WS of south, echo,query" in shell("device show PACS")
    (row,) = json.loads(shell("grant list --json"))
    assert (row["device"], row["site"], row["caller"], row["services"]) == ("PACS", "south", "WS", ["echo", "query"])
    assert "2099-12-31" in shell("grant list") or "2100-01-01" in shell("grant list")
    shell("grant remove 1")
    assert json.loads(shell("grant list --json")) == []


def test_a_grant_for_an_unknown_service_names_those_there_are(shell: Shell) -> None:
    shell("device add PACS@192.0.2.20:104")
    error = shell("grant add PACS --site south --services move", status=1)
    assert "'move'" in error
    assert "retrieve" in error


def test_aliases_come_and_go(shell: Shell) -> None:
    shell("alias add ARCHIVE PACS2")
    assert json.loads(shell("alias list --json")) == [{"shown_as": "PACS2", "title": "ARCHIVE"}]
    shell("alias remove PACS2")
    assert "No aliases" in shell("alias list")


def test_settings_are_shown_and_changed(shell: Shell) -> None:
    assert json.loads(shell("router settings --json"))["audit_days"] == 730
    shell("router settings --audit-days 3650 --no-open-returns")
    changed = json.loads(shell("router settings --json"))
    assert (changed["audit_days"], changed["open_returns"]) == (3650, False)


def test_the_room_of_the_spool_is_set_in_sizes_and_shown_in_them(shell: Shell) -> None:
    assert "what the disk has" in shell("router settings")
    shown = shell("router settings --spool-quota 200GB --spool-floor 5GiB")
    assert "200.0 GB" in shown
    assert "5.4 GB" in shown
    assert json.loads(shell("router settings --json"))["spool_quota"] == 200_000_000_000
    assert "500MB, 200GB" in shell("router settings --spool-quota plenty", status=1)


def test_every_change_is_in_the_audit(shell: Shell) -> None:
    shell("device add PACS@192.0.2.20:104")
    shell("grant add PACS --site south --services echo")
    rows = json.loads(shell("audit --json"))
    assert [row["services"] for row in rows] == ["grant_add", "device_add"]
    assert "device_add" in shell("audit")


def test_the_status_shows_the_router_id_as_it_is_read_over_a_phone(shell: Shell, folder: Path) -> None:
    text = shell("router status")
    assert Keys.open(folder, now=time.time()).router_id.spoken in text
    assert "north" in text


def test_the_status_of_a_router_that_does_not_run_says_so(shell: Shell) -> None:
    assert shell("router status").startswith("This Router is stopped: isthmus router run starts it.\n")
    assert json.loads(shell("router status --json"))["running"] is False


@pytest.mark.parametrize("line", ["sessions", "echo PACS", "device test PACS", "router pause"])
def test_what_needs_a_running_router_says_how_to_run_one(line: str, shell: Shell) -> None:
    error = shell(line, status=1)
    assert "no Router is running" in error
    assert "hint: isthmus router run" in error


def test_a_note_that_a_killed_router_left_behind_does_not_stop_the_command(
    shell: Shell, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nobody_there(*_args: object) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr("isthmus.cli.call._ask", nobody_there)
    (folder / "control.json").write_text('{"address": "127.0.0.1:1", "token": "x"}')
    assert "No devices yet" in shell("device list")


def test_an_unknown_site_cannot_be_accepted(shell: Shell) -> None:
    error = shell("site accept south --id ABCDE", status=1)
    assert "no site south" in error


def test_nothing_is_accepted_without_a_person_or_an_id(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    error = shell("site accept south", status=1)
    assert "--id ROUTER_ID" in error


def test_a_router_that_is_a_member_does_not_join_another_network(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    invite = Invite("https://other.example.org", bytes(32), SiteName("north"), bytes(32))
    error = shell(f"router join {invite}", status=1)
    assert "site north of https://bridge.example.org already" in error


def test_a_damaged_invite_is_said_to_be_one(shell: Shell) -> None:
    assert "not an invite" in shell("router join hello", status=1)


def test_a_ca_that_cannot_be_used_is_told_before_anything_is_asked(shell: Shell, tmp_path: Path) -> None:
    invite = Invite("https://bridge.example.org", bytes(32), SiteName("north"), bytes(32))
    (tmp_path / "ca.pem").write_text("not a certificate")
    assert "cannot use the CA file" in shell(f"router join {invite} --ca {tmp_path / 'ca.pem'}", status=1)


def test_a_caller_with_a_strange_title_is_listed_with_a_command_that_may_be_pasted(folder: Path, shell: Shell) -> None:
    with contextlib.closing(Store.open(folder / "router.db")) as store:
        callers = UnknownCallers(store)
        callers.note(AETitle("$(reboot)"), "192.0.2.99", AETitle("PACS"), 1.0)
        callers.flush()
    assert "isthmus device add '$(reboot)@192.0.2.99'" in shell("device unknown")


def test_a_known_device_that_calls_from_elsewhere_is_to_be_changed_and_not_added(folder: Path, shell: Shell) -> None:
    shell("device add CT1@192.0.2.10")
    with contextlib.closing(Store.open(folder / "router.db")) as store:
        callers = UnknownCallers(store)
        callers.note(AETitle("CT1"), "192.0.2.99", AETitle("PACS"), 1.0)
        callers.flush()
    text = shell("device unknown")
    assert "CT1 is registered at 192.0.2.10." in text
    assert "isthmus device set CT1 --host 192.0.2.99" in text
    assert "isthmus device set CT1 --from-address 192.0.2.99" in text
    assert "device add" not in text


def test_nothing_at_all_listed_says_what_to_do_next(shell: Shell) -> None:
    assert "isthmus device add" in shell("device list")
    assert "other sites reach nothing here" in shell("grant list")
    assert "Nobody." in shell("device unknown")
    assert "Nothing yet" in shell("directory")
