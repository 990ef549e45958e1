"""What a Router knows, as values: its own devices, other sites' devices, acceptances, grants, unknown callers."""

import ipaddress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeAlias

from isthmus.contract.documents import Prekey, SignedDocument, Statement
from isthmus.envelope.identity import RouterId
from isthmus.kit.names import AETitle, SiteName

IpNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

Pair: TypeAlias = tuple[str, str]
"""An abstract syntax and a transfer syntax."""

DAY = 86_400.0  # seconds
RETURN_DAYS = 7  # how long after a C-MOVE or N-ACTION its answers may still come


class DeliveryMode(StrEnum):
    """How what one device sends reaches another."""

    LIVE = "live"  # while both wait: the far device's own answers
    QUEUED = "queued"  # through the spools of the two Routers, which answer for it


BOTH_MODES: Final = (DeliveryMode.LIVE, DeliveryMode.QUEUED)


@dataclass(frozen=True, slots=True)
class DeviceTls:
    """TLS between this Router and one of its devices. All paths are files on the Router's host.

    Attributes:
        to_device: dial the device with TLS.
        ca: certificates that may sign the device's; None: the machine's trust store.
        certificate: what the Router presents to the device, if the device asks.
        key: the private key of `certificate`.
        check_host_name: whether the device's certificate must name the host that was dialled.
        from_device: whether associations of this device must come over TLS.
    """

    to_device: bool = True
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    check_host_name: bool = True
    from_device: bool = False


@dataclass(frozen=True, slots=True)
class DeviceOptions:
    """How the Router treats one of its devices.

    Attributes:
        associate_timeout: seconds to wait for the device's answer to an A-ASSOCIATE-RQ.
        max_associations: how many it takes at once; 0: no limit.
        strip_async: take the asynchronous operations window item (53H) out of what it is sent.
        callers_as: the one calling title under which it sees every device of other sites; None: their own.
        tls: None: plain TCP in both directions.
        modes: how others may send to it; at least one.
    """

    associate_timeout: float = 30.0
    max_associations: int = 0
    strip_async: bool = False
    callers_as: AETitle | None = None
    tls: DeviceTls | None = None
    modes: tuple[DeliveryMode, ...] = BOTH_MODES


@dataclass(frozen=True, slots=True)
class LocalDevice:
    """A device of this site.

    Attributes:
        title: its AE title as it and its neighbours know it; stays at this site.
        network_title: the title under which other sites know it; nearly always the same.
        port: where it listens; None: it only calls.
        from_addresses: where its associations may come from, besides `host`.
    """

    device_id: int
    title: AETitle
    network_title: AETitle
    name: str
    host: str
    port: int | None
    from_addresses: tuple[IpNetwork, ...] = ()
    disabled: bool = False
    options: DeviceOptions = field(default_factory=DeviceOptions)

    def __str__(self) -> str:
        return f"{self.title}@{self.host}" + ("" if self.port is None else f":{self.port}")


@dataclass(frozen=True, slots=True)
class RemoteDevice:
    """A device of another site that one of ours may reach now.

    Attributes:
        title: its network title.
        shown_as: the title that the local caller used for it: an alias, or the network title.
        services: what its owner grants to that caller: names of `isthmus.dicom.services.Service`.
    """

    title: AETitle
    shown_as: AETitle
    site: SiteName
    router_id: RouterId
    public_key: bytes
    prekey: Prekey
    services: frozenset[str]
    online: bool
    name: str


@dataclass(frozen=True, slots=True)
class Granted:
    """A device of another site that is granted to one of ours, whether or not it can be reached now.

    Attributes:
        title: its network title.
        online: False if its owner knows it to be switched off or disabled now; of its Router this says nothing.
        modes: how its owner lets it be sent to.
        syntaxes: what it takes, as far as its owner knows; empty: its owner does not.
    """

    title: AETitle
    site: SiteName
    router_id: RouterId
    services: frozenset[str]
    online: bool
    name: str
    modes: frozenset[DeliveryMode]
    syntaxes: frozenset[Pair] = field(repr=False)


@dataclass(frozen=True, slots=True)
class DeliveryRule:
    """How devices here send to `title`: a network title, an alias, or a device of this site.

    `from_device`: the id of the one device that it is for; None: every device that has no rule of its own.
    """

    title: AETitle
    from_device: int | None
    mode: DeliveryMode


