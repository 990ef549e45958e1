"""Who may reach whom: the tables that answer every A-ASSOCIATE-RQ, and that are the access control list too.

Synchronous and in memory, over the store, for the event loop's thread only. Each refusal carries the A-ASSOCIATE-RJ
it causes, and a hint naming the table that lacks what and the command that would mend it.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

import structlog

from isthmus.contract.documents import DocumentKind, GrantedDevice, Prekey, SignedDocument, Statement, Titles
from isthmus.contract.rest import Network
from isthmus.envelope.identity import RouterId
from isthmus.errors import AssociationRefused, Untrusted
from isthmus.kit.clock import Clock
from isthmus.kit.names import AETitle, SiteName
from isthmus.router import trust
from isthmus.router.addresses import HostNames, comes_from
from isthmus.router.callers import UnknownCallers
from isthmus.router.keys import Keys
from isthmus.router.records import (
    DAY,
    RETURN_DAYS,
    Acceptance,
    Admission,
    LocalDevice,
    OpenReturn,
    RemoteDevice,
    Reported,
    Verified,
)
from isthmus.router.statements import REFRESH, Draft, drafts
from isthmus.router.store import Store

_log = structlog.get_logger()

Alert = Callable[[str, str], None]
"""Told of what should not have happened: the site that it is about, and a sentence."""

_PERMANENT: Final = 1
_TRANSIENT: Final = 2
_BY_USER: Final = 1
_BY_PRESENTATION: Final = 3
_CALLING_UNKNOWN: Final = 3
_CALLED_UNKNOWN: Final = 7
_CONGESTION: Final = 1


@dataclass(frozen=True, slots=True)
class _Offer:
    """A device in the verified statement of an accepted site."""

    verified: Verified
    device: GrantedDevice


class Directory:
    """The devices of this site, the accepted sites with what they grant, and the grants of our own."""

    def __init__(
        self, store: Store, keys: Keys, clock: Clock, *, hosts: HostNames | None = None, alert: Alert | None = None
    ) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self._alert = alert or _log_alert
        self._listeners: list[Callable[[], None]] = []
        self._online: frozenset[RouterId] = frozenset()
        self.hosts = hosts or HostNames()
        self.unknown_callers = UnknownCallers(store)
        self.alerts: dict[str, tuple[str, ...]] = {}
        self.reload()

    def reload(self) -> None:
        """Read the tables again, after somebody wrote to them, and tell the listeners."""
        store = self._store
        self.settings = store.settings()
        self.devices = store.devices()
        self.grants = store.grants()
        self.acceptances = {row.site: row for row in store.acceptances()}
        self.reported = {row.site: row for row in store.reported()}
        self.verified = {row.router_id: row for row in store.verified()}
        self.aliases = store.aliases()
        self._returns = {(row.router_id, row.caller, row.title): row for row in store.returns()}
        self._pinned = {row.router_id: row for row in self.acceptances.values() if row.accepted}
        self._by_title = {self.fold(device.title): device for device in self.devices}
        self._by_network_title = {self.fold(device.network_title): device for device in self.devices}
        self._titles_of_aliases = {self.fold(alias.shown_as): alias.title for alias in self.aliases}
        self._aliases_of_titles = {self.fold(alias.title): alias.shown_as for alias in self.aliases}
        self.owners = store.seen_titles()
        self._owners = {self.fold(title): owner for title, owner in self.owners.items()}
        self._offers = self._index_offers()
        self._changed()

    def on_change(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever what this site says to others may have changed."""
        self._listeners.append(listener)

    def fold(self, title: str) -> str:
        """Return what two titles have in common that count as one."""
        return title.strip(" ").casefold() if self.settings.ignore_title_case else title.strip(" ")

    # -- associations of our own devices

    def caller(self, calling: AETitle, address: str) -> LocalDevice:
        """Return the device that calls from `address`. Raises AssociationRefused (1/1/3) if it is not one of ours."""
        device = self._by_title.get(self.fold(calling))
        if device is None:
            raise _refused(
                f"calling title {calling} from {address} is no device of this site",
                _CALLING_UNKNOWN,
                f"the device table lacks it; if it is yours: isthmus device add {calling}@{address}",
            )
        if not comes_from(device, address, self.hosts):
            raise _refused(
                f"{calling} called from {address}, but is registered at {device.host}",
                _CALLING_UNKNOWN,
                f"the device table lacks that address; if it is right: isthmus device set {device.title}"
                f" --from-address {address}",
            )
        if device.disabled:
            raise _refused(
                f"{calling} is disabled",
                _CALLING_UNKNOWN,
                f"to let it call again: isthmus device enable {device.title}",
            )
        return device

    def identify(self, calling: AETitle, address: str, called: AETitle) -> LocalDevice:
        """Do as `caller`, and list whoever is refused among the unknown callers."""
        try:
            return self.caller(calling, address)
        except AssociationRefused:
            self.unknown_callers.note(calling, address, called, self._clock.now())
            raise

    def resolve(self, caller: LocalDevice, called: AETitle) -> LocalDevice | RemoteDevice:
        """Return the device that `caller` means by `called`.

        Raises AssociationRefused: 1/1/7 if there is no such title, 1/1/3 if the site is not accepted or the caller
        not granted, 2/3/1 if it is known to be offline.
        """
        key = self.fold(called)
        local = self._by_title.get(key) or self._by_network_title.get(key)
        if local is not None:
            return _reachable(local)
        title = self._titles_of_aliases.get(key, called)
        offers = self._offers.get(self.fold(title))
        if not offers:
            raise self._unknown(title)
        return self._choose(caller, called, offers)

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

    def _choose(self, caller: LocalDevice, called: AETitle, offers: list[_Offer]) -> RemoteDevice:
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
                f"the grant table of site {pinned.site} lacks it; there: isthmus grant add {title}"
                f" --site {self._own_site()} --services ... [--caller {caller.network_title}]",
            )
        if mine and not any(device.online for device in mine):
            raise _offline(f"{title} is disabled at site {pinned.site}", f"there: isthmus device enable {title}")
        site, public_key, prekey = self.remote_site(verified.router_id)
        return RemoteDevice(
            title=title,
            shown_as=called,
            site=site,
            router_id=verified.router_id,
            public_key=public_key,
            prekey=prekey,
            services=services,
            online=True,
            name=offers[0].device.name,
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
                f"the grant table of site {site} lacks it; there: isthmus grant add {title} --site {own}"
                " --services ...",
            )
        return _refused(
            f"called title {title} is unknown",
            _CALLED_UNKNOWN,
            f"neither the device table nor the directory has it; at its site: isthmus grant add {title} --site {own}"
            " --services ...; for what there is: isthmus directory",
        )

    # -- associations of other sites' devices

    def admit(self, initiator: RouterId, calling: str, called: str) -> Admission:
        """Return how an association of another site reaches one of our devices, now.

        Raises AssociationRefused: 1/1/3 if that site is not accepted, the calling title is another's, or there is no
        grant; 1/1/7 if the called title is none of ours; 2/3/1 if the device is disabled.
        """
        now = self._clock.now()
        pinned = self._pinned.get(initiator)
        if pinned is None:
            raise self._not_accepted(initiator)
        self._demand_pinned_key(pinned)
        calling_title = AETitle(calling.strip(" "))
        self._demand_title(calling_title, pinned)
        device = self._by_network_title.get(self.fold(called))
        if device is None:
            raise _refused(
                f"called title {called} is none of this site's network titles",
                _CALLED_UNKNOWN,
                f"the device table lacks it: isthmus device add {called}@HOST:PORT",
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
        if opened is not None and opened.until > now:
            services |= opened.services
        if not services:
            raise _refused(
                f"{device.network_title} is not granted to {calling_title} of site {pinned.site}",
                _CALLING_UNKNOWN,
                f"the grant table lacks it: isthmus grant add {device.title} --site {pinned.site} --services ..."
                f" [--caller {calling_title}]",
            )
        _reachable(device)
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
        self._store.save_return(opened, now=now)
        self._returns = {key: value for key, value in self._returns.items() if value.until > now} | {row: opened}
        self._changed()

    def known_offer(self, session_id: bytes) -> bool:
        """Return whether this offer was taken before."""
        return self._store.knows_offer(session_id)

    def remember_offer(self, session_id: bytes, not_after: float) -> bool:
        """Remember an offer on disk before anything is dialled for it; False if it was known. Any thread may call."""
        return self._store.remember_offer(session_id, not_after, now=self._clock.now())

    # -- what the Bridge says, and what we say to it

    def apply(self, network: Network, now: float) -> None:
        """Take over what verifies of what the Bridge says; tell of what does not, and believe nothing of it."""
        alerts: defaultdict[str, list[str]] = defaultdict(list)
        reported: dict[SiteName, Reported] = {}
        for entry in network.sites:
            try:
                site = trust.report(entry)
            except Untrusted as error:
                alerts[entry.site[:80]].append(str(error))
                continue
            if site.router_id == self._keys.router_id:
                continue
            reported[site.site] = site
            pinned = self.acceptances.get(site.site)
            if pinned is None or not pinned.accepted:
                continue
            held = self.verified.get(pinned.router_id, Verified(pinned.router_id, pinned.site))
            judgement = trust.judge(entry, site, pinned, held, own_site=self._own_site(), own_id=self._keys.router_id)
            alerts[site.site] += judgement.alerts
            if judgement.verified != held:
                self._store.save_verified(judgement.verified)
                self.verified[pinned.router_id] = judgement.verified
            titles, complaints = trust.claimed_titles(
                judgement.verified, self.owners, [device.network_title for device in self.devices]
            )
            alerts[site.site] += complaints
            self._pin(pinned.router_id, titles)
            statement = judgement.verified.statement
            if statement is not None and statement.not_after <= now:
                alerts[site.site].append(f"what site {site.site} granted has run out: its Router has not renewed it")
        if _without_online(reported) != _without_online(self.reported):
            self._store.save_reported(reported.values())
        self.reported = reported
        self._online = frozenset(site.router_id for site in reported.values() if site.online)
        self._offers = self._index_offers()
        if network.own_counter > trust.MOST_COUNTER:
            alerts["bridge"].append("the Bridge says that this site's statements have an impossible counter")
        else:
            self._heed_own_counter(network.own_counter)
        self._raise_alerts(alerts)

    def _heed_own_counter(self, counter: int) -> None:
        if counter > self._store.own_counter():
            _log.warning("this Router is older than its own statements; going on above them", counter=counter)
            self._store.raise_own_counter(counter)
            self._store.forget_published()
        elif counter < self._store.published_counter():
            _log.warning("the Bridge lost statements of this site; publishing them again", counter=counter)
            self._store.forget_published()

    def own_documents(self, now: float) -> list[SignedDocument]:
        """Return what the Bridge should be given: each document that is new, changed or a day old.

        Each is signed with a counter that is used up by that, whether the Bridge takes it or not.
        """
        known = self._store.published()
        due: list[SignedDocument] = []

        def stale(name: str, digest: bytes) -> bool:
            held, at = known.get(name, (b"", 0.0))
            return held != digest or not now - REFRESH < at <= now

        if stale("prekey", self._keys.newest.prekey_id):
            due.append(self._keys.prekey_document())
        stale_drafts = [draft for draft in self._drafts(now) if stale(draft.name, draft.digest)]
        if stale_drafts:
            first = self._store.own_counter() + 1
            self._store.raise_own_counter(first + len(stale_drafts) - 1)
            due += [
                draft.sign(self._keys.identity, counter, now) for counter, draft in enumerate(stale_drafts, start=first)
            ]
        return due

    def published(self, document: SignedDocument, now: float) -> None:
        """Remember that the Bridge took a document that `own_documents` returned."""
        if document.kind is DocumentKind.PREKEY:
            self._store.save_published("prekey", Prekey.parse(document.payload).prekey_id, now)
        elif document.kind is DocumentKind.TITLES:
            titles = Titles.parse(document.payload)
            digest = hashlib.sha256(titles.model_copy(update={"counter": 0}).to_payload()).digest()
            self._store.save_published("titles", digest, now, counter=titles.counter)
        else:
            statement = Statement.parse(document.payload)
            content = statement.model_copy(update={"counter": 0, "not_after": 0.0})
            digest = hashlib.sha256(content.to_payload()).digest()
            self._store.save_published(f"statement/{statement.to_site}", digest, now, counter=statement.counter)

    def _drafts(self, now: float) -> Iterable[Draft]:
        if self._keys.membership is None:
            return ()
        return drafts(
            self._keys.membership.site,
            devices=self.devices,
            grants=self.grants,
            returns=self._returns.values(),
            acceptances=self.acceptances.values(),
            now=now,
        )

    # -- other sites, for people

    def key_changed(self, site: SiteName) -> bool:
        """Return whether the Bridge shows another key for an accepted site than the one that was accepted."""
        reported, pinned = self.reported.get(site), self.acceptances.get(site)
        return reported is not None and pinned is not None and reported.public_key != pinned.public_key

    def is_online(self, router_id: RouterId) -> bool:
        """Return whether the Bridge says that a Router is there."""
        return router_id in self._online

    def offers(self) -> list[tuple[SiteName, GrantedDevice]]:
        """Return every device that an accepted site grants to some device here, by title."""
        return [
            (offer.verified.site, offer.device)
            for title in sorted(self._offers)
            for offer in self._offers[title]
            if offer.verified.router_id in self._pinned
        ]

    def alias_of(self, title: AETitle) -> AETitle | None:
        """Return the title under which devices here see the remote device `title`, if it has an alias."""
        return self._aliases_of_titles.get(self.fold(title))

    # -- inside

    def _index_offers(self) -> dict[str, list[_Offer]]:
        index: defaultdict[str, list[_Offer]] = defaultdict(list)
        for router_id in self._pinned:
            verified = self.verified.get(router_id)
            if verified is None or verified.statement is None or not verified.statement.accepted:
                continue
            granted = list(verified.statement.devices)
            titles = {device.title for device in granted}
            granted += [  # a return grant makes a device reachable that nothing else grants
                GrantedDevice(title=opened.title, services=[], callers=[])
                for opened in verified.statement.returns
                if opened.title not in titles
            ]
            for device in granted:
                key = self.fold(device.title)
                if self._owners.get(key) == router_id:
                    index[key].append(_Offer(verified, device))
        return dict(index)

    def _demand_pinned_key(self, pinned: Acceptance) -> None:
        if self.key_changed(pinned.site):
            raise _refused(f"the key of site {pinned.site} changed", _CALLING_UNKNOWN, _changed_key_hint(pinned.site))

    def _demand_title(self, title: AETitle, pinned: Acceptance) -> None:
        key = self.fold(title)
        if key in self._by_network_title:
            raise _refused(
                f"site {pinned.site} calls as {title}, which is a device of this site",
                _CALLING_UNKNOWN,
                f"one of the two needs another network title; here: isthmus device set {title} --title ...",
            )
        owner = self._owners.get(key, pinned.router_id)
        if owner != pinned.router_id:
            raise _refused(
                f"site {pinned.site} calls as {title}, which belongs to another site",
                _CALLING_UNKNOWN,
                f"if the device has moved there: isthmus title release {title}",
            )

    def _not_accepted(self, initiator: RouterId) -> AssociationRefused:
        named = [site.site for site in self.reported.values() if site.router_id == initiator]
        site = named[0] if named else SiteName("SITE")
        return _refused(
            f"site {named[0] if named else initiator} is not accepted",
            _CALLING_UNKNOWN,
            f"the acceptance table lacks it; compare its Router ID by phone: isthmus site accept {site}",
        )

    def _pin(self, router_id: RouterId, titles: Iterable[AETitle]) -> None:
        new = [title for title in titles if self.fold(title) not in self._owners]
        if new:
            self._store.pin_titles(new, router_id)
            self.owners |= dict.fromkeys(new, router_id)
            self._owners |= {self.fold(title): router_id for title in new}

    def _raise_alerts(self, alerts: dict[str, list[str]]) -> None:
        found = {site: tuple(texts) for site, texts in alerts.items() if texts}
        for site, texts in found.items():
            for text in texts:
                if text not in self.alerts.get(site, ()):
                    self._alert(site, text)
        self.alerts = found

    def _own_site(self) -> str:
        return self._keys.membership.site if self._keys.membership else "YOUR-SITE"

    def _changed(self) -> None:
        for listener in self._listeners:
            listener()


def _without_online(sites: dict[SiteName, Reported]) -> list[tuple[object, ...]]:
    return sorted((row.site, row.router_id, row.public_key, repr(row.statement)) for row in sites.values())


def _reachable(device: LocalDevice) -> LocalDevice:
    if device.port is None:
        raise _refused(
            f"{device.title} only calls",
            _CALLED_UNKNOWN,
            f"the device table has no port of it: isthmus device set {device.title} --port PORT",
        )
    if device.disabled:
        raise _offline(f"{device.title} is disabled", f"to let it be called: isthmus device enable {device.title}")
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


def _log_alert(site: str, text: str) -> None:
    _log.error("alert", site=site, text=text)
