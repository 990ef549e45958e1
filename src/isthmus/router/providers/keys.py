"""Where the keys of a cloud pair come from: lent by the Bridge for a while, or a file of this site.

A site with an identity of its own at a provider keeps it here, and the Bridge then lends it nothing.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from isthmus.contract.rest import BlobUrlRequest, BlobUrls, ProviderLoan
from isthmus.errors import OperatorError, Problem, ProviderTrouble, Retry
from isthmus.kit.clock import Clock
from isthmus.kit.files import make_private_folder, read_json, write_durably
from isthmus.ports.provider import Keys, Loan

Side = Literal["signalling", "blobstore"]
SIDES: Final[tuple[Side, Side]] = ("signalling", "blobstore")

_FOLDER: Final = "providers"
_SPARE_SECONDS: Final = 300.0
"""A loan that ends sooner is renewed: whatever it is used for is over by then."""


class LendingBridge(Protocol):
    """What is asked of the Bridge."""

    async def loan(self, pair: str) -> ProviderLoan:
        """Return keys of a pair for this Router."""
        ...

    async def blob_urls(self, pair: str, request: BlobUrlRequest) -> BlobUrls:
        """Return signed URLs for blobs."""
        ...


class Lending:
    """What the Bridge lends of one pair. Both sides of it share a loan, which is renewed before it ends."""

    def __init__(self, bridge: LendingBridge, pair: str, clock: Clock) -> None:
        self._bridge = bridge
        self._pair = pair
        self._clock = clock
        self._loan: ProviderLoan | None = None
        self._asking = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Lending of {self._pair}>"

    def keys(self, side: Side) -> Keys:
        """Return the keys of one side."""
        return _LentKeys(self, side)

    async def loan(self, side: Side) -> Loan:
        """Return a loan that is good for some minutes. Raises ProviderTrouble."""
        async with self._asking:
            if self._loan is None or self._is_ending(self._loan):
                try:
                    self._loan = await self._bridge.loan(self._pair)
                except Problem as problem:
                    raise _trouble(self._pair, problem) from problem
            return Loan(getattr(self._loan, side), self._loan.expires)

    async def urls(self, method: str, names: Sequence[str]) -> list[str]:
        """Return signed URLs. Raises ProviderTrouble."""
        request = BlobUrlRequest.model_validate({"method": method, "names": list(names)})
        try:
            return (await self._bridge.blob_urls(self._pair, request)).urls
        except Problem as problem:
            raise _trouble(self._pair, problem) from problem

    def _is_ending(self, loan: ProviderLoan) -> bool:
        return loan.expires is not None and loan.expires - self._clock.now() < _SPARE_SECONDS


class _LentKeys:
    def __init__(self, lending: Lending, side: Side) -> None:
        self._lending = lending
        self._side = side

    async def loan(self) -> Loan:
        return await self._lending.loan(self._side)

    async def urls(self, method: str, names: Sequence[str]) -> list[str]:
        return await self._lending.urls(method, names)


class KeyFiles:
    """The files of a site's own keys, one for each pair; readable by the Router's user only."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / _FOLDER

    def read(self, pair: str) -> dict[Side, dict[str, str]] | None:
        """Return a pair's own keys, or None. Raises OperatorError if the file is damaged."""
        path = self._path(pair)
        kept: dict[str, Any] | None = read_json(path)
        if kept is None:
            return None
        found: dict[Side, dict[str, str]] = {side: kept.get(side, {}) for side in SIDES}
        for fields in found.values():
            if not isinstance(fields, dict) or not all(isinstance(value, str) for value in fields.values()):
                raise OperatorError(f"{path} is damaged", hint=f"isthmus egress keys {pair} --clear, and set them anew")
        return found

    def write(self, pair: str, keys: Mapping[Side, Mapping[str, str]]) -> None:
        """Keep a pair's own keys."""
        make_private_folder(self._folder)
        write_durably(self._path(pair), json.dumps(keys).encode())

    def clear(self, pair: str) -> bool:
        """Forget a pair's own keys; return whether there were any."""
        path = self._path(pair)
        known = path.exists()
        path.unlink(missing_ok=True)
        return known

    def _path(self, pair: str) -> Path:
        return self._folder / f"{pair}.json"


def _trouble(pair: str, problem: Problem) -> ProviderTrouble:
    passing = problem.status >= 500 or problem.status == 429
    return ProviderTrouble(
        f"the Bridge lends no keys of {pair}: {problem}",
        retry=Retry.LATER if passing else Retry.NEVER,
        hint=problem.hint,
    )
