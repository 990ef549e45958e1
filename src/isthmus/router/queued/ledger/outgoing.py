"""What goes to other sites, in the ledger: letters until they are acknowledged, envelopes until they are done.

Functions for `Ledger.run` and `Ledger.read`. A letter is sealed inside the transaction that gives it its counter, so
that letters are dense whatever is killed when; it is put only after that is durable.
"""

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from isthmus.contract.letters import LetterKind, Receipt, Receipts
from isthmus.envelope.letters import FIRST_PREVIOUS, letter_hash
from isthmus.envelope.mailboxes import letter_name
from isthmus.errors import SealBroken
from isthmus.router.queued.ledger.deliveries import BARRIER_OPEN
from isthmus.router.queued.ledger.records import COMMENT_LABEL, CopyState

ANNOUNCED: Final = -1
"""In the place of `Envelope.uploaded`: the letter went before the blobs, of which a stop may have left some here."""
ACK_SPAN: Final = 10**9
"""An acknowledgement is a counter below this, plus this times `ack_tag` of the mailbox that it counts in."""


class LetterSealer(Protocol):
    """Seals letters to one site, and what of them is kept here."""

    @property
    def prefix(self) -> str:
        """Prefix of the mailbox that the site reads."""
        ...

    def seal(self, kind: LetterKind, counter: int, previous: bytes, acked: int, body: bytes) -> bytes:
        """Return the letter."""
        ...

    def protect(self, label: str, content: bytes) -> bytes:
        """Seal for the ledger."""
        ...

    def reveal(self, label: str, sealed: bytes) -> bytes:
        """Return what `protect` sealed."""
        ...


@dataclass(frozen=True, slots=True)
class Mailbox:
    """Both directions between this Router and another, as far as they are durable.

    Attributes:
        prefix_in: of the mailbox that we read; `next_in` is its next letter and `hash_in` the hash of the one before.
        prefix_out: of the mailbox that we fill, in the same way; None: nothing was ever posted.
        acked_out: up to here the other Router has read our letters.
    """

    router_id: str
    prefix_in: str | None
    next_in: int
    hash_in: bytes
    next_out: int
    hash_out: bytes
    acked_out: int
    prefix_out: str | None


@dataclass(frozen=True, slots=True)
class PostedLetter:
    """A letter of ours that is to be put under its name."""

    router_id: str
    counter: int
    name: str
    raw: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A part of a bundle on its way to one device of another site.

    Attributes:
        provider: name of the pair of cloud services whose blobstore gets the blobs.
        base: byte of the bundle's file at which the first blob starts.
        blobs: size of each blob.
        uploaded: blobs that are known to be in the store, from the first on; once it is posted, how often they were put
            again, or `ANNOUNCED`.
        counter: of its letter, once there is one.
        posted: when that was (Unix seconds).
    """

    envelope_id: bytes
    bundle_id: int
    bundle: str
    router_id: str
    destination: str
    calling: str
    secret: bytes = field(repr=False)
    provider: str
    base: int
    blobs: tuple[int, ...]
    uploaded: int
    state: str
    counter: int | None
    posted: float | None


@dataclass(frozen=True, slots=True)
class Waiting:
    """Objects of a bundle that wait for a device of another site, in its file from `start` to `end`."""

    bundle_id: int
    site: str
    destination: str
    priority: int


@dataclass(frozen=True, slots=True)
class SealedObject:
    """An object as a manifest names it; `position` in the bundle's file."""

    copy_id: int
    object_id: bytes
    position: int
    length: int
    digest: bytes
    kind: str


def ack_tag(prefix: str | None) -> int:
    """Return what tells acknowledgements in one mailbox from those in the one before it: 0 to 999."""
    return 0 if prefix is None else int(prefix[:8], 16) % 1000


# -- mailboxes and letters


def mailbox(connection: sqlite3.Connection, router_id: str) -> Mailbox:
    """Return where the letters to and from a Router stand."""
    row = connection.execute(
        "SELECT router_id, prefix_in, next_in, hash_in, next_out, hash_out, acked_out, prefix_out FROM mailboxes"
        " WHERE router_id = ?",
        (router_id,),
    ).fetchone()
    return Mailbox(router_id, None, 1, FIRST_PREVIOUS, 1, FIRST_PREVIOUS, 0, None) if row is None else Mailbox(*row)


