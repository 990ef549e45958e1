"""Accounts: who has enrolled, who was revoked, and the invites. Kept in memory whole, and durably before it is told.

No request waits for a disk to read: what another Bridge changed is taken into memory when it says so (`Register`).
"""

import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from isthmus.bridge.accounts.models import InviteRow, SiteRow
from isthmus.bridge.database import Database, to_micros, to_seconds
from isthmus.bridge.register import Change, Register
from isthmus.contract.invites import SECRET_BYTES, Invite
from isthmus.contract.rest import Enrolled, Enrolment
from isthmus.envelope.identity import Random, RouterId
from isthmus.errors import OperatorError, Problem
from isthmus.kit.clock import Clock
from isthmus.kit.names import SiteName

DEFAULT_VALID_DAYS = 1.0
MOST_VALID_DAYS = 30.0
_DAY = 86_400.0
_MOST_VERSION = 64


@dataclass(frozen=True, slots=True)
class Account:
    """A Router of the network. `mailbox` is its ID as it stands in signalling frames."""

    site: SiteName
    router_id: RouterId
    public_key: bytes
    version: str = field(compare=False)
    enrolled: float
    mailbox: bytes


@dataclass(frozen=True, slots=True)
class OpenInvite:
    """An invite as an operator sees it. `used` and `withdrawn` are Unix seconds, or None."""

    site: SiteName
    created: float
    expires: float
    used: float | None
    withdrawn: float | None


