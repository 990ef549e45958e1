"""A Bridge that lies, and sites that try what they may not: for tests that no lie makes bytes leave a site.

The Bridge under the lies is the real one; what it would not say by itself is put into its mouth here. Nobody here has
a private key that was accepted, but for `Insider`, which is given one to make what an accepted site could make.
"""

import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from isthmus.bridge.accounts.service import Account
from isthmus.bridge.parts import Parts
from isthmus.contract.documents import DocumentKind, GrantedDevice, SignedDocument, Statement
from isthmus.contract.notices import NoticeKind, pack, pack_fields
from isthmus.contract.rest import Network, SessionRequest, SiteEntry
from isthmus.envelope.documents import sign_document
from isthmus.envelope.identity import Identity, RouterId
from isthmus.envelope.offers import OfferDraft, make_offer
from isthmus.envelope.prekeys import PrekeyPair
from isthmus.errors import Problem
from isthmus.testing.dicom import associate_rq

Lie = Callable[[SiteEntry], SiteEntry]
Filter = Callable[[str, bytes], Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class Delivered:
    """A notice that went to a Router."""

    to: str
    notice: bytes


class MaliciousBridge:
    """Lies through a running Bridge, in both directions, until the Bridge stops."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.lie: Lie = _the_truth
        self.filter: Filter = _all_of_it
        self.delivered: list[Delivered] = []
        self.asked: list[SessionRequest] = []
        self._write = parts.roll.write
        self._deliver = parts.hub._deliver  # noqa: SLF001 - this Bridge is the attacker's
        self._open = parts.sessions.open
        self._put(parts.roll, "write", self._show)
        self._put(parts.hub, "_deliver", self._pass_on)
        self._put(parts.sessions, "open", self._note_request)

    def __repr__(self) -> str:
        return f"<MaliciousBridge over {self.parts!r}>"

    def tell_all(self) -> None:
        """Have every Router ask for the network again."""
        self.parts.changes.touch([account.router_id for account in self.parts.accounts.all])

    def inject(self, to: str, notice: bytes) -> None:
        """Deliver a notice of the attacker's making, past every check."""
        self._deliver(to.encode(), notice)

    def offers(self, to: str) -> list[bytes]:
        """Return the OFFER notices that went to a Router."""
        return [row.notice for row in self.delivered if row.to == to and row.notice[0] == NoticeKind.OFFER]

    @staticmethod
    def _put(where: object, name: str, what: object) -> None:
        setattr(where, name, what)

    def _show(self, asking: Account, network: Network) -> bytes:
        shown = Network.model_validate_json(self._write(asking, network))
        lies = [self.lie(entry) for entry in shown.sites]
        return shown.model_copy(update={"sites": lies}).model_dump_json().encode()

    def _pass_on(self, to: bytes, notice: bytes | memoryview) -> None:
        for passed in self.filter(to.decode(), bytes(notice)):
            self.delivered.append(Delivered(to.decode(), passed))
            self._deliver(to, passed)

    def _note_request(self, caller: Account, request: SessionRequest) -> Any:
        self.asked.append(request)
        try:
            return self._open(caller, request)
        except Problem as problem:
            if problem.status != 403:
                raise
            # A malicious Bridge asks no table: it offers what it likes.
            body = pack_fields((request.offer, request.signature, request.request, caller.mailbox))
            self.inject(request.to_router_id, pack(NoticeKind.OFFER, request.session_id, body))
            return None


class Insider:
    """Keys, and everything that can be made with them: of the attacker, or of a site that was accepted."""

    def __init__(self, site: str, identity: Identity | None = None, *, now: float) -> None:
        self.site = site
        self.identity = identity or Identity.generate(secrets.token_bytes)
        self.prekey = PrekeyPair.generate(secrets.token_bytes, now)
        self.now = now

    def __repr__(self) -> str:
        return f"<Insider as {self.site}>"

    def offer(
        self,
        to: RouterId,
        prekey: PrekeyPair,
        *,
        calling: str = "WS",
        called: str = "PACS",
        session_id: bytes | None = None,
        age: float = 0.0,
    ) -> tuple[bytes, OfferDraft]:
        """Return an OFFER notice, complete and signed, and the draft it came from. `age` in seconds."""
        session_id = session_id or secrets.token_bytes(16)
        draft = make_offer(
            self.identity,
            session_id=session_id,
            responder=to,
            prekey=prekey.published(),
            calling=calling,
            called=called,
            request=associate_rq(called, calling),
            window=1 << 20,
            now=self.now - age,
            random=secrets.token_bytes,
        )
        body = pack_fields((draft.offer, draft.signature, draft.request_box, self.identity.router_id.encode()))
        return pack(NoticeKind.OFFER, session_id, body), draft

    def statement(self, to_site: str, to: str, *titles: str, counter: int = 10**6) -> SignedDocument:
        """Return a statement that accepts a site and grants it these devices."""
        said = Statement(
            site=self.site,
            to_site=to_site,
            to_router_id=to,
            counter=counter,
            not_after=self.now + 86_400,
            accepted=True,
            devices=[GrantedDevice(title=title, services=["any"]) for title in titles],
        )
        return sign_document(self.identity, DocumentKind.STATEMENT, said.to_payload())

    def prekey_document(self) -> SignedDocument:
        """Return its prekey, signed."""
        return sign_document(self.identity, DocumentKind.PREKEY, self.prekey.published().to_payload())

    def entry(self, instead_of: SiteEntry, to_site: str, to: str, *titles: str) -> SiteEntry:
        """Return what a Bridge would show to put this one in the place of a site."""
        return instead_of.model_copy(
            update={
                "router_id": self.identity.router_id,
                "public_key": self.identity.public,
                "online": True,
                "statement": self.statement(to_site, to, *titles),
                "prekey": self.prekey_document(),
            }
        )


def _the_truth(entry: SiteEntry) -> SiteEntry:
    return entry


def _all_of_it(to: str, notice: bytes) -> Iterable[bytes]:
    del to
    return (notice,)