def save_mailbox(connection: sqlite3.Connection, box: Mailbox) -> None:
    """Keep where the letters stand."""
    connection.execute(
        "REPLACE INTO mailboxes (router_id, prefix_in, next_in, hash_in, next_out, hash_out, acked_out, prefix_out)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            box.router_id,
            box.prefix_in,
            box.next_in,
            box.hash_in,
            box.next_out,
            box.hash_out,
            box.acked_out,
            box.prefix_out,
        ),
    )


def add_letter(
    connection: sqlite3.Connection, router_id: str, sealer: LetterSealer, kind: LetterKind, body: bytes, *, now: float
) -> list[PostedLetter]:
    """Seal the next letter to a Router and keep it; return it behind those that had to be sealed anew before it."""
    posted = start_anew(connection, router_id, sealer, now=now)
    return [*posted, _add(connection, router_id, sealer, kind, body, now)]


def start_anew(
    connection: sqlite3.Connection, router_id: str, sealer: LetterSealer, *, now: float
) -> list[PostedLetter]:
    """If the site has another mailbox than before, seal again for it what was not acknowledged, from letter 1 on."""
    box = mailbox(connection, router_id)
    if box.prefix_out == sealer.prefix:
        return []
    rows = connection.execute(
        "SELECT counter, kind, body FROM letters WHERE router_id = ? ORDER BY counter", (router_id,)
    ).fetchall()
    connection.execute("DELETE FROM letters WHERE router_id = ?", (router_id,))
    connection.execute(
        "UPDATE envelopes SET counter = -counter WHERE router_id = ? AND direction = 'out' AND counter > 0",
        (router_id,),
    )
    save_mailbox(
        connection,
        Mailbox(router_id, box.prefix_in, box.next_in, box.hash_in, 1, FIRST_PREVIOUS, 0, sealer.prefix),
    )
    posted = []
    for counter, kind, body in rows:
        content = sealer.reveal(_body_label(router_id), body)
        posted.append(_add(connection, router_id, sealer, LetterKind(kind), content, now))
        connection.execute(
            "UPDATE envelopes SET counter = ? WHERE router_id = ? AND direction = 'out' AND counter = ?",
            (posted[-1].counter, router_id, -counter),
        )
    return posted


def letters(connection: sqlite3.Connection, router_id: str, *, start: int, most: int) -> list[PostedLetter]:
    """Return up to `most` letters to a Router that it has not acknowledged, from counter `start` on."""
    rows = connection.execute(
        "SELECT router_id, counter, name, raw FROM letters WHERE router_id = ? AND counter >= ?"
        " ORDER BY counter LIMIT ?",
        (router_id, start, most),
    )
    return [PostedLetter(*row) for row in rows]


def unacked_since(connection: sqlite3.Connection, router_id: str) -> float | None:
    """Return when the oldest unacknowledged letter was written that said something; None if there is none."""
    (posted,) = connection.execute(
        "SELECT MIN(posted) FROM letters WHERE router_id = ? AND empty = 0", (router_id,)
    ).fetchone()
    return None if posted is None else float(posted)


def routers_with_letters(connection: sqlite3.Connection) -> list[str]:
    """Return the Routers that have not acknowledged every letter to them."""
    return [row[0] for row in connection.execute("SELECT DISTINCT router_id FROM letters")]


def acknowledge(connection: sqlite3.Connection, router_id: str, acked: int) -> tuple[list[str], bool]:
    """Forget letters that were acknowledged. Returns their names, and whether the acknowledgement can be true."""
    tag, counter = divmod(acked, ACK_SPAN)
    box = mailbox(connection, router_id)
    if counter <= box.acked_out or tag != ack_tag(box.prefix_out):
        return [], True
    if counter >= box.next_out:
        return [], False
    where = (router_id, counter)
    names = [
        row[0] for row in connection.execute("SELECT name FROM letters WHERE router_id = ? AND counter <= ?", where)
    ]
    connection.execute("DELETE FROM letters WHERE router_id = ? AND counter <= ?", where)
    connection.execute("UPDATE mailboxes SET acked_out = ? WHERE router_id = ?", (counter, router_id))
    return names, True


