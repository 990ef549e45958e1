"""What CLI and console are shown: records as plain JSON values."""

import dataclasses
from typing import Any

from isthmus.contract.documents import GrantedDevice
from isthmus.kit.names import AETitle, HostPort, SiteName
from isthmus.router.audit import AuditRow
from isthmus.router.routing.directory import Directory
from isthmus.router.routing.records import Alias, DeliveryMode, Grant, LocalDevice, UnknownCaller


def device_row(device: LocalDevice) -> dict[str, Any]:
    """Return a device of ours, options included."""
    return {
        "title": device.title,
        "network_title": device.network_title,
        "name": device.name,
        "host": device.host,
        "port": device.port,
        "from_addresses": [str(network) for network in device.from_addresses],
        "disabled": device.disabled,
        **dataclasses.asdict(device.options),
    }


def grant_row(grant: Grant, device: LocalDevice) -> dict[str, Any]:
    """Return a grant with the title of its device."""
    return {
        "grant_id": grant.grant_id,
        "device": device.title,
        "network_title": device.network_title,
        "site": grant.site,
        "caller": grant.caller,
        "services": sorted(grant.services),
        "until": grant.until,
        "no_return": grant.no_return,
    }


def site_row(directory: Directory, site: SiteName) -> dict[str, Any]:
    """Return how we and another site stand to each other.

    `accepted_there` is verified where we accepted the site, and else what the Bridge says.
    """
    reported, acceptance = directory.reported.get(site), directory.acceptances.get(site)
    accepted = acceptance is not None and acceptance.accepted
    shown = reported or acceptance
    assert shown is not None
    if accepted:
        assert acceptance is not None
        verified = directory.verified.get(acceptance.router_id)
        statement = verified.statement if verified is not None else None
        accepted_there = statement is not None and statement.accepted
    else:
        accepted_there = reported is not None and reported.statement is not None
    return {
        "site": site,
        "router_id": shown.router_id,
        "spoken": shown.router_id.spoken,
        "accepted_here": accepted,
        "accepted_there": accepted_there,
        "online": directory.is_online(shown.router_id),
        "key_changed": accepted and directory.key_changed(site),
        "listed": reported is not None,
        "alerts": list(directory.alerts.get(site, ())),
    }


def offer_row(directory: Directory, site: SiteName, device: GrantedDevice, enter: HostPort) -> dict[str, Any]:
    """Return a remote device, and what to type into the device that is to call it."""
    title = AETitle(device.title)
    owner = directory.owners.get(title)
    return {
        "title": title,
        "shown_as": directory.alias_of(title) or title,
        "host": enter.host,
        "port": enter.port,
        "site": site,
        "name": device.name,
        "services": sorted(device.services),
        "callers": device.callers,
        "until": device.until,
        "online": device.online and owner is not None and directory.is_online(owner),
        "modes": device.modes,
        "delivery": delivery_words(directory, directory.alias_of(title), title),
    }


def delivery_words(directory: Directory, *titles: AETitle | None) -> str:
    """Return what this site chose for a device with these titles, as a person reads it: "queued, live from CT1"."""
    wanted = {directory.fold(title) for title in titles if title is not None}
    names = {device.device_id: device.title for device in directory.devices}
    rules = [rule for rule in directory.delivery_rules if directory.fold(rule.title) in wanted]
    general = next((rule.mode.value for rule in rules if rule.from_device is None), DeliveryMode.LIVE.value)
    special = [
        f"{rule.mode} from {names[rule.from_device]}"
        for rule in rules
        if rule.from_device is not None and rule.from_device in names
    ]
    return ", ".join([general, *special])


def alias_row(alias: Alias) -> dict[str, Any]:
    """Return an alias."""
    return {"shown_as": alias.shown_as, "title": alias.title}


def caller_row(caller: UnknownCaller, device: LocalDevice | None) -> dict[str, Any]:
    """Return an unknown caller; `device` and `host` are those of the device that has its title, at another address."""
    return {
        **dataclasses.asdict(caller),
        "device": None if device is None else device.title,
        "host": None if device is None else device.host,
    }


def audit_row(row: AuditRow) -> dict[str, Any]:
    """Return an audit row."""
    return {**dataclasses.asdict(row), "what": row.what.value}
