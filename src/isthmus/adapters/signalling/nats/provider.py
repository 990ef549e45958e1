"""What the Bridge and people know of NATS: its keys, what of them is lent, how a server is set up."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

from isthmus.adapters.signalling.nats.accounts import Nkey, Role, server_configuration, user_statement
from isthmus.adapters.signalling.nats.service import NatsSignalling
from isthmus.adapters.signalling.nats.way import Place
from isthmus.errors import OperatorError, ProviderTrouble, Retry
from isthmus.kit.clock import Clock, SystemClock
from isthmus.kit.names import HostPort
from isthmus.ports.provider import LOAN_SECONDS, GivenKeys, Loan, Secret, Surroundings, Unmetered, Way
from isthmus.ports.signalling import Signalling

_CHECK_SECONDS: Final = 15.0
_CHECKED_MAILBOX: Final = "setup"


class NatsProvider:
    """NATS servers (`isthmus.ports.provider.SignallingProvider`)."""

    title = "NATS"
    tried = "nats-server 2.9"
    secrets: Sequence[Secret] = (
        Secret("account_seed", "seed of the account's key, or of a signing key of it (SA...)", required=False),
        Secret("account", "public key of the account (A...), if the seed is a signing key's", required=False),
        Secret("user", "a user that the server's own configuration knows, for all Routers alike", required=False),
        Secret("password", "that user's password", required=False),
        Secret("token", "a token that the server's own configuration knows, for all Routers alike", required=False),
    )

    def __init__(self, clock: Clock | None = None, *, loan_seconds: float = LOAN_SECONDS) -> None:
        self._clock = clock or SystemClock()
        self._loan_seconds = loan_seconds

    def hosts(self, url: str) -> list[HostPort]:
        """Return the servers of a URL. Raises OperatorError."""
        return list(Place.parse(url).hosts)

    def open(self, url: str, surroundings: Surroundings) -> Signalling:
        """Return the service. Raises OperatorError if the URL is none of NATS."""
        return NatsSignalling(Place.parse(url), surroundings.keys, surroundings.way, surroundings.meter)

    async def lend(self, url: str, secrets: Mapping[str, str], router_id: str, way: Way) -> Loan:  # noqa: ARG002 - nobody is asked
        """Return keys with which a Router listens at its own mailbox only, and publishes to mailboxes only."""
        place = Place.parse(url)
        if not secrets.get("account_seed"):
            fields = {name: secrets[name] for name in ("user", "password", "token") if secrets.get(name)}
            if not fields:
                raise ProviderTrouble("there are no keys for NATS", retry=Retry.NEVER, hint="isthmus provider setup")
            return Loan(fields)
        try:
            signer = Nkey.parse(secrets["account_seed"], Role.ACCOUNT)
        except OperatorError as error:
            raise ProviderTrouble(str(error), retry=Retry.NEVER, hint=error.hint) from error
        user, now = Nkey.make(Role.USER), self._clock.now()
        expires = now + self._loan_seconds
        statement = user_statement(
            signer,
            user,
            router_id,
            publish=f"{place.prefix}.*",
            subscribe=f"{place.prefix}.{router_id}",
            account=secrets.get("account", ""),
            now=now,
            expires=expires,
        )
        return Loan({"jwt": statement, "seed": user.seed}, float(int(expires)))

    async def set_up(self, url: str, secrets: Mapping[str, str], way: Way, *, keep_days: int) -> list[str]:
        """Make an account if there is none, and say how the server is to be configured, unless it knows the account.

        Nothing is kept at a server, so that `keep_days` means nothing here. Raises ProviderTrouble or OperatorError.
        """
        del keep_days
        Place.parse(url)
        if not secrets.get("account_seed") and any(secrets.get(name) for name in ("user", "token")):
            await self._check(url, secrets, way)
            return [
                "the server lets this user in",
                "every Router is lent this same user: whether a site can read another's mailbox is up to the server",
                "with account_seed instead, each Router can listen at its own mailbox only",
            ]
        if not secrets.get("account_seed"):
            account = Nkey.make(Role.ACCOUNT)
            return [
                f"made a new account {account.public}",
                "enter its seed, which is shown only now, at signalling.account_seed: isthmus provider set NAME --ask",
                f"the seed: {account.seed}",
                "start the server with this configuration, then run setup again:",
                f"\n{server_configuration(account, now=self._clock.now())}",
            ]
        account = Nkey.parse(secrets["account_seed"], Role.ACCOUNT)
        try:
            await self._check(url, secrets, way)
        except ProviderTrouble as trouble:
            if secrets.get("account") and secrets["account"] != account.public:
                raise  # whose operator and account are somebody else's to configure
            return [
                f"the server does not know the account yet: {trouble}",
                "start it with this configuration, then run setup again:",
                f"\n{server_configuration(account, now=self._clock.now())}",
            ]
        return [f"the server knows the account {secrets.get('account') or account.public}"]

    async def _check(self, url: str, secrets: Mapping[str, str], way: Way) -> None:
        """Come in with keys as a Router has them. Raises ProviderTrouble."""
        loan = await self.lend(url, secrets, _CHECKED_MAILBOX, way)
        service = NatsSignalling(Place.parse(url), GivenKeys(loan), way, Unmetered())
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                await service.publish(_CHECKED_MAILBOX, b"")
        except TimeoutError as error:
            raise ProviderTrouble("no answer in time", retry=Retry.LATER) from error
        finally:
            await service.close()
