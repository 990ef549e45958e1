"""A bundle of another site: it counts when every byte verified and is durable; a crash costs a segment at most."""

import asyncio
import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.router.queued.spool.home import Home, chance, contents

from isthmus.contract.letters import Manifest, ManifestObject, ObjectKind
from isthmus.envelope.identity import RouterId
from isthmus.envelope.keys import StreamKey
from isthmus.envelope.records import RECORD_TAG, RecordSealer
from isthmus.envelope.segments import Sealer, SegmentType
from isthmus.errors import SealBroken
from isthmus.kit import platform
from isthmus.kit.tasks import Tasks
from isthmus.router.queued.ledger import incoming
from isthmus.router.queued.ledger.records import Direction
from isthmus.router.queued.spool.bundles import InboundBundle, NoRoom, Spool
from isthmus.router.queued.spool.fresh import FreshObjects
from isthmus.router.queued.spool.header import Inbound
from isthmus.testing.depth import count

NORTH = RouterId("n" * 36)
SEGMENT = 100_000


def envelope(home: Home, data_sets: list[bytes], *, gap: int = 0, seed: str = "envelope") -> tuple[Manifest, bytes]:
    """Return an envelope as another Router would make it, and its manifest."""
    random = chance(seed)
    records, objects, offset = [], [], 0
    for number, content in enumerate(data_sets):
        object_id, secret = random(16), random(32)
        sealer = RecordSealer(object_id, secret, home.meta(number))
        pieces = [sealer.begin()]
        pieces += [sealer.data(content[at : at + SEGMENT]) for at in range(0, len(content), SEGMENT)]
        record = b"".join((*pieces, sealer.finish()))
        digest = hashlib.sha256(content).digest()
        objects.append(
            ManifestObject(
                object_id=object_id,
                secret=secret,
                offset=offset,
                length=len(record),
                digest=digest,
                kind=ObjectKind.STORE,
            )
        )
        records += [record, b"?" * gap]
        offset += len(record) + gap
    whole = b"".join(records)
    manifest = Manifest(
        envelope_id=random(16),
        calling="CT1",
        called="PACS",
        sent=home.clock.now(),
        size=len(whole),
        blobs=[len(whole)],
        name_key=random(32),
        objects=objects,
    )
    return manifest, whole


async def begin(spool: Spool, manifest: Manifest) -> InboundBundle:
    """Note an envelope as its letter does, and return its bundle."""
    await spool.ledger.run(
        lambda connection: incoming.begin(connection, NORTH, manifest, 1, protect=spool.seal_local) and None
    )
    return await spool.receive(NORTH, manifest)


async def keep(spool: Spool, bundle: InboundBundle) -> bool:
    """Have a whole bundle count, and what of it is here already; return whether its file is needed."""
    row, stored = await bundle.commit()
    bundle.close()

    def write(connection: Any) -> bool:
        known = incoming.known_objects(connection, NORTH, bundle.manifest)
        incoming.finish(connection, bundle.manifest.envelope_id, row.bundle_id, "received")
        return spool.add_inbound(connection, row, stored, Inbound(NORTH, bundle.manifest), known)

    needed = await spool.ledger.run(write)
    if not needed:
        await bundle.drop()
    return needed


async def copies(spool: Spool) -> list[tuple[Any, ...]]:
    """Return every copy: its device, its envelope, its place there, its state, and whether it may be a repeat."""
    return await spool.ledger.read(
        lambda connection: connection.execute(
            "SELECT destination, envelope_id, envelope_index, state, flagged FROM copies"
            " ORDER BY destination, envelope_index"
        ).fetchall()
    )


async def test_an_envelope_that_is_whole_becomes_a_bundle(home: Home) -> None:
    data_sets = [b"one" * 70_000, b"", b"three"]
    manifest, whole = envelope(home, data_sets, gap=11)
    async with home.running() as spool:
        bundle = await spool.receive(NORTH, manifest)
        half = len(whole) // 2
        await bundle.pwrite(half, whole[half:])
        await bundle.pwrite(0, whole[:half])
        row, _ = await bundle.commit()
        assert (row.direction, row.far_router, row.objects, row.closed) == (Direction.IN, NORTH, 3, True)
        assert await keep(spool, bundle)
        assert await contents(spool) == data_sets
        assert await copies(spool) == [("PACS", manifest.envelope_id, index, "waiting", 0) for index in range(3)]
        assert spool.room.used == home.files()[0].stat().st_size == row.size