def seal_anew(
    connection: sqlite3.Connection, router_id: str, sealer: LetterSealer, counter: int, *, now: float
) -> tuple[list[PostedLetter], list[str]]:
    """Post a letter that the far Router cannot read as a new one in its place; nothing if it is gone.

    Returns the new letters, and the names of those that are gone now: whoever says that it cannot read one is past it.
    """
    row = connection.execute(
        "SELECT kind, body, name FROM letters WHERE router_id = ? AND counter = ?", (router_id, counter)
    ).fetchone()
    if row is None:
        return [], []
    content = sealer.reveal(_body_label(router_id), row[1])
    posted = add_letter(connection, router_id, sealer, LetterKind(row[0]), content, now=now)
    connection.execute(
        "UPDATE envelopes SET counter = ? WHERE router_id = ? AND direction = 'out' AND counter = ?",
        (posted[-1].counter, router_id, counter),
    )
    connection.execute("DELETE FROM letters WHERE router_id = ? AND counter = ?", (router_id, counter))
    return posted, [row[2]]


def counts_in_ours(connection: sqlite3.Connection, router_id: str, acked: int) -> bool:
    """Return whether what a letter with this acknowledgement says of counters is about the mailbox that we fill now."""
    return acked // ACK_SPAN == ack_tag(mailbox(connection, router_id).prefix_out)


def _add(
    connection: sqlite3.Connection, router_id: str, sealer: LetterSealer, kind: LetterKind, body: bytes, now: float
) -> PostedLetter:
    box = mailbox(connection, router_id)
    raw = sealer.seal(kind, box.next_out, box.hash_out, _acked(connection, box), body)
    letter = PostedLetter(router_id, box.next_out, letter_name(sealer.prefix, box.next_out), raw)
    connection.execute(
        "INSERT INTO letters (router_id, counter, name, raw, put, kind, body, posted, empty)"
        " VALUES (?, ?, ?, ?, 0, ?, ?, ?, ?)",
        (
            router_id,
            letter.counter,
            letter.name,
            raw,
            kind.value,
            sealer.protect(_body_label(router_id), body),
            now,
            body == EMPTY_RECEIPTS,
        ),
    )
    save_mailbox(
        connection,
        Mailbox(
            router_id,
            box.prefix_in,
            box.next_in,
            box.hash_in,
            box.next_out + 1,
            letter_hash(raw),
            box.acked_out,
            sealer.prefix,
        ),
    )
    return letter


def _acked(connection: sqlite3.Connection, box: Mailbox) -> int:
    """Return what we acknowledge: not yet a letter of which its writer must still hear that it was unreadable."""
    (unreadable,) = connection.execute(
        "SELECT MIN(letter) FROM receipts_due WHERE router_id = ? AND letter IS NOT NULL", (box.router_id,)
    ).fetchone()
    counter = box.next_in - 1 if unreadable is None else min(box.next_in, unreadable) - 1
    return ack_tag(box.prefix_in) * ACK_SPAN + counter


def _body_label(router_id: str) -> str:
    return f"letter/{router_id}"


EMPTY_RECEIPTS: Final = Receipts().to_payload()
"""The body of a letter that only acknowledges; nobody waits for it to be acknowledged itself."""


# -- envelopes


_WAITING: Final = (
    "SELECT c.bundle_id, c.destination, c.priority FROM copies AS c INDEXED BY copies_to_send"  # noqa: S608 - constants
    " JOIN bundles AS b ON b.bundle_id = c.bundle_id"
    " WHERE c.site = ? AND c.state = 'waiting' AND c.site IS NOT NULL AND c.envelope_id IS NULL"
    f" AND b.closed AND NOT b.gone AND {BARRIER_OPEN} ORDER BY c.priority DESC, c.bundle_id"
)
_TAKE: Final = (
    "UPDATE copies AS c SET envelope_id = ?, envelope_index = NULL"  # noqa: S608 - constants
    " WHERE bundle_id = ? AND site = ? AND destination = ?"
    f" AND state = 'waiting' AND envelope_id IS NULL AND {BARRIER_OPEN}"
)


def waiting(connection: sqlite3.Connection, sites: Iterable[str], *, most: int) -> list[Waiting]:
    """Return up to `most` parts of closed bundles that wait for one of these sites: by priority, then the oldest."""
    found: list[Waiting] = []
    for site in sites:
        seen: set[tuple[int, str]] = set()
        rows = connection.execute(_WAITING, (site,))
        for bundle_id, destination, priority in rows:
            if (bundle_id, destination) not in seen:
                seen.add((bundle_id, destination))
                found.append(Waiting(bundle_id, site, destination, priority))
                if len(seen) == most:
                    break
        rows.close()
    return sorted(found, key=lambda item: (-item.priority, item.bundle_id))[:most]


