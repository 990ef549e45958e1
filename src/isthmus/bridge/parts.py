"""The parts of one Bridge, joined. Nothing here is global: two Bridges can live in one process."""

import secrets
from collections.abc import Iterable
from pathlib import Path

import structlog

from isthmus.bridge.accounts.service import Account, Accounts
from isthmus.bridge.audit.service import Audit
from isthmus.bridge.blobs.store import Allowance, BlobStore
from isthmus.bridge.config import BridgeConfig
from isthmus.bridge.database import Database
from isthmus.bridge.directory.changes import Changes
from isthmus.bridge.directory.service import Directory
from isthmus.bridge.gate import Guard
from isthmus.bridge.identity import load_identity
from isthmus.bridge.metrics import Metrics
from isthmus.bridge.probe.service import Probe
from isthmus.bridge.providers.lending import Lender
from isthmus.bridge.providers.secrets import Safe
from isthmus.bridge.providers.service import Providers
from isthmus.bridge.providers.usage import UsageBook
from isthmus.bridge.sessions.service import Sessions
from isthmus.bridge.signalling.hub import Hub
from isthmus.bridge.signalling.poll import Polls
from isthmus.bridge.tls import Tls
from isthmus.contract.notices import NoticeKind
from isthmus.envelope.identity import Identity, Random, RouterId
from isthmus.kit.clock import Clock
from isthmus.kit.files import write_durably
from isthmus.kit.names import SiteName

_log = structlog.get_logger()
_METRICS_TOKEN = "metrics.token"  # noqa: S105 - the name of a file, not a token


class Parts:
    """Everything a Bridge consists of but its sockets."""

    def __init__(self, config: BridgeConfig, identity: Identity, clock: Clock, random: Random) -> None:
        """Join the parts; nothing is read or opened yet."""
        self.config = config
        self.identity = identity
        self.clock = clock
        self.database = (
            Database(config.database_url) if config.database_url is not None else Database.in_folder(config.data)
        )
        self.accounts = Accounts(self.database, clock, random)
        self.directory = Directory(self.database, self.accounts, clock)
        self.hub = Hub()
        self.polls = Polls(self.hub)
        self.changes = Changes(self.hub, random)
        self.audit = Audit(self.database)
        self.sessions = Sessions(self.accounts, self.directory, self.hub, self.audit, clock)
        self.providers = Providers(self.database, Safe(identity, random), config.data, clock)
        self.lender = Lender(self.providers, clock)
        self.usage = UsageBook(self.database, clock)
        self.blobs = BlobStore(
            config.data / "blobs",
            clock,
            live=Allowance(config.blob_quota, config.blob_seconds),
            queued=Allowance(config.queue_quota, config.queue_seconds),
        )
        self.metrics = Metrics(self.hub, self.sessions, self.blobs)
        self.guard = Guard(self.accounts, identity.public, clock)
        self.probe = Probe(clock)
        self.tls: Tls | None = None
        self.metrics_token = ""
        self.hub.on_presence = self._presence_changed
        self.hub.may_ring = self._acquainted

    @classmethod
    async def open(cls, config: BridgeConfig, clock: Clock, random: Random = secrets.token_bytes) -> "Parts":
        """Return the parts with their durable state read. Raises OperatorError if some of it is damaged."""
        parts = cls(config, load_identity(config.data, random), clock, random)
        try:
            await parts.database.open()
            await parts.accounts.load()
            await parts.directory.load()
            await parts.providers.load()
        except BaseException:
            await parts.database.close()
            raise
        parts.metrics_token = _metrics_token(config.data)
        return parts

    async def close(self) -> None:
        """Write what is still in memory and let go of the database."""
        try:
            await self.audit.flush()
            await self.usage.flush()
        finally:
            await self.database.close()

    def enrolled(self, account: Account) -> None:
        """Let the others see a new site."""
        _log.info("site enrolled", site=account.site, router=account.router_id)
        self.changes.touch(self._others(account.router_id))

    def can_use(self, account: Account, names: Iterable[str]) -> None:
        """Take which cloud pairs a Router says it can use, and let the others see it."""
        if self.providers.heard(account.router_id, names):
            self.changes.touch(self._others(account.router_id))

    def providers_changed(self) -> None:
        """Let every Router see that the list of cloud pairs is another."""
        self.changes.touch(account.router_id for account in self.accounts.all)

    async def revoke(self, site: SiteName) -> Account:
        """Shut a site out: no request, no connection, no session of it goes on from here. Raises OperatorError."""
        account = await self.accounts.revoke(site)
        self.sessions.end_all_of(account.router_id, "revoked")
        self.hub.close(account.router_id)
        self.guard.forget(account)
        self.providers.forget(account.router_id)
        self.lender.forget(account.router_id)
        self.usage.forget(account.router_id)
        others = self._others(account.router_id)
        for router_id in others:
            self.hub.tell(router_id, NoticeKind.REVOKED, body=account.mailbox)
        self.changes.touch(others)
        _log.warning("site revoked", site=site, router=account.router_id)
        await self.directory.forget(account)
        await self.blobs.forget_site(site)
        return account

    def _others(self, router_id: RouterId) -> list[RouterId]:
        return [account.router_id for account in self.accounts.all if account.router_id != router_id]

    def _acquainted(self, sender: RouterId, to: RouterId) -> bool:
        """Return whether two Routers have accepted each other."""
        one, other = self.accounts.of_router(sender), self.accounts.of_router(to)
        return (
            one is not None
            and other is not None
            and self.directory.accepts(one, other)
            and self.directory.accepts(other, one)
        )

    def _presence_changed(self, router_id: RouterId, _online: bool) -> None:
        self.changes.touch(self._others(router_id))


def _metrics_token(folder: Path) -> str:
    path = folder / _METRICS_TOKEN
    if not path.exists():
        write_durably(path, secrets.token_urlsafe(32).encode())
    return path.read_text().strip()
