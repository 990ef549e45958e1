"""All pairs of cloud services that the Bridge lists, and which of them a session or an envelope uses."""

import asyncio
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from isthmus.cloudio.pacing import PacedBlobstore, paced_signalling
from isthmus.cloudio.providers import blobstore_provider, is_built_in, printable, signalling_provider
from isthmus.cloudio.stream import Cloud
from isthmus.cloudio.trace import TracedBlobstore, Watcher, watched_signalling
from isthmus.cloudio.way import way_to
from isthmus.contract.rest import BUILT_IN_PROVIDER, Network, ProviderEntry, Usage
from isthmus.errors import OperatorError, ProviderTrouble, Retry
from isthmus.kit.clock import Clock
from isthmus.kit.names import HostPort
from isthmus.kit.tasks import Tasks
from isthmus.ports.blobstore import Blobstore
from isthmus.ports.pacing import Pacing, Urgency
from isthmus.ports.provider import GivenKeys, Loan, Provider, Surroundings
from isthmus.ports.signalling import LookingSignalling
from isthmus.router.providers.egress import Egress, folder, shown
from isthmus.router.providers.keys import KeyFiles, Lending, LendingBridge, Side
from isthmus.router.providers.pair import CloudPair, Opened, RemotePair
from isthmus.router.providers.usage import Meters


