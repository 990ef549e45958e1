"""A second envelope of the same objects: a lost ledger does not forget the device that it is for."""

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from tests.unit.router.queued.spool.home import Home, contents
from tests.unit.router.queued.spool.test_inbound import NORTH, copies, envelope, keep

from isthmus.contract.letters import Manifest
from isthmus.kit import platform
from isthmus.router.queued.ledger import incoming
from isthmus.router.queued.spool import notes
from isthmus.router.queued.spool.bundles import NoRoom, Spool
from isthmus.router.queued.spool.header import Inbound


def second(manifest: Manifest, called: str = "AI", *, envelope_id: bytes = b"2" * 16, **change: Any) -> Manifest:
    """Return what the sender writes for the other device of a group: the same objects, in another envelope."""
    return manifest.model_copy(update={"called": called, "envelope_id": envelope_id, **change})


async def fetch(spool: Spool, manifest: Manifest, whole: bytes) -> bool:
    """Fetch an envelope; return whether its file is needed."""
    bundle = await spool.receive(NORTH, manifest)
    await bundle.pwrite(0, whole)
    return await keep(spool, bundle)


async def ask_for_known(spool: Spool, manifest: Manifest) -> None:
    """Take an envelope of which everything is here, as the inbox does."""

    def write(connection: Any) -> None:
        known = incoming.known_objects(connection, NORTH, manifest)
        assert len(known) == len(manifest.objects)
        spool.add_known(connection, Inbound(NORTH, manifest), known)

    await spool.ledger.run(write)


def all_of(manifest: Manifest, *, flagged: int) -> list[tuple[Any, ...]]:
    return [
        (manifest.called, manifest.envelope_id, index, "waiting", flagged) for index in range(len(manifest.objects))
    ]


async def test_a_lost_ledger_knows_the_second_device_of_a_group_again(home: Home, tmp_path: Path) -> None:
    manifest, whole = envelope(home, [b"a" * 1000, b"b"])
    other, third = second(manifest), second(manifest, "EAST", envelope_id=b"3" * 16)
    async with home.running() as spool:
        assert await fetch(spool, manifest, whole)
        await ask_for_known(spool, other)
        await ask_for_known(spool, other)
        assert not await fetch(spool, third, whole)
        assert await copies(spool) == all_of(other, flagged=0) + all_of(third, flagged=0) + all_of(manifest, flagged=0)
        (file,) = home.files()
        assert spool.room.used == file.stat().st_size
        later = home.cut_power(tmp_path / "cut", ledger=False)
    async with later.running() as spool:
        assert await contents(spool) == [b"a" * 1000, b"b"]
        assert await copies(spool) == all_of(other, flagged=1) + all_of(third, flagged=1) + all_of(manifest, flagged=1)
        (file,) = later.files()
        assert spool.room.used == file.stat().st_size


async def test_of_an_envelope_with_something_new_the_known_part_is_remembered_too(home: Home, tmp_path: Path) -> None:
    both, whole = envelope(home, [b"a" * 1000, b"b"])
    first = second(both, "PACS", envelope_id=b"1" * 16, objects=both.objects[:1])
    other = second(both)
    async with home.running() as spool:
        assert await fetch(spool, first, whole)
        assert await fetch(spool, other, whole)
        later = home.cut_power(tmp_path / "cut", ledger=False)
        # what was new in the second one is delivered, and its file goes
        await spool.ledger.run(
            lambda connection: (
                connection.execute(
                    "UPDATE copies SET state = 'delivered' WHERE destination = 'AI' AND envelope_index = 1"
                )
                and None
            )
        )
        names = [row[0] for row in await spool.ledger.read(_bundles)]
        assert [await spool.release(bundle_id) for bundle_id in names] == [False, True]
        last = home.cut_power(tmp_path / "last", ledger=False)
    async with later.running() as spool:
        assert await copies(spool) == all_of(other, flagged=1) + all_of(first, flagged=1)
    async with last.running() as spool:
        assert await copies(spool) == all_of(other, flagged=1)[:1] + all_of(first, flagged=1)


def _bundles(connection: sqlite3.Connection) -> list[tuple[int]]:
    return connection.execute("SELECT bundle_id FROM bundles ORDER BY bundle_id").fetchall()


async def test_a_note_that_a_power_cut_tore_makes_way_for_the_next(home: Home, tmp_path: Path) -> None:
    manifest, whole = envelope(home, [b"a" * 1000])
    async with home.running() as spool:
        await fetch(spool, manifest, whole)
        (file,) = home.files()
        start = file.stat().st_size
        await ask_for_known(spool, second(manifest))
    noted = file.read_bytes()
    for number, tail in enumerate((noted[start:-1], noted[start : start + 5], bytes(9000), b"ISTHMUSB" + bytes(3))):
        file.write_bytes(noted[:start] + tail)
        torn = home.cut_power(tmp_path / f"{number}", ledger=False)
        other = second(manifest, "EAST", envelope_id=b"3" * 16)
        async with torn.running() as spool:
            assert await copies(spool) == all_of(manifest, flagged=1)
            await ask_for_known(spool, other)
            assert spool.room.used == torn.files()[0].stat().st_size
        later = torn.cut_power(tmp_path / f"{number} later", ledger=False)
        async with later.running() as spool:
            assert await copies(spool) == all_of(other, flagged=1) + all_of(manifest, flagged=1)


async def test_a_note_is_durable_before_the_envelope_counts_and_without_room_it_does_not(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, whole = envelope(home, [b"a" * 1000])
    synced: list[int] = []
    async with home.running() as spool:
        await fetch(spool, manifest, whole)
        (file,) = home.files()

        def full(*_: object) -> None:
            raise OSError(28, "no room")

        with monkeypatch.context() as patch:
            patch.setattr(platform, "write_at", full)
            with pytest.raises(NoRoom):
                await ask_for_known(spool, second(manifest))
        assert await copies(spool) == all_of(manifest, flagged=0)
        monkeypatch.setattr(platform, "sync_data", lambda _: synced.append(file.stat().st_size))
        await ask_for_known(spool, second(manifest))
        assert synced == [file.stat().st_size]


async def test_notes_go_with_their_bundle_and_are_of_no_use_beside_another(home: Home) -> None:
    manifest, whole = envelope(home, [b"a" * 1000])
    async with home.running() as spool:
        await fetch(spool, manifest, whole)
        await ask_for_known(spool, second(manifest))
        (file,) = home.files()
        size = (await spool.ledger.read(lambda c: c.execute("SELECT size FROM bundles").fetchone()))[0]
        with file.open("rb") as content:
            assert [note.manifest.called for note in notes.read(content, file.name, size, spool.secrets)[0]] == ["AI"]
            assert notes.read(content, "f" * 32, size, spool.secrets) == ([], size)
        await spool.ledger.run(lambda connection: connection.execute("UPDATE copies SET state = 'delivered'") and None)
        for (bundle_id,) in await spool.ledger.read(_bundles):
            assert await spool.release(bundle_id)
        assert home.files() == []
        assert spool.room.used == 0
