"""The directory: signed documents, kept byte for byte and shown only to whom they are for.

The Bridge verifies what it keeps, so that a confused Router is told at once; every Router verifies again.
"""

import hmac
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pydantic import ValidationError
from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from isthmus.bridge.accounts.service import Account, Accounts
from isthmus.bridge.database import to_micros
from isthmus.bridge.directory.models import DocumentRow
from isthmus.bridge.register import Change, Register
from isthmus.contract.documents import DocumentKind, Prekey, SignedDocument, Statement, Titles
from isthmus.contract.rest import REVOKED, SiteEntry
from isthmus.envelope.documents import open_document
from isthmus.envelope.identity import RouterId
from isthmus.errors import OperatorError, Problem, Untrusted
from isthmus.kit.clock import Clock
from isthmus.kit.names import AETitle

_MOST_TITLES: Final = 10_000  # devices of one site; a statement of that many is about 1 MiB, the limit of a body
Parsed = Prekey | Titles | Statement
_MODELS: Final[dict[DocumentKind, type[Parsed]]] = {
    DocumentKind.PREKEY: Prekey,
    DocumentKind.TITLES: Titles,
    DocumentKind.STATEMENT: Statement,
}


@dataclass(frozen=True, slots=True)
class Kept:
    """A document and what it says."""

    signed: SignedDocument
    parsed: Parsed


Key = tuple[str, DocumentKind, str]


