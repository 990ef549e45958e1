"""Who may reach whom: the tables that answer every A-ASSOCIATE-RQ, and that are the access control list too.

Synchronous and in memory, over the store, for the event loop's thread only. Each refusal carries the A-ASSOCIATE-RJ
it causes, and a hint naming the table that lacks what and the command that would mend it.
"""

import shlex
import sqlite3
from typing import Final

import structlog

from isthmus.contract.documents import GrantedDevice, Prekey
from isthmus.envelope.identity import RouterId
from isthmus.errors import AssociationRefused, Untrusted
from isthmus.kit.names import AETitle, SiteName
from isthmus.router.routing import trust
from isthmus.router.routing.addresses import comes_from
from isthmus.router.routing.callers import printable
from isthmus.router.routing.records import (
    DAY,
    RETURN_DAYS,
    Acceptance,
    Admission,
    DeliveryMode,
    Granted,
    LocalDevice,
    OpenReturn,
    RemoteDevice,
)
from isthmus.router.routing.tables import Offer, Tables

_log = structlog.get_logger()

_PERMANENT: Final = 1
_TRANSIENT: Final = 2
_BY_USER: Final = 1
_BY_PRESENTATION: Final = 3
_CALLING_UNKNOWN: Final = 3
_CALLED_UNKNOWN: Final = 7
_CONGESTION: Final = 1
_MOST_TITLES: Final = 10_000  # of one site: each is remembered for good, and no title that others may need