def begin_envelope(
    connection: sqlite3.Connection,
    item: Waiting,
    *,
    envelope_id: bytes,
    router_id: str,
    secret: bytes,
    provider: str,
    cut: Callable[[int], Sequence[int]],
) -> Envelope | None:
    """Take what waits into a new envelope; `cut` says how large its blobs are. None if nothing waits any more."""
    taken = connection.execute(
        _TAKE,
        (envelope_id, item.bundle_id, item.site, item.destination),
    ).rowcount
    if not taken:
        return None
    start, end = connection.execute(
        "SELECT MIN(o.position), MAX(o.position + o.length) FROM copies AS c JOIN objects AS o USING (object_id)"
        " WHERE c.envelope_id = ?",
        (envelope_id,),
    ).fetchone()
    blobs = cut(end - start)
    connection.execute(
        "INSERT INTO envelopes (envelope_id, direction, bundle_id, router_id, destination, secret, provider, base,"
        " blobs, uploaded, state) VALUES (?, 'out', ?, ?, ?, ?, ?, ?, ?, 0, 'uploading')",
        (
            envelope_id,
            item.bundle_id,
            router_id,
            item.destination,
            secret,
            provider,
            start,
            ",".join(map(str, blobs)),
        ),
    )
    return envelope(connection, envelope_id)


_ENVELOPE: Final = (
    "SELECT e.envelope_id, e.bundle_id, b.name, e.router_id, e.destination, b.calling, e.secret, e.provider, e.base,"
    " e.blobs, e.uploaded, e.state, e.counter, e.posted FROM envelopes AS e"
    " JOIN bundles AS b ON b.bundle_id = e.bundle_id"
    " WHERE e.direction = 'out'"
)


def envelope(connection: sqlite3.Connection, envelope_id: bytes) -> Envelope | None:
    """Return an envelope of ours."""
    row = connection.execute(f"{_ENVELOPE} AND e.envelope_id = ?", (envelope_id,)).fetchone()
    return None if row is None else _envelope(row)


def envelopes(connection: sqlite3.Connection, state: str, *, before: float | None = None) -> list[Envelope]:
    """Return the envelopes of ours in a state; `before`: of which the letter was posted before then."""
    rows = connection.execute(
        f"{_ENVELOPE} AND e.state = ? AND (?2 IS NULL OR e.posted < ?2) ORDER BY e.bundle_id", (state, before)
    )
    return [_envelope(row) for row in rows]


def envelope_of_letter(connection: sqlite3.Connection, router_id: str, counter: int) -> Envelope | None:
    """Return the envelope that a letter to a Router is about."""
    row = connection.execute(f"{_ENVELOPE} AND e.router_id = ? AND e.counter = ?", (router_id, counter)).fetchone()
    return None if row is None else _envelope(row)


def save_progress(connection: sqlite3.Connection, envelope_id: bytes, uploaded: int) -> None:
    """Remember how many blobs are in the store."""
    connection.execute("UPDATE envelopes SET uploaded = ? WHERE envelope_id = ?", (uploaded, envelope_id))


def contents(connection: sqlite3.Connection, envelope_id: bytes) -> list[SealedObject]:
    """Return what is to go in an envelope: what nobody cancelled or held meanwhile."""
    rows = connection.execute(
        "SELECT c.copy_id, o.object_id, o.position, o.length, o.digest, o.kind FROM copies AS c"
        " JOIN objects AS o USING (object_id) WHERE c.envelope_id = ? AND c.state = 'waiting' ORDER BY o.position",
        (envelope_id,),
    )
    return [SealedObject(*row) for row in rows]


def is_shared(connection: sqlite3.Connection, envelope_id: bytes) -> bool:
    """Return whether an object of an envelope goes, or went, to another site, too, or to another Router of this one."""
    (found,) = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM copies AS own JOIN copies AS other ON other.object_id = own.object_id"
        " WHERE own.envelope_id = ?1 AND other.site IS NOT NULL AND other.site <> own.site) OR EXISTS (SELECT 1"
        " FROM envelopes AS own JOIN envelopes AS other ON other.bundle_id = own.bundle_id"
        " WHERE own.envelope_id = ?1 AND other.direction = 'out' AND other.router_id <> own.router_id)",
        (envelope_id,),
    ).fetchone()
    return bool(found)


