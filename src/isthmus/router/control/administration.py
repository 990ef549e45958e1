"""What an operator can do to a Router: one method for each command, the same for CLI, control API and console.

Works on the tables, with or without a running Router. Each method takes and returns JSON values, and raises
OperatorError with the line that the operator reads. Each change is in the audit.
"""

import contextlib
import dataclasses
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import ValidationError, validate_call

import isthmus
from isthmus.dicom.services import Service
from isthmus.envelope.identity import RouterId
from isthmus.errors import OperatorError
from isthmus.kit.clock import Clock, SystemClock
from isthmus.kit.files import folder_lock
from isthmus.kit.names import AETitle, HostPort, SiteName
from isthmus.kit.sizes import parse_size
from isthmus.router.audit import Audit
from isthmus.router.control import views
from isthmus.router.control.delivery_administration import DeliveryAdministration
from isthmus.router.control.device_administration import FieldError, in_field
from isthmus.router.keys import Keys
from isthmus.router.routing.directory import Directory
from isthmus.router.routing.records import Acceptance, Alias, Grant
from isthmus.router.routing.store import Store

OPERATIONS: Final = frozenset(
    {
        "device_add",
        "device_set",
        "device_list",
        "device_show",
        "device_remove",
        "device_disable",
        "device_enable",
        "unknown_callers",
        "grant_add",
        "grant_list",
        "grant_remove",
        "site_list",
        "site_accept",
        "site_remove",
        "title_release",
        "delivery_set",
        "delivery_list",
        "delivery_unset",
        "group_add",
        "group_set",
        "group_list",
        "group_show",
        "group_remove",
        "bandwidth_set",
        "bandwidth_show",
        "bandwidth_clear",
        "alias_add",
        "alias_list",
        "alias_remove",
        "directory",
        "audit",
        "status",
        "setting_list",
        "setting_set",
    }
)
T = TypeVar("T")
_LEAST_QUOTA: Final = 10**9
_LEAST_FLOOR: Final = 500 * 10**6  # for the ledger, and for what is written between two looks at the disk
_MOST_BYTES: Final = 10**18
_LONGEST_TIMEOUT: Final = 3600.0  # seconds: an operator who types milliseconds is told so