class Directory(Tables):
    """The devices of this site, the accepted sites with what they grant, and the grants of our own."""

    # -- associations of our own devices

    def caller(self, calling: AETitle, address: str) -> LocalDevice:
        """Return the device that calls from `address`. Raises AssociationRefused (1/1/3) if it is not one of ours."""
        device = self._by_title.get(self.fold(calling))
        if device is None:
            raise _refused(
                f"calling title {printable(calling)} from {address} is no device of this site",
                _CALLING_UNKNOWN,
                f"the device table lacks it; if it is yours: isthmus device add {_typed(f'{calling}@{address}')}",
            )
        if not comes_from(device, address, self.hosts):
            raise _refused(
                f"{device.title} called from {address}, but is registered at {device.host}",
                _CALLING_UNKNOWN,
                f"the device table lacks that address; if it is right: isthmus device set {_typed(device.title)}"
                f" --from-address {address}",
            )
        if device.disabled:
            raise _refused(
                f"{device.title} is disabled",
                _CALLING_UNKNOWN,
                f"to let it call again: isthmus device enable {_typed(device.title)}",
            )
        return device

    def demand_enabled(self, network_title: AETitle) -> None:
        """Raise Untrusted if this site has no device of that network title any more, or it is disabled."""
        device = self._by_network_title.get(self.fold(network_title))
        if device is None or device.disabled:
            raise Untrusted(f"{network_title} is {'no device of this site any more' if device is None else 'disabled'}")

    def identify(self, calling: AETitle, address: str, called: AETitle, *, over_tls: bool) -> LocalDevice:
        """Do as `caller`, insist on TLS where the table does, and list whoever is refused among the unknown callers."""
        try:
            device = self.caller(calling, address)
            _demand_tls(device, over_tls=over_tls)
            return device
        except AssociationRefused:
            self.unknown_callers.note(calling, address, called, self._clock.now())
            raise

    def resolve(self, caller: LocalDevice, called: AETitle) -> LocalDevice | RemoteDevice:
        """Return the device that `caller` means by `called`.

        Raises AssociationRefused: 1/1/7 if there is no such title, 1/1/3 if the site is not accepted or the caller
        not granted, 2/3/1 if it is known to be offline.
        """
        found = self.granted(caller, called)
        if isinstance(found, LocalDevice):
            return _enabled(found)
        if not found.online:
            raise _offline(
                f"{found.title} is disabled at site {found.site}",
                f"there: isthmus device enable {_typed(found.title)}",
            )
        site, public_key, prekey = self.remote_site(found.router_id)
        return RemoteDevice(
            title=found.title,
            shown_as=called,
            site=site,
            router_id=found.router_id,
            public_key=public_key,
            prekey=prekey,
            services=found.services,
            online=True,
            name=found.name,
        )

    def granted(self, caller: LocalDevice, called: AETitle) -> LocalDevice | Granted:
        """Return the device that `caller` means by `called`, whether or not it can be reached now.

        Raises AssociationRefused as `resolve` does, but 2/3/1 only if what its site granted has run out.
        """
        local = self.device_called(called)
        if local is not None:
            return _callable(local)
        title = self.title_of(called)
        offers = self._offers.get(self.fold(title))
        if not offers:
            raise self._unknown(title)
        return self._choose(caller, offers)

    def remote_site(self, router_id: RouterId) -> tuple[SiteName, bytes, Prekey]:
        """Return name, pinned key and newest prekey of an accepted site.

        Raises AssociationRefused: 1/1/3 if it is not accepted or its key changed, 2/3/1 if it is offline.
        """
        pinned = self._pinned.get(router_id)
        if pinned is None:
            raise self._not_accepted(router_id)
        self._demand_pinned_key(pinned)
        if router_id not in self._online:
            raise _offline(
                f"the Router of site {pinned.site} is offline", f"call site {pinned.site}; see isthmus site list"
            )
        verified = self.verified.get(router_id)
        if verified is None or verified.prekey is None or verified.prekey.not_after <= self._clock.now():
            raise _offline(
                f"there is no key to seal for site {pinned.site}",
                f"its Router must renew its prekey: call {pinned.site}",
            )
        return pinned.site, pinned.public_key, verified.prekey

    def _choose(self, caller: LocalDevice, offers: list[Offer]) -> Granted:
        now = self._clock.now()
        verified, statement = offers[0].verified, offers[0].verified.statement
        assert statement is not None
        pinned = self._pinned[verified.router_id]
        title = AETitle(offers[0].device.title)
        self._demand_pinned_key(pinned)
        if statement.not_after <= now:
            raise _offline(
                f"what site {pinned.site} granted has run out",
                f"its Router has not renewed it for 30 days: see isthmus site list, and call site {pinned.site}",
            )
        mine = [offer.device for offer in offers if self._is_for(offer.device, caller, now)]
        services = frozenset(service for device in mine for service in device.services) | frozenset(
            service
            for opened in statement.returns
            if opened.until > now
            and self.fold(opened.title) == self.fold(title)
            and self.fold(opened.caller) == self.fold(caller.network_title)
            for service in opened.services
        )
        if not services:
            raise _refused(
                f"site {pinned.site} does not grant {title} to {caller.network_title}",
                _CALLING_UNKNOWN,
                f"the grant table of site {pinned.site} lacks it; there: isthmus grant add {_typed(title)}"
                f" --site {self._own_site()} --services ... [--caller {_typed(caller.network_title)}]",
            )
        devices = [offer.device for offer in offers]
        return Granted(
            title=title,
            site=pinned.site,
            router_id=verified.router_id,
            services=services,
            online=not mine or any(device.online for device in mine),
            name=devices[0].name,
            modes=frozenset(mode for mode in DeliveryMode if any(mode in device.modes for device in devices)),
            syntaxes=self._taken.get(self.fold(title), frozenset()),
        )

    def _is_for(self, device: GrantedDevice, caller: LocalDevice, now: float) -> bool:
        if device.until is not None and device.until <= now:
            return False
        callers = device.callers
        return callers is None or self.fold(caller.network_title) in {self.fold(title) for title in callers}

    def _unknown(self, title: AETitle) -> AssociationRefused:
        """Return the refusal of a title that no accepted site grants: known in some other way, or not at all."""
        own = self._own_site()
        for reported in self.reported.values():
            accepted = reported.site in self.acceptances and self.acceptances[reported.site].accepted
            if not accepted and title in trust.offered_titles(reported):
                return _refused(
                    f"site {reported.site}, which has {title}, is not accepted here",
                    _CALLING_UNKNOWN,
                    "the acceptance table lacks it; compare its Router ID by phone: isthmus site accept "
                    f"{reported.site}",
                )
        owner = self._owners.get(self.fold(title))
        if owner is not None and owner in self._pinned:
            site = self._pinned[owner].site
            verified = self.verified.get(owner)
            if verified is None or verified.statement is None or not verified.statement.accepted:
                return _refused(
                    f"site {site}, which has {title}, does not accept this site",
                    _CALLING_UNKNOWN,
                    f"the acceptance table of site {site} lacks it; there: isthmus site accept {own}",
                )
            return _refused(
                f"site {site} no longer grants {title}",
                _CALLING_UNKNOWN,
                f"the grant table of site {site} lacks it; there: isthmus grant add {_typed(title)} --site {own}"
                " --services ...",
            )
        return _refused(
            f"called title {printable(title)} is unknown",
            _CALLED_UNKNOWN,
            f"neither the device table nor the directory has it; at its site: isthmus grant add {_typed(title)}"
            f" --site {own} --services ...; for what there is: isthmus directory",
        )

    # -- associations of other sites' devices

    def admit(
        self, initiator: RouterId, calling: str, called: str, *, mode: DeliveryMode = DeliveryMode.QUEUED
    ) -> Admission:
        """Return how an association of another site reaches one of our devices, now.

        `mode` is what is asked for. What came queued was right when it left, so that only live is held against what
        the device allows, and that not for the way back that a C-MOVE opened.

        Raises AssociationRefused: 1/1/3 if that site is not accepted, the calling title is another's, there is no
        grant, or not in that mode; 1/1/7 if the called title is none of ours; 2/3/1 if the device is disabled.
        """
        now = self._clock.now()
        pinned = self._pinned.get(initiator)
        if pinned is None:
            raise self._not_accepted(initiator)
        self._demand_pinned_key(pinned)
        calling_title = printable(calling.strip(" "))
        self._demand_title(calling_title, pinned)
        device = self._by_network_title.get(self.fold(called))
        if device is None:
            raise _refused(
                f"called title {printable(called)} is none of this site's network titles",
                _CALLED_UNKNOWN,
                f"the device table lacks it: isthmus device add {_typed(f'{called}@HOST:PORT')}",
            )
        grants = [
            grant
            for grant in self.grants
            if grant.device_id == device.device_id
            and grant.site == pinned.site
            and (grant.until is None or grant.until > now)
            and (grant.caller is None or self.fold(grant.caller) == self.fold(calling_title))
        ]
        opened = self._returns.get((initiator, calling_title, device.network_title))
        services = frozenset(service for grant in grants for service in grant.services)
        if opened is None and mode is DeliveryMode.LIVE and mode not in device.options.modes:
            raise _refused(
                f"{device.network_title} is sent to queued only",
                _CALLING_UNKNOWN,
                f"at site {pinned.site}: isthmus delivery set {_typed(device.network_title)} queued; or here:"
                f" isthmus device set {_typed(device.title)} --modes live,queued",
            )
        if opened is not None and opened.until > now:
            services |= opened.services
        if not services:
            raise _refused(
                f"{device.network_title} is not granted to {calling_title} of site {pinned.site}",
                _CALLING_UNKNOWN,
                f"the grant table lacks it: isthmus grant add {_typed(device.title)} --site {pinned.site}"
                f" --services ... [--caller {_typed(calling_title)}]",
            )
        _enabled(_callable(device))
        self._pin(pinned.router_id, [calling_title])
        return Admission(
            device=device,
            site=pinned.site,
            public_key=pinned.public_key,
            services=services,
            calling_as=device.options.callers_as
            or self._aliases_of_titles.get(self.fold(calling_title))
            or calling_title,
            called_as=device.title,
            return_ok=self.settings.open_returns and not any(grant.no_return for grant in grants),
        )

    def pinned_key(self, router_id: RouterId) -> bytes:
        """Return the public key that a person here accepted. Raises Untrusted if there is none, or it changed."""
        pinned = self._pinned.get(router_id)
        if pinned is None:
            raise Untrusted(f"the site of Router {router_id} is not accepted", hint="see isthmus site list")
        if self.key_changed(pinned.site):
            raise Untrusted(f"the key of site {pinned.site} changed", hint=_changed_key_hint(pinned.site))
        return pinned.public_key

    def open_return(
        self, caller_router: RouterId, remote_title: AETitle, local_title: AETitle, services: frozenset[str]
    ) -> None:
        """Let `remote_title` of that Router reach our device for seven days: the answers of a C-MOVE or N-ACTION.

        Does nothing if the device is none of ours that listens, or the operator does not want it.
        """
        key = self.fold(local_title)
        device = self._by_title.get(key) or self._by_network_title.get(key)
        pinned = self._pinned.get(caller_router)
        if device is None or device.port is None or pinned is None or not self.settings.open_returns:
            return
        if any(
            grant.no_return for grant in self.grants if (grant.device_id, grant.site) == (device.device_id, pinned.site)
        ):
            return
        now = self._clock.now()
        row = (caller_router, remote_title, device.network_title)
        held = self._returns.get(row)
        if held is not None and held.until > now:
            if services <= held.services and held.until > now + (RETURN_DAYS - 1) * DAY:
                return  # renewed once a day, not with every C-MOVE
            services |= held.services
        opened = OpenReturn(*row, services=services, until=now + RETURN_DAYS * DAY)
        try:
            self._store.save_return(opened, now=now)
        except sqlite3.Error as error:  # a disk that is full: it holds until the next start, and the C-MOVE goes on
            _log.error("the way back for a device's answers is not durable", title=device.title, error=str(error))
        self._returns = {key: value for key, value in self._returns.items() if value.until > now} | {row: opened}
        self._changed()

    def remember_offer(self, session_id: bytes, not_after: float) -> bool:
        """Remember an offer on disk before anything is dialled for it; False if it was known. Any thread may call."""
        return self._store.remember_offer(session_id, not_after, now=self._clock.now())

    # -- inside

    def _demand_pinned_key(self, pinned: Acceptance) -> None:
        if self.key_changed(pinned.site):
            raise _refused(f"the key of site {pinned.site} changed", _CALLING_UNKNOWN, _changed_key_hint(pinned.site))

    def _demand_title(self, title: AETitle, pinned: Acceptance) -> None:
        key = self.fold(title)
        if key in self._by_network_title:
            raise _refused(
                f"site {pinned.site} calls as {title}, which is a device of this site",
                _CALLING_UNKNOWN,
                f"one of the two needs another network title; here: isthmus device set {_typed(title)} --title ...",
            )
        owner = self._owners.get(key, pinned.router_id)
        if owner != pinned.router_id:
            raise _refused(
                f"site {pinned.site} calls as {title}, which belongs to another site",
                _CALLING_UNKNOWN,
                f"if the device has moved there: isthmus site release {_typed(title)}",
            )
        if key not in self._owners and sum(held == pinned.router_id for held in self._owners.values()) >= _MOST_TITLES:
            raise _refused(
                f"site {pinned.site} has called under {_MOST_TITLES} titles",
                _CALLING_UNKNOWN,
                f"no site has so many devices; ask {pinned.site}, and release what is not theirs: isthmus site release",
            )

    def _not_accepted(self, initiator: RouterId) -> AssociationRefused:
        named = [site.site for site in self.reported.values() if site.router_id == initiator]
        site = named[0] if named else SiteName("SITE")
        return _refused(
            f"site {named[0] if named else initiator} is not accepted",
            _CALLING_UNKNOWN,
            f"the acceptance table lacks it; compare its Router ID by phone: isthmus site accept {site}",
        )