class Directory:
    """All documents in memory, durable before they are shown."""

    def __init__(self, register: Register, accounts: Accounts, clock: Clock) -> None:
        self._register = register
        self._accounts = accounts
        self._clock = clock
        self._kept: dict[Key, Kept] = {}
        self._owners: dict[str, RouterId] = {}
        self._spoken_to: defaultdict[str, set[str]] = defaultdict(set)  # sites, by the Router that speaks
        self._spoken_by: defaultdict[str, set[RouterId]] = defaultdict(set)  # Routers, by the site that is spoken to
        register.add_reader(self._catch_up)

    async def _catch_up(self, session: AsyncSession, since: int) -> None:
        """Take into memory the documents of enrolled Routers that changed after that version."""
        changed = select(DocumentRow).where(DocumentRow.changed > since).order_by(DocumentRow.changed)
        for row in await session.scalars(changed):
            if self._accounts.is_revoked(row.router_id):
                continue
            kind = DocumentKind(row.kind)
            signed = SignedDocument(kind=kind, router_id=row.router_id, payload=row.payload, signature=row.signature)
            self._put(row.to_site, Kept(signed, _MODELS[kind].parse(row.payload)))

    def statement(self, speaker: Account, to: Account) -> Statement | None:
        """Return what `speaker` says to `to` and to that very Router, or None."""
        kept = self._kept.get((speaker.router_id, DocumentKind.STATEMENT, to.site))
        if kept is None or not isinstance(kept.parsed, Statement) or kept.parsed.to_router_id != to.router_id:
            return None
        return kept.parsed

    def accepts(self, speaker: Account, to: Account) -> bool:
        """Return whether `speaker` has accepted `to` and the word still holds."""
        said = self.statement(speaker, to)
        return said is not None and said.accepted and said.not_after > self._clock.now()

    def owner(self, title: str) -> RouterId | None:
        """Return which Router claims a network AE title."""
        return self._owners.get(title)

    def own_counter(self, account: Account) -> int:
        """Return the highest counter that was seen of a Router."""
        places = [(DocumentKind.TITLES, "")]
        places += [(DocumentKind.STATEMENT, to_site) for to_site in self._spoken_to.get(account.router_id, ())]
        found = (self._kept.get((account.router_id, *place)) for place in places)
        return max((said.parsed.counter for said in found if said and not isinstance(said.parsed, Prekey)), default=0)

    def acquaintances(self, account: Account) -> frozenset[RouterId]:
        """Return the Routers that have said something to this one's site, or that it has said something to."""
        spoken_to = (self._accounts.of_site(site) for site in self._spoken_to.get(account.router_id, ()))
        known = {other.router_id for other in spoken_to if other is not None}
        return frozenset(known | self._spoken_by.get(account.site, set()))

    def entry(self, asking: Account, other: Account, *, online: bool, providers: list[str]) -> SiteEntry:
        """Return another site as one Router may see it; `providers` names the cloud pairs that it can use."""
        said = self._kept.get((other.router_id, DocumentKind.STATEMENT, asking.site))
        shown = said is not None and self.statement(other, asking) is not None
        known = self.accepts(other, asking) or self.accepts(asking, other)
        prekey = self._kept.get((other.router_id, DocumentKind.PREKEY, "")) if known else None
        return SiteEntry(
            site=other.site,
            router_id=other.router_id,
            public_key=other.public_key,
            online=online,
            providers=providers,
            statement=said.signed if said is not None and shown else None,
            prekey=prekey.signed if prekey is not None else None,
        )

    async def publish(self, account: Account, documents: Iterable[SignedDocument]) -> frozenset[RouterId]:
        """Keep all documents or none; return the Routers that see a change.

        Raises Problem 403 for another's document, 422 for one that is no document, 409 for a rollback or a title that
        another site has.
        """
        async with self._register.change() as change:
            fresh = self._fresh(account, documents)
            await self._keep(fresh, change)
        touched = self._who_sees(account, fresh)
        for (_, _, to_site), kept in fresh.items():
            self._put(to_site, kept)
        return touched | self._who_sees(account, fresh)

    async def forget(self, account: Account, change: Change) -> None:
        """Have every document of a Router dropped that is revoked, once `change` is committed."""
        await change.session.execute(delete(DocumentRow).where(DocumentRow.router_id == account.router_id))

    def drop(self, account: Account) -> None:
        """Take into memory that a Router was revoked: its documents are gone, its titles are free."""
        self._kept = {key: kept for key, kept in self._kept.items() if key[0] != account.router_id}
        self._owners = {title: owner for title, owner in self._owners.items() if owner != account.router_id}
        for site in self._spoken_to.pop(account.router_id, ()):
            self._spoken_by[site].discard(account.router_id)

    def _fresh(self, account: Account, documents: Iterable[SignedDocument]) -> dict[Key, Kept]:
        """Return what of these documents is new. Raises Problem."""
        if self._accounts.of_router(account.router_id) is None:
            raise Problem(401, REVOKED, detail="This Router no longer belongs to the network.")
        fresh: dict[Key, Kept] = {}
        for document in documents:
            kept, to_site = self._checked(account, document)
            key = (account.router_id, document.kind, to_site)
            if key in fresh:
                raise Problem(422, "Two documents for one place", detail=f"Two of kind {document.kind} came at once.")
            if self._is_news(self._kept.get(key), kept):
                fresh[key] = kept
        return fresh

    async def _keep(self, fresh: dict[Key, Kept], change: Change) -> None:
        now = to_micros(self._clock.now())
        for (router_id, kind, to_site), kept in fresh.items():
            await change.session.merge(
                DocumentRow(
                    router_id=router_id,
                    kind=kind.value,
                    to_site=to_site,
                    payload=kept.signed.payload,
                    signature=kept.signed.signature,
                    published=now,
                    changed=change.version,
                )
            )

    def _put(self, to_site: str, kept: Kept) -> None:
        router_id = RouterId(kept.signed.router_id)
        before = self._kept.get((router_id, kept.signed.kind, to_site))
        self._kept[router_id, kept.signed.kind, to_site] = kept
        if isinstance(kept.parsed, Titles):
            for title in before.parsed.titles if before is not None and isinstance(before.parsed, Titles) else ():
                if self._owners.get(title) == router_id:
                    del self._owners[title]
            self._owners.update(dict.fromkeys(kept.parsed.titles, router_id))
        elif isinstance(kept.parsed, Statement):
            self._spoken_to[router_id].add(to_site)
            self._spoken_by[to_site].add(router_id)

    def _checked(self, account: Account, document: SignedDocument) -> tuple[Kept, str]:
        if document.router_id != account.router_id:
            raise Problem(403, "Not your document", detail="A Router publishes its own documents only.")
        try:
            parsed = _MODELS[document.kind].parse(open_document(document, account.public_key, document.kind))
        except Untrusted as error:
            raise Problem(422, "The signature does not verify", detail=str(error), field="documents") from error
        except ValidationError as error:
            detail = f"A document of kind {document.kind} has fields that are not understood."
            raise Problem(422, "Not a document", detail=detail, field="documents") from error
        if isinstance(parsed, Titles):
            self._check_titles(account, parsed)
        if isinstance(parsed, Statement):
            if parsed.site != account.site or parsed.to_site == account.site:
                raise Problem(422, "Not your statement", detail="A statement is by one site to another.", field="site")
            if not self._accounts.knows_site(parsed.to_site):
                raise Problem(422, "Unknown site", detail=f"There is no site {parsed.to_site}.", field="to_site")
            return Kept(document, parsed), parsed.to_site
        return Kept(document, parsed), ""

    def _check_titles(self, account: Account, titles: Titles) -> None:
        if len(titles.titles) > _MOST_TITLES:
            raise Problem(422, "Too many titles", detail=f"A site has at most {_MOST_TITLES}.", field="titles")
        for title in titles.titles:
            try:
                if AETitle.parse(title) != title:
                    raise OperatorError(f"'{title}' has spaces at an end")
            except OperatorError as error:
                raise Problem(422, "Not an AE title", detail=str(error), field="titles") from error
        clashes = sorted(
            title for title in titles.titles if self._owners.get(title, account.router_id) != account.router_id
        )
        if clashes:
            raise _clash(clashes, [self._site_of(self._owners[title]) for title in clashes])

    def _site_of(self, router_id: RouterId) -> str:
        owner = self._accounts.of_router(router_id)
        return owner.site if owner is not None else "another site"

    def _is_news(self, old: Kept | None, new: Kept) -> bool:
        if old is None:
            return True
        if hmac.compare_digest(old.signed.payload, new.signed.payload):
            return False
        if isinstance(old.parsed, Prekey) or isinstance(new.parsed, Prekey):
            return True
        if new.parsed.counter <= old.parsed.counter:
            raise Problem(
                409,
                "Rollback refused",
                detail=f"Counter {new.parsed.counter} is not above {old.parsed.counter}, which is kept here.",
                field="counter",
                hint="take the highest counter from GET network and go on from there",
            )
        return True

    def _who_sees(self, account: Account, documents: dict[Key, Kept]) -> frozenset[RouterId]:
        seen: set[RouterId] = set()
        for _, kind, to_site in documents:
            if kind is DocumentKind.STATEMENT:
                to = self._accounts.of_site(to_site)
                # the speaker too: having accepted a site shows it that site's prekey
                seen |= {to.router_id, account.router_id} if to is not None else set()
            elif kind is DocumentKind.PREKEY:
                seen |= self.acquaintances(account)
        return frozenset(seen)


def _clash(titles: list[str], sites: list[str]) -> Problem:
    taken = ", ".join(f"{title} (by {site})" for title, site in zip(titles, sites, strict=True))
    return Problem(
        409,
        "AE title taken",
        detail=(
            f"Another site has this network AE title: {taken}. Choose one: give your device another network title and "
            "keep its own; have the other site do so; or rename the device. A caller's site may then show it under an "
            "alias."
        ),
        field="titles",
    )
