"""The database: whole or not opened, upgraded in steps, one writer."""

import sqlite3
import stat
import sys
from pathlib import Path

import pytest

from isthmus.errors import OperatorError
from isthmus.router.routing.schema import STEPS
from isthmus.router.routing.store import Store


def test_a_new_database_has_the_newest_tables_and_is_private(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "router.db")
    with store.transaction() as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(STEPS),)
        assert connection.execute("PRAGMA synchronous").fetchone() == (3,)
        assert connection.execute("PRAGMA foreign_keys").fetchone() == (1,)
    store.close()
    if sys.platform != "win32":
        assert stat.S_IMODE((tmp_path / "router.db").stat().st_mode) == 0o600


def test_no_write_ahead_log_where_it_can_corrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 51, 2))
    store = Store.open(tmp_path / "router.db")
    with store.transaction() as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("delete",)
    store.close()


def test_a_database_of_a_newer_release_is_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "router.db"
    Store.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(OperatorError, match="newer release"):
        Store.open(path)


def test_a_damaged_database_is_told(tmp_path: Path) -> None:
    path = tmp_path / "router.db"
    path.write_bytes(b"this is no database" * 1000)
    for way in (Store.open, Store.look):
        with pytest.raises(OperatorError, match="damaged"):
            way(path)


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    store = Store.open(tmp_path / "router.db")
    with pytest.raises(sqlite3.IntegrityError), store.transaction() as connection:
        connection.executemany("INSERT INTO seen_titles VALUES (?, ?)", [("CT1", "X"), ("CT1", "Y")])
    assert store.seen_titles() == {}
    store.close()


def test_looking_does_not_write(tmp_path: Path) -> None:
    path = tmp_path / "router.db"
    store = Store.open(path)
    looking = Store.look(path)
    assert looking.devices() == []
    with pytest.raises(sqlite3.OperationalError):
        looking.forget_published()
    looking.close()
    store.close()
