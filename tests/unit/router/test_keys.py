"""A Router's keys on disk."""

import stat
import sys
from pathlib import Path

import pytest

from isthmus.contract.documents import DocumentKind, Prekey
from isthmus.envelope.documents import open_document
from isthmus.errors import OperatorError
from isthmus.kit.names import SiteName
from isthmus.router.keys import Keys, Membership

NOW = 1_900_000_000.0
DAY = 86_400.0


def test_keys_are_made_once_and_then_kept(tmp_path: Path) -> None:
    first = Keys.open(tmp_path, now=NOW)
    again = Keys.open(tmp_path, now=NOW + 1)
    assert first.router_id == again.router_id
    assert first.prekeys.keys() == again.prekeys.keys()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_every_key_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    Keys.open(tmp_path / "data", now=NOW).join(Membership("https://bridge.example", bytes(32), SiteName("home")))
    files = [file for file in (tmp_path / "data").rglob("*") if file.is_file()]
    assert len(files) == 3
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_a_router_does_not_start_with_keys_that_others_may_read(tmp_path: Path, mode: int) -> None:
    Keys.open(tmp_path, now=NOW)
    (tmp_path / "identity.key").chmod(mode)
    with pytest.raises(OperatorError, match="may be read by others") as refused:
        Keys.open(tmp_path, now=NOW)
    assert "chmod 600" in refused.value.hint
    (tmp_path / "identity.key").chmod(0o600)
    next((tmp_path / "prekeys").iterdir()).chmod(mode)
    with pytest.raises(OperatorError, match="may be read by others"):
        Keys.open(tmp_path, now=NOW)


def test_a_lost_identity_is_not_replaced_in_silence(tmp_path: Path) -> None:
    Keys.open(tmp_path, now=NOW)
    (tmp_path / "identity.key").unlink()
    with pytest.raises(OperatorError, match="missing"):
        Keys.open(tmp_path, now=NOW)


def test_there_is_a_new_prekey_each_day_and_old_ones_open_for_sixty_days(tmp_path: Path) -> None:
    keys = Keys.open(tmp_path, now=NOW)
    first = keys.newest
    assert not keys.rotate(NOW + DAY - 1)
    assert keys.rotate(NOW + DAY)
    assert keys.newest != first
    assert first.prekey_id in keys.prekeys
    keys.rotate(NOW + 60 * DAY)
    assert first.prekey_id in keys.prekeys
    keys.rotate(NOW + 60 * DAY + 1)
    assert first.prekey_id not in keys.prekeys
    assert not list((tmp_path / "prekeys").glob(f"{first.prekey_id.hex()}*"))


def test_the_prekey_document_is_the_newest_signed_by_this_router(tmp_path: Path) -> None:
    keys = Keys.open(tmp_path, now=NOW)
    payload = open_document(keys.prekey_document(), keys.identity.public, DocumentKind.PREKEY)
    assert Prekey.parse(payload).prekey_id == keys.newest.prekey_id
    assert Prekey.parse(payload).not_after == NOW + 30 * DAY


@pytest.mark.parametrize("ca", [None, Path("/etc/ssl/hospital-ca.pem")])
def test_the_membership_is_remembered(tmp_path: Path, ca: Path | None) -> None:
    membership = Membership("https://bridge.example", bytes(range(32)), SiteName("home"), ca)
    Keys.open(tmp_path, now=NOW).join(membership)
    assert Keys.open(tmp_path, now=NOW).membership == membership


@pytest.mark.parametrize("damage", ["{", "{}", '{"url": "x", "identity": "AA==", "site": "Not A Site"}'])
def test_a_damaged_membership_is_told(tmp_path: Path, damage: str) -> None:
    Keys.open(tmp_path, now=NOW)
    (tmp_path / "membership.json").write_text(damage)
    with pytest.raises(OperatorError, match="damaged"):
        Keys.open(tmp_path, now=NOW)


def test_damaged_keys_are_told(tmp_path: Path) -> None:
    Keys.open(tmp_path, now=NOW)
    (tmp_path / "identity.key").write_bytes(b"short")
    with pytest.raises(OperatorError, match="damaged"):
        Keys.open(tmp_path, now=NOW)


def test_nothing_private_is_in_the_repr(tmp_path: Path) -> None:
    keys = Keys.open(tmp_path, now=NOW)
    assert keys.router_id.spoken in repr(keys)
    assert keys.identity.private.hex() not in repr(keys.__dict__)
