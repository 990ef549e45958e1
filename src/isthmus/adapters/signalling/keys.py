"""Keys that are at hand, for those who lend and try them."""

from collections.abc import Sequence

from isthmus.errors import ProviderTrouble, Retry
from isthmus.ports.provider import Loan


class KeysAtHand:
    """Keys that nobody has to be asked for (`isthmus.ports.provider.Keys`)."""

    def __init__(self, loan: Loan) -> None:
        self._loan = loan

    async def loan(self) -> Loan:
        """Return them."""
        return self._loan

    async def urls(self, method: str, names: Sequence[str]) -> list[str]:
        """Refuse: a signalling service has no blobs."""
        del method, names
        raise ProviderTrouble("a signalling service signs no URLs", retry=Retry.NEVER)
