"""What to believe of what the Bridge says about another site: only what the key signed that a person here compared.

Pure decisions: `judge` is given what is pinned and what was believed so far, and returns what is believed now with an
alert for each thing that should not have come. The Bridge can withhold and delay; it cannot say anything by itself.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from isthmus.contract.documents import DocumentKind, Prekey, SignedDocument, Statement
from isthmus.contract.rest import SiteEntry
from isthmus.envelope.documents import open_document
from isthmus.envelope.identity import RouterId
from isthmus.envelope.prekeys import check_prekey
from isthmus.errors import OperatorError, Untrusted
from isthmus.kit.names import AETitle, SiteName
from isthmus.router.routing.records import Acceptance, Reported, Verified

MOST_COUNTER: Final = 2**62  # no site gets there by one a second; a larger one would only lock its owner out


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is believed of an accepted site now.

    Attributes:
        key_changed: the Bridge shows another key than the pinned one; nothing flows until a person has looked.
        alerts: what should not have come, a sentence each.
    """

    verified: Verified
    key_changed: bool
    alerts: tuple[str, ...]


def report(entry: SiteEntry) -> Reported:
    """Return what the Bridge says of a site, for a person to compare.

    Raises Untrusted if even that does not hold together: a name that is none, or an ID that is not of that key.
    """
    try:
        site = SiteName.parse(entry.site)
    except OperatorError as error:
        raise Untrusted(f"the Bridge lists a site under a name that is none: {entry.site[:80]!r}") from error
    router_id = RouterId.from_public(entry.public_key)
    if router_id != entry.router_id:
        raise Untrusted(f"the Bridge lists site {site} under a Router ID that is not of its key")
    return Reported(site, router_id, entry.public_key, entry.online, entry.statement)


def judge(
    entry: SiteEntry, reported: Reported, pinned: Acceptance, held: Verified, *, own_site: str, own_id: RouterId
) -> Judgement:
    """Return what to believe of the accepted site of `entry`, having believed `held` so far."""
    if reported.public_key != pinned.public_key:
        return Judgement(
            held, True, (f"the Bridge shows another key for site {pinned.site} than the one that was accepted",)
        )
    alerts: list[str] = []
    try:
        held = _take_statement(entry.statement, pinned, held, own_site=own_site, own_id=own_id)
    except Untrusted as error:
        alerts.append(str(error))
    try:
        held = _take_prekey(entry.prekey, pinned, held)
    except Untrusted as error:
        alerts.append(str(error))
    return Judgement(held, False, tuple(alerts))


def _take_statement(
    document: SignedDocument | None, pinned: Acceptance, held: Verified, *, own_site: str, own_id: RouterId
) -> Verified:
    if document is None:
        return held  # withheld, or not there yet: what was believed holds until it runs out
    payload = _payload(document, pinned, DocumentKind.STATEMENT)
    try:
        statement = Statement.parse(payload)
    except ValueError as error:
        raise Untrusted(f"the statement of site {pinned.site} is not one") from error
    if statement.site != pinned.site:
        raise Untrusted(f"the statement shown for site {pinned.site} speaks for site {statement.site!r}")
    if (statement.to_site, statement.to_router_id) != (own_site, own_id):
        raise Untrusted(f"the statement of site {pinned.site} is meant for another site than this one")
    if not 0 < statement.counter <= MOST_COUNTER:
        raise Untrusted(f"the statement of site {pinned.site} has an impossible counter")
    if statement.counter < held.counter:
        raise Untrusted(
            f"the statement of site {pinned.site} is older (counter {statement.counter}) than one seen before"
            f" (counter {held.counter})"
        )
    if statement.counter == held.counter and held.statement is not None and statement != held.statement:
        raise Untrusted(f"site {pinned.site} signed two different statements with counter {statement.counter}")
    return dataclasses.replace(held, counter=statement.counter, statement=statement)


def _take_prekey(document: SignedDocument | None, pinned: Acceptance, held: Verified) -> Verified:
    if document is None:
        return held
    payload = _payload(document, pinned, DocumentKind.PREKEY)
    try:
        prekey = Prekey.parse(payload)
    except ValueError as error:
        raise Untrusted(f"the prekey of site {pinned.site} is not one") from error
    if held.prekey is not None and prekey.not_after < held.prekey.not_after:
        raise Untrusted(f"the prekey of site {pinned.site} is older than one seen before")
    if prekey != held.prekey:
        try:
            check_prekey(prekey)
        except Untrusted as error:  # the one before, if there was one, may still be good
            raise Untrusted(f"the prekey of site {pinned.site} is not usable: {error}") from error
    return dataclasses.replace(held, prekey=prekey)


def _payload(document: SignedDocument, pinned: Acceptance, kind: DocumentKind) -> bytes:
    if document.router_id != pinned.router_id:
        raise Untrusted(f"a {kind.name.lower()} shown for site {pinned.site} is signed by another Router")
    try:
        return open_document(document, pinned.public_key, kind)
    except Untrusted as error:
        raise Untrusted(f"a {kind.name.lower()} shown for site {pinned.site} does not verify") from error


def claimed_titles(
    verified: Verified, owners: Mapping[AETitle, RouterId], own_titles: Iterable[AETitle]
) -> tuple[list[AETitle], list[str]]:
    """Return the titles in a site's statement that it may have, and an alert for each that belongs to another.

    A title belongs to the Router that was first seen to claim it, and to nobody else until a person releases it.
    """
    statement = verified.statement
    if statement is None:
        return [], []
    taken = set(own_titles)
    mine: list[AETitle] = []
    alerts: list[str] = []
    claimed = {device.title for device in statement.devices} | {opened.title for opened in statement.returns}
    for text in sorted(claimed):
        try:
            title = AETitle.parse(text)
        except OperatorError:
            alerts.append(f"site {verified.site} claims an AE title that is none: {text[:40]!r}")
            continue
        if title in taken:
            alerts.append(f"site {verified.site} claims AE title {title}, which is a device of this site")
        elif owners.get(title, verified.router_id) != verified.router_id:
            alerts.append(f"site {verified.site} claims AE title {title}, which belongs to another site")
        else:
            mine.append(title)
    return mine, alerts


def offered_titles(reported: Reported) -> frozenset[AETitle]:
    """Return the titles that a site which nobody accepted says it grants us: for a hint, never for a decision."""
    if reported.statement is None:
        return frozenset()
    try:
        payload = open_document(reported.statement, reported.public_key, DocumentKind.STATEMENT)
        return frozenset(AETitle.parse(device.title) for device in Statement.parse(payload).devices)
    except (Untrusted, OperatorError, ValueError):
        return frozenset()