class Administration(DeliveryAdministration):
    """Every noun of the CLI that is about a Router's own tables."""

    def perform(self, operation: str, arguments: dict[str, Any]) -> Any:
        """Do one of OPERATIONS with arguments as JSON has them.

        Raises OperatorError (FieldError, if it is about one argument) if there is no such operation or it cannot be.
        """
        if operation not in OPERATIONS:
            raise OperatorError(f"a Router knows no operation {operation!r}")
        try:
            return validate_call(getattr(self, operation))(**arguments)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            raise FieldError(field, f"{operation}: {field}: {first['msg']}") from error
        except sqlite3.Error as error:
            raise OperatorError(f"the database of this Router cannot be written: {error}") from error

    # -- grants

    def grant_add(
        self,
        device: str,
        *,
        site: str,
        services: list[str],
        caller: str | None = None,
        until: float | None = None,
        no_return: bool = False,
    ) -> dict[str, Any]:
        """Let a site reach a device for some services, `until` a Unix time."""
        found = self.find(device)
        name = in_field("site", SiteName.parse, site)
        grant = Grant(
            grant_id=0,
            device_id=found.device_id,
            site=name,
            caller=None if caller is None else in_field("caller", AETitle.parse, caller),
            services=_services(services),
            until=until,
            no_return=no_return,
        )
        if found.port is None:
            raise FieldError(
                "device",
                f"{found.title} only calls: there is no port at which it could be reached",
                hint=f"isthmus device set {found.title} --port PORT",
            )
        if self._keys.membership is not None and name == self._keys.membership.site:
            raise FieldError("site", f"{name} is this site: its own devices need no grant")
        if until is not None and until <= self._clock.now():
            raise FieldError("until", "this grant would have ended already")
        same = [row for row in self._directory.grants if dataclasses.replace(row, grant_id=0) == grant]
        grant = dataclasses.replace(grant, grant_id=same[0].grant_id if same else self._store.add_grant(grant))
        self._audit.changed(
            "grant_add", f"{found.network_title} to {caller or 'all'} for {' '.join(sorted(grant.services))}", site=name
        )
        self._directory.reload()
        return {**views.grant_row(grant, found), "notes": self._notes_on_site(name)}

    def grant_list(self) -> list[dict[str, Any]]:
        """Return every grant of this site."""
        devices = {device.device_id: device for device in self._directory.devices}
        return [views.grant_row(grant, devices[grant.device_id]) for grant in self._directory.grants]

    def grant_remove(self, grant: int) -> dict[str, Any]:
        """Withdraw a grant by its number."""
        for row in self.grant_list():
            if row["grant_id"] == grant:
                self._store.delete_grant(grant)
                self._audit.changed("grant_remove", f"{row['network_title']}: grant {grant}", site=row["site"])
                self._directory.reload()
                return row
        raise FieldError("grant", f"there is no grant {grant}", hint="isthmus grant list")

    # -- sites

    def site_list(self) -> list[dict[str, Any]]:
        """Return the other sites of the network, and those that are accepted here and no longer in it."""
        accepted = {site for site, acceptance in self._directory.acceptances.items() if acceptance.accepted}
        return [views.site_row(self._directory, site) for site in sorted(accepted | set(self._directory.reported))]

    def site_accept(self, site: str, *, router_id: str | None = None) -> dict[str, Any]:
        """Pin a site's key, if `router_id` is that of the key that the Bridge reports.

        Without `router_id` nothing is pinned: the answer is what a person has to compare.
        """
        name = in_field("site", SiteName.parse, site)
        if self._keys.membership is not None and name == self._keys.membership.site:
            raise FieldError("site", f"{name} is this site itself", hint="isthmus site list")
        reported = self._directory.reported.get(name)
        if reported is None:
            known = ", ".join(sorted(self._directory.reported)) or "none yet"
            raise FieldError(
                "site",
                f"the Bridge has shown no site {name} (sites: {known})",
                hint="is the Router running, and connected? isthmus router status",
            )
        if router_id is None:
            return views.site_row(self._directory, name)
        given = in_field("router_id", RouterId.parse, router_id)
        if given != reported.router_id:
            raise FieldError(
                "router_id",
                f"the Bridge shows another Router ID for {name}: {reported.router_id.spoken}",
                hint="accept neither; one of the two is wrong: compare again, and tell the Bridge's operator",
            )
        for other in self._directory.acceptances.values():
            if other.router_id == given and other.site != name and other.accepted:
                raise FieldError("router_id", f"this is the Router ID of site {other.site}, which is accepted already")
        held = self._directory.acceptances.get(name)
        if held is not None and held.router_id != given:
            self._store.release_titles(router_id=held.router_id)  # the site is the same; a person has just said so
        self._store.save_acceptance(Acceptance(name, given, reported.public_key, self._clock.now()))
        self._audit.changed("site_accept", given, site=name)
        self._directory.reload()
        return views.site_row(self._directory, name)

    def site_remove(self, site: str) -> dict[str, Any]:
        """Withdraw the acceptance of a site, and release its titles."""
        name = in_field("site", SiteName.parse, site)
        held = self._directory.acceptances.get(name)
        if held is None or not held.accepted:
            raise FieldError("site", f"site {name} is not accepted here", hint="isthmus site list")
        self._store.save_acceptance(dataclasses.replace(held, accepted=False))
        self._store.release_titles(router_id=held.router_id)
        self._audit.changed("site_remove", held.router_id, site=name)
        self._directory.reload()
        return views.site_row(self._directory, name)

    def title_release(self, title: str) -> dict[str, Any]:
        """Let another site have a title that was bound to one: the device has moved."""
        parsed = in_field("title", AETitle.parse, title)
        if not self._store.release_titles(title=parsed):
            raise FieldError("title", f"{parsed} is bound to no site", hint="isthmus directory")
        self._audit.changed("title_release", parsed)
        self._directory.reload()
        return {"title": parsed}

    def directory(self) -> list[dict[str, Any]]:
        """Return every remote device that some device here may reach, and what to enter to reach it."""
        enter = self.lan_address()
        return [views.offer_row(self._directory, site, device, enter) for site, device in self._directory.offers()]

    # -- aliases

    def alias_add(self, title: str, shown_as: str) -> dict[str, Any]:
        """Let devices here call the remote `title` (or TITLE@SITE) by another one."""
        text, at, site = title.partition("@")
        alias = Alias(
            shown_as=in_field("shown_as", AETitle.parse, shown_as),
            title=in_field("title", AETitle.parse, text),
        )
        owner = self._directory.owners.get(alias.title)
        if at:
            named = in_field("title", SiteName.parse, site)
            acceptance = self._directory.acceptances.get(named)
            if owner is not None and (acceptance is None or acceptance.router_id != owner):
                raise FieldError("title", f"{alias.title} is no device of site {named}", hint="isthmus directory")
        clash = self.clash(alias.shown_as, besides=None)
        if clash:
            raise FieldError("shown_as", f"{alias.shown_as} is {clash}", hint="choose another title for the alias")
        self._store.save_alias(alias)
        self._audit.changed("alias_add", f"{alias.title} as {alias.shown_as}")
        self._directory.reload()
        notes = [] if owner is not None else [f"no site has shown {alias.title} yet"]
        return {**views.alias_row(alias), "notes": notes}

    def alias_list(self) -> list[dict[str, Any]]:
        """Return every alias."""
        return [views.alias_row(alias) for alias in self._directory.aliases]

    def alias_remove(self, shown_as: str) -> dict[str, Any]:
        """Forget an alias."""
        parsed = in_field("shown_as", AETitle.parse, shown_as)
        if not self._store.delete_alias(parsed):
            raise FieldError("shown_as", f"{parsed} is no alias", hint="isthmus alias list")
        self._audit.changed("alias_remove", parsed)
        self._directory.reload()
        return {"shown_as": parsed}

    # -- the rest

    def audit(self, *, limit: int = 100) -> list[dict[str, Any]]:
        """Return the newest audit rows, the newest first."""
        return [views.audit_row(row) for row in self._audit.rows(max(1, min(limit, 100_000)))]

    def status(self) -> dict[str, Any]:
        """Return who this Router is and what it has, as far as its tables know: whether it runs, whoever asks knows."""
        membership = self._keys.membership
        return {
            "running": False,
            "version": isthmus.__version__,
            "site": membership.site if membership else None,
            "router_id": self._keys.router_id,
            "spoken": self._keys.router_id.spoken,
            "bridge": membership.url if membership else None,
            "devices": len(self._directory.devices),
            "grants": len(self._directory.grants),
            "sites_accepted": sum(row.accepted for row in self._directory.acceptances.values()),
            "unknown_callers": len(self._directory.unknown_callers.listed()),
            "alerts": {site: list(texts) for site, texts in self._directory.alerts.items()},
        }

    def setting_list(self) -> dict[str, Any]:
        """Return all settings."""
        return dataclasses.asdict(self._directory.settings)

    def setting_set(
        self,
        *,
        ignore_title_case: bool | None = None,
        open_returns: bool | None = None,
        audit_days: int | None = None,
        idle_minutes: int | None = None,
        spool_quota: str | None = None,
        spool_floor: str | None = None,
    ) -> dict[str, Any]:
        """Change what is given of the settings; return all of them. Sizes as people type them."""
        given = {
            "ignore_title_case": ignore_title_case,
            "open_returns": open_returns,
            "audit_days": audit_days,
            "idle_minutes": idle_minutes,
            "spool_quota": None if spool_quota is None else in_field("spool_quota", parse_size, spool_quota),
            "spool_floor": None if spool_floor is None else in_field("spool_floor", parse_size, spool_floor),
        }
        changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if audit_days is not None and audit_days < 30:
            raise FieldError("audit_days", "audit rows are kept for 30 days at least")
        if idle_minutes is not None and idle_minutes != 0 and not 5 <= idle_minutes <= 525_600:
            raise FieldError("idle_minutes", "an association may be idle for 5 minutes to a year, or with 0 for ever")
        if not (changes.get("spool_quota", 0) == 0 or _LEAST_QUOTA <= changes["spool_quota"] <= _MOST_BYTES):
            raise FieldError("spool_quota", "queued objects get 1 GB at the least, or with 0 what the disk has")
        if not _LEAST_FLOOR <= changes.get("spool_floor", _LEAST_FLOOR) <= _MOST_BYTES:
            raise FieldError("spool_floor", "queued objects leave 500 MB of the disk free at the least")
        if ignore_title_case and not self._directory.settings.ignore_title_case:
            folded = [device.title.casefold() for device in self._directory.devices]
            if len(set(folded)) < len(folded):
                raise FieldError("ignore_title_case", "two devices have titles that differ in case only")
        self._store.save_settings(dataclasses.replace(self._directory.settings, **changes))
        self._audit.changed("setting_set", " ".join(f"{name}={value}" for name, value in changes.items()))
        self._directory.reload()
        return self.setting_list()

    def listening(self, dicom: HostPort) -> None:
        """Remember where devices reach this Router, for whoever asks what to enter while it does not run."""
        self._store.save_lan_address(dicom)

    # -- inside

    def _notes_on_site(self, site: SiteName) -> list[str]:
        acceptance = self._directory.acceptances.get(site)
        if acceptance is not None and acceptance.accepted:
            return []
        if site not in self._directory.reported:
            return [f"the Bridge has shown no site {site} yet; the grant holds once it is there and accepted"]
        return [f"site {site} is not accepted yet, and nothing flows before: isthmus site accept {site}"]


