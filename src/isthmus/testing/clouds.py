"""Clouds for tests: none at all, and pairs in memory that Routers of one process share by URL."""

from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlsplit

from isthmus.adapters.blobstore.memory import MemoryBlobstore
from isthmus.adapters.signalling.memory import MemorySignalling
from isthmus.cloudio.limit import LimitedBlobstore, LimitedSignalling
from isthmus.cloudio.providers import BLOBSTORE
from isthmus.contract.rest import BUILT_IN_PROVIDER, Network, Usage
from isthmus.errors import OperatorError
from isthmus.kit.names import HostPort
from isthmus.ports.blobstore import Blobstore
from isthmus.ports.provider import Loan, Secret, Surroundings, Way
from isthmus.ports.signalling import Signalling

SCHEME: Final = "shared"
"""`shared://HOST:PORT/NAME` names a service of this process."""


class NoClouds:
    """A Router's clouds when there is nothing but the built-in pair."""

    usable: Final = [BUILT_IN_PROVIDER]
    usage: Final[Usage | None] = None

    def apply(self, network: Network) -> None:
        """Nothing to take from the Bridge's list."""


class _Shared:
    """What both kinds of provider have in common. The Bridge's operator enters a key, and each Router is lent it."""

    title = "a service of this process"
    tried = ""
    secrets: Sequence[Secret] = (Secret("key", "what opens it"),)

    def hosts(self, url: str) -> list[HostPort]:
        parts = urlsplit(url)
        if parts.scheme != SCHEME or parts.hostname is None or parts.port is None or len(parts.path) < 2:
            raise OperatorError(f"'{url}' is not {SCHEME}://HOST:PORT/NAME")
        return [HostPort(parts.hostname, parts.port)]

    async def lend(self, url: str, secrets: Mapping[str, str], router_id: str, way: Way) -> Loan:
        del url, router_id, way
        return Loan({"key": secrets["key"]})

    async def set_up(self, url: str, secrets: Mapping[str, str], way: Way, *, keep_days: int) -> list[str]:
        del secrets, way
        return [f"{url} keeps what is forgotten for {keep_days} days"]


class SharedBlobstores(_Shared):
    """Blobstores in memory, by URL; each Router has a handle of its own on the same store."""

    def __init__(self) -> None:
        self.stores: dict[str, MemoryBlobstore] = {}
        self.opened: list[Surroundings] = []

    def open(self, url: str, surroundings: Surroundings) -> Blobstore:
        """Return a handle on the store of this URL."""
        self.opened.append(surroundings)
        return _Kept(self.stores.setdefault(url, MemoryBlobstore()))

    async def sign(
        self, url: str, secrets: Mapping[str, str], method: str, names: Sequence[str], *, seconds: float
    ) -> list[str]:
        """Return URLs that nothing serves."""
        del secrets, seconds
        return [f"{url}/{name}?method={method}" for name in names]


class SharedSignalling(_Shared):
    """Signalling services in memory, by URL."""

    def __init__(self) -> None:
        self.services: dict[str, MemorySignalling] = {}
        self.handles: list[SharedHandle] = []

    def open(self, url: str, surroundings: Surroundings) -> Signalling:
        """Return a handle on the service of this URL."""
        del surroundings
        self.handles.append(SharedHandle(self.services.setdefault(url, MemorySignalling())))
        return self.handles[-1]


class _Kept(LimitedBlobstore):
    """A handle whose closing leaves the store to the others."""

    def __init__(self, inner: Blobstore) -> None:
        super().__init__(inner, at_once=1000)

    async def close(self) -> None:
        """Let go of nothing."""


class SharedHandle(LimitedSignalling):
    """A handle whose closing leaves the service to the others. Counts how often something was expected."""

    def __init__(self, inner: Signalling) -> None:
        super().__init__(inner, at_once=1000)
        self.expected = 0

    def expect(self) -> None:
        """Count that something is to come."""
        self.expected += 1

    async def close(self) -> None:
        """Let go of nothing."""


class SharedClouds:
    """Both kinds of provider, found by the scheme `shared` in place of what is installed."""

    def __init__(self) -> None:
        self.blobstores = SharedBlobstores()
        self.signalling = SharedSignalling()

    def found(self, group: str, url: str) -> object:
        """Return the provider of a URL, as `isthmus.cloudio.providers` looks it up."""
        if urlsplit(url).scheme != SCHEME:
            raise OperatorError(f"no provider for {url} is installed")
        return self.blobstores if group == BLOBSTORE else self.signalling
