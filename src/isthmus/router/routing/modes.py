"""Which way what a device of ours sends goes, live or queued, and to whom if it is queued.

The owner of a device says which modes it allows, the sender's site chooses; what neither says is live.
"""

import shlex
from dataclasses import dataclass, field

from isthmus.dicom.services import Service
from isthmus.envelope.identity import RouterId
from isthmus.errors import AssociationRefused
from isthmus.kit.names import AETitle, SiteName
from isthmus.router.routing.directory import Directory
from isthmus.router.routing.records import DeliveryMode, Granted, Group, LocalDevice, Pair


@dataclass(frozen=True, slots=True)
class QueuedDevice:
    """A device that is to get a copy of what is queued.

    Attributes:
        title: its network title.
        site: where it is; None: here.
        router_id: the Router of that site; None: this one.
        services: what its owner grants to the sender.
        syntaxes: what it takes, as far as its owner knows; empty: its owner does not.
    """

    title: AETitle
    site: SiteName | None
    router_id: RouterId | None
    services: frozenset[Service]
    syntaxes: frozenset[Pair] = field(repr=False)


@dataclass(frozen=True, slots=True)
class QueuedDevices:
    """Where objects of one association go: to one device, or to the members of a group.

    `called`: the network title of the device, or the title of the group.
    """

    called: AETitle
    devices: tuple[QueuedDevice, ...]


class Modes:
    """Decides over the tables. For the event loop's thread only."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory

    def chosen(self, caller: LocalDevice, called: AETitle) -> DeliveryMode | None:
        """Return what this site chose for what `caller` sends to `called`; None: nothing. The sender's rule goes first.

        Among those of one sender, or of all, the rule for the title that was called goes before that for another title
        of the same device.
        """
        directory = self._directory
        local = directory.device_called(called)
        others = (directory.title_of(called),) if local is None else (local.title, local.network_title)
        for device_id in (caller.device_id, None):
            for title in (called, *others):
                mode = directory.delivery_rule(title, device_id)
                if mode is not None:
                    return mode
        return None

    def mode(self, caller: LocalDevice, called: AETitle) -> DeliveryMode:
        """Return which way what `caller` sends to `called` goes: a group is queued, without a choice it is live.

        Raises AssociationRefused: 1/1/3 if the owner of the device does not allow what was chosen; and as
        `Directory.granted`, if it was to be queued.
        """
        if self._directory.group(called) is not None:
            return DeliveryMode.QUEUED
        chosen = self.chosen(caller, called)
        try:
            found = self._directory.granted(caller, called)
        except AssociationRefused:
            if chosen is DeliveryMode.QUEUED:
                raise
            return DeliveryMode.LIVE  # where this is judged again: it may be the way back of a C-MOVE
        if chosen is None:
            return DeliveryMode.LIVE if DeliveryMode.LIVE in _allowed(found) else DeliveryMode.QUEUED
        _demand(found, chosen, called)
        return chosen

    def devices(self, caller: LocalDevice, called: AETitle) -> QueuedDevices:
        """Return where what `caller` queues for `called` goes, whether or not it can be reached now.

        Raises AssociationRefused for the first device of them that the tables refuse.
        """
        group = self._directory.group(called)
        found = {}
        for title in (called,) if group is None else group.members:
            try:
                device = self._device(caller, title)
            except AssociationRefused as refused:
                if group is None:
                    raise
                raise _of_group(group, title, refused) from refused
            found[device.site, device.title] = device
        devices = tuple(found.values())
        return QueuedDevices(devices[0].title if group is None else group.title, devices)

    def _device(self, caller: LocalDevice, called: AETitle) -> QueuedDevice:
        found = self._directory.granted(caller, called)
        _demand(found, DeliveryMode.QUEUED, called)
        if isinstance(found, LocalDevice):
            syntaxes = self._directory.mirror.get(found.device_id, frozenset())
            return QueuedDevice(found.network_title, None, None, frozenset({Service.ANY}), syntaxes)
        services = frozenset(service for service in Service if service.value in found.services)
        return QueuedDevice(found.title, found.site, found.router_id, services, found.syntaxes)


def _allowed(found: LocalDevice | Granted) -> frozenset[DeliveryMode]:
    return frozenset(found.options.modes) if isinstance(found, LocalDevice) else found.modes


def _demand(found: LocalDevice | Granted, mode: DeliveryMode, called: AETitle) -> None:
    if mode in _allowed(found):
        return
    where = "of this site" if isinstance(found, LocalDevice) else f"of site {found.site}"
    other = DeliveryMode.QUEUED if mode is DeliveryMode.LIVE else DeliveryMode.LIVE
    raise AssociationRefused(
        f"{called} {where} is sent to {other} only, and {mode} is wanted",
        result=1,
        source=1,
        reason=3,
        hint=f"isthmus delivery set {shlex.quote(called)} {other}; or its owner allows it, there: isthmus device set"
        f" {shlex.quote(found.title)} --modes live,queued",
    )


def _of_group(group: Group, member: AETitle, refused: AssociationRefused) -> AssociationRefused:
    return AssociationRefused(
        f"{member}, a member of {group.title}: {refused}",
        result=refused.result,
        source=refused.source,
        reason=refused.reason,
        hint=f"{refused.hint}; or here: isthmus group remove {shlex.quote(group.title)} {shlex.quote(member)}",
    )