def sealed_by_another_receiver(manifest: Manifest, home: Home, content: bytes) -> bytes:
    """Return a record that somebody made who got the same secret: another data set, which says that it is the first."""
    item = manifest.objects[0]
    sealer = Sealer(StreamKey.derive(item.secret, b"object", control=False))
    meta = home.meta(0).to_payload()
    final = (len(meta) + len(content)).to_bytes(8, "big") + (2).to_bytes(8, "big") + item.digest
    segments = [
        sealer.seal(SegmentType.DATA, meta, prefix=RECORD_TAG + item.object_id),
        sealer.seal(SegmentType.DATA, content),
        sealer.seal(SegmentType.FINAL, final),
    ]
    return b"".join(segments)


async def test_what_another_receiver_sealed_under_the_same_secret_is_refused(home: Home) -> None:
    manifest, whole = envelope(home, [b"what the sender's device sent"])
    forged = sealed_by_another_receiver(manifest, home, b"what another site would like!")
    assert len(forged) == len(whole)
    assert manifest.shared, "unless the sender says otherwise"
    async with home.running() as spool:
        bundle = await spool.receive(NORTH, manifest)
        await bundle.pwrite(0, forged)
        with pytest.raises(SealBroken, match="digest"):
            await bundle.commit()
        await bundle.pwrite(0, whole)
        await bundle.commit()
        bundle.close()


async def test_what_has_verified_is_delivered_as_it_was_opened(home: Home) -> None:
    data_sets = [b"one" * 70_000, b"", b"three" * 100_000]
    manifest, whole = envelope(home, data_sets)
    first, second, third = (item.object_id for item in manifest.objects)
    async with home.running() as spool:
        bundle = await spool.receive(NORTH, manifest)
        await bundle.pwrite(0, whole)
        fresh = FreshObjects(len(data_sets[2]) + 1000)
        row, stored = await bundle.commit(fresh)
        bundle.close()
        assert fresh.take(row.bundle_id, third) is None, "there was no room left for it"
        for object_id, data_set in ((first, data_sets[0]), (second, data_sets[1])):
            item = fresh.take(row.bundle_id, object_id)
            assert item is not None
            assert b"".join(item.pieces) == data_set
            assert item.meta == next(one.meta for one in stored if one.object_id == object_id)


async def test_what_does_not_verify_is_not_held_for_delivery(home: Home) -> None:
    manifest, whole = envelope(home, [b"good" * 1000, b"bad" * 1000])
    async with home.running() as spool:
        bundle = await spool.receive(NORTH, manifest)
        await bundle.pwrite(0, whole[:-1] + bytes((whole[-1] ^ 1,)))
        fresh = FreshObjects(100_000)
        with pytest.raises(SealBroken):
            await bundle.commit(fresh)
        bundle.close()
        assert fresh.room == 100_000


async def test_a_crash_costs_no_more_than_the_segment_it_fell_into(home: Home, tmp_path: Path) -> None:
    manifest, whole = envelope(home, [b"a" * 250_000, b"b" * 350_000])
    written = len(whole) - 120_000
    async with home.running() as spool:
        bundle = await begin(spool, manifest)
        assert await bundle.verified_prefix() == 0
        await bundle.pwrite(0, whole[:written])
        later = home.cut_power(tmp_path / "cut")
        bundle.close()
    async with later.running() as spool:
        assert list(later.recovered.unfinished) == [bundle.name]
        again = await spool.receive(NORTH, manifest)
        assert again.bundle_id == bundle.bundle_id
        assert again.name == bundle.name
        prefix = await again.verified_prefix()
        assert written - SEGMENT - 100 < prefix <= written
        await again.pwrite(prefix, whole[prefix:])
        assert await again.verified_prefix() == manifest.size
        _, stored = await again.commit()
        assert [item.payload for item in stored] == [250_000, 350_000]
        again.close()


@pytest.mark.parametrize("place", ["first", "middle", "last"])
async def test_an_envelope_with_one_other_bit_does_not_become_a_bundle(home: Home, place: str) -> None:
    manifest, whole = envelope(home, [b"a" * 1000, b"b" * 1000])
    damaged = bytearray(whole)
    damaged[{"first": 0, "middle": manifest.objects[1].offset + 80, "last": len(whole) - 1}[place]] ^= 1
    async with home.running() as spool:
        bundle = await spool.receive(NORTH, manifest)
        await bundle.pwrite(0, bytes(damaged))
        assert await bundle.verified_prefix() < manifest.size
        with pytest.raises(SealBroken):
            await bundle.commit()
        await bundle.drop()
        assert home.files() == []
        assert spool.room.used == 0


