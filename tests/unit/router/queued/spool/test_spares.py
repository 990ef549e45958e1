"""Spare files: bundles written over zeros, which a power cut or a lack of room must not make anything else of."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tests.unit.router.queued.spool.home import ROUTE, Home, chance, contents

from isthmus.router.queued.spool.bundles import NoRoom, SpoolFailed
from isthmus.router.queued.spool.room import Room
from isthmus.router.queued.spool.spares import MOST_SPARES, Spares

SIZE = 5 * 1024 * 1024 + 7


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def spares(home: Home, *, quota: int | None = None) -> Spares:
    return Spares(home.folder, SIZE, Room(home.folder, home.clock, quota=quota, floor=0), chance("spares"))


def test_a_spare_is_written_through_and_durable_with_its_name_before_it_can_be_taken(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = spares(home)
    calls: list[tuple[str, object]] = []
    real = {name: getattr(os, name) for name in ("pwrite", "fdatasync", "fsync")}

    def call(name: str, *args: Any) -> Any:
        calls.append((name, made.take()))
        return real[name](*args)

    for name in real:
        monkeypatch.setattr(os, name, partial(call, name))
    assert made.make()
    assert [name for name, _ in calls] == ["pwrite"] * 6 + ["fdatasync", "fsync"]
    assert not any(taken for _, taken in calls)
    path = made.take()
    assert path is not None
    assert path.read_bytes() == bytes(SIZE)
    assert made.take() is None


def test_there_are_no_more_spares_than_enough_and_none_that_room_lacks(home: Home) -> None:
    few = spares(home, quota=3 * SIZE)
    for _ in range(3):
        assert few.make()
    with pytest.raises(NoRoom):
        few.make()
    few.clear()
    assert not list(home.folder.iterdir())
    enough = Spares(home.folder, 1, Room(home.folder, home.clock, floor=0), chance("small"))
    assert [enough.make() for _ in range(MOST_SPARES + 1)] == [True] * MOST_SPARES + [False]


@pytest.mark.parametrize("call", ["pwrite", "fdatasync", "fsync"])
def test_a_spare_that_could_not_be_made_leaves_no_file(home: Home, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    made = spares(home)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match="Input/output"):
            made.make()
    assert not list(home.folder.iterdir())
    assert made.take() is None


async def test_a_bundle_in_a_spare_ends_where_its_last_object_does(home: Home) -> None:
    async with home.running() as spool:
        assert spool.spares.make()
        (spare,) = home.files()
        bundle = await spool.take(ROUTE)
        stored = [await home.store(bundle, bytes([number]) * 300_000, number) for number in range(3)]
        assert home.files() == [spare]
        assert spare.stat().st_size > 8 * 1024 * 1024
        spool.give_back(bundle)
        await bundle.settled()
        await spool.close_idle()
        assert spare.stat().st_size == stored[-1].position + stored[-1].length == spool.room.used
        assert await contents(spool) == [bytes([number]) * 300_000 for number in range(3)]


async def test_an_object_given_up_in_a_spare_leaves_nothing_behind(home: Home) -> None:
    async with home.running() as spool:
        assert spool.spares.make()
        bundle = await spool.take(ROUTE)
        await home.store(bundle, b"first")
        lost = bundle.begin(home.meta(1))
        lost.write(b"x" * 1_000_000)
        lost.abandon()
        await home.store(bundle, b"second", 2)
        spool.give_back(bundle)
        await bundle.settled()
        await spool.close_idle()
        assert await contents(spool) == [b"first", b"second"]
        (path,) = home.files()
        assert path.stat().st_size == spool.room.used < 10_000


@pytest.mark.parametrize("ledger", [True, False], ids=["with its ledger", "without its ledger"])
async def test_after_a_power_cut_a_bundle_in_a_spare_has_its_objects_and_no_zeros(
    home: Home, tmp_path: Path, ledger: bool
) -> None:
    async with home.running() as spool:
        for _ in range(3):
            assert spool.spares.make()
        bundle = await spool.take(ROUTE)
        await home.store(bundle, b"a" * 300_000)
        await home.store(bundle, b"b" * 300_000, 1)
        half = bundle.begin(home.meta(2))
        half.write(b"c" * 300_000)
        await bundle.settled()
        after = home.cut_power(tmp_path / "after", ledger=ledger)
    async with after.running() as spool:
        assert await contents(spool) == [b"a" * 300_000, b"b" * 300_000]
        (path,) = after.files()
        assert path.stat().st_size == spool.room.used < 700_000
        assert after.recovered.dropped == 2
        assert after.recovered.damaged == 0


async def test_what_a_power_cut_left_of_an_object_between_zeros_is_cut_off(home: Home, tmp_path: Path) -> None:
    async with home.running() as spool:
        assert spool.spares.make()
        bundle = await spool.take(ROUTE)
        await home.store(bundle, b"a" * 300_000)
        torn = await home.store(bundle, b"b" * 300_000, 1)
        await bundle.settled()
        after = home.cut_power(tmp_path / "after", ledger=False)
    (path,) = after.files()
    with path.open("r+b") as file:  # of an object that was never acknowledged, some blocks reached the disk
        file.seek(torn.position + 100_000)
        file.write(bytes(50_000))
    async with after.running() as spool:
        assert await contents(spool) == [b"a" * 300_000]
        assert path.stat().st_size == torn.position


async def test_a_bundle_that_somebody_waits_for_takes_no_spare(home: Home) -> None:
    async with home.running() as spool:
        assert spool.spares.make()
        (spare,) = home.files()
        spool.wanted = lambda _: True
        bundle = await spool.take(ROUTE)
        await home.store(bundle, b"soon gone")
        assert spool.spares.take() == spare


async def test_spares_give_way_when_room_is_short(home: Home) -> None:
    async with home.running(quota=20 * 1024 * 1024) as spool:
        assert spool.spares.make()
        spool.room.limit(quota=0, floor=0)
        spool.room.add(1)
        with pytest.raises((NoRoom, SpoolFailed)):
            await spool.take(ROUTE)
        assert not home.files()


async def test_no_spare_outlives_the_spool(home: Home) -> None:
    async with home.running() as spool:
        assert spool.spares.make()
    assert not home.files()
    assert not spool.spares.make()
