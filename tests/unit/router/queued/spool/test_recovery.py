"""What a start makes of what a crash left: all that was acknowledged, and nothing that does not verify."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.unit.router.queued.spool.home import ROUTE, Home, contents, count

from isthmus.envelope.records import PREFIX_BYTES
from isthmus.envelope.segments import HEADER_BYTES
from isthmus.router.queued.ledger import ingested
from isthmus.router.queued.ledger.deliveries import JOURNAL
from isthmus.router.queued.ledger.records import DAMAGED
from isthmus.router.queued.spool import recovery
from isthmus.router.queued.spool.bundles import Spool, StoredObject
from isthmus.router.queued.spool.recovery import verify, verify_doubtful
from isthmus.testing.depth import count as depth

CONTENTS = [b"one" * 40, b"", b"three" * 30]


async def a_small_bundle(home: Home) -> list[StoredObject]:
    """Leave a bundle of three objects, in the ledger too."""
    async with home.running() as spool:
        bundle = await spool.take(ROUTE)
        return [await home.store(bundle, content, number) for number, content in enumerate(CONTENTS)]


async def waiting(spool: Spool) -> list[tuple[str, str, int]]:
    return await spool.ledger.read(
        lambda connection: connection.execute(
            "SELECT c.state, c.reason, c.flagged FROM copies AS c JOIN objects AS o ON o.object_id = c.object_id"
            " ORDER BY o.bundle_id, o.position"
        ).fetchall()
    )


async def test_a_lost_ledger_is_made_again_from_the_bundles(home: Home, tmp_path: Path) -> None:
    await a_small_bundle(home)
    later = home.cut_power(tmp_path / "cut", ledger=False)
    async with later.running() as spool:
        assert await contents(spool) == CONTENTS
        assert later.recovered.objects == 3
        assert await waiting(spool) == [("waiting", "", 1)] * 3
        (row,) = await spool.ledger.read(lambda connection: ingested.bundles_there(connection, after=0, most=9))
        assert (row.calling, row.called, row.objects, row.closed) == ("CT1", "PACS", 3, True)
        assert spool.next_id() > row.bundle_id


async def test_the_journal_of_a_lost_ledger_goes_and_that_of_another_stays(home: Home) -> None:
    await a_small_bundle(home)
    journal = home.folder / JOURNAL
    journal.write_bytes(b"of this ledger")
    async with home.running():
        assert journal.exists()
    (home.folder / "ledger.db").unlink()
    async with home.running():
        assert not journal.exists()


async def test_a_ledger_that_was_being_made_again_when_the_power_failed_is_made_again(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await a_small_bundle(home)
    later = home.cut_power(tmp_path / "cut", ledger=False)
    with monkeypatch.context() as patch:
        patch.setattr(recovery, "_missing_files", None)
        with pytest.raises(TypeError):
            async with later.running():
                pass
    async with later.running() as spool:
        assert await contents(spool) == CONTENTS
        assert await waiting(spool) == [("waiting", "", 1)] * 3
        assert await spool.ledger.read(ingested.is_complete)


async def test_a_ledger_that_lags_is_completed(home: Home, tmp_path: Path) -> None:
    async with home.running() as spool:
        bundle = await spool.take(ROUTE)
        await home.store(bundle, CONTENTS[0])
        await spool.indexer.flush()
        before = home.cut_power(tmp_path / "before")
        for number in (1, 2):
            await home.store(bundle, CONTENTS[number], number)
        after = home.cut_power(tmp_path / "after")
    for name in ("ledger.db", "ledger.db-wal"):  # the bundle is newer than the ledger
        (after.folder / name).write_bytes((before.folder / name).read_bytes())
    async with after.running() as spool:
        assert await contents(spool) == CONTENTS
        assert after.recovered.objects == 2
        assert await waiting(spool) == [("waiting", "", 0)] * 3


async def test_a_second_start_changes_nothing(home: Home) -> None:
    await a_small_bundle(home)
    for _ in range(2):
        async with home.running() as spool:
            assert (home.recovered.objects, home.recovered.cut, home.recovered.dropped) == (0, 0, 0)
            assert await contents(spool) == CONTENTS
            assert await count(spool.ledger, "copies") == 3


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, str, list[StoredObject]]:
    """A small bundle's bytes, its name and what is in it."""
    folder = tmp_path_factory.mktemp("small")
    home = Home(folder)
    stored = asyncio.run(a_small_bundle(home))
    (file,) = home.files()
    return file.read_bytes(), file.name, stored