@dataclass(frozen=True, slots=True)
class Group:
    """A called title that stands for several destinations, all of them queued. `members`: network titles, in order."""

    title: AETitle
    members: tuple[AETitle, ...]


class Direction(StrEnum):
    """Which way bytes go between this site and the providers."""

    UP = "up"  # to them
    DOWN = "down"  # from them


@dataclass(frozen=True, slots=True)
class CapRule:
    """A cap on what goes one way.

    Attributes:
        rate: bytes a second.
        start: minute of the day, local time, from which on it holds.
        end: minute of the day at which it ends; before `start`: on the next day; the same as `start`: never.
    """

    direction: Direction
    rate: int
    start: int = 0
    end: int = 0

    @property
    def is_always(self) -> bool:
        """Whether it holds all day."""
        return self.start == self.end

    def holds(self, minute: int) -> bool:
        """Return whether it holds at this minute of the day."""
        if self.start <= self.end:
            return self.is_always or self.start <= minute < self.end
        return minute >= self.start or minute < self.end


@dataclass(frozen=True, slots=True)
class Admission:
    """An association of another site that may reach one of our devices.

    Attributes:
        public_key: the pinned key of the calling site, against which its offer must verify.
        services: what the grants allow, together.
        calling_as: the calling title that the device is shown.
        called_as: the device's own title.
        return_ok: whether a C-MOVE or N-ACTION in it may open a return grant.
    """

    device: LocalDevice
    site: SiteName
    public_key: bytes
    services: frozenset[str]
    calling_as: AETitle
    called_as: AETitle
    return_ok: bool


@dataclass(frozen=True, slots=True)
class Grant:
    """A device of ours that a site may reach. `caller` None: every device there. `until`: Unix seconds, or None."""

    grant_id: int
    device_id: int
    site: SiteName
    caller: AETitle | None
    services: frozenset[str]
    until: float | None
    no_return: bool = False


@dataclass(frozen=True, slots=True)
class OpenReturn:
    """What a C-MOVE or N-ACTION of ours opened: `caller` of that Router may reach our `title` until then."""

    router_id: RouterId
    caller: AETitle
    title: AETitle
    services: frozenset[str]
    until: float


@dataclass(frozen=True, slots=True)
class Acceptance:
    """A site whose key a person here compared. `accepted` False: withdrawn since, and that is what we tell it."""

    site: SiteName
    router_id: RouterId
    public_key: bytes
    since: float
    accepted: bool = True


@dataclass(frozen=True, slots=True)
class Reported:
    """A site as the Bridge reports it. Nothing here is trusted; a person compares `router_id`."""

    site: SiteName
    router_id: RouterId
    public_key: bytes
    online: bool = False
    statement: SignedDocument | None = None


@dataclass(frozen=True, slots=True)
class Verified:
    """The last documents of an accepted site that verified.

    Attributes:
        counter: the highest statement counter seen of this key; a smaller one is a rollback.
    """

    router_id: RouterId
    site: SiteName
    counter: int = 0
    statement: Statement | None = None
    prekey: Prekey | None = None


@dataclass(frozen=True, slots=True)
class Alias:
    """A remote device under another title: devices here see network title `title` as `shown_as`."""

    shown_as: AETitle
    title: AETitle


@dataclass(frozen=True, slots=True)
class UnknownCaller:
    """Something that called without being registered: how often, and when last (Unix seconds)."""

    title: AETitle
    address: str
    called: AETitle
    count: int
    first: float
    last: float


SPOOL_FLOOR: Final = 2 * 1024**3
"""Bytes of the disk that queued objects leave free, unless somebody sets it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What holds for the whole Router.

    Attributes:
        ignore_title_case: compare AE titles without regard to case (the standard says otherwise).
        open_returns: whether a C-MOVE or N-ACTION of ours lets its answers in.
        audit_days: how long audit rows are kept.
        idle_minutes: how long nothing may pass either way before a new association is aborted; 0 for ever.
        spool_quota: most bytes of queued objects that are kept here; 0: what the disk has.
        spool_floor: bytes of its disk that they leave free.
    """

    ignore_title_case: bool = False
    open_returns: bool = True
    audit_days: int = 730
    idle_minutes: int = 1440
    spool_quota: int = 0
    spool_floor: int = SPOOL_FLOOR

    @property
    def idle_seconds(self) -> float | None:
        """The idle time in seconds, or None."""
        return self.idle_minutes * 60.0 or None
