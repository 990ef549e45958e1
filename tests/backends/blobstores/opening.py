"""How the tests open stores: with keys at hand, with what the Bridge would lend, with URLs that it would sign."""

from collections.abc import Mapping, Sequence

from tests.backends.meter import Counts

from isthmus.ports.blobstore import Blobstore
from isthmus.ports.provider import BlobstoreProvider, GivenKeys, Keys, Loan, Surroundings, Way


class Signing:
    """The Bridge, as far as it signs URLs."""

    def __init__(self, provider: BlobstoreProvider, url: str, secrets: Mapping[str, str], loan: Loan) -> None:
        self._provider, self._url, self._secrets, self._loan = provider, url, secrets, loan
        self.seconds = 60.0
        self.spoil = ""

    async def loan(self) -> Loan:
        return self._loan

    async def urls(self, method: str, names: Sequence[str]) -> list[str]:
        signed = await self._provider.sign(self._url, self._secrets, method, names, seconds=self.seconds)
        return [url + self.spoil for url in signed]


def opened(
    provider: BlobstoreProvider,
    url: str,
    keys: Keys | Mapping[str, str],
    *,
    way: Way | None = None,
    counts: Counts | None = None,
) -> Blobstore:
    """Open a store."""
    lender = GivenKeys(Loan(keys)) if isinstance(keys, Mapping) else keys
    return provider.open(url, Surroundings(lender, way or Way(), counts or Counts()))