class Accounts:
    """The network's members. Every change is committed before it takes effect.

    `on_revoked` is called when another Bridge has shut a Router out.
    """

    def __init__(self, database: Database, register: Register, clock: Clock, random: Random) -> None:
        self._database = database
        self._register = register
        self._clock = clock
        self._random = random
        self._by_router: dict[str, Account] = {}
        self._by_site: dict[str, Account] = {}
        self._revoked: dict[str, SiteName] = {}
        self._sorted: list[Account] = []
        self.membership = 0
        """Another number after each Router that joined or left."""
        self.on_revoked: Callable[[Account], None] = _ignore
        register.add_reader(self._catch_up)

    async def _catch_up(self, session: AsyncSession, since: int) -> None:
        """Take into memory what changed after that version."""
        for row in await session.scalars(select(SiteRow).where(SiteRow.changed > since).order_by(SiteRow.changed)):
            known = self._by_router.get(row.router_id)
            if row.revoked is None:
                if known is None:
                    self._remember(_account(row))
                continue
            self._revoked[row.router_id] = SiteName(row.site)
            if known is not None:
                self._drop(known)
                self.on_revoked(known)

    @property
    def all(self) -> list[Account]:
        """Every enrolled Router, by site name."""
        if not self._sorted:
            self._sorted = sorted(self._by_router.values(), key=lambda account: account.site)
        return list(self._sorted)

    def of_router(self, router_id: str) -> Account | None:
        """Return the account of an enrolled Router, or None."""
        return self._by_router.get(router_id)

    def of_site(self, site: str) -> Account | None:
        """Return the account of an enrolled site, or None."""
        return self._by_site.get(site)

    def is_revoked(self, router_id: str) -> bool:
        """Return whether this Router was shut out."""
        return router_id in self._revoked

    def knows_site(self, site: str) -> bool:
        """Return whether a site of this name is, or was, part of the network."""
        return site in self._by_site or site in self._revoked.values()

    async def invite(self, site: SiteName, *, valid_days: float, url: str, identity: bytes) -> Invite:
        """Make an invite for one site, good for one use. Raises OperatorError if it could not be used."""
        if not 0 < valid_days <= MOST_VALID_DAYS:
            raise OperatorError(f"an invite is valid for at most {MOST_VALID_DAYS:.0f} days, not {valid_days:g}")
        if site in self._by_site:
            raise OperatorError(
                f"{site} has a Router already: {self._by_site[site].router_id.spoken}",
                hint=f"isthmus bridge revoke {site}, if that Router is lost",
            )
        now = self._clock.now()
        invite = Invite(url=url, identity=identity, site=site, secret=self._random(SECRET_BYTES))
        async with self._database.transaction() as session:
            session.add(
                InviteRow(
                    secret_hash=_hash(invite.secret),
                    site=site,
                    created=to_micros(now),
                    expires=to_micros(now + valid_days * _DAY),
                )
            )
        return invite

    async def invites(self) -> list[OpenInvite]:
        """Return all invites, newest first."""
        async with self._database.transaction() as session:
            rows = await session.scalars(select(InviteRow).order_by(InviteRow.created.desc()))
            return [_invite(row) for row in rows]

    async def withdraw(self, site: SiteName) -> int:
        """Withdraw the unused invites of a site; return how many. Raises OperatorError if there is none."""
        async with self._database.transaction() as session:
            rows = await session.scalars(
                update(InviteRow)
                .where(InviteRow.site == site, InviteRow.used.is_(None), InviteRow.withdrawn.is_(None))
                .values(withdrawn=to_micros(self._clock.now()))
                .returning(InviteRow.secret_hash)
            )
            count = len(rows.all())
        if not count:
            raise OperatorError(f"there is no open invite for {site}", hint="isthmus bridge list")
        return count

    async def enrol(self, enrolment: Enrolment) -> tuple[Enrolled, Account | None]:
        """Spend an invite. Returns the answer, and the new account unless this is the same request once more.

        Raises Problem 403 if the invite is not good, 409 if the site has a Router or the key was revoked.
        """
        router_id = RouterId.from_public(enrolment.public_key)
        now = to_micros(self._clock.now())
        async with self._register.change() as change:
            session = change.session
            if router_id in self._revoked:
                raise Problem(
                    409, "This key was revoked", detail="Make a new identity: join from an empty data folder."
                )
            row = await session.get(InviteRow, _hash(enrolment.secret))
            if row is None or not hmac.compare_digest(row.site.encode(), enrolment.site.encode()):
                raise Problem(403, "Unknown invite", detail="No such invite was made here for this site.")
            if row.used is not None:
                if row.used_by == router_id and router_id in self._by_router:
                    return Enrolled(site=row.site, router_id=router_id), None  # its answer was lost on the way
                raise Problem(403, "Invite used", detail="This invite was used already; ask for a new one.")
            if row.withdrawn is not None:
                raise Problem(403, "Invite withdrawn", detail="This invite was withdrawn; ask for a new one.")
            if row.expires < now:
                raise Problem(403, "Invite expired", detail="This invite is too old; ask for a new one.")
            if row.site in self._by_site or router_id in self._by_router:
                raise Problem(409, "Already enrolled", detail="This site, or this key, has an account already.")
            site = SiteRow(
                router_id=router_id,
                site=row.site,
                public_key=enrolment.public_key,
                version=enrolment.version[:_MOST_VERSION],
                enrolled=now,
                revoked=None,
                changed=change.version,
            )
            row.used, row.used_by = now, router_id
            session.add(site)
        account = _account(site)
        self._remember(account)
        return Enrolled(site=account.site, router_id=router_id), account

    async def revoke(self, site: SiteName, change: Change) -> Account:
        """Have a site's Router shut out for good, and its open invites withdrawn, once `change` is committed.

        Raises OperatorError if there is none. `shut_out` takes the result into memory.
        """
        account = self._by_site.get(site)
        if account is None:
            raise OperatorError(f"{site} has no Router here", hint="isthmus bridge sites")
        now = to_micros(self._clock.now())
        await change.session.execute(
            update(SiteRow).where(SiteRow.router_id == account.router_id).values(revoked=now, changed=change.version)
        )
        await change.session.execute(
            update(InviteRow)
            .where(InviteRow.site == site, InviteRow.used.is_(None), InviteRow.withdrawn.is_(None))
            .values(withdrawn=now)
        )
        return account

    def shut_out(self, account: Account) -> None:
        """Take into memory that a Router was revoked."""
        self._revoked[account.router_id] = account.site
        self._drop(account)

    def heard_version(self, account: Account, version: str) -> bool:
        """Note which release a Router runs now, in memory only, since each heartbeat says so; True if it is news."""
        known = self._by_router.get(account.router_id)
        if known is None or known.version == version[:_MOST_VERSION]:
            return False
        self._remember(replace(known, version=version[:_MOST_VERSION]))
        return True

    def _remember(self, account: Account) -> None:
        self.membership += account.router_id not in self._by_router
        self._by_router[account.router_id] = account
        self._by_site[account.site] = account
        self._sorted = []

    def _drop(self, account: Account) -> None:
        self._by_router.pop(account.router_id, None)
        self._sorted = []
        self.membership += 1
        if (other := self._by_site.get(account.site)) is not None and other.router_id == account.router_id:
            del self._by_site[account.site]


def _ignore(_account: Account) -> None:
    """Nobody listens yet."""


def _hash(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def _account(row: SiteRow) -> Account:
    return Account(
        site=SiteName(row.site),
        router_id=RouterId(row.router_id),
        public_key=row.public_key,
        version=row.version,
        enrolled=to_seconds(row.enrolled),
        mailbox=row.router_id.encode("ascii"),
    )


def _invite(row: InviteRow) -> OpenInvite:
    return OpenInvite(
        site=SiteName(row.site),
        created=to_seconds(row.created),
        expires=to_seconds(row.expires),
        used=None if row.used is None else to_seconds(row.used),
        withdrawn=None if row.withdrawn is None else to_seconds(row.withdrawn),
    )
