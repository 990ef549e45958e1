"""The parts of one Bridge, joined. Nothing here is global: two Bridges can live in one process."""

import asyncio
import secrets
from collections.abc import Iterable
from pathlib import Path

import structlog

from isthmus.bridge.accounts.service import Account, Accounts
from isthmus.bridge.audit.service import Audit
from isthmus.bridge.blobs.choice import blob_store
from isthmus.bridge.blobs.shared import SharedBlobStore
from isthmus.bridge.cluster.certificate import SharedCertificate
from isthmus.bridge.cluster.nats import NatsBus
from isthmus.bridge.cluster.postgres import PostgresBus
from isthmus.bridge.cluster.service import Cluster
from isthmus.bridge.config import BridgeConfig
from isthmus.bridge.database import Database
from isthmus.bridge.directory.changes import Changes
from isthmus.bridge.directory.roll import Roll
from isthmus.bridge.directory.service import Directory
from isthmus.bridge.gate import Guard
from isthmus.bridge.identity import load_identity
from isthmus.bridge.metrics import Metrics
from isthmus.bridge.probe.service import Probe
from isthmus.bridge.providers.lending import Lender
from isthmus.bridge.providers.secrets import Safe
from isthmus.bridge.providers.service import Providers
from isthmus.bridge.providers.usage import UsageBook
from isthmus.bridge.register import Register
from isthmus.bridge.sessions.service import Sessions
from isthmus.bridge.signalling.hub import Hub
from isthmus.bridge.signalling.poll import Polls
from isthmus.bridge.tls import Tls
from isthmus.contract.notices import NO_SESSION, NoticeKind, pack
from isthmus.envelope.identity import Identity, Random, RouterId
from isthmus.errors import ProviderTrouble
from isthmus.kit.clock import Clock
from isthmus.kit.files import write_durably
from isthmus.kit.line import Lines
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
        self.register = Register(self.database)
        self.accounts = Accounts(self.database, self.register, clock, random)
        self.directory = Directory(self.register, self.accounts, clock)
        self.hub = Hub()
        self.polls = Polls(self.hub)
        self.changes = Changes(self.hub, random)
        self.audit = Audit(self.database)
        self.sessions = Sessions(self.accounts, self.directory, self.hub, self.audit, clock)
        self.providers = Providers(self.database, Safe(identity, random), config.data, clock)
        self.roll = Roll(self.accounts, self.directory, self.hub.is_online, self.providers.usable_by, clock)
        self.lender = Lender(self.providers, clock)
        self.usage = UsageBook(self.database, clock)
        self.blobs = blob_store(config, self.database, clock)
        self.lines = Lines(clock)
        self.metrics = Metrics(self.hub, self.sessions, self.blobs)
        self.guard = Guard(self.accounts, identity.public, clock)
        self.probe = Probe(clock)
        self.tls: Tls | None = None
        self.cluster: Cluster | None = None
        self._certificate = SharedCertificate(self.database, config, identity, clock, random)
        self.metrics_token = ""
        self.hub.on_presence = self._presence_changed
        self.hub.may_ring = self._acquainted
        self.accounts.on_revoked = self._shut_out

    @classmethod
    async def open(cls, config: BridgeConfig, clock: Clock, random: Random = secrets.token_bytes) -> "Parts":
        """Return the parts with their durable state read. Raises OperatorError if some of it is damaged."""
        parts = cls(config, load_identity(config.data, random), clock, random)
        try:
            await parts.database.open()
            await parts.register.open(parts.identity.public)
            await parts.providers.load()
        except BaseException:
            await parts.database.close()
            raise
        parts.metrics_token = _metrics_token(config.data)
        return parts

    async def serve(self) -> None:
        """Prepare for Routers: certificate, blobs, other Bridges on this database. Raises OperatorError."""
        await self.blobs.open()
        if self.config.tls:
            if self._shares_certificate:
                await self._certificate.refresh()
            self.tls = Tls(self.config, self.identity, self.clock, shared=self._shares_certificate)
        if self.database.is_shared and self.config.database_url is not None:
            bus = PostgresBus(self.config.database_url) if self.config.bus is None else NatsBus(self.config.bus)
            self.cluster = Cluster(self, bus)
            await self.cluster.open()
            if isinstance(self.blobs, SharedBlobStore):
                mark = await self.blobs.mark()
                others = not await self.register.has_blobs_at(mark) and await self.cluster.meets_others()
                await self.register.agree_on_blobs(mark, others=others)

    async def refresh_certificate(self) -> None:
        """Renew a certificate that is due, or take the one that another Bridge or the operator has renewed."""
        if self.tls is None:
            return
        made = self._shares_certificate and await self._certificate.refresh()
        if await asyncio.to_thread(self.tls.refresh):
            _log.info("certificate renewed")
        if made and self.cluster is not None:
            self.cluster.certificate_renewed()

    @property
    def _shares_certificate(self) -> bool:
        return self.database.is_shared and self.config.certificate is None

    async def spread(self) -> None:
        """Wait until the other Bridges know what was changed here, so that a Router finds it at whichever it asks."""
        if self.cluster is not None:
            await self.cluster.spread()

    async def close(self) -> None:
        """Write what is still in memory and let go of the database."""
        try:
            if self.cluster is not None:
                await self.cluster.close()
            await self.audit.flush()
            await self.usage.flush()
            self.lines.close()
            await self.blobs.close()
        finally:
            await self.database.close()

    def enrolled(self, account: Account) -> None:
        """Let the others see a new site."""
        _log.info("site enrolled", site=account.site, router=account.router_id)
        self.changes.touch_all_but(account.router_id)

    def heard_of(self, account: Account, version: str, pairs: Iterable[str]) -> None:
        """Take which release a Router runs, and which cloud pairs it can use, which the others see."""
        is_new = self.accounts.heard_version(account, version)
        uses_others = self.providers.heard(account.router_id, pairs)
        if self.cluster is not None and (is_new or uses_others):
            self.cluster.heard_of(self.accounts.of_router(account.router_id) or account)
        if uses_others:
            self.changes.touch(self.directory.acquaintances(account))

    def providers_changed(self) -> None:
        """Let every Router see that the list of cloud pairs is another."""
        if self.cluster is not None:
            self.cluster.providers_changed()
        self.changes.touch_all()

    async def revoke(self, site: SiteName) -> Account:
        """Shut a site out: no request, no connection, no session of it goes on from here. Raises OperatorError."""
        async with self.register.change() as change:
            account = await self.accounts.revoke(site, change)
            await self.directory.forget(account, change)
        self.accounts.shut_out(account)
        self._shut_out(account)
        self.changes.touch_all()
        _log.warning("site revoked", site=site, router=account.router_id)
        try:
            await self.blobs.forget_site(site)
        except ProviderTrouble as trouble:
            _log.warning("what the site put stays until its time is over", site=site, reason=str(trouble))
        await self.spread()
        return account

    def _shut_out(self, account: Account) -> None:
        """Let go at once of all that is here of a Router that was revoked, and tell those that are connected here."""
        self.sessions.end_all_of(account.router_id, "revoked")
        self.hub.close(account.router_id)
        self.guard.forget(account)
        self.providers.forget(account.router_id)
        self.lender.forget(account.router_id)
        self.usage.forget(account.router_id)
        self.directory.drop(account)
        self.roll.forget([account.router_id])
        notice = pack(NoticeKind.REVOKED, NO_SESSION, account.mailbox)
        for mailbox in self.hub.here:
            if mailbox != account.mailbox:
                self.hub.deliver_here(mailbox, notice)

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
        """Let those see it that may call this Router: strangers learn it when they next ask for something else."""
        account = self.accounts.of_router(router_id)
        if account is not None:
            self.changes.touch(self.directory.acquaintances(account))


def _metrics_token(folder: Path) -> str:
    path = folder / _METRICS_TOKEN
    if not path.exists():
        write_durably(path, secrets.token_urlsafe(32).encode())
    return path.read_text().strip()
