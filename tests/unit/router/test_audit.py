"""The audit: complete, append-only, and without anything of a patient."""

import sqlite3
from dataclasses import dataclass
from typing import Any

import pytest

from isthmus.router.audit import Audit, AuditEvent

DAY = 86_400.0


@dataclass
class Pair:
    calling: str = "CT1"
    called: str = "NORTH_PACS"
    far_site: str | None = "north"


@dataclass
class Association:
    session_id: bytes
    parties: Pair | None
    started: float
    services: tuple[str, ...] = ("store", "echo")
    mode: str = "live"
    bytes_out: int = 1000
    bytes_in: int = 20


def association(home: Any) -> Association:
    return Association(bytes(range(16)), Pair(), home.clock.now())


def test_an_association_leaves_a_row_at_its_beginning_and_one_at_its_end(home: Any) -> None:
    relayed = association(home)
    home.audit.opened(relayed)
    home.clock.advance(2.5)
    home.audit.association(relayed, outcome="released")
    ended, opened = home.audit.rows()
    assert (opened.what, ended.what, ended.outcome) == (AuditEvent.OPENED, AuditEvent.ENDED, "released")
    assert (ended.calling, ended.called, ended.site) == ("CT1", "NORTH_PACS", "north")
    assert (ended.services, ended.bytes_out, ended.bytes_in, ended.seconds) == ("store echo", 1000, 20, 2.5)
    assert ended.session == bytes(range(16)).hex()


def test_a_refusal_leaves_a_row_with_its_reason(home: Any) -> None:
    home.audit.refused(calling="CT9", called="PACS", outcome="calling title CT9 is unknown")
    (row,) = home.audit.rows()
    assert (row.what, row.calling, row.outcome) == (AuditEvent.REFUSED, "CT9", "calling title CT9 is unknown")


def test_associations_are_written_in_batches_and_changes_at_once(home: Any) -> None:
    home.audit.opened(association(home))
    assert Audit(home.store, home.clock).rows() == []
    home.audit.changed("device_add", "PACS@192.0.2.20:104")
    assert len(Audit(home.store, home.clock).rows()) == 2


def test_a_row_can_be_neither_changed_nor_deleted(home: Any) -> None:
    home.clock.jump(10 * 365 * DAY)  # the database goes by the machine's own clock
    home.audit.changed("device_add", "PACS@192.0.2.20:104")
    for statement in ("UPDATE audit SET outcome = ''", "DELETE FROM audit"):
        with pytest.raises(sqlite3.IntegrityError), home.store.transaction() as connection:
            connection.execute(statement)
    assert len(home.audit.rows()) == 1


def test_rows_that_are_old_enough_are_pruned_and_no_others(home: Any) -> None:
    home.clock.jump(1_000_000_000.0 - home.clock.now())  # long ago for the database too
    home.audit.changed("device_add", "the old one")
    home.clock.advance(700 * DAY)
    home.audit.changed("device_add", "the newer one")
    home.clock.advance(31 * DAY)
    assert home.audit.prune() == 1
    assert [row.outcome for row in home.audit.rows()] == ["the newer one"]


def test_what_a_device_puts_into_a_title_upsets_no_terminal_and_has_an_end(home: Any) -> None:
    home.audit.refused(calling="CT\x1b[2J\n", called="A" * 5000, outcome="unknown")
    (row,) = home.audit.rows()
    assert row.calling == "CT?[2J?"
    assert len(row.called) == 200


def test_a_row_holds_nothing_but_what_it_is_meant_to(home: Any) -> None:
    with home.store.transaction() as connection:
        columns = {row[1] for row in connection.execute("PRAGMA table_info(audit)")}
    assert columns == {
        "audit_id",
        "time",
        "event",
        "actor",
        "calling",
        "called",
        "site",
        "services",
        "outcome",
        "bytes_out",
        "bytes_in",
        "seconds",
        "session",
        "mode",
    }


def test_rows_wait_for_a_disk_that_is_full(home: Any) -> None:
    class Full:
        def transaction(self) -> Any:
            raise sqlite3.OperationalError("database or disk is full")

    audit = Audit(home.store, home.clock)
    audit.opened(association(home))
    audit._store = Full()  # type: ignore[assignment] # a disk without room
    with pytest.raises(sqlite3.OperationalError):
        audit.flush()
    audit._store = home.store
    assert len(audit.rows()) == 1


async def test_what_waits_is_written_when_the_router_stops(home: Any) -> None:
    audit = Audit(home.store, home.clock)
    async with audit.running():
        audit.opened(association(home))
    assert len(Audit(home.store, home.clock).rows()) == 1


def test_alerts_are_in_the_audit(home: Any) -> None:
    home.audit.alert("north", "the key changed")
    (row,) = home.audit.rows()
    assert (row.what, row.site, row.outcome) == (AuditEvent.ALERT, "north", "the key changed")
