"""What this site says to the others: its prekey, its titles, and one signed statement to each site it accepted.

A document is made anew when its content changed and once a day, so that nothing runs out while the Router lives.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from isthmus.contract.documents import (
    DocumentKind,
    GrantedDevice,
    ReturnGrant,
    SignedDocument,
    Statement,
    Titles,
    grouped,
)
from isthmus.envelope.documents import sign_document
from isthmus.envelope.identity import Identity, RouterId
from isthmus.kit.names import SiteName
from isthmus.router.routing.records import DAY, Acceptance, Grant, LocalDevice, OpenReturn, Pair

STATEMENT_LIFETIME: Final = 30 * DAY
REFRESH: Final = DAY


@dataclass(frozen=True, slots=True)
class Draft:
    """A document before it has a counter. `name` tells it from our others; `digest` is that of what it says."""

    name: str
    digest: bytes
    content: Statement | Titles

    def sign(self, identity: Identity, counter: int, now: float) -> SignedDocument:
        """Return the document with that counter."""
        if isinstance(self.content, Titles):
            payload = self.content.model_copy(update={"counter": counter}).to_payload()
            return sign_document(identity, DocumentKind.TITLES, payload)
        update = {"counter": counter, "not_after": now + STATEMENT_LIFETIME}
        return sign_document(identity, DocumentKind.STATEMENT, self.content.model_copy(update=update).to_payload())


def drafts(
    site: SiteName,
    *,
    devices: Sequence[LocalDevice],
    grants: Iterable[Grant],
    returns: Iterable[OpenReturn],
    acceptances: Iterable[Acceptance],
    mailboxes: Mapping[RouterId, str],
    mirror: Mapping[int, frozenset[Pair]],
    now: float,
) -> Iterator[Draft]:
    """Yield all that this site has to say now, the titles first, since statements speak of them."""
    yield _draft("titles", Titles(counter=0, titles=sorted(device.network_title for device in devices)))
    by_id = {device.device_id: device for device in devices}
    grants, returns = list(grants), list(returns)
    for acceptance in acceptances:
        mine = _granted(acceptance, by_id, grants, mirror, now=now)
        said = _statement(site, acceptance, mine, returns, mailboxes.get(acceptance.router_id), now=now)
        yield _draft(f"statement/{acceptance.site}", said)


def _draft(name: str, content: Statement | Titles) -> Draft:
    return Draft(name, hashlib.sha256(content.to_payload()).digest(), content)


def _statement(
    site: SiteName,
    to: Acceptance,
    devices: list[GrantedDevice],
    returns: Iterable[OpenReturn],
    mailbox: str | None,
    *,
    now: float,
) -> Statement:
    empty = Statement(
        site=site, to_site=to.site, to_router_id=to.router_id, counter=0, not_after=0.0, accepted=to.accepted
    )
    if not to.accepted:
        return empty
    return empty.model_copy(
        update={
            "mailbox": mailbox,
            "devices": devices,
            "returns": [
                ReturnGrant(
                    caller=opened.caller, title=opened.title, services=sorted(opened.services), until=opened.until
                )
                for opened in returns
                if opened.router_id == to.router_id and opened.until > now
            ],
        }
    )


def _granted(
    to: Acceptance,
    devices: Mapping[int, LocalDevice],
    grants: Iterable[Grant],
    mirror: Mapping[int, frozenset[Pair]],
    *,
    now: float,
) -> list[GrantedDevice]:
    """Return what a site is granted. What a device takes is long, and stands in the first of its grants only."""
    said: set[int] = set()
    granted = []
    for grant in grants:
        if grant.site != to.site or (grant.until is not None and grant.until <= now):
            continue
        device = devices[grant.device_id]
        taken = () if device.device_id in said else mirror.get(device.device_id, ())
        said.add(device.device_id)
        granted.append(
            GrantedDevice(
                title=device.network_title,
                name=device.name,
                services=sorted(grant.services),
                callers=None if grant.caller is None else [grant.caller],
                until=grant.until,
                modes=[mode.value for mode in device.options.modes],
                takes=grouped(taken),
                online=not device.disabled,
            )
        )
    return granted
