"""The spool's secret: made once, never made anew while something is sealed under it."""

from pathlib import Path

import pytest
from tests.unit.router.queued.spool.home import chance

from isthmus.errors import OperatorError, SealBroken
from isthmus.router.queued.spool.secrets import SpoolSecrets, load_secret


def test_the_secret_is_made_once_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    made = load_secret(tmp_path / "spool.key", chance("a"), needed=False)
    assert load_secret(tmp_path / "spool.key", chance("b"), needed=True) == made
    assert (tmp_path / "spool.key").stat().st_mode & 0o777 == 0o600


def test_a_missing_secret_is_not_made_anew_while_objects_are_sealed_under_it(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="missing"):
        load_secret(tmp_path / "spool.key", chance("a"), needed=True)
    assert not (tmp_path / "spool.key").exists()


def test_a_damaged_secret_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spool.key").write_bytes(b"short")
    with pytest.raises(OperatorError, match="damaged"):
        load_secret(tmp_path / "spool.key", chance("a"), needed=False)


def test_every_object_has_its_own_secret_and_another_spool_others(tmp_path: Path) -> None:
    one, two = SpoolSecrets(b"1" * 32, chance("a")), SpoolSecrets(b"2" * 32, chance("a"))
    found = {secrets.object_secret(object_id) for secrets in (one, two) for object_id in (b"a" * 16, b"b" * 16)}
    assert len(found) == 4


def test_an_instance_is_known_again_and_not_told(tmp_path: Path) -> None:
    one, two = SpoolSecrets(b"1" * 32, chance("a")), SpoolSecrets(b"2" * 32, chance("a"))
    assert one.instance_mac("1.2.3") == one.instance_mac("1.2.3")
    assert len({one.instance_mac("1.2.3"), one.instance_mac("1.2.4"), two.instance_mac("1.2.3")}) == 3


def test_sealed_bytes_that_are_cut_or_of_another_spool_do_not_open(tmp_path: Path) -> None:
    one, two = SpoolSecrets(b"1" * 32, chance("a")), SpoolSecrets(b"2" * 32, chance("a"))
    sealed = one.seal_local("comment", b"content")
    for secrets, raw in ((two, sealed), (one, sealed[:-1]), (one, sealed[:5]), (one, b"")):
        with pytest.raises(SealBroken):
            secrets.open_local("comment", raw)
