"""Room: a quota for the spool, a floor under the disk, looked at once a second."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from isthmus.router.queued.spool.room import Room, RoomState
from isthmus.router.queued.trouble import NoRoom
from isthmus.router.routing.records import SPOOL_FLOOR
from isthmus.testing.clock import FakeClock


class Usage(NamedTuple):
    free: int


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What is free on the disk: the last number."""
    free = [SPOOL_FLOOR + 1000]
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
    disk.append(SPOOL_FLOOR - 1)
    clock.advance(0.5)
    room.demand()
    clock.advance(0.5)
    with pytest.raises(NoRoom):
        room.demand()
    disk.append(SPOOL_FLOOR)
    clock.advance(1)
    room.demand()


def test_other_limits_hold_at_once_and_it_is_said_how_things_stand(tmp_path: Path, disk: list[int]) -> None:
    room = Room(tmp_path, FakeClock(), quota=500)
    room.add(600)
    with pytest.raises(NoRoom, match="600 of 500") as refused:
        room.demand()
    assert "--spool-quota" in refused.value.hint
    assert "600 of 500" in room.state().lack
    room.limit(quota=700, floor=1000)
    room.demand(100)
    assert room.state() == RoomState(used=600, quota=700, free=SPOOL_FLOOR + 1000, floor=1000, lack="")
    room.limit(quota=None, floor=SPOOL_FLOOR + 1001)
    with pytest.raises(NoRoom, match="are to stay so"):
        room.demand()
    assert (room.state().quota, room.used) == (None, 600)
