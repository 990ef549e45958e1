"""The network as one Router sees it, as JSON.

To most Routers a site is a stranger, of which all see the same. That is written once, and looked through again after a
second or when a site is new or gone: a network of thousands of sites asks for itself whole when it starts.
"""

from collections.abc import Callable, Collection, Iterable
from typing import Final

from isthmus.bridge.accounts.service import Account, Accounts
from isthmus.bridge.directory.service import Directory
from isthmus.contract.rest import Network, SiteEntry
from isthmus.envelope.identity import RouterId
from isthmus.kit.clock import Clock

FRESH_SECONDS: Final = 1.0
"""For how long what stands of a stranger is not looked at again: whether it listens, and which pairs it can use."""
_NO_SITES = b'"sites":[]'
_Shown = tuple[bool, tuple[str, ...]]


class Roll:
    """Writes the sites of the network for one Router after the other.

    `is_online` and `usable_by` tell whether a Router listens, and which cloud pairs it can use.
    """

    def __init__(
        self,
        accounts: Accounts,
        directory: Directory,
        is_online: Callable[[RouterId], bool],
        usable_by: Callable[[RouterId], Collection[str]],
        clock: Clock,
    ) -> None:
        self._accounts = accounts
        self._directory = directory
        self._is_online = is_online
        self._usable_by = usable_by
        self._clock = clock
        self._strangers: dict[RouterId, tuple[_Shown, bytes]] = {}
        self._lines: list[bytes] = []  # of all sites as strangers, by name
        self._place: dict[RouterId, int] = {}  # where each Router's line is among them
        self._membership = -1  # to which state of the accounts they belong
        self._looked = 0.0

    def __repr__(self) -> str:
        return f"<Roll of {len(self._strangers)} strangers>"

    def write(self, asking: Account, network: Network) -> bytes:
        """Return `network`, which has no sites yet, with those that a Router may see of the others."""
        if self._membership != self._accounts.membership or not 0 <= self._clock.now() - self._looked < FRESH_SECONDS:
            self._look()
        lines = self._lines.copy()
        for router_id in self._directory.acquaintances(asking):
            other = self._accounts.of_router(router_id)
            if other is not None:
                lines[self._place[router_id]] = self._line(asking, other)
        if (own := self._place.get(asking.router_id)) is not None:
            del lines[own]
        # what stands before the sites, a revision and a site's name, has no quotes in it
        before, _, after = network.model_dump_json().encode().partition(_NO_SITES)
        return b"".join((before, _NO_SITES[:-1], b",".join(lines), _NO_SITES[-1:], after))

    def forget(self, router_ids: Iterable[RouterId]) -> None:
        """Forget Routers that left the network."""
        for router_id in router_ids:
            self._strangers.pop(router_id, None)

    def _look(self) -> None:
        everybody = self._accounts.all
        self._lines = [self._stranger(other) for other in everybody]
        self._place = {other.router_id: place for place, other in enumerate(everybody)}
        self._membership, self._looked = self._accounts.membership, self._clock.now()

    def _line(self, asking: Account, other: Account) -> bytes:
        online, providers = self._is_online(other.router_id), list(self._usable_by(other.router_id))
        return self._directory.entry(asking, other, online=online, providers=providers).model_dump_json().encode()

    def _stranger(self, other: Account) -> bytes:
        shown = (self._is_online(other.router_id), tuple(self._usable_by(other.router_id)))
        kept = self._strangers.get(other.router_id)
        if kept is not None and kept[0] == shown:
            return kept[1]
        entry = SiteEntry(
            site=other.site,
            router_id=other.router_id,
            public_key=other.public_key,
            online=shown[0],
            providers=list(shown[1]),
        )
        line = entry.model_dump_json().encode()
        self._strangers[other.router_id] = shown, line
        return line