def envelope_posted(
    connection: sqlite3.Connection,
    envelope_id: bytes,
    copies: Sequence[SealedObject],
    counter: int,
    *,
    announced: bool,
    now: float,
) -> None:
    """Its letter is sealed: these copies are on their way, and those that were taken out of it are not in it.

    `announced`: its blobs are still to be put.
    """
    connection.executemany(
        "UPDATE copies SET state = ?, envelope_index = ?, since = ? WHERE copy_id = ?",
        [(CopyState.POSTED.value, index, now, item.copy_id) for index, item in enumerate(copies)],
    )
    connection.execute(
        "UPDATE copies SET envelope_id = NULL WHERE envelope_id = ? AND envelope_index IS NULL", (envelope_id,)
    )
    connection.execute(
        "UPDATE envelopes SET state = 'posted', counter = ?, posted = ?, uploaded = ? WHERE envelope_id = ?",
        (counter, now, ANNOUNCED if announced else 0, envelope_id),
    )


def posted_again(connection: sqlite3.Connection, envelope_id: bytes, *, now: float) -> None:
    """The blobs of an envelope were put once more: `uploaded` counts how often."""
    connection.execute(
        "UPDATE envelopes SET posted = ?, uploaded = uploaded + 1 WHERE envelope_id = ?", (now, envelope_id)
    )


def drop_envelope(connection: sqlite3.Connection, envelope_id: bytes) -> None:
    """Nothing goes in it any more; what still waits may go in another."""
    connection.execute(
        "UPDATE copies SET envelope_id = NULL, envelope_index = NULL WHERE envelope_id = ? AND state <> 'posted'",
        (envelope_id,),
    )
    connection.execute("DELETE FROM envelopes WHERE envelope_id = ?", (envelope_id,))


def repair(connection: sqlite3.Connection) -> None:
    """Let what waits, but in no envelope that is being uploaded, go in a new one. For the start."""
    connection.execute(
        "UPDATE copies SET envelope_id = NULL, envelope_index = NULL WHERE state = 'waiting' AND site IS NOT NULL"
        " AND envelope_id IS NOT NULL"
        " AND envelope_id NOT IN (SELECT envelope_id FROM envelopes WHERE direction = 'out' AND state = 'uploading')"
    )


# -- receipts


def take_receipts(
    connection: sqlite3.Connection, router_id: str, *, most: int, reveal: Callable[[str, bytes], bytes]
) -> Receipts | None:
    """Take what is due to a Router, that about unreadable letters first; None if nothing is.

    `reveal` opens a device's own words, which are sealed in the ledger; a receipt goes without those that are damaged.
    """
    rows = connection.execute(
        "SELECT receipt_id, receipt, letter, comment FROM receipts_due WHERE router_id = ?"
        " ORDER BY letter IS NULL, receipt_id LIMIT ?",
        (router_id, most),
    ).fetchall()
    connection.executemany("DELETE FROM receipts_due WHERE receipt_id = ?", [(row[0],) for row in rows])
    if not rows:
        return None
    return Receipts(
        receipts=[_receipt(row[1], row[3], reveal) for row in rows if row[2] is None],
        unreadable=[row[2] for row in rows if row[2] is not None],
    )


def _receipt(payload: str, comment: bytes | None, reveal: Callable[[str, bytes], bytes]) -> Receipt:
    receipt = Receipt.parse(payload.encode())
    if comment is None:
        return receipt
    with contextlib.suppress(SealBroken):
        receipt = receipt.model_copy(update={"comment": reveal(COMMENT_LABEL, comment).decode()})
    return receipt


def receipts_due(connection: sqlite3.Connection) -> dict[str, int]:
    """Return how many receipts are due to each Router."""
    return dict(connection.execute("SELECT router_id, COUNT(*) FROM receipts_due GROUP BY router_id"))


def _envelope(row: tuple[Any, ...]) -> Envelope:
    values = (*row[:9], tuple(int(size) for size in row[9].split(",") if size), *row[10:])
    return Envelope(*values)
