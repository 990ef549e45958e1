"""What is done at a start: the ledger is completed from the bundles, and what cannot be trusted is not sent.

Sealed bytes in the bundles are the truth; the ledger lags behind by what became durable in its last tenth of a second,
or by everything, if it was lost.
"""

import asyncio
import contextlib
import os
import re
import shutil
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

import structlog

from isthmus.envelope.records import RecordSpan, next_record, walk
from isthmus.errors import SealBroken
from isthmus.kit.threads import opened
from isthmus.router.queued.ledger import damage, incoming, ingested
from isthmus.router.queued.ledger.deliveries import JOURNAL
from isthmus.router.queued.ledger.records import BundleRow, Direction, ObjectRow
from isthmus.router.queued.spool import notes
from isthmus.router.queued.spool.bundles import Spool
from isthmus.router.queued.spool.header import BundleHeader, Inbound, Route
from isthmus.router.queued.spool.inbound import InboundBundle
from isthmus.router.queued.spool.indexing import StoredObject, bundle_row, route_copies
from isthmus.router.queued.spool.reading import BundleReader, verify_record
from isthmus.router.queued.trouble import SpoolFailed, from_os

_NAME: Final = re.compile(r"[0-9a-f]{32}")
_PAGE: Final = 500
_TOGETHER: Final = 500
_ASIDE: Final = ".damaged"
_COPY_BYTES: Final = 1024 * 1024

_log = structlog.get_logger()


@dataclass(slots=True)
class Recovered:
    """What a start found.

    Attributes:
        objects: durable objects that had no row and have one now.
        cut: bytes behind the last whole record of a bundle, cut off.
        dropped: files that never became bundles, and of which nobody waits for the rest.
        damaged: bundles put aside or held, because their header does not verify or their file is missing.
        unfinished: names of inbound bundles that are being fetched; `Spool.receive` goes on with them.
    """

    objects: int = 0
    cut: int = 0
    dropped: int = 0
    damaged: int = 0
    unfinished: dict[str, Inbound] = field(default_factory=dict)


async def recover(spool: Spool) -> Recovered:
    """Bring ledger and bundles together; before `Spool.running`.

    A ledger that never had all bundles takes the place of a lost one, or is the first. All copies are then flagged,
    since they may be with their devices already, and envelopes of other sites that are whole count as received.
    Raises NoRoom or SpoolFailed if the ledger or the disk does not do its part; the next start begins again.
    """
    found = Recovered()
    try:
        names = await asyncio.to_thread(_names, spool, await spool.ledger.read(ingested.bundle_ids))
        complete = await spool.ledger.read(ingested.is_complete)
        spool.start_after(await spool.ledger.read(ingested.highest_bundle))
        for name in names:
            await _one_file(spool, name, found, rebuild=not complete)
        await _missing_files(spool, set(names), found)
        if complete:
            await _drop_unwanted(spool, found)
        else:
            await _want_again(spool, found)
            # what it says is about copies of another ledger
            spool.ledger.path.with_name(JOURNAL).unlink(missing_ok=True)
    except OSError as error:
        raise from_os(error, "looking through the spool") from error
    if not complete:
        await spool.ledger.run(ingested.mark_complete)
    if found.objects or found.cut or found.damaged:
        _log.info("spool recovered", objects=found.objects, bytes_cut=found.cut, damaged=found.damaged)
    return found


async def verify_doubtful(spool: Spool) -> int:
    """Verify every bundle that was there at the start, one after another; return how many objects were damaged.

    It rests as long as it works, so that it takes at most half a core and half the disk.
    """
    damaged = 0
    for bundle_id in sorted(spool.doubtful):
        if bundle_id in spool.doubtful:
            began = spool.clock.monotonic()
            damaged += await verify(spool, bundle_id)
            await asyncio.sleep(spool.clock.monotonic() - began)
    return damaged


