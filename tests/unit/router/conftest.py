"""Two sites and a Bridge that says what a test tells it to."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from isthmus.contract.documents import DocumentKind, GrantedDevice, ReturnGrant, SignedDocument, Statement
from isthmus.contract.rest import Network, SiteEntry
from isthmus.envelope.documents import sign_document
from isthmus.envelope.identity import Identity, RouterId
from isthmus.envelope.prekeys import PrekeyPair
from isthmus.kit.names import AETitle, SiteName
from isthmus.router.audit import Audit
from isthmus.router.control.administration import Administration
from isthmus.router.keys import Keys, Membership
from isthmus.router.routing.addresses import HostNames
from isthmus.router.routing.directory import Directory
from isthmus.router.routing.records import LocalDevice
from isthmus.router.routing.store import Store
from isthmus.testing.clock import FakeClock

DAY = 86_400.0
NAMES = {"archive.hospital.example": ["192.0.2.20"], "localhost": ["127.0.0.1", "::1"]}


def chance(seed: str) -> Callable[[int], bytes]:
    """Return bytes that are the same in every run."""
    count = 0

    def draw(length: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_256(f"{seed}/{count}".encode()).digest(length)

    return draw


class OtherSite:
    """Another institution's Router, as far as its documents go."""

    def __init__(self, name: str, to_router_id: RouterId, now: float) -> None:
        self.name = name
        self.random = chance(name)
        self.identity = Identity.generate(self.random)
        self.prekey = PrekeyPair.generate(self.random, now)
        self.to_router_id = to_router_id
        self.counter = 0
        self.now = now

    @property
    def router_id(self) -> RouterId:
        return self.identity.router_id

    def statement(
        self,
        *devices: GrantedDevice,
        returns: tuple[ReturnGrant, ...] = (),
        accepted: bool = True,
        counter: int | None = None,
        site: str | None = None,
        to_site: str = "home",
        to_router_id: str | None = None,
        not_after: float | None = None,
        signer: Identity | None = None,
    ) -> SignedDocument:
        self.counter += 1
        content = Statement(
            site=site or self.name,
            to_site=to_site,
            to_router_id=to_router_id or self.to_router_id,
            counter=self.counter if counter is None else counter,
            not_after=self.now + 30 * DAY if not_after is None else not_after,
            accepted=accepted,
            devices=list(devices),
            returns=list(returns),
        )
        return sign_document(signer or self.identity, DocumentKind.STATEMENT, content.to_payload())

    def prekey_document(self, pair: PrekeyPair | None = None, signer: Identity | None = None) -> SignedDocument:
        payload = (pair or self.prekey).published().to_payload()
        return sign_document(signer or self.identity, DocumentKind.PREKEY, payload)

    def entry(self, statement: SignedDocument | None = None, *, online: bool = True) -> SiteEntry:
        return SiteEntry(
            site=self.name,
            router_id=self.router_id,
            public_key=self.identity.public,
            online=online,
            statement=statement,
            prekey=self.prekey_document(),
        )


@dataclasses.dataclass
class Home:
    """This site: everything a Router has but the relay."""

    folder: Path
    clock: FakeClock
    keys: Keys
    store: Store
    directory: Directory
    audit: Audit
    administration: Administration
    alerts: list[str]

    def other(self, name: str) -> OtherSite:
        return OtherSite(name, self.keys.router_id, self.clock.now())

    def shows(self, *entries: SiteEntry, own_counter: int | None = None) -> None:
        """Let the Bridge say that these are the other sites."""
        counter = self.store.published_counter() if own_counter is None else own_counter
        network = Network(
            revision="1", site="home", sites=list(entries), providers=[], own_counter=counter, time=self.clock.now()
        )
        self.directory.apply(network, self.clock.now())

    def accept(self, other: OtherSite) -> None:
        """Accept a site that the Bridge shows, as a person does."""
        self.administration.site_accept(other.name, router_id=other.router_id.spoken)

    def restarted(self) -> Directory:
        """Return the directory of the same Router after a restart."""
        return Directory(self.store, self.keys, self.clock, hosts=HostNames(lambda host: NAMES.get(host, [])))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    monkeypatch.setattr(os, "fsync", lambda _handle: None)  # no power is cut here, and a disk can be slow
    clock = FakeClock()
    keys = Keys.open(tmp_path, now=clock.now(), random=chance("home"))
    keys.join(Membership("https://bridge.example", bytes(32), SiteName("home")))
    store = Store.open(tmp_path / "router.db")
    store._connection.execute("PRAGMA synchronous = OFF")
    alerts: list[str] = []
    directory = Directory(
        store,
        keys,
        clock,
        hosts=HostNames(lambda host: NAMES.get(host, [])),
        alert=lambda site, text: alerts.append(f"{site}: {text}"),
    )
    audit = Audit(store, clock)
    yield Home(
        tmp_path,
        clock,
        keys,
        store,
        directory,
        audit,
        Administration(store, directory, keys, audit, clock),
        alerts,
    )
    store.close()


@pytest.fixture
def north(home: Home) -> OtherSite:
    return home.other("north")


@pytest.fixture
def ct(home: Home) -> LocalDevice:
    """Return a scanner of ours that only calls."""
    home.administration.device_add("CT1@192.0.2.10")
    return home.directory.caller(AETitle("CT1"), "192.0.2.10")


@pytest.fixture
def pacs(home: Home, north: OtherSite) -> None:
    """Our archive, granted to north, which is accepted."""
    home.administration.device_add("PACS@192.0.2.20:104", title="HOME_PACS")
    home.shows(north.entry())
    home.accept(north)
    home.administration.grant_add("PACS", site="north", services=["store"])
