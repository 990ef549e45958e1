"""What an operator can do to this site's own devices; the base of `Administration`, which adds all else."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from isthmus.errors import OperatorError
from isthmus.kit.clock import Clock
from isthmus.kit.names import AETitle, DeviceAddress, HostPort, parse_network
from isthmus.router.audit import Audit
from isthmus.router.config import DEFAULT_DICOM
from isthmus.router.control import views
from isthmus.router.keys import Keys
from isthmus.router.routing.addresses import address_towards
from isthmus.router.routing.directory import Directory
from isthmus.router.routing.records import BOTH_MODES, DeviceOptions, DeviceTls, LocalDevice
from isthmus.router.routing.store import Store

T = TypeVar("T")
_LONGEST_NAME: Final = 64  # characters: a long string (LO) of DICOM
_LONGEST_TIMEOUT: Final = 3600.0  # seconds: an operator who types milliseconds is told so


class FieldError(OperatorError):
    """An input that will not do; `field` names it."""

    def __init__(self, field: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.field: Final = field


class DeviceAdministration:
    """Devices of this site: their own titles, addresses and options."""

    def __init__(self, store: Store, directory: Directory, keys: Keys, audit: Audit, clock: Clock) -> None:
        self._store = store
        self._directory = directory
        self._keys = keys
        self._audit = audit
        self._clock = clock

    # -- devices

    def device_add(
        self,
        address: str,
        *,
        name: str = "",
        title: str | None = None,
        from_address: list[str] | None = None,
        associate_timeout: float | None = None,
        max_associations: int | None = None,
        strip_async: bool | None = None,
        callers_as: str | None = None,
        tls: DeviceTls | None = None,
        modes: list[str] | None = None,
    ) -> dict[str, Any]:
        """Register a device: `address` as AET@HOST[:PORT], `title` its network title if not the same.

        `modes`: how others may send to it, "live", "queued" or both.
        """
        where = in_field("address", DeviceAddress.parse, address)
        device = LocalDevice(
            device_id=0,
            title=where.title,
            network_title=where.title if title is None else in_field("title", AETitle.parse, title),
            name=in_field("name", _name, name),
            host=where.host,
            port=where.port,
        )
        device = _with_options(
            device,
            from_address=from_address,
            associate_timeout=associate_timeout,
            max_associations=max_associations,
            strip_async=strip_async,
            callers_as=callers_as,
            tls=tls,
            modes=modes,
        )
        return self._save_device(device, "device_add")

    def device_set(
        self,
        device: str,
        *,
        address: str | None = None,
        name: str | None = None,
        title: str | None = None,
        host: str | None = None,
        port: int | None = None,
        from_address: list[str] | None = None,
        associate_timeout: float | None = None,
        max_associations: int | None = None,
        strip_async: bool | None = None,
        callers_as: str | None = None,
        tls: DeviceTls | None = None,
        plain: bool = False,
        modes: list[str] | None = None,
    ) -> dict[str, Any]:
        """Change what is given of a device.

        `from_address` adds, an empty list forgets them all; `callers_as` empty and `plain` end those options.
        """
        changed = self.find(device)
        if address is not None:
            where = in_field("address", DeviceAddress.parse, address)
            follows = changed.network_title == changed.title
            changed = dataclasses.replace(
                changed,
                title=where.title,
                network_title=where.title if follows else changed.network_title,
                host=where.host,
                port=where.port,
            )
        if name is not None:
            changed = dataclasses.replace(changed, name=in_field("name", _name, name))
        if title is not None:
            network_title = in_field("title", AETitle.parse, title)
            changed = dataclasses.replace(changed, network_title=network_title)
        if host is not None:
            changed = dataclasses.replace(changed, host=host)
        if port is not None:
            changed = dataclasses.replace(changed, port=port or None)
        changed = _with_options(
            changed,
            from_address=from_address,
            associate_timeout=associate_timeout,
            max_associations=max_associations,
            strip_async=strip_async,
            callers_as=callers_as,
            tls=tls,
            modes=modes,
        )
        if plain:
            changed = dataclasses.replace(changed, options=dataclasses.replace(changed.options, tls=None))
        return self._save_device(changed, "device_set")

    def device_list(self) -> list[dict[str, Any]]:
        """Return every device of this site."""
        return [views.device_row(device) for device in self._directory.devices]

    def device_show(self, device: str) -> dict[str, Any]:
        """Return one device, its grants, and what to enter in it."""
        found = self.find(device)
        grants = [grant for grant in self._directory.grants if grant.device_id == found.device_id]
        return {
            **views.device_row(found),
            "grants": [views.grant_row(grant, found) for grant in grants],
            "enter": self._enter(found),
        }

    def device_remove(self, device: str) -> dict[str, Any]:
        """Forget a device and its grants."""
        found = self.find(device)
        self._store.delete_device(found.device_id)
        self._audit.changed("device_remove", str(found))
        self._directory.reload()
        return views.device_row(found)

    def device_disable(self, device: str) -> dict[str, Any]:
        """Let a device neither call nor be called."""
        return self._switch(device, disabled=True)

    def device_enable(self, device: str) -> dict[str, Any]:
        """End `device_disable`."""
        return self._switch(device, disabled=False)

    def unknown_callers(self) -> list[dict[str, Any]]:
        """Return who called without being registered, the last one first; see `views.caller_row`."""
        devices = {self._directory.fold(device.title): device for device in self._directory.devices}
        return [
            views.caller_row(caller, devices.get(self._directory.fold(caller.title)))
            for caller in self._directory.unknown_callers.listed()
        ]

    # -- inside

    def find(self, title: str) -> LocalDevice:
        """Return the device of that local title, or else network title. Raises FieldError."""
        wanted = self._directory.fold(title)
        devices = self._directory.devices
        by_title = {self._directory.fold(device.network_title): device for device in devices} | {
            self._directory.fold(device.title): device for device in devices
        }
        if wanted in by_title:
            return by_title[wanted]
        known = ", ".join(device.title for device in devices) or "none yet"
        raise FieldError("device", f"there is no device {title} here (devices: {known})", hint="isthmus device list")

    def _save_device(self, device: LocalDevice, operation: str) -> dict[str, Any]:
        for field, title in (("address", device.title), ("title", device.network_title)):
            if clash := self.clash(title, besides=device):
                raise FieldError(field, f"{title} is {clash}", hint=_choices(device))
        if device.network_title in self._directory.owners:
            raise FieldError(
                "title", f"{device.network_title} belongs to a device of another site", hint=_choices(device)
            )
        self._store.save_device(device)
        self._audit.changed(operation, f"{device} as {device.network_title}")
        self._directory.unknown_callers.forget(device.title)
        self._directory.unknown_callers.flush()
        self._directory.reload()
        saved = self.find(device.title)
        return {**views.device_row(saved), "enter": self._enter(saved), "notes": self._notes_on_device(saved)}

    def clash(self, title: AETitle, *, besides: LocalDevice | None) -> str:
        """Return what else has `title` at this site, in words; nothing if it is free."""
        wanted = self._directory.fold(title)
        for other in self._directory.devices:
            if besides is not None and other.device_id == besides.device_id:
                continue
            if wanted == self._directory.fold(other.title):
                return f"the device at {other.host} already"
            if wanted == self._directory.fold(other.network_title):
                return f"the network title of {other.title} already"
        if besides is not None and any(
            wanted == self._directory.fold(alias.shown_as) for alias in self._directory.aliases
        ):
            return "an alias already"
        if any(wanted == self._directory.fold(group.title) for group in self._directory.groups):
            return "a group already"
        return ""

    def _notes_on_device(self, device: LocalDevice) -> list[str]:
        notes = [
            f"{device.title} and {other.title} differ in case only; AE titles are compared case-sensitively"
            for other in self._directory.devices
            if other.device_id != device.device_id and other.title.casefold() == device.title.casefold()
        ]
        if device.title in self._directory.owners:
            notes.append(f"another site has a device {device.title} too; devices here reach it by an alias only")
        return notes

    def _switch(self, device: str, *, disabled: bool) -> dict[str, Any]:
        found = dataclasses.replace(self.find(device), disabled=disabled)
        self._store.save_device(found)
        self._audit.changed("device_disable" if disabled else "device_enable", str(found))
        self._directory.reload()
        return views.device_row(found)

    def lan_address(self) -> HostPort:
        """Return where devices reach this Router now, or did when it last ran."""
        return self._store.lan_address() or DEFAULT_DICOM

    def _enter(self, device: LocalDevice) -> dict[str, Any]:
        """Return the host and port to type into `device`, so that it calls this Router."""
        where = self.lan_address()
        host = address_towards(device.host) if where.host in {"0.0.0.0", "::"} else where.host  # noqa: S104 - compared
        return {"host": host, "port": where.port}


def _with_options(
    device: LocalDevice,
    *,
    from_address: list[str] | None,
    associate_timeout: float | None,
    max_associations: int | None,
    strip_async: bool | None,
    callers_as: str | None,
    tls: DeviceTls | None,
    modes: list[str] | None,
) -> LocalDevice:
    """Return `device` with what is not None. Raises FieldError naming what will not do."""
    changes: dict[str, Any] = {}
    if associate_timeout is not None:
        if not 0 < associate_timeout <= _LONGEST_TIMEOUT:
            raise FieldError("associate_timeout", f"the timeout is in seconds, up to {_LONGEST_TIMEOUT:g}")
        changes["associate_timeout"] = associate_timeout
    if max_associations is not None:
        if max_associations < 0:
            raise FieldError("max_associations", "a device takes at least one association at once; 0 is no limit")
        changes["max_associations"] = max_associations
    if strip_async is not None:
        changes["strip_async"] = strip_async
    if callers_as is not None:
        changes["callers_as"] = in_field("callers_as", AETitle.parse, callers_as) if callers_as else None
    if tls is not None:
        for name, file in (("ca", tls.ca), ("certificate", tls.certificate), ("key", tls.key)):
            if file is not None and not Path(file).is_file():
                raise FieldError("tls", f"there is no file {file} ({name})")
        if tls.certificate is not None and tls.key is None:
            raise FieldError("tls", "a certificate needs its private key")
        changes["tls"] = tls
    if modes is not None:
        unknown = [mode for mode in modes if mode not in {known.value for known in BOTH_MODES}]
        if unknown or not modes:
            raise FieldError("modes", f"a device is sent to live, queued or both, not '{' '.join(unknown)}'")
        changes["modes"] = tuple(mode for mode in BOTH_MODES if mode.value in modes)
    options: DeviceOptions = dataclasses.replace(device.options, **changes)
    ranges = [in_field("from_address", parse_network, text) for text in from_address or ()]
    kept = () if from_address == [] else device.from_addresses
    if not device.host or any(character.isspace() for character in device.host):
        raise FieldError("host", f"'{device.host}' is no host")
    if device.port is not None and not 0 < device.port <= 65535:
        raise FieldError("port", f"{device.port} is no port: a number from 1 to 65535")
    return dataclasses.replace(device, from_addresses=tuple(dict.fromkeys((*kept, *ranges))), options=options)


def _name(text: str) -> str:
    name = text.strip()
    if len(name) > _LONGEST_NAME or not name.isprintable():
        raise OperatorError(f"a name has at most {_LONGEST_NAME} characters, all of them printable")
    return name


def in_field(field: str, parse: Callable[[str], T], text: str) -> T:
    """Return what `parse` makes of `text`; its OperatorError names the field."""
    try:
        return parse(text)
    except OperatorError as error:
        raise FieldError(field, str(error), hint=error.hint) from error


def _choices(device: LocalDevice) -> str:
    return (
        f"give it its own network title (--title {device.network_title[:12]}_2), let the other site's device have an"
        f" alias here (isthmus alias add), or rename the device"
    )