async def verified(spool: Spool, bundle_id: int) -> None:
    """Verify a bundle that was there at the start, unless that is done: before anything of it leaves."""
    if bundle_id in spool.doubtful:
        await verify(spool, bundle_id)


async def verify(spool: Spool, bundle_id: int) -> int:
    """Read a bundle and hold the copies of what does not verify; return how many objects that were.

    Harmless for a bundle that is gone. Raises NoRoom or SpoolFailed if the ledger cannot keep the outcome.
    """

    def rows(connection: sqlite3.Connection) -> tuple[BundleRow | None, list[ObjectRow]]:
        return ingested.bundle(connection, bundle_id), ingested.objects_of(connection, bundle_id)

    row, objects = await spool.ledger.read(rows)
    bad: list[bytes] = []
    if row is not None and not row.gone:
        bad = await asyncio.to_thread(_damaged_objects, spool, row, objects)
    if bad:
        _log.error("objects are damaged in the spool, and held", bundle_id=bundle_id, objects=len(bad))
        await spool.ledger.run(lambda connection: damage.hold_damaged(connection, bad, now=spool.clock.now()))
    spool.doubtful.discard(bundle_id)
    return len(bad)


def _names(spool: Spool, known: Mapping[str, int]) -> list[str]:
    """Return the names of all bundles, in the order in which they were begun: a storage commitment comes last."""
    names = sorted(entry.name for entry in os.scandir(spool.folder) if _NAME.fullmatch(entry.name))
    return sorted(names, key=lambda name: known[name] if name in known else _begun(spool, name))


def _begun(spool: Spool, name: str) -> int:
    try:
        reader = BundleReader.open(spool.path(name), spool.secrets)
    except (SealBroken, SpoolFailed):
        return 0
    reader.close()
    return reader.header.bundle_id


async def _one_file(spool: Spool, name: str, found: Recovered, *, rebuild: bool) -> None:
    row = await spool.ledger.read(lambda connection: ingested.bundle_named(connection, name))
    path = spool.path(name)
    if row is not None and row.gone:
        path.unlink()
        return
    size = path.stat().st_size
    spool.room.add(size)
    if row is not None and row.closed:
        spool.doubtful.add(row.bundle_id)
        if row.direction is Direction.OUT and size > row.size:
            await _cut(spool, name, size, row.size, found)
        return
    try:
        reader = await opened(BundleReader.open, path, spool.secrets)
    except (SealBroken, SpoolFailed) as error:
        await _without_header(spool, name, row, found, never_durable=isinstance(error, SpoolFailed))
        return
    try:
        spool.start_after(reader.header.bundle_id)
        if isinstance(reader.header.content, Route):
            await _outbound(spool, reader, reader.header.content, name, row, found, rebuild=rebuild)
        elif not rebuild or not await _whole_inbound(spool, reader, reader.header.content, found):
            found.unfinished[name] = reader.header.content
    finally:
        reader.close()


async def _without_header(
    spool: Spool, name: str, row: BundleRow | None, found: Recovered, *, never_durable: bool
) -> None:
    """Drop a file that never became a bundle; hold what was in one that did."""
    path = spool.path(name)
    if row is None and never_durable:
        await _drop(spool, name, found)
        return
    found.damaged += 1
    if row is None:  # not ours, or badly damaged: a person may want it, and it is in nobody's way
        _log.error("a bundle cannot be read and is put aside", bundle=name)
        path.rename(path.with_suffix(_ASIDE))
    else:  # an outbound one that was not closed: where the rest of it was to go, nobody knows any more
        _log.error("a bundle is damaged, and what is in it held", bundle=name)
        await _hold(spool, row.bundle_id)