class CloudPairs:
    """The pairs of this Router; the built-in one is always among them.

    Args:
        built_in: the Bridge's own services.
        bridge: lends keys.
        own: this Router's mailbox.
        ca: whom TLS trusts besides the machine's own, as for the Bridge.
        up: the cap on what goes out, shared with everything else.
        down: the cap on what comes in.
    """

    def __init__(
        self,
        built_in: Cloud,
        bridge: LendingBridge,
        *,
        own: str,
        egress: Egress,
        keys: KeyFiles,
        meters: Meters,
        ca: Path | None,
        up: Pacing | None,
        down: Pacing | None,
        clock: Clock,
    ) -> None:
        self.built_in: Final = CloudPair(BUILT_IN_PROVIDER, Opened(built_in, built_in.blobstore))
        self._bridge = bridge
        self._own = own
        self._egress = egress
        self._keys = keys
        self._meters = meters
        self._ca = ca
        self._up, self._down = up, down
        self._clock = clock
        self._remote: dict[str, tuple[RemotePair, asyncio.Task[None]]] = {}
        self._order: dict[str, int] = {BUILT_IN_PROVIDER: 0}
        self._far: dict[str, frozenset[str]] = {}
        self._take: Callable[[bytes], None] | None = None
        self._changed: Callable[[], None] = _nothing
        self._tasks = Tasks("cloud pairs")

    def __repr__(self) -> str:
        return f"<CloudPairs: {', '.join(sorted(self.usable))}>"

    def start(self, take: Callable[[bytes], None], changed: Callable[[], None]) -> None:
        """Begin: `take` is given the notices of sessions, `changed` is told when `usable` is another list."""
        self._take, self._changed = take, changed

    async def close(self) -> None:
        """Let go of all but the built-in pair. Nobody is told: once this Router is back, it uses them again."""
        self._changed = _nothing
        await self._tasks.close()
        self._remote.clear()

    def apply(self, network: Network) -> None:
        """Take the Bridge's list, and what other sites can use."""
        self._far = {site.router_id: frozenset(site.providers) for site in network.sites}
        self._order = {entry.name: entry.priority for entry in network.providers}
        wanted = {entry.name: entry for entry in network.providers if entry.name != BUILT_IN_PROVIDER}
        for name, (pair, task) in list(self._remote.items()):
            entry = wanted.get(name)
            if entry is None or _places(entry) != _places(pair.entry):
                task.cancel()
                del self._remote[name]
        for name, entry in wanted.items():
            if name not in self._remote and self._take is not None:
                self._begin(entry, self._take)

    def look_again(self) -> None:
        """What is allowed here, or a key of ours, changed."""
        for pair, _ in self._remote.values():
            pair.look_again()

    async def open_anew(self, name: str) -> None:
        """Open a pair with other keys; sessions on it are lost."""
        known = self._remote.pop(name, None)
        if known is not None and self._take is not None:
            pair, task = known
            task.cancel()
            await asyncio.wait([task])
            if name not in self._remote:  # the Bridge's list may have come meanwhile
                self._begin(pair.entry, self._take)

    @property
    def usable(self) -> list[str]:
        """Names of the pairs that new sessions and uploads may use."""
        return [BUILT_IN_PROVIDER, *(name for name, (pair, _) in self._remote.items() if pair.usable)]

    @property
    def usage(self) -> Usage | None:
        """What was asked of providers since the start."""
        return self._meters.report()

    def choose(self, far: str) -> CloudPair:
        """Return the best pair that works here and, by its own word, at another Router.

        Raises ProviderTrouble if there is none, since the built-in one was switched off at the Bridge.
        """
        can = self._far.get(far, frozenset())
        found: list[CloudPair] = [pair for name, (pair, _) in self._remote.items() if pair.usable and name in can]
        if BUILT_IN_PROVIDER in self._order:
            found.append(self.built_in)
        if not found:
            raise ProviderTrouble(
                "no cloud pair works both here and at that site", retry=Retry.LATER, hint="isthmus egress list"
            )
        return min(found, key=lambda pair: (self._order[pair.name], pair.name))

    def chosen_for(self, router_id: str) -> str:
        """Return the name of the best pair for what is queued for a Router. Raises ProviderTrouble."""
        return self.choose(router_id).name

    def queued_store(self, name: str) -> Blobstore:
        """Return a pair's blobstore for what is queued. Raises ProviderTrouble if the pair is not open here."""
        return self.named(name).queued

    def named(self, name: str) -> CloudPair:
        """Return the pair of this name. Raises ProviderTrouble if it is not open here."""
        if name == BUILT_IN_PROVIDER:
            return self.built_in
        known = self._remote.get(name)
        if known is None:
            raise ProviderTrouble(
                f"the cloud pair {name} is not known here", retry=Retry.LATER, hint="isthmus egress list"
            )
        _ = known[0].cloud  # or it says so
        return known[0]

    def shown(self) -> list[dict[str, Any]]:
        """Return each pair for people: hosts, state, and what lacks."""
        rows: list[dict[str, Any]] = []
        if BUILT_IN_PROVIDER in self._order:
            rows.append(
                {"name": BUILT_IN_PROVIDER, "state": "works", "priority": self._order[BUILT_IN_PROVIDER], "reason": ""}
            )
        for pair, _ in self._remote.values():
            entry = pair.entry
            rows.append(
                {
                    "name": pair.name,
                    "signalling": printable(entry.signalling),
                    "blobstore": printable(entry.blobstore),
                    "priority": self._order[entry.name],
                    "hosts": [shown(at) for at in self._hosts_if_known(entry)],
                    "state": pair.state.value,
                    "reason": pair.reason,
                    "hint": pair.hint,
                    "own_keys": self._keys.read(pair.name) is not None,
                }
            )
        return sorted(rows, key=lambda row: (row["priority"], row["name"]))

    def hosts(self, name: str) -> list[HostPort]:
        """Return what a pair connects to. Raises OperatorError if there is no such pair, or it is not installed."""
        known = self._remote.get(name)
        if known is None:
            listed = ", ".join(sorted(self._remote)) or "none"
            raise OperatorError(f"the Bridge lists no cloud pair {name}", hint=f"it lists: {listed}")
        return _hosts(known[0].entry)

    # -- inside

    def _begin(self, entry: ProviderEntry, take: Callable[[bytes], None]) -> None:
        pair = RemotePair(entry, check=self._check, opener=self._open, own=self._own, take=take, changed=self._tell)
        self._remote[entry.name] = pair, self._tasks.spawn(pair.run(), name=f"hold {entry.name} open")

    async def _check(self, entry: ProviderEntry) -> None:
        objections = [said for at in _hosts(entry) if (said := await self._egress.objection(at))]
        if objections:
            raise OperatorError("; ".join(objections), hint=f"isthmus egress allow {entry.name}, if you agree")

    def _open(self, entry: ProviderEntry, watcher: Watcher) -> Opened:
        own = self._keys.read(entry.name)
        lending = Lending(self._bridge, entry.name, self._clock)
        built_in = self.built_in.cloud

        def surroundings(side: Side, provider: Provider, url: str) -> Surroundings:
            keys = lending.keys(side) if own is None or not own[side] else GivenKeys(Loan(own[side]))
            return Surroundings(keys, way_to(provider.hosts(url), self._ca), self._meters.of(entry.name))

        signalling, blobstore, queued = built_in.signalling, built_in.blobstore, built_in.blobstore
        expect: Callable[[], None] = _nothing
        if not is_built_in(entry.signalling):
            carrier = signalling_provider(entry.signalling)
            opened = carrier.open(entry.signalling, surroundings("signalling", carrier, entry.signalling))
            signalling = watched_signalling(paced_signalling(opened, self._up), watcher)
            expect = opened.expect if isinstance(opened, LookingSignalling) else _nothing
        if not is_built_in(entry.blobstore):
            keeper = blobstore_provider(entry.blobstore)
            store = keeper.open(entry.blobstore, surroundings("blobstore", keeper, entry.blobstore))
            watched = TracedBlobstore(store, watcher)
            blobstore = PacedBlobstore(watched, self._up, self._down, Urgency.LIVE)
            queued = PacedBlobstore(watched, self._up, self._down, Urgency.QUEUED)
        return Opened(Cloud(signalling, blobstore, expect), queued)

    def _tell(self) -> None:
        self._changed()

    def _hosts_if_known(self, entry: ProviderEntry) -> Collection[HostPort]:
        try:
            return _hosts(entry)
        except OperatorError:
            return ()


def _hosts(entry: ProviderEntry) -> list[HostPort]:
    """Return what a pair connects to, each once."""
    found: list[HostPort] = []
    if not is_built_in(entry.signalling):
        found += signalling_provider(entry.signalling).hosts(entry.signalling)
    if not is_built_in(entry.blobstore):
        at = blobstore_provider(entry.blobstore).hosts(entry.blobstore)
        found += at or [folder(unquote(urlsplit(entry.blobstore).path))]  # what connects to nothing is on this machine
    return list(dict.fromkeys(found))


def _nothing() -> None:
    pass


def _places(entry: ProviderEntry) -> tuple[str, str]:
    """Return what a pair has to be opened anew for: that its turn is another ends no session."""
    return entry.signalling, entry.blobstore
