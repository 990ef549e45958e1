"""The Router's database: SQLite through one connection, which is this process's only writer.

Every method is one durable transaction and may be called from any thread. SQLite up to 3.51.2 can corrupt a
write-ahead log that two connections write, so that such a version gets the rollback journal.
"""

import contextlib
import dataclasses
import ipaddress
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from isthmus.contract.documents import Prekey, SignedDocument, Statement
from isthmus.envelope.identity import RouterId
from isthmus.errors import OperatorError
from isthmus.kit.names import AETitle, HostPort, SiteName
from isthmus.router.routing.records import (
    Acceptance,
    Alias,
    CapRule,
    DeliveryMode,
    DeliveryRule,
    DeviceOptions,
    DeviceTls,
    Direction,
    Grant,
    Group,
    LocalDevice,
    OpenReturn,
    Pair,
    Reported,
    Settings,
    UnknownCaller,
    Verified,
)
from isthmus.router.routing.schema import STEPS

_FIRST_SAFE_WAL = (3, 51, 3)
OFFERS_KEPT = 3 * 3600.0
"""Seconds for which a run-out offer is still known: the Bridge may set our clock an hour forth, and then back."""


class Store:
    """What a Router must still know after a power cut."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.path = path
        self._connection = connection
        self._lock = threading.RLock()

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open or create the database. Raises OperatorError if it is damaged or of a newer release."""
        path.touch(mode=0o600)
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA trusted_schema = OFF")
            journal = "WAL" if sqlite3.sqlite_version_info >= _FIRST_SAFE_WAL else "DELETE"
            connection.execute(f"PRAGMA journal_mode = {journal}")
            connection.execute("PRAGMA synchronous = EXTRA")
            if (found := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(found)
            store = cls(connection, path)
            store._upgrade()
        except sqlite3.DatabaseError as error:
            connection.close()
            raise OperatorError(f"{path} is damaged: {error}", hint="put back the newest backup of it") from error
        except BaseException:
            connection.close()
            raise
        return store

    @classmethod
    def look(cls, path: Path) -> Self:
        """Open the database only to read it, also while its Router runs. Raises OperatorError if it is damaged."""
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, isolation_level=None)
        try:
            if (found := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise sqlite3.DatabaseError(found)
        except sqlite3.DatabaseError as error:
            connection.close()
            raise OperatorError(f"{path} is damaged: {error}", hint="put back the newest backup of it") from error
        return cls(connection, path)

    def close(self) -> None:
        """Let go of the file. The store is not used after that."""
        with self._lock:
            self._connection.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Hold the one connection: all that happens inside is durable together, or did not happen."""
        connection = self._connection
        with self._lock:
            if self._connection.in_transaction:
                yield connection
                return
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                if connection.in_transaction:  # SQLite ends it by itself when the disk is full
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def _upgrade(self) -> None:
        version = self._connection.execute("PRAGMA user_version").fetchone()[0]
        if version > len(STEPS):
            raise OperatorError(f"{self.path} was written by a newer release", hint="install that release again")
        for number in range(version, len(STEPS)):
            self._connection.executescript(
                f"BEGIN IMMEDIATE; {STEPS[number]} PRAGMA user_version = {number + 1}; COMMIT;"
            )

    def _rows(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._connection.execute(sql, values).fetchall()

    def _write(self, sql: str, *values: object) -> int:
        with self.transaction() as connection:
            return connection.execute(sql, values).rowcount

    # -- settings and counters

    def settings(self) -> Settings:
        """Return the settings, each at its default unless somebody set it."""
        known = {field.name for field in dataclasses.fields(Settings)}
        rows = self._rows("SELECT name, value FROM settings")
        return Settings(**{name: json.loads(value) for name, value in rows if name in known})

    def save_settings(self, settings: Settings) -> None:
        """Replace all settings."""
        with self.transaction() as connection:
            for name, value in dataclasses.asdict(settings).items():
                connection.execute("REPLACE INTO settings VALUES (?, ?)", (name, json.dumps(value)))

    def own_counter(self) -> int:
        """Return the highest counter that a document of ours has had."""
        rows = self._rows("SELECT value FROM settings WHERE name = 'own_counter'")
        return int(rows[0][0]) if rows else 0

    def raise_own_counter(self, counter: int) -> None:
        """Remember that `counter` is used up."""
        self._write("REPLACE INTO settings VALUES ('own_counter', ?)", str(max(counter, self.own_counter())))

    def lan_address(self) -> HostPort | None:
        """Return where devices reached this Router when it last ran."""
        rows = self._rows("SELECT value FROM settings WHERE name = 'lan_address'")
        return HostPort.parse(json.loads(rows[0][0])) if rows else None

    def save_lan_address(self, address: HostPort) -> None:
        """Remember where devices reach this Router."""
        self._write("REPLACE INTO settings VALUES ('lan_address', ?)", json.dumps(str(address)))

    # -- devices

    def devices(self) -> list[LocalDevice]:
        """Return every device of this site, by title."""
        rows = self._rows(
            "SELECT device_id, title, network_title, name, host, port, from_addresses, disabled, options"
            " FROM devices ORDER BY title"
        )
        return [
            LocalDevice(
                device_id=row[0],
                title=AETitle(row[1]),
                network_title=AETitle(row[2]),
                name=row[3],
                host=row[4],
                port=row[5],
                from_addresses=tuple(ipaddress.ip_network(text) for text in json.loads(row[6])),
                disabled=bool(row[7]),
                options=_load_options(row[8]),
            )
            for row in rows
        ]

    def save_device(self, device: LocalDevice) -> int:
        """Add a device (`device_id` 0), or replace the one of its id; return its id."""
        values = (
            device.title,
            device.network_title,
            device.name,
            device.host,
            device.port,
            json.dumps([str(network) for network in device.from_addresses]),
            device.disabled,
            json.dumps(dataclasses.asdict(device.options)),
        )
        with self.transaction() as connection:
            if device.device_id:
                connection.execute(
                    "UPDATE devices SET title = ?, network_title = ?, name = ?, host = ?, port = ?, from_addresses = ?,"
                    " disabled = ?, options = ? WHERE device_id = ?",
                    (*values, device.device_id),
                )
                return device.device_id
            cursor = connection.execute(
                "INSERT INTO devices (title, network_title, name, host, port, from_addresses, disabled, options)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                values,
            )
            assert cursor.lastrowid is not None
            return cursor.lastrowid

    def delete_device(self, device_id: int) -> None:
        """Forget a device and its grants."""
        self._write("DELETE FROM devices WHERE device_id = ?", device_id)

    # -- grants and what they opened

    def grants(self) -> list[Grant]:
        """Return every grant, oldest first."""
        rows = self._rows(
            "SELECT grant_id, device_id, site, caller, services, until, no_return FROM grants ORDER BY grant_id"
        )
        return [
            Grant(
                grant_id=row[0],
                device_id=row[1],
                site=SiteName(row[2]),
                caller=None if row[3] is None else AETitle(row[3]),
                services=frozenset(row[4].split()),
                until=row[5],
                no_return=bool(row[6]),
            )
            for row in rows
        ]

    def add_grant(self, grant: Grant) -> int:
        """Add a grant (its `grant_id` is ignored); return its id."""
        with self.transaction() as connection:
            cursor = connection.execute(
                "INSERT INTO grants (device_id, site, caller, services, until, no_return) VALUES (?, ?, ?, ?, ?, ?)",
                (
                    grant.device_id,
                    grant.site,
                    grant.caller,
                    " ".join(sorted(grant.services)),
                    grant.until,
                    grant.no_return,
                ),
            )
            assert cursor.lastrowid is not None
            return cursor.lastrowid

    def delete_grant(self, grant_id: int) -> None:
        """Withdraw a grant."""
        self._write("DELETE FROM grants WHERE grant_id = ?", grant_id)

    def returns(self) -> list[OpenReturn]:
        """Return every open return grant, those that have run out too."""
        rows = self._rows("SELECT router_id, caller, title, services, until FROM returns")
        return [
            OpenReturn(RouterId(row[0]), AETitle(row[1]), AETitle(row[2]), frozenset(row[3].split()), row[4])
            for row in rows
        ]

    def save_return(self, opened: OpenReturn, *, now: float) -> None:
        """Add or replace a return grant, and forget those that ran out."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM returns WHERE until < ?", (now,))
            connection.execute(
                "REPLACE INTO returns VALUES (?, ?, ?, ?, ?)",
                (opened.router_id, opened.caller, opened.title, " ".join(sorted(opened.services)), opened.until),
            )

    # -- queued delivery

    def delivery_rules(self) -> list[DeliveryRule]:
        """Return what was chosen for each title, by title."""
        rows = self._rows("SELECT title, from_device, mode FROM delivery ORDER BY title, from_device")
        return [DeliveryRule(AETitle(row[0]), row[1], DeliveryMode(row[2])) for row in rows]

    def save_delivery_rule(self, rule: DeliveryRule) -> None:
        """Add a rule, in place of the one of the same title and device."""
        self._write("REPLACE INTO delivery VALUES (?, ?, ?)", rule.title, rule.from_device, rule.mode)

    def delete_delivery_rule(self, title: AETitle, from_device: int | None) -> int:
        """Forget a rule; return how many there were."""
        return self._write("DELETE FROM delivery WHERE title = ? AND from_device IS ?", title, from_device)

    def bandwidth_rules(self) -> list[CapRule]:
        """Return the caps on the site's line."""
        rows = self._rows("SELECT value FROM settings WHERE name = 'bandwidth'")
        stored = json.loads(rows[0][0]) if rows else []
        return [CapRule(Direction(row[0]), *row[1:]) for row in stored]

    def save_bandwidth_rules(self, rules: Iterable[CapRule]) -> None:
        """Replace all caps on the site's line."""
        value = json.dumps([[rule.direction, rule.rate, rule.start, rule.end] for rule in rules])
        self._write("REPLACE INTO settings VALUES ('bandwidth', ?)", value)

    def groups(self) -> list[Group]:
        """Return every group, by title."""
        rows = self._rows("SELECT title, member FROM groups ORDER BY title, position")
        members: dict[str, list[AETitle]] = {}
        for title, member in rows:
            members.setdefault(title, []).append(AETitle(member))
        return [Group(AETitle(title), tuple(of_title)) for title, of_title in members.items()]

    def save_group(self, group: Group) -> None:
        """Add a group, or replace the members of the one of its title; without members it is forgotten."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM groups WHERE title = ?", (group.title,))
            connection.executemany(
                "INSERT INTO groups VALUES (?, ?, ?)",
                [(group.title, member, position) for position, member in enumerate(group.members)],
            )

    def mirror(self) -> dict[int, frozenset[Pair]]:
        """Return what each device of this site, by id, is known to take."""
        known: dict[int, set[Pair]] = {}
        for device_id, abstract, transfer in self._rows("SELECT device_id, abstract, transfer FROM mirror"):
            known.setdefault(device_id, set()).add((abstract, transfer))
        return {device_id: frozenset(pairs) for device_id, pairs in known.items()}

    # -- other sites

    def acceptances(self) -> list[Acceptance]:
        """Return every site that is, or once was, accepted."""
        rows = self._rows("SELECT site, router_id, public_key, since, accepted FROM accepted ORDER BY site")
        return [Acceptance(SiteName(row[0]), RouterId(row[1]), row[2], row[3], bool(row[4])) for row in rows]

    def save_acceptance(self, acceptance: Acceptance) -> None:
        """Pin a site's key, or remember that it is withdrawn."""
        self._write(
            "INSERT INTO accepted VALUES (?, ?, ?, ?, ?) ON CONFLICT (site) DO UPDATE SET"
            " router_id = excluded.router_id, public_key = excluded.public_key, since = excluded.since,"
            " accepted = excluded.accepted",
            acceptance.site,
            acceptance.router_id,
            acceptance.public_key,
            acceptance.since,
            acceptance.accepted,
        )

    def mailboxes(self) -> dict[RouterId, str]:
        """Return the prefix of the names under which each Router leaves letters for this one."""
        return {RouterId(row[0]): row[1] for row in self._rows("SELECT router_id, prefix FROM mailboxes")}

    def save_mailbox(self, router_id: RouterId, prefix: str) -> None:
        """Let a Router leave its letters under another prefix from now on."""
        self._write("REPLACE INTO mailboxes VALUES (?, ?)", router_id, prefix)

    def reported(self) -> list[Reported]:
        """Return the sites as the Bridge last reported them."""
        rows = self._rows("SELECT site, router_id, public_key, statement FROM reported ORDER BY site")
        return [
            Reported(
                site=SiteName(row[0]),
                router_id=RouterId(row[1]),
                public_key=row[2],
                statement=None if row[3] is None else SignedDocument.model_validate_json(row[3]),
            )
            for row in rows
        ]

    def save_reported(self, sites: Iterable[Reported]) -> None:
        """Replace what the Bridge reports."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM reported")
            connection.executemany(
                "INSERT INTO reported VALUES (?, ?, ?, ?)",
                [
                    (site.site, site.router_id, site.public_key, site.statement and site.statement.model_dump_json())
                    for site in sites
                ],
            )

    def verified(self) -> list[Verified]:
        """Return the last documents of each site that verified."""
        rows = self._rows("SELECT router_id, site, counter, statement, prekey FROM verified")
        return [
            Verified(
                router_id=RouterId(row[0]),
                site=SiteName(row[1]),
                counter=row[2],
                statement=None if row[3] is None else Statement.parse(row[3]),
                prekey=None if row[4] is None else Prekey.parse(row[4]),
            )
            for row in rows
        ]

    def save_verified(self, verified: Verified) -> None:
        """Remember a site's documents, and the counter below which nothing is taken any more."""
        self._write(
            "REPLACE INTO verified VALUES (?, ?, ?, ?, ?)",
            verified.router_id,
            verified.site,
            verified.counter,
            verified.statement and verified.statement.to_payload(),
            verified.prekey and verified.prekey.to_payload(),
        )

    def seen_titles(self) -> dict[AETitle, RouterId]:
        """Return which Router each remote network title belongs to."""
        return {AETitle(row[0]): RouterId(row[1]) for row in self._rows("SELECT title, router_id FROM seen_titles")}

    def pin_titles(self, titles: Iterable[AETitle], router_id: RouterId) -> None:
        """Bind titles to a Router; one that is bound already keeps its owner."""
        with self.transaction() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO seen_titles VALUES (?, ?)", [(title, router_id) for title in titles]
            )

    def release_titles(self, *, router_id: RouterId | None = None, title: AETitle | None = None) -> int:
        """Unbind one title, or all of a Router; return how many."""
        return self._write("DELETE FROM seen_titles WHERE router_id = ? OR title = ?", router_id, title)

    def egress(self) -> list[tuple[HostPort, bool, float]]:
        """Return the hosts this site lets its Router connect to: where, whether typed by a person, since when."""
        rows = self._rows("SELECT host, port, typed, since FROM egress ORDER BY host, port")
        return [(HostPort(host, port), bool(typed), since) for host, port, typed, since in rows]

    def put_egress(self, at: HostPort, *, typed: bool, now: float) -> None:
        """Let the Router connect to a host; what a person typed stays typed."""
        self._write(
            "INSERT INTO egress VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET typed = MAX(typed, excluded.typed)",
            at.host,
            at.port,
            typed,
            now,
        )

    def delete_egress(self, at: HostPort) -> bool:
        """Take a host off that list; return whether it was on it."""
        return self._write("DELETE FROM egress WHERE host = ? AND port = ?", at.host, at.port) > 0

    # -- aliases, unknown callers

    def aliases(self) -> list[Alias]:
        """Return every alias."""
        rows = self._rows("SELECT shown_as, title FROM aliases ORDER BY shown_as")
        return [Alias(AETitle(row[0]), AETitle(row[1])) for row in rows]

    def save_alias(self, alias: Alias) -> None:
        """Add an alias, in place of another of the same title on either side."""
        self._write("REPLACE INTO aliases VALUES (?, ?)", alias.shown_as, alias.title)

    def delete_alias(self, shown_as: AETitle) -> int:
        """Forget an alias; return how many there were."""
        return self._write("DELETE FROM aliases WHERE shown_as = ?", shown_as)

    def unknown_callers(self) -> list[UnknownCaller]:
        """Return who called without being registered, the last one first."""
        rows = self._rows("SELECT title, address, called, count, first, last FROM unknown_callers ORDER BY last DESC")
        return [UnknownCaller(AETitle(row[0]), row[1], AETitle(row[2]), row[3], row[4], row[5]) for row in rows]

    def save_unknown_callers(self, callers: Iterable[UnknownCaller]) -> None:
        """Replace the list of unknown callers."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM unknown_callers")
            connection.executemany(
                "INSERT INTO unknown_callers VALUES (?, ?, ?, ?, ?, ?)",
                [dataclasses.astuple(caller) for caller in callers],
            )

    # -- offers, publications

    def remember_offer(self, session_id: bytes, not_after: float, *, now: float) -> bool:
        """Remember an offer, durably, and forget those that are no longer good; False if it was known."""
        with self.transaction() as connection:
            connection.execute("DELETE FROM seen_offers WHERE not_after < ?", (now - OFFERS_KEPT,))
            cursor = connection.execute("INSERT OR IGNORE INTO seen_offers VALUES (?, ?)", (session_id, not_after))
            return cursor.rowcount == 1

    def published(self) -> dict[str, tuple[bytes, float]]:
        """Return digest and time of each document of ours that the Bridge has."""
        return {row[0]: (row[1], row[2]) for row in self._rows("SELECT name, digest, at FROM published")}

    def save_published(self, name: str, digest: bytes, at: float, *, counter: int = 0) -> None:
        """Remember that the Bridge took a document, and its counter."""
        self._write("REPLACE INTO published VALUES (?, ?, ?, ?)", name, digest, at, counter)

    def published_counter(self) -> int:
        """Return the highest counter of a document that the Bridge took."""
        return int(self._rows("SELECT COALESCE(MAX(counter), 0) FROM published")[0][0])

    def forget_published(self) -> None:
        """Treat every document as not published: the Bridge may have lost them."""
        self._write("DELETE FROM published")


def _load_options(text: str) -> DeviceOptions:
    fields = json.loads(text)
    if fields["callers_as"] is not None:
        fields["callers_as"] = AETitle(fields["callers_as"])
    if fields["tls"] is not None:
        fields["tls"] = DeviceTls(**fields["tls"])
    if "modes" in fields:
        fields["modes"] = tuple(DeliveryMode(mode) for mode in fields["modes"])
    return DeviceOptions(**fields)