async def _outbound(
    spool: Spool,
    reader: BundleReader,
    route: Route,
    name: str,
    row: BundleRow | None,
    found: Recovered,
    *,
    rebuild: bool,
) -> None:
    """Index what lies beyond what the ledger has of a bundle, cut the rest off, and close it."""
    end, count = (row.size, row.objects) if row is not None else (reader.start, 0)
    if count:
        spool.doubtful.add(reader.header.bundle_id)
    spans = _records(reader, end)
    while some := await asyncio.to_thread(lambda: list(islice(spans, _TOGETHER))):
        stored = await asyncio.to_thread(_verified, spool, reader, some, count)
        if stored:
            await _index_outbound(spool, reader.header, route, name, stored, flagged=rebuild)
            end, count = stored[-1].position + stored[-1].length, stored[-1].ordinal
            found.objects += len(stored)
    if (size := reader.size) > end:
        if rebuild:
            await asyncio.to_thread(_keep_tail, spool, reader, end)
        await _cut(spool, name, size, end, found)
    if count:
        closed = bundle_row(reader.header, name, size=end, objects=count, closed=True)
        await spool.ledger.run(lambda connection: ingested.put_bundle(connection, closed))
    else:
        await _drop(spool, name, found)


def _records(reader: BundleReader, start: int) -> Iterator[RecordSpan]:
    """Yield the records from `start` on, by their headers. Behind damaged headers it goes on at the next record."""
    while True:
        for span in walk(reader.file, start):
            yield span
            start = span.end
        behind = next_record(reader.file, start + 1)
        if behind is None:
            return
        lost = behind - start
        _log.error("a bundle is damaged, and what follows read", bundle=reader.name, position=start, bytes=lost)
        start = behind


def _keep_tail(spool: Spool, reader: BundleReader, end: int) -> None:
    """Put aside what is to be cut off if it is more than the trace of one write that never ended.

    The ledger that knew is lost: these may be objects that were acknowledged, all of them damaged.
    """
    if next(walk(reader.file, end), None) is None and next_record(reader.file, end + 1) is None:
        return
    aside = spool.path(reader.name).with_suffix(_ASIDE)
    _log.error("the end of a bundle is damaged, and put aside", bundle=reader.name, bytes=reader.size - end)
    with aside.open("wb") as copy:
        reader.file.seek(end)
        shutil.copyfileobj(reader.file, copy, _COPY_BYTES)


async def _cut(spool: Spool, name: str, size: int, end: int, found: Recovered) -> None:
    await asyncio.to_thread(os.truncate, spool.path(name), end)
    spool.room.add(end - size)
    found.cut += size - end


def _verified(spool: Spool, reader: BundleReader, spans: Sequence[RecordSpan], count: int) -> list[StoredObject]:
    """Return those of the records that verify, of which the first is the one after `count`.

    One that does not is passed over if it stands before one that does: it was whole once, and is damaged.
    """
    stored: list[StoredObject] = []
    for span in spans:
        secret = reader.secret(span.object_id)
        assert secret is not None  # that of an outbound object is derived
        try:
            record = verify_record(reader.file, span, secret)
        except SealBroken:
            _log.error("a record does not verify", bundle_id=reader.header.bundle_id, position=span.offset)
            continue
        looked = spool.look(record.meta, record.head)
        stored.append(record.stored(reader.header.bundle_id, count + len(stored) + 1, looked))
    return stored


def _damaged_objects(spool: Spool, row: BundleRow, objects: Sequence[ObjectRow]) -> list[bytes]:
    try:
        reader = BundleReader.open(spool.path(row.name), spool.secrets)
    except (OSError, SealBroken, SpoolFailed):
        return [item.object_id for item in objects]
    bad = []
    with contextlib.closing(reader):
        for item in objects:
            secret = reader.secret(item.object_id)
            try:
                if secret is None:
                    raise SealBroken("there is no secret for this object")
                record = verify_record(reader.file, RecordSpan(item.object_id, item.position, item.length), secret)
                if record.digest != item.digest:
                    raise SealBroken("the data set is another one")
            except (OSError, SealBroken):
                bad.append(item.object_id)
    return bad


