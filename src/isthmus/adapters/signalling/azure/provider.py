"""What the Bridge and people know of Azure queues: the account's key, what of it is lent, what is made."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from isthmus.adapters.signalling.azure.place import Place
from isthmus.adapters.signalling.azure.service import AzureQueueSignalling, open_caller
from isthmus.errors import ProviderTrouble, Retry
from isthmus.kit.clock import Clock, SystemClock
from isthmus.kit.names import HostPort
from isthmus.ports.provider import LOAN_SECONDS, Loan, Secret, Surroundings, Way
from isthmus.ports.signalling import Signalling

if TYPE_CHECKING:
    from isthmus.adapters.signalling.azure.api import Caller

_CHECKED: Final = "setup"
_FOREIGN: Final = "setup-other"
_TEXT: Final = "dHJpZWQ="
_TRIAL_SECONDS: Final = 10


class AzureQueueProvider:
    """Azure Queue Storage (`isthmus.ports.provider.SignallingProvider`)."""

    title = "Azure Queue Storage"
    tried = "azurite, Microsoft's emulator"
    secrets: Sequence[Secret] = (Secret("account_key", "key of the storage account, which holds nothing else"),)

    def __init__(self, clock: Clock | None = None, *, loan_seconds: float = LOAN_SECONDS) -> None:
        self._clock = clock or SystemClock()
        self._loan_seconds = loan_seconds

    def hosts(self, url: str) -> list[HostPort]:
        """Return the account's host. Raises OperatorError."""
        return [Place.parse(url).host]

    def open(self, url: str, surroundings: Surroundings) -> Signalling:
        """Return the service. Raises OperatorError if the URL is none of Azure, or its library is not installed."""
        return AzureQueueSignalling(Place.parse(url), surroundings.keys, surroundings.way, surroundings.meter)

    async def lend(self, url: str, secrets: Mapping[str, str], router_id: str, way: Way) -> Loan:
        """Make the Router's queue, and return a signature to receive from it alone, and one to send to every queue."""
        place = Place.parse(url)
        caller = await open_caller(place, way)
        try:
            return await self._lend(caller, place, secrets, router_id)
        finally:
            await caller.close()

    async def set_up(self, url: str, secrets: Mapping[str, str], way: Way, *, keep_days: int) -> list[str]:
        """Do with the key what lending and Routers do, and see whether a Router is kept from another's mailbox.

        Notices go after a minute whatever `keep_days` says. Raises ProviderTrouble or OperatorError.
        """
        del keep_days
        place = Place.parse(url)
        own, foreign = place.queue(_CHECKED), place.queue(_FOREIGN)
        caller = await open_caller(place, way)
        try:
            loan = await self._lend(caller, place, secrets, _CHECKED)
            await self._lend(caller, place, secrets, _FOREIGN)
            receive, send = loan.fields["receive_sas"], loan.fields["send_sas"]
            for queue in (own, foreign):
                await caller.send(queue, send, _TEXT, seconds=_TRIAL_SECONDS)
            await caller.receive(own, receive, hidden_seconds=_TRIAL_SECONDS)
            for secret in (receive, send):
                try:
                    await caller.receive(foreign, secret, hidden_seconds=_TRIAL_SECONDS)
                except ProviderTrouble as trouble:
                    if trouble.retry is not Retry.NEVER:
                        raise
                else:
                    raise ProviderTrouble("with lent keys a Router could read another's mailbox", retry=Retry.NEVER)
        finally:
            await caller.close()
        return [
            f"made the queues {own} and {foreign} for trials; each Router's is made when it is lent keys",
            f"lent keys for {self._loan_seconds / 60:.0f} minutes",
            "with lent keys a Router can send to every mailbox, and receive at its own only",
            "they let it add messages to any other queue of this storage account: keep nothing else there",
        ]

    async def _lend(self, caller: "Caller", place: Place, secrets: Mapping[str, str], mailbox: str) -> Loan:
        key = secrets.get("account_key", "")
        if not key:
            raise ProviderTrouble("there is no key for Azure", retry=Retry.NEVER, hint="give account_key")
        queue = place.queue(mailbox)
        await caller.create(queue, key)
        expires = self._clock.now() + self._loan_seconds
        receive, send = caller.sign(queue, key, expires=expires)
        return Loan({"receive_sas": receive, "send_sas": send}, float(int(expires)))