@contextlib.contextmanager
def open_administration(data: Path, clock: Clock | None = None) -> Iterator[Administration]:
    """Give the administration of a Router that does not run, its folder locked meanwhile.

    Raises OperatorError if there is no Router in `data`, or another process has it.
    """
    if not (data / "identity.key").exists():
        raise OperatorError(
            f"there is no Router in {data}",
            hint="isthmus router join INVITE makes one; --data DIR names another folder",
        )
    clock = clock or SystemClock()
    with folder_lock(data):
        keys = Keys.open(data, now=clock.now())
        store = Store.open(data / "router.db")
        try:
            audit = Audit(store, clock)
            directory = Directory(store, keys, clock, alert=audit.alert)
            yield Administration(store, directory, keys, audit, clock)
            audit.flush()
        finally:
            store.close()


def _services(names: list[str]) -> frozenset[str]:
    words = [service.value for service in Service]
    wanted = {name.strip().lower() for name in names if name.strip()}
    if not wanted:
        raise FieldError("services", "a grant says for what: there is no default", hint=f"some of {', '.join(words)}")
    if unknown := sorted(wanted - set(words)):
        raise FieldError("services", f"there is no service {unknown[0]!r}", hint=f"some of {', '.join(words)}")
    return frozenset({Service.ANY.value}) if Service.ANY.value in wanted else frozenset(wanted)
