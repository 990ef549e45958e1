"""What a provider says of itself beside the port it serves, so that a Bridge can lend its keys and a site decide.

A provider is found by the scheme of its URL, which names an entry point of the group `isthmus.blobstore` or
`isthmus.signalling`: an object that is a `BlobstoreProvider` or a `SignallingProvider`. Its module imports no engine's
library before it is opened. The keys of a provider are with the Bridge, which lends each Router what it needs for a
while; a Router with an identity of its own at the provider uses that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from isthmus.errors import ProviderTrouble, Retry
from isthmus.kit.names import HostPort
from isthmus.ports.blobstore import Blobstore
from isthmus.ports.signalling import Signalling

LOAN_SECONDS: Final = 3600.0
"""For how long a loan of keys is good where the provider lets that be chosen."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A field of a provider's keys that an operator enters at the Bridge, and what it is, for people."""

    name: str
    meaning: str
    required: bool = True


@dataclass(frozen=True, slots=True)
class Loan:
    """Keys for one Router: fields as the provider's `open` understands them, good until `expires` (Unix seconds)."""

    fields: Mapping[str, str] = field(repr=False)
    expires: float | None = None


class Keys(Protocol):
    """Where an opened provider gets its keys from: the Bridge's loans, or a file of this site."""

    async def loan(self) -> Loan:
        """Return keys that are good for a few minutes at least. Raises ProviderTrouble if there are none now."""
        ...

    async def urls(self, method: str, names: Sequence[str]) -> list[str]:
        """Return a signed URL for each blob, to be used at once with this HTTP method. Raises ProviderTrouble."""
        ...


class GivenKeys:
    """Keys that are at hand, so that nobody has to be asked for them (`Keys`)."""

    def __init__(self, loan: Loan) -> None:
        self._loan = loan

    async def loan(self) -> Loan:
        """Return them."""
        return self._loan

    async def urls(self, method: str, names: Sequence[str]) -> list[str]:
        """Refuse: there is nobody to ask."""
        del method, names
        raise ProviderTrouble("these keys sign no URLs", retry=Retry.NEVER)


class Meter(Protocol):
    """Counts what a provider's owner is billed for."""

    def count(self, kind: str, *, up: int = 0, down: int = 0) -> None:
        """Count one request: `put`, `get`, `delete`, `list`, `publish` or `receive`, with the bytes it carried."""
        ...


class Unmetered:
    """A meter for what is on nobody's bill (`Meter`)."""

    def count(self, kind: str, *, up: int = 0, down: int = 0) -> None:
        """Do not count."""


@dataclass(frozen=True, slots=True)
class Way:
    """How one gets out of the site: through which proxy (URL, perhaps with an account), and whom TLS trusts besides."""

    proxy: str | None = field(default=None, repr=False)
    ca: Path | None = None


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a provider is opened with, besides its URL."""

    keys: Keys
    way: Way
    meter: Meter


class Provider(Protocol):
    """What a scheme of URLs stands for.

    Attributes:
        title: what it is, for people, in a few words.
        tried: the real service that the tests run it against, or "" if none: that is said wherever it is listed.
        secrets: what an operator enters at the Bridge.
    """

    title: str
    tried: str
    secrets: Sequence[Secret]

    def hosts(self, url: str) -> list[HostPort]:
        """Return what a Router connects to. Raises OperatorError if the URL is not one of this provider's."""
        ...

    async def lend(self, url: str, secrets: Mapping[str, str], router_id: str, way: Way) -> Loan:
        """Return keys for one Router: as narrow and as short-lived as the provider allows. Raises ProviderTrouble."""
        ...

    async def set_up(self, url: str, secrets: Mapping[str, str], way: Way, *, keep_days: int) -> list[str]:
        """Make what is lacking (bucket, rule, account), and return what was done, in words.

        `keep_days` is after how many days a blob or notice that everybody forgot is to go. Repeating it is harmless.
        Raises ProviderTrouble or OperatorError, with a hint that names the permission that lacks.
        """
        ...


class BlobstoreProvider(Provider, Protocol):
    """A provider of blobstores."""

    def open(self, url: str, surroundings: Surroundings) -> Blobstore:
        """Return the store; it connects at first use. Raises OperatorError if its library is not installed."""
        ...

    async def sign(
        self, url: str, secrets: Mapping[str, str], method: str, names: Sequence[str], *, seconds: float
    ) -> list[str]:
        """Return signed URLs for `Keys.urls`. Raises OperatorError if this provider knows none."""
        ...


class SignallingProvider(Provider, Protocol):
    """A provider of signalling services."""

    def open(self, url: str, surroundings: Surroundings) -> Signalling:
        """Return the service; it connects at first use. Raises OperatorError if its library is not installed."""
        ...
