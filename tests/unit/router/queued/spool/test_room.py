"""Room: a quota for the spool, a floor under the disk, looked at once a second."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from isthmus.router.queued.spool.room import FLOOR_BYTES, Room
from isthmus.router.queued.trouble import NoRoom
from isthmus.testing.clock import FakeClock


class Usage(NamedTuple):
    free: int


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What is free on the disk: the last number."""
    free = [FLOOR_BYTES + 1000]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(free[-1]))
    return free


def test_a_quota_counts_what_the_spool_holds(tmp_path: Path, disk: list[int]) -> None:
    room = Room(tmp_path, FakeClock(), quota=500)
    room.demand(500)
    room.add(400)
    room.demand(100)
    with pytest.raises(NoRoom, match="400 of 500"):
        room.demand(101)
    room.add(-400)
    room.demand(500)


def test_without_a_quota_two_gibibytes_of_the_disk_stay_free(tmp_path: Path, disk: list[int]) -> None:
    room = Room(tmp_path, FakeClock())
    room.demand(1000)
    with pytest.raises(NoRoom):
        room.demand(1001)


def test_the_disk_is_looked_at_again_after_a_second(tmp_path: Path, disk: list[int]) -> None:
    clock = FakeClock()
    room = Room(tmp_path, clock)
    room.demand()
    disk.append(FLOOR_BYTES - 1)
    clock.advance(0.5)
    room.demand()
    clock.advance(0.5)
    with pytest.raises(NoRoom):
        room.demand()
    disk.append(FLOOR_BYTES)
    clock.advance(1)
    room.demand()
