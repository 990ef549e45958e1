"""A bundle of another site: it counts when every byte verified and is durable; a crash costs a segment at most."""

import hashlib
import os
from pathlib import Path

import pytest
from tests.unit.router.queued.spool.home import Home, chance, contents

from isthmus.contract.letters import Manifest, ManifestObject, ObjectKind
from isthmus.envelope.identity import RouterId
from isthmus.envelope.records import RecordSealer
from isthmus.errors import SealBroken
from isthmus.router.queued.ledger.records import Direction
from isthmus.router.queued.spool.bundles import NoRoom

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


async def test_an_envelope_that_is_whole_becomes_a_bundle(home: Home) -> None:
    data_sets = [b"one" * 70_000, b"", b"three"]
    manifest, whole = envelope(home, data_sets, gap=11)
    async with home.running() as spool:
        bundle = await spool.receive(NORTH, manifest)
        half = len(whole) // 2
        await bundle.pwrite(half, whole[half:])
        await bundle.pwrite(0, whole[:half])
        row, stored = await bundle.commit()
        bundle.close()
        assert (row.direction, row.far_router, row.objects, row.closed) == (Direction.IN, NORTH, 3, True)
        assert await spool.ledger.run(lambda connection: spool.register_inbound(connection, row, stored, manifest))
        assert not await spool.ledger.run(lambda connection: spool.register_inbound(connection, row, stored, manifest))
        assert await contents(spool) == data_sets
        copies = await spool.ledger.read(
            lambda connection: connection.execute(
                "SELECT destination, site, state, envelope_id, envelope_index FROM copies ORDER BY copy_id"
            ).fetchall()
        )
        assert copies == [("PACS", None, "waiting", manifest.envelope_id, index) for index in range(3)]
        assert spool.room.used == home.files()[0].stat().st_size == row.size


async def test_a_crash_costs_no_more_than_the_segment_it_fell_into(home: Home, tmp_path: Path) -> None:
    manifest, whole = envelope(home, [b"a" * 250_000, b"b" * 350_000])
    written = len(whole) - 120_000
    async with home.running() as spool:
        bundle = await spool.receive(NORTH, manifest)
        assert await bundle.verified_prefix() == 0
        await bundle.pwrite(0, whole[:written])
        later = home.cut_power(tmp_path / "cut")
        bundle.close()
    async with later.running() as spool:
        assert later.recovered.unfinished == [bundle.name]
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


async def test_a_commit_syncs_file_and_folder_after_it_verified(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest, whole = envelope(home, [b"a" * 1000])
    order: list[str] = []
    real_file, real_folder = os.fdatasync, os.fsync
    async with home.running() as spool:
        bundle = await spool.receive(NORTH, manifest)
        await bundle.pwrite(0, whole)

        def sync_file(handle: int) -> None:
            order.append("file")
            real_file(handle)

        def sync_folder(handle: int) -> None:
            order.append("folder")
            real_folder(handle)

        monkeypatch.setattr(os, "fdatasync", sync_file)
        monkeypatch.setattr(os, "fsync", sync_folder)
        await bundle.commit()
        assert order == ["file", "folder"]
        bundle.close()


async def test_a_lost_ledger_knows_whole_envelopes_again_and_their_secrets(home: Home, tmp_path: Path) -> None:
    manifest, whole = envelope(home, [b"a" * 1000, b"b"])
    half, _ = envelope(home, [b"c" * 1000], seed="half")
    async with home.running() as spool:
        for wanted, content in ((manifest, whole), (half, b"?")):
            bundle = await spool.receive(NORTH, wanted)
            await bundle.pwrite(0, content)
            bundle.close()
        later = home.cut_power(tmp_path / "cut", ledger=False)
    async with later.running() as spool:
        assert await contents(spool) == [b"a" * 1000, b"b"]
        assert later.recovered.unfinished == [bundle.name]


async def test_two_senders_cannot_choose_the_same_file(home: Home) -> None:
    manifest, _ = envelope(home, [b"a"])
    async with home.running() as spool:
        one = await spool.receive(NORTH, manifest)
        two = await spool.receive(RouterId("e" * 36), manifest)
        assert one.name != two.name
        one.close()
        two.close()


async def test_an_unfinished_bundle_that_nobody_waits_for_is_deleted(home: Home) -> None:
    manifest, _ = envelope(home, [b"a"])
    async with home.running() as spool:
        (await spool.receive(NORTH, manifest)).close()
    async with home.running() as spool:
        (name,) = home.recovered.unfinished
        await spool.delete_unfinished(name)
        await spool.delete_unfinished(name)
        assert home.files() == []
        assert spool.room.used == 0
