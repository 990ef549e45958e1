"""T7 for the spool: whichever call to the system fails, nothing is acknowledged that would not survive a power cut."""

import errno
import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.router.queued.spool.home import ROUTE, Home, contents

from isthmus.router.queued.spool.bundles import NoRoom, SpoolFailed, StoredObject

CALLS = ("open", "pwrite", "fdatasync", "fsync", "ftruncate")
OBJECTS = 5


class Failing:
    """The N-th call that the spool makes of the system fails, and, if it is to stay so, all after it."""

    def __init__(self, folder: Path, error: int, nth: int, *, stays: bool) -> None:
        self.left = nth
        self.happened = False
        self._folder = str(folder)
        self._error = error
        self._stays = stays
        self._real: dict[str, Callable[..., Any]] = {name: getattr(os, name) for name in CALLS}
        self.dead: set[int] = set()  # handles whose sync failed

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for name in CALLS:
            patch.setattr(os, name, lambda *args, n=name, **options: self._call(n, *args, **options))

    def _call(self, name: str, *args: Any, **options: Any) -> Any:
        ours = name != "open" or str(args[0]).startswith(self._folder)
        if name in ("fdatasync", "pwrite"):
            assert args[0] not in self.dead, f"{name} on a file whose sync failed"
        if not ours:
            return self._real[name](*args, **options)
        self.left -= 1
        if self.left == 0 or (self.left < 0 and self._stays):
            self.happened = True
            if name == "fdatasync":
                self.dead.add(args[0])
            if name == "pwrite" and self._error == errno.ENOSPC:  # a full disk takes what it can first
                self._real[name](args[0], bytes(args[1])[: len(args[1]) // 2], args[2])
            raise OSError(self._error, os.strerror(self._error))
        done = self._real[name](*args, **options)
        if name == "open":
            self.dead.discard(done)
        return done


async def store_some(home: Home, nth: int, error: int, *, stays: bool, spares: int, to: Path) -> bool:
    """Store a few objects, the first ones in spares, while the N-th call fails; return whether there was an N-th."""
    acknowledged: list[bytes] = []
    refusals: list[NoRoom | SpoolFailed] = []
    async with home.running() as spool:
        bundle = await spool.take(ROUTE)
        for _ in range(spares):
            assert spool.spares.make()
        with pytest.MonkeyPatch.context() as patch:
            failing = Failing(home.folder / "spool", error, nth, stays=stays)
            failing.install(patch)
            for number in range(OBJECTS):
                content = bytes([number]) * (100 if number % 2 else 300_000)
                if number == 3:
                    gone = bundle.begin(home.meta(99))
                    gone.write(b"g" * 300_000)
                    gone.abandon()
                try:
                    await home.store(bundle, content, number)
                except (NoRoom, SpoolFailed) as refusal:
                    refusals.append(refusal)
                else:
                    acknowledged.append(content)
                if number == 2:
                    spool.want()
            await bundle.settled()
        after = home.cut_power(to)
        async with after.running() as other:
            survived = await contents(other)
            assert set(acknowledged) <= set(survived)
            assert len(survived) == len(set(survived))
        healed = await home.store(bundle, b"later", 100)
        assert isinstance(healed, StoredObject)
        spool.give_back(bundle)
        await bundle.settled()
        await spool.close_idle()
        spool.spares.clear()
        assert {*acknowledged, b"later"} <= set(await contents(spool))
        assert spool.room.used == sum(path.stat().st_size for path in home.files())
    assert all(isinstance(refusal, NoRoom) == (error == errno.ENOSPC) for refusal in refusals)
    if failing.happened and not stays:
        assert len(acknowledged) >= OBJECTS - 1
    return failing.happened


@pytest.mark.parametrize("spares", [0, 2], ids=["", "in spares"])
@pytest.mark.parametrize("stays", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO], ids=errno.errorcode.get)
async def test_whichever_call_fails_nothing_is_acknowledged_that_is_not_durable(
    tmp_path: Path, error: int, stays: bool, spares: int
) -> None:
    for nth in itertools.count(1):
        folder = tmp_path / f"home{nth}"
        folder.mkdir()
        if not await store_some(Home(folder), nth, error, stays=stays, spares=spares, to=tmp_path / f"cut{nth}"):
            break
    assert nth > 15


async def test_a_sync_that_failed_is_never_tried_again_on_the_same_file(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with home.running() as spool:
        bundle = await spool.take(ROUTE)
        first = await home.store(bundle, b"first")
        real = os.fdatasync
        calls: list[int] = []

        def fail_once(handle: int) -> None:
            calls.append(os.fstat(handle).st_ino)
            if len(calls) == 1:
                raise OSError(errno.EIO, "Input/output error")
            real(handle)

        monkeypatch.setattr(os, "fdatasync", fail_once)
        with pytest.raises(SpoolFailed):
            await home.store(bundle, b"lost", 1)
        again = await home.store(bundle, b"again", 2)
        assert calls[0] != calls[1]
        assert again.bundle_id != first.bundle_id
        assert {file.stat().st_size for file in home.files() if file.stat().st_ino == calls[0]} == {
            first.position + first.length
        }
        await spool.indexer.flush()
        assert await contents(spool) == [b"first", b"again"]
        assert home.ready == [first.bundle_id]
