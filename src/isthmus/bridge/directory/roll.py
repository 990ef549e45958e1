"""The network as one Router sees it, as JSON.

To most Routers a site is a stranger, of which all see the same. That is written once, and again when it changes: a
network of thousands of sites asks for itself whole each time that a site is new.
"""

from collections.abc import Callable, Collection, Iterable

from isthmus.bridge.accounts.service import Account, Accounts
from isthmus.bridge.directory.service import Directory
from isthmus.contract.rest import Network, SiteEntry
from isthmus.envelope.identity import RouterId

_NO_SITES = b'"sites":[]'
_Shown = tuple[Account, bool, tuple[str, ...]]


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
    ) -> None:
        self._accounts = accounts
        self._directory = directory
        self._is_online = is_online
        self._usable_by = usable_by
        self._strangers: dict[RouterId, tuple[_Shown, bytes]] = {}

    def __repr__(self) -> str:
        return f"<Roll of {len(self._strangers)} strangers>"

    def write(self, asking: Account, network: Network) -> bytes:
        """Return `network`, which has no sites yet, with those that a Router may see of the others."""
        known = self._directory.acquaintances(asking)
        lines = (
            self._line(asking, other) if other.router_id in known else self._stranger(other)
            for other in self._accounts.all
            if other.router_id != asking.router_id
        )
        # what stands before the sites, a revision and a site's name, has no quotes in it
        before, _, after = network.model_dump_json().encode().partition(_NO_SITES)
        return b"".join((before, _NO_SITES[:-1], b",".join(lines), _NO_SITES[-1:], after))

    def forget(self, router_ids: Iterable[RouterId]) -> None:
        """Forget Routers that left the network."""
        for router_id in router_ids:
            self._strangers.pop(router_id, None)

    def _line(self, asking: Account, other: Account) -> bytes:
        online, providers = self._is_online(other.router_id), list(self._usable_by(other.router_id))
        return self._directory.entry(asking, other, online=online, providers=providers).model_dump_json().encode()

    def _stranger(self, other: Account) -> bytes:
        shown = (other, self._is_online(other.router_id), tuple(self._usable_by(other.router_id)))
        kept = self._strangers.get(other.router_id)
        if kept is not None and kept[0] == shown:
            return kept[1]
        entry = SiteEntry(
            site=other.site,
            router_id=other.router_id,
            public_key=other.public_key,
            online=shown[1],
            providers=list(shown[2]),
        )
        line = entry.model_dump_json().encode()
        self._strangers[other.router_id] = shown, line
        return line