def _typed(text: str) -> str:
    """Return what a device or another site sent as it may be pasted into a shell."""
    return shlex.quote(printable(text))


def _demand_tls(device: LocalDevice, *, over_tls: bool) -> None:
    tls = device.options.tls
    if tls is not None and tls.from_device and not over_tls:
        raise _refused(
            f"{device.title} called without TLS, and must not",
            _CALLING_UNKNOWN,
            "it must call the port of isthmus router run --dicom-tls; if it need not: "
            f"isthmus device set {_typed(device.title)} --plain",
        )


def _callable(device: LocalDevice) -> LocalDevice:
    if device.port is None:
        raise _refused(
            f"{device.title} only calls",
            _CALLED_UNKNOWN,
            f"the device table has no port of it: isthmus device set {_typed(device.title)} --port PORT",
        )
    return device


def _enabled(device: LocalDevice) -> LocalDevice:
    if device.disabled:
        raise _offline(
            f"{device.title} is disabled", f"to let it be called: isthmus device enable {_typed(device.title)}"
        )
    return device


def _refused(message: str, reason: int, hint: str) -> AssociationRefused:
    return AssociationRefused(message, result=_PERMANENT, source=_BY_USER, reason=reason, hint=hint)


def _offline(message: str, hint: str) -> AssociationRefused:
    return AssociationRefused(message, result=_TRANSIENT, source=_BY_PRESENTATION, reason=_CONGESTION, hint=hint)


def _changed_key_hint(site: SiteName) -> str:
    return (
        f"nothing flows until a person has asked site {site} why; if its Router was made anew, compare the new ID by"
        f" phone: isthmus site accept {site}"
    )
