"""Routers on a NATS server, as tests have them."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

from tests.backends.servers.nats import NatsServer

from isthmus.adapters.signalling.nats.provider import NatsProvider
from isthmus.adapters.signalling.nats.service import NatsSignalling
from isthmus.kit.tasks import Tasks
from isthmus.ports.provider import Loan, Surroundings, Way
from isthmus.testing.signalling_suite import Inbox, Publisher

SECONDS = 20.0
NOWHERE = Way()


@dataclass
class LentKeys:
    """The keys of one Router, as a Bridge lends them: others each time."""

    url: str
    secrets: Mapping[str, str]
    mailbox: str
    provider: NatsProvider = field(default_factory=NatsProvider)
    lent: list[Loan] = field(default_factory=list)

    async def loan(self) -> Loan:
        self.lent.append(await self.provider.lend(self.url, self.secrets, self.mailbox, NOWHERE))
        return self.lent[-1]

    async def urls(self, method: str, names: Sequence[str]) -> list[str]:
        raise AssertionError("nobody asks for URLs here")


class Counter:
    """Counts what was asked of the server."""

    def __init__(self) -> None:
        self.counted: dict[str, int] = {}

    def count(self, kind: str, *, up: int = 0, down: int = 0) -> None:
        self.counted[kind] = self.counted.get(kind, 0) + up + down


def router(server: NatsServer, mailbox: str, *, url: str = "", way: Way = NOWHERE, **more: str) -> NatsSignalling:
    """Return the service as the owner of a mailbox has it."""
    url = url or server.url
    keys = LentKeys(url, {"account_seed": server.account.seed, **more}, mailbox)
    service = NatsProvider().open(url, Surroundings(keys, way, Counter()))
    assert isinstance(service, NatsSignalling)
    return service


@contextlib.asynccontextmanager
async def tasks_of(name: str) -> AsyncIterator[Tasks]:
    tasks = Tasks(name)
    try:
        yield tasks
    finally:
        await tasks.close()


async def ask(service: NatsSignalling, mailbox: str, tasks: Tasks) -> Inbox:
    """Return an inbox that is known to work."""
    inbox = Inbox(tasks, service.listen(mailbox))
    await inbox.wait_for({b"hello"}, Publisher(service, mailbox))
    return inbox
