"""What the Router knows, in memory over the store: its tables, and the local copy of the network.

For the event loop's thread only. Who may reach whom is decided in `directory`, on top of this.
"""

import hashlib
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from isthmus.contract.documents import DocumentKind, GrantedDevice, Prekey, SignedDocument, Statement, Titles
from isthmus.contract.rest import Network
from isthmus.envelope.identity import RouterId
from isthmus.envelope.mailboxes import new_prefix
from isthmus.errors import Untrusted
from isthmus.kit.clock import Clock
from isthmus.kit.names import AETitle, SiteName
from isthmus.router.keys import Keys
from isthmus.router.routing import trust
from isthmus.router.routing.addresses import HostNames
from isthmus.router.routing.callers import UnknownCallers
from isthmus.router.routing.records import DeliveryMode, Group, LocalDevice, Pair, Reported, Verified
from isthmus.router.routing.statements import REFRESH, Draft, drafts
from isthmus.router.routing.store import Store

_log = structlog.get_logger()


Alert = Callable[[str, str], None]
"""Told of what should not have happened: the site that it is about, and a sentence."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A device in the verified statement of an accepted site."""

    verified: Verified
    device: GrantedDevice


class Tables:
    """Devices, grants, acceptances, and what accepted sites said; kept current by `reload` and `apply`."""

    def __init__(
        self, store: Store, keys: Keys, clock: Clock, *, hosts: HostNames | None = None, alert: Alert | None = None
    ) -> None:
        self._store = store
        self._keys = keys
        self._clock = clock
        self._alert = alert or _log_alert
        self._listeners: list[Callable[[], None]] = []
        self._online: frozenset[RouterId] = frozenset()
        self._taken: dict[str, frozenset[Pair]] = {}  # what remote devices take, by folded title
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
        self.delivery_rules = store.delivery_rules()
        self.groups = store.groups()
        self.mirror = store.mirror()
        self._returns = {(row.router_id, row.caller, row.title): row for row in store.returns()}
        self._pinned = {row.router_id: row for row in self.acceptances.values() if row.accepted}
        self.mailboxes = store.mailboxes()
        for router_id in self._pinned.keys() - self.mailboxes.keys():
            self._new_mailbox(router_id)
        self._by_title = {self.fold(device.title): device for device in self.devices}
        self._by_network_title = {self.fold(device.network_title): device for device in self.devices}
        self._titles_of_aliases = {self.fold(alias.shown_as): alias.title for alias in self.aliases}
        self._aliases_of_titles = {self.fold(alias.title): alias.shown_as for alias in self.aliases}
        self._groups = {self.fold(group.title): group for group in self.groups}
        self._rules = {(self.fold(rule.title), rule.from_device): rule.mode for rule in self.delivery_rules}
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

    def title_of(self, shown_as: AETitle) -> AETitle:
        """Return the network title of what devices here call `shown_as`: an alias, or the title itself."""
        return self._titles_of_aliases.get(self.fold(shown_as), shown_as)

    def owner_of(self, title: AETitle) -> RouterId | None:
        """Return the Router that a remote title belongs to; None if no accepted site was ever seen to use it."""
        return self._owners.get(self.fold(title))

    # -- queued delivery

    def device_called(self, title: AETitle) -> LocalDevice | None:
        """Return the device of this site that is called by `title`, its own or its network title."""
        key = self.fold(title)
        return self._by_title.get(key) or self._by_network_title.get(key)

    def delivery_rule(self, title: AETitle, device_id: int | None) -> DeliveryMode | None:
        """Return what was chosen for just this title and sender; `device_id` None: for all senders."""
        return self._rules.get((self.fold(title), device_id))

    def group(self, title: AETitle) -> Group | None:
        """Return the group of this title; a device of this site that has the title goes before it."""
        return None if self.device_called(title) is not None else self._groups.get(self.fold(title))

    # -- letters

    def mailbox_of(self, router_id: RouterId) -> str | None:
        """Return the prefix under which an accepted site wants the letters that this one leaves for it, if known."""
        verified = self.verified.get(router_id)
        if router_id not in self._pinned or verified is None or verified.statement is None:
            return None
        statement = verified.statement
        return statement.mailbox if statement.accepted and statement.not_after > self._clock.now() else None

    def renew_mailbox(self, router_id: RouterId) -> str:
        """Have an accepted site leave its letters elsewhere, starting anew; return the new prefix."""
        prefix = self._new_mailbox(router_id)
        self._changed()
        return prefix

    def _new_mailbox(self, router_id: RouterId) -> str:
        prefix = new_prefix(secrets.token_bytes)
        self._store.save_mailbox(router_id, prefix)
        self.mailboxes[router_id] = prefix
        return prefix

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
            mailboxes=self.mailboxes,
            mirror=self.mirror,
            now=now,
        )

    # -- inside

    def _index_offers(self) -> dict[str, list[Offer]]:
        index: defaultdict[str, list[Offer]] = defaultdict(list)
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
                    index[key].append(Offer(verified, device))
        self._taken = {
            key: frozenset(pair for offer in offers for pair in offer.device.syntaxes) for key, offers in index.items()
        }
        return dict(index)

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


def _log_alert(site: str, text: str) -> None:
    _log.error("alert", site=site, text=text)