async def _missing_files(spool: Spool, names: set[str], found: Recovered) -> None:
    """Find bundles without a file: gone, if nobody needs them any more, else damaged."""
    after = 0
    while rows := await _page(spool, after):
        after = rows[-1].bundle_id
        for row in rows:
            if row.name in names:
                await spool.release(row.bundle_id)
                continue
            if not await spool.release(row.bundle_id):
                _log.error("a bundle is missing, and what was in it held", bundle=row.name)
                await _hold(spool, row.bundle_id)
                found.damaged += 1


async def _page(spool: Spool, after: int) -> list[BundleRow]:
    return await spool.ledger.read(lambda connection: ingested.bundles_there(connection, after=after, most=_PAGE))


async def _hold(spool: Spool, bundle_id: int) -> None:
    await spool.ledger.run(lambda connection: damage.hold_damaged_bundle(connection, bundle_id, now=spool.clock.now()))


async def _drop(spool: Spool, name: str, found: Recovered) -> None:
    path = spool.path(name)
    spool.room.add(-path.stat().st_size)
    path.unlink()
    found.dropped += 1


async def _index_outbound(
    spool: Spool, header: BundleHeader, route: Route, name: str, stored: Sequence[StoredObject], *, flagged: bool
) -> None:
    last = stored[-1]
    bundle = bundle_row(header, name, size=last.position + last.length, objects=last.ordinal, closed=False)

    def write(connection: sqlite3.Connection) -> None:
        ingested.put_bundle(connection, bundle)
        spool.add_objects(
            connection, route.calling, stored, [route_copies(route, item, flagged=flagged) for item in stored]
        )

    await spool.ledger.run(write)


async def _whole_inbound(spool: Spool, reader: BundleReader, content: Inbound, found: Recovered) -> bool:
    """Take an envelope into the ledger if every byte of it is there, with those that are noted behind it.

    Returns whether it is.
    """
    bundle = await opened(
        InboundBundle.open, spool.path(reader.name), reader.header, spool.secrets, spool.room, spool.look
    )
    try:
        row, stored = await bundle.commit()
    except SealBroken:
        return False
    finally:
        bundle.close()
    noted, end = await asyncio.to_thread(notes.read, reader.file, reader.name, row.size, spool.secrets)
    if end < reader.size:
        _log.error("what is noted behind a bundle is not all readable", bundle=reader.name, bytes=reader.size - end)

    def write(connection: sqlite3.Connection) -> bool:
        needed = False
        for number, envelope in enumerate((content, *noted)):
            known = incoming.known_objects(connection, envelope.far_router, envelope.manifest)
            flagged = {item.object_id for item in envelope.manifest.objects}  # each may be with its device already
            if number:
                spool.add_known(connection, envelope, known, flagged=flagged)
            else:
                needed = spool.add_inbound(connection, row, stored, envelope, known, flagged=flagged)
        return needed

    try:
        needed = await spool.ledger.run(write)
    except incoming.ForeignObject as error:
        _log.error("a bundle names what is not its sender's", bundle=reader.name, reason=str(error))
        return False
    if needed:
        found.objects += len(stored)
    else:  # all of it is in older bundles
        await _drop(spool, reader.name, found)
    return True


async def _drop_unwanted(spool: Spool, found: Recovered) -> None:
    """Delete what was fetched in part of envelopes that were given up, or that are here in another bundle."""
    rows = await spool.ledger.read(incoming.pulling)
    wanted = {spool.secrets.inbound_name(router_id, envelope_id) for envelope_id, router_id, _ in rows}
    for name in found.unfinished.keys() - wanted:
        _log.info("what was fetched in part is wanted no more", bundle=name)
        del found.unfinished[name]
        await _drop(spool, name, found)


async def _want_again(spool: Spool, found: Recovered) -> None:
    """Have the ledger know the envelopes that were being fetched: its letters were read, and do not come again."""

    def write(connection: sqlite3.Connection) -> None:
        for content in found.unfinished.values():
            incoming.begin(
                connection, content.far_router, content.manifest, incoming.NO_LETTER, protect=spool.seal_local
            )

    await spool.ledger.run(write)