async def recovered(folder: Path, name: str, content: bytes) -> tuple[list[bytes], Home]:
    """Return what a start without a ledger makes of a bundle with this content."""
    shutil.rmtree(folder, ignore_errors=True)
    home = Home(folder)
    (folder / "spool").mkdir(parents=True)
    (folder / "spool" / name).write_bytes(content)
    async with home.running() as spool:
        return await contents(spool), home


async def test_a_bundle_cut_at_any_byte_gives_the_objects_that_are_whole(
    bundle: tuple[bytes, str, list[StoredObject]], tmp_path: Path
) -> None:
    content, name, stored = bundle
    ends = [item.position + item.length for item in stored]
    step = depth(push=29, nightly=1)
    edges = {cut for end in (stored[0].position, *ends) for cut in (end - 1, end, end + 1)}
    for cut in sorted({*range(0, len(content) + 1, step), *(edge for edge in edges if edge <= len(content))}):
        found, home = await recovered(tmp_path / "home", name, content[:cut])
        whole = sum(end <= cut for end in ends)
        assert found == CONTENTS[:whole]
        assert [path.stat().st_size for path in home.files()] == ([ends[whole - 1]] if whole else [])


@settings(
    max_examples=depth(push=40, nightly=2_000),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_a_bundle_with_a_torn_tail_gives_nothing_that_was_not_stored(
    bundle: tuple[bytes, str, list[StoredObject]], tmp_path: Path, data: st.DataObject
) -> None:
    """A power cut leaves any mixture of old and new pages behind the last sync: zeros, or other bytes."""
    content, name, stored = bundle
    kept = data.draw(st.integers(0, len(stored)), label="objects before the last sync")
    start = stored[kept - 1].position + stored[kept - 1].length if kept else stored[0].position
    tail = bytearray(content[start:] + data.draw(st.binary(max_size=50), label="what comes behind"))
    for _ in range(data.draw(st.integers(1, 3), label="holes")):
        if tail:
            at = data.draw(st.integers(0, len(tail) - 1))
            length = data.draw(st.integers(1, 64))
            tail[at : at + length] = data.draw(st.sampled_from([b"\0", b"\xff", b"O"])) * len(tail[at : at + length])
    found, _ = asyncio.run(recovered(tmp_path / "home", name, content[:start] + bytes(tail)))
    assert found[:kept] == CONTENTS[:kept]
    assert all(item in CONTENTS for item in found)


async def test_a_file_without_a_header_is_dropped(tmp_path: Path) -> None:
    for content in (b"", b"\0" * 5000, b"ISTHMUS"):
        found, home = await recovered(tmp_path / "home", "a" * 32, content)
        assert found == []
        assert home.files() == []
        assert home.recovered.dropped == 1


async def test_a_bundle_under_another_secret_is_put_aside_and_not_deleted(
    bundle: tuple[bytes, str, list[StoredObject]], tmp_path: Path
) -> None:
    content, name, _ = bundle
    damaged = bytearray(content)
    damaged[40] ^= 1
    found, home = await recovered(tmp_path / "home", name, bytes(damaged))
    assert found == []
    assert [path.name for path in home.files()] == [f"{name}.damaged"]
    assert home.recovered.damaged == 1


async def test_damage_in_the_middle_costs_that_object_only(
    bundle: tuple[bytes, str, list[StoredObject]], tmp_path: Path
) -> None:
    content, name, stored = bundle
    damaged = bytearray(content)
    damaged[stored[1].position + stored[1].length - 1] ^= 1
    found, _ = await recovered(tmp_path / "home", name, bytes(damaged))
    assert found == [CONTENTS[0], CONTENTS[2]]


@pytest.mark.parametrize("object_number", [0, 1])
@pytest.mark.parametrize("place", [0, PREFIX_BYTES, PREFIX_BYTES + HEADER_BYTES - 2], ids=["tag", "version", "length"])
async def test_a_damaged_header_costs_that_object_only_and_is_told_of(
    bundle: tuple[bytes, str, list[StoredObject]], tmp_path: Path, place: int, object_number: int
) -> None:
    content, name, stored = bundle
    damaged = bytearray(content)
    damaged[stored[object_number].position + place] ^= 0xFF
    with structlog.testing.capture_logs() as logs:
        found, home = await recovered(tmp_path / "home", name, bytes(damaged))
    assert found == [item for number, item in enumerate(CONTENTS) if number != object_number]
    assert [path.name for path in home.files()] == [name]
    (told,) = [entry for entry in logs if "damaged" in entry["event"] and entry["log_level"] == "error"]
    assert (told["position"], told["bytes"]) == (stored[object_number].position, stored[object_number].length)


async def test_what_is_damaged_at_the_end_of_a_bundle_is_put_aside_and_not_lost(
    bundle: tuple[bytes, str, list[StoredObject]], tmp_path: Path
) -> None:
    content, name, stored = bundle
    start = stored[1].position
    damaged = bytearray(content)
    damaged[start + PREFIX_BYTES] ^= 0xFF
    damaged[-1] ^= 1
    found, home = await recovered(tmp_path / "home", name, bytes(damaged))
    assert found == CONTENTS[:1]
    whole, aside = home.files()
    assert (whole.name, aside.name) == (name, f"{name}.damaged")
    assert aside.read_bytes() == damaged[start:]
    assert whole.read_bytes() == damaged[:start]


async def test_an_object_that_was_damaged_at_rest_is_held_and_the_others_wait(home: Home) -> None:
    stored = await a_small_bundle(home)
    (file,) = home.files()
    content = bytearray(file.read_bytes())
    content[stored[2].position + 60] ^= 1
    file.write_bytes(content)
    async with home.running() as spool:
        assert spool.doubtful == {stored[0].bundle_id}
        assert await verify_doubtful(spool) == 1
        assert spool.doubtful == set()
        assert await waiting(spool) == [("waiting", "", 0), ("waiting", "", 0), ("held", DAMAGED, 0)]


async def test_a_bundle_that_lost_its_end_or_its_header_is_held(home: Home) -> None:
    stored = await a_small_bundle(home)
    (file,) = home.files()
    os.truncate(file, stored[1].position + 5)
    async with home.running() as spool:
        await verify(spool, stored[0].bundle_id)
        assert [state for state, _, _ in await waiting(spool)] == ["waiting", "held", "held"]
    file.write_bytes(b"\0" * 5000)
    async with home.running() as spool:
        assert await verify(spool, stored[0].bundle_id) == 3
        assert [state for state, _, _ in await waiting(spool)] == ["held"] * 3


async def test_a_bundle_whose_file_is_missing_is_held_unless_nobody_needs_it(home: Home) -> None:
    await a_small_bundle(home)
    (file,) = home.files()
    file.unlink()
    async with home.running() as spool:
        assert home.recovered.damaged == 1
        assert [state for state, _, _ in await waiting(spool)] == ["held"] * 3
        await spool.ledger.run(lambda connection: connection.execute("UPDATE copies SET state = 'cancelled'") and None)
    async with home.running() as spool:
        assert home.recovered.damaged == 0
        assert await spool.ledger.read(lambda connection: ingested.bundles_there(connection, after=0, most=9)) == []
        assert spool.room.used == 0


async def test_a_delivered_bundle_that_was_not_deleted_before_the_crash_is_now(home: Home) -> None:
    await a_small_bundle(home)
    async with home.running() as spool:
        await spool.ledger.run(lambda connection: connection.execute("UPDATE copies SET state = 'delivered'") and None)
    async with home.running() as spool:
        assert home.files() == []
        assert spool.room.used == 0


async def test_bytes_behind_a_closed_bundle_are_cut_off(home: Home) -> None:
    stored = await a_small_bundle(home)
    (file,) = home.files()
    with file.open("ab") as tail:
        tail.write(b"a record whose sync failed")
    async with home.running() as spool:
        assert home.recovered.cut == 26
        assert file.stat().st_size == stored[2].position + stored[2].length == spool.room.used