async def test_an_object_that_is_not_the_one_of_the_manifest_does_not_count(home: Home) -> None:
    manifest, whole = envelope(home, [b"a" * 1000])
    (item,) = manifest.objects
    other = manifest.model_copy(update={"objects": [item.model_copy(update={"digest": b"d" * 32})]})
    async with home.running() as spool:
        bundle = await spool.receive(NORTH, other)
        await bundle.pwrite(0, whole)
        with pytest.raises(SealBroken, match="manifest"):
            await bundle.commit()
        bundle.close()


async def test_a_blob_beyond_its_envelope_is_refused(home: Home) -> None:
    manifest, whole = envelope(home, [b"a" * 1000])
    async with home.running() as spool:
        bundle = await spool.receive(NORTH, manifest)
        with pytest.raises(SealBroken):
            await bundle.pwrite(1, whole)
        bundle.close()


async def test_nothing_is_fetched_that_there_is_no_room_for(home: Home) -> None:
    manifest, _ = envelope(home, [b"a" * 100_000])
    async with home.running(quota=50_000) as spool:
        with pytest.raises(NoRoom):
            await spool.receive(NORTH, manifest)
        assert home.files() == []


async def test_a_bundle_is_durable_with_its_name_before_anything_of_it_counts(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, whole = envelope(home, [b"a" * 1000])
    order: list[str] = []
    real_file, real_folder = os.fdatasync, os.fsync

    def sync_file(handle: int) -> None:
        order.append("file")
        real_file(handle)

    def sync_folder(handle: int) -> None:
        order.append("folder")
        real_folder(handle)

    async with home.running() as spool:
        monkeypatch.setattr(os, "fdatasync", sync_file)
        monkeypatch.setattr(os, "fsync", sync_folder)
        bundle = await spool.receive(NORTH, manifest)
        assert order == ["file", "folder"]
        bundle.close()
        order.clear()
        bundle = await spool.receive(NORTH, manifest)  # as after a stop, which may have come before the folder's sync
        assert order == ["folder"]
        await bundle.pwrite(0, whole)
        await bundle.commit()
        assert order == ["folder", "file"]
        bundle.close()


async def test_a_lost_ledger_knows_whole_envelopes_again_and_goes_on_with_the_others(
    home: Home, tmp_path: Path
) -> None:
    manifest, whole = envelope(home, [b"a" * 1000, b"b"])
    half, all_of_half = envelope(home, [b"c" * 1000], seed="half")
    async with home.running() as spool:
        for wanted, content in ((manifest, whole), (half, b"?")):
            bundle = await spool.receive(NORTH, wanted)
            await bundle.pwrite(0, content)
            bundle.close()
        later = home.cut_power(tmp_path / "cut", ledger=False)
    async with later.running() as spool:
        assert await contents(spool) == [b"a" * 1000, b"b"]
        assert list(later.recovered.unfinished) == [bundle.name]
        (pulling,) = await spool.ledger.read(incoming.pulling)
        assert pulling[:2] == (half.envelope_id, NORTH)
    async with later.running() as spool:
        again = await spool.receive(NORTH, half)
        await again.pwrite(0, all_of_half)
        assert await keep(spool, again)
        assert await contents(spool) == [b"a" * 1000, b"b", b"c" * 1000]


async def test_two_senders_cannot_choose_the_same_file(home: Home) -> None:
    manifest, _ = envelope(home, [b"a"])
    async with home.running() as spool:
        one = await spool.receive(NORTH, manifest)
        two = await spool.receive(RouterId("e" * 36), manifest)
        assert one.name != two.name
        one.close()
        two.close()


async def test_an_unfinished_bundle_that_nobody_waits_for_is_deleted_at_the_start(home: Home) -> None:
    wanted, _ = envelope(home, [b"a"])
    given_up, _ = envelope(home, [b"b"], seed="given up")
    never_begun, _ = envelope(home, [b"c"], seed="never begun")
    async with home.running() as spool:
        for manifest in (wanted, given_up):
            (await begin(spool, manifest)).close()
        (await spool.receive(NORTH, never_begun)).close()
        await spool.ledger.run(
            lambda connection: incoming.finish(connection, given_up.envelope_id, 0, "unreadable") and None
        )
        assert len(home.files()) == 3
    async with home.running() as spool:
        (left,) = home.files()
        assert list(home.recovered.unfinished) == [left.name]
        assert left.name == spool.secrets.inbound_name(NORTH, wanted.envelope_id)
        assert home.recovered.dropped == 2
        assert spool.room.used == left.stat().st_size


# -- another manifest than that of the bytes


def _swapped(records: list[bytes]) -> list[bytes]:
    return records[::-1]


def _doubled(records: list[bytes]) -> list[bytes]:
    return [records[0], records[0], records[2]]


def _shifted(records: list[bytes]) -> list[bytes]:
    return [records[0], b"\0" + records[1], records[2][:-1]]


@pytest.mark.parametrize("change", [_swapped, _doubled, _shifted])
async def test_other_records_than_those_of_the_manifest_do_not_count(
    home: Home, change: Callable[[list[bytes]], list[bytes]]
) -> None:
    manifest, whole = envelope(home, [b"a" * 900, b"b" * 900, b"c" * 901])
    records = [whole[item.offset : item.offset + item.length] for item in manifest.objects]
    async with home.running() as spool:
        bundle = await spool.receive(NORTH, manifest)
        await bundle.pwrite(0, b"".join(change(records))[: manifest.size])
        with pytest.raises(SealBroken):
            await bundle.commit()
        bundle.close()


@pytest.mark.parametrize(
    "change",
    [{"kind": ObjectKind.COMMIT}, {"length": -1}, {"length": 1}, {"secret": bytes(32)}, {"object_id": bytes(16)}],
    ids=str,
)
async def test_a_manifest_that_says_otherwise_than_an_authentic_record_gives_nothing(
    home: Home, change: dict[str, Any]
) -> None:
    manifest, whole = envelope(home, [b"a" * 1000], gap=1)
    (item,) = manifest.objects
    if "length" in change:
        change = {"length": item.length + change["length"]}
    other = manifest.model_copy(update={"objects": [item.model_copy(update=change)]})
    async with home.running() as spool:
        bundle = await spool.receive(NORTH, other)
        await bundle.pwrite(0, whole)
        for _ in range(2):  # to try again is no way around it
            with pytest.raises(SealBroken):
                await bundle.commit()
        bundle.close()


async def test_one_damaged_bit_anywhere_costs_its_segment_and_not_what_is_before_it(home: Home) -> None:
    manifest, whole = envelope(home, [b"a" * 250_000, b"", b"b" * 150_000])
    random = chance("damage")
    async with home.running() as spool:
        bundle = await spool.receive(NORTH, manifest)
        await bundle.pwrite(0, whole)
        for _ in range(count(push=12, nightly=300)):
            place = int.from_bytes(random(4), "big") % len(whole)
            await bundle.pwrite(place, bytes([whole[place] ^ 1]))
            prefix = await bundle.verified_prefix()
            assert place - SEGMENT - 100 < prefix <= place
            await bundle.pwrite(prefix, whole[prefix:])
            assert await bundle.verified_prefix() == manifest.size
        await bundle.commit()
        bundle.close()


async def test_who_is_cancelled_while_a_blob_is_written_does_not_let_go_of_the_file_below_the_thread(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    written_to: list[int] = []

    def slow(handle: int, data: bytes, offset: int) -> None:
        del data, offset
        begun.set()
        go_on.wait()
        try:
            written_to.append(os.fstat(handle).st_ino)  # by then another file might have this number
        finally:
            ended.set()

    manifest, whole = envelope(home, [b"one" * 70_000])
    async with home.running() as spool:
        bundle = await begin(spool, manifest)
        monkeypatch.setattr(platform, "write_at", slow)

        async def write() -> None:
            try:
                await bundle.pwrite(0, whole)
            finally:
                bundle.close()

        tasks = Tasks("test")
        writing = tasks.spawn(write(), name="write")
        await asyncio.to_thread(begun.wait)
        writing.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
        go_on.set()
        await asyncio.to_thread(ended.wait)
        await tasks.close()
        assert written_to == [spool.path(bundle.name).stat().st_ino]


async def test_a_bundle_that_is_opened_for_one_who_is_cancelled_is_closed_again(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    bundles: list[InboundBundle] = []
    real = InboundBundle.open

    def slow(*arguments: Any) -> InboundBundle:
        begun.set()
        go_on.wait()
        bundles.append(real(*arguments))
        ended.set()
        return bundles[-1]

    manifest, _ = envelope(home, [b"one"])
    async with home.running() as spool:
        monkeypatch.setattr(InboundBundle, "open", slow)
        tasks = Tasks("test")
        opening = tasks.spawn(spool.receive(NORTH, manifest), name="open")
        await asyncio.to_thread(begun.wait)
        opening.cancel()
        await asyncio.sleep(0)
        go_on.set()
        await asyncio.to_thread(ended.wait)
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert bundles[0]._handle is None
