"""What the Bridge lends each Router of a pair: keys that the provider made for it, or signed URLs. Never its own."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from isthmus.bridge.blobs.store import check_name
from isthmus.bridge.providers.service import Pair, Providers, Service
from isthmus.cloudio.providers import blobstore_provider, is_built_in, signalling_provider
from isthmus.cloudio.way import way_to
from isthmus.contract.rest import BlobUrlRequest, BlobUrls, ProviderLoan
from isthmus.envelope.identity import RouterId
from isthmus.errors import OperatorError, Problem, ProviderTrouble, Retry
from isthmus.kit.clock import Clock
from isthmus.ports.provider import LOAN_SECONDS, BlobstoreProvider, Loan, SignallingProvider, Way

URL_SECONDS: Final = 900.0
"""For how long a signed URL is good: a blob of 8 MiB is through by then, at 10 kB a second."""
_KEPT_SHARE: Final = 0.25  # a loan is given again until this share of its time is left
_LEND_SECONDS: Final = 12.0  # a Router waits 15 s for the answer


@dataclass(slots=True)
class _Shelf:
    """What one Router was lent of one pair, as the pair was then. Whoever asks meanwhile waits for the same loan."""

    asking: asyncio.Lock = field(default_factory=asyncio.Lock)
    pair: Pair | None = None
    loan: ProviderLoan | None = None
    until: float = 0.0


class Lender:
    """Loans, each kept for its Router until a quarter of its time is left."""

    def __init__(self, providers: Providers, clock: Clock) -> None:
        self._providers = providers
        self._clock = clock
        self._shelves: dict[RouterId, dict[str, _Shelf]] = {}

    def __repr__(self) -> str:
        return f"<Lender to {len(self._shelves)} Routers>"

    async def loan(self, router_id: RouterId, name: str) -> ProviderLoan:
        """Return keys of a pair for one Router. Raises Problem: 404, 422, 503 as the provider has it."""
        pair = self._lendable(name)
        shelf = self._shelves.setdefault(router_id, {}).setdefault(name, _Shelf())
        async with shelf.asking:
            now = self._clock.now()
            if shelf.loan is None or shelf.pair != pair or now >= shelf.until:
                loan = await self._in_time(pair, router_id)
                ends = now + LOAN_SECONDS if loan.expires is None else loan.expires
                shelf.pair, shelf.loan, shelf.until = pair, loan, ends - (ends - now) * _KEPT_SHARE
            return shelf.loan

    async def urls(self, name: str, request: BlobUrlRequest) -> BlobUrls:
        """Return signed URLs for blobs of a pair. Raises Problem."""
        pair = self._lendable(name)
        for blob in request.names:
            check_name(blob)
        if is_built_in(pair.entry.blobstore):
            raise Problem(422, "Not needed", detail=f"The blobs of {name} are at the Bridge itself.")
        try:
            async with asyncio.timeout(_LEND_SECONDS):
                return await self.sign(pair, request)
        except TimeoutError as error:
            raise _late(name) from error
        except (OperatorError, ProviderTrouble) as error:
            raise _refused(name, error) from error

    def way(self, pair: Pair, service: Service) -> Way:
        """Return how the Bridge gets to one service of a pair. Raises OperatorError if the URL is none."""
        provider, url = provider_of(pair, service)
        return way_to(provider.hosts(url), self._providers.ca_file(pair))

    def forget(self, router_id: RouterId) -> None:
        """Lend no more to a Router that left the network; what it has ends by itself."""
        self._shelves.pop(router_id, None)

    async def lend(self, pair: Pair, router_id: RouterId) -> ProviderLoan:
        """Have a loan made, whether or not there is one. Raises ProviderTrouble or OperatorError."""
        signalling = await self.lend_one(pair, "signalling", router_id)
        blobstore = await self.lend_one(pair, "blobstore", router_id)
        ends = [loan.expires for loan in (signalling, blobstore) if loan.expires is not None]
        return ProviderLoan(
            signalling=dict(signalling.fields), blobstore=dict(blobstore.fields), expires=min(ends, default=None)
        )

    async def sign(self, pair: Pair, request: BlobUrlRequest) -> BlobUrls:
        """Have URLs signed. Raises ProviderTrouble or OperatorError."""
        url, fields = pair.entry.blobstore, self.own_keys(pair, "blobstore")
        signed = await blobstore_provider(url).sign(url, fields, request.method, request.names, seconds=URL_SECONDS)
        return BlobUrls(urls=signed)

    def own_keys(self, pair: Pair, service: Service) -> Mapping[str, str]:
        """Return what the operator entered for a service; it stays here. Raises OperatorError if it is damaged."""
        secrets = self._providers.secrets_of(pair)
        return secrets.signalling if service == "signalling" else secrets.blobstore

    async def lend_one(self, pair: Pair, service: Service, router_id: RouterId) -> Loan:
        """Have the keys of one service made. Raises ProviderTrouble or OperatorError."""
        if is_built_in(url_of(pair, service)):
            return Loan({})
        provider, url = provider_of(pair, service)
        return await provider.lend(url, self.own_keys(pair, service), router_id, self.way(pair, service))

    async def _in_time(self, pair: Pair, router_id: RouterId) -> ProviderLoan:
        name = pair.entry.name
        try:
            async with asyncio.timeout(_LEND_SECONDS):
                return await self.lend(pair, router_id)
        except TimeoutError as error:
            raise _late(name) from error
        except (OperatorError, ProviderTrouble) as error:
            raise _refused(name, error) from error

    def _lendable(self, name: str) -> Pair:
        pair = self._providers.find(name)
        if pair is None or pair.off:
            raise Problem(404, "No such pair", detail=f"The Bridge lists no cloud pair {name}.")
        if pair.is_built_in:
            raise Problem(422, "Not needed", detail="The built-in pair needs no keys.")
        return pair


def url_of(pair: Pair, service: Service) -> str:
    """Return the URL of one service of a pair."""
    return pair.entry.signalling if service == "signalling" else pair.entry.blobstore


def provider_of(pair: Pair, service: Service) -> tuple[SignallingProvider | BlobstoreProvider, str]:
    """Return the provider of one service of a pair, and its URL. Raises OperatorError if it is not installed."""
    url = url_of(pair, service)
    return (signalling_provider(url) if service == "signalling" else blobstore_provider(url)), url


def _late(name: str) -> Problem:
    return Problem(503, "Not lent now", detail=f"The provider of {name} gave no keys within {_LEND_SECONDS:g} s.")


def _refused(name: str, error: OperatorError | ProviderTrouble) -> Problem:
    """Return what a Router is told; the operator's hint is for the operator, who gets it from `provider test`."""
    passing = isinstance(error, ProviderTrouble) and error.retry is not Retry.NEVER
    return Problem(
        503 if passing else 409,
        "Not lent now" if passing else "Not lent",
        detail=f"{name}: {error}",
        hint=f"the Bridge's operator can find out with: isthmus provider test {name}",
    )
