"""What has just verified is held for its delivery: a little of it, for a moment, and once."""

import asyncio

from isthmus.contract.letters import ObjectKind
from isthmus.envelope.records import ObjectMeta
from isthmus.router.queued.spool.fresh import FreshObject, FreshObjects

META = ObjectMeta(
    kind=ObjectKind.STORE,
    calling="CT1",
    called="ARCHIVE",
    association=bytes(16),
    command=b"",
    sop_class="1.2",
    sop_instance="1.2.3",
    transfer_syntax="1.2.840.10008.1.2",
    received=0.0,
)


def item(size: int) -> FreshObject:
    return FreshObject(META, [bytes(size // 2), bytes(size - size // 2)])


async def test_an_object_is_given_out_once() -> None:
    fresh = FreshObjects(100, 60.0)
    held = item(40)
    fresh.put(7, {b"one": held})
    assert fresh.take(8, b"one") is None, "the object of this id in another bundle is another one"
    assert fresh.take(7, b"one") is held
    assert fresh.take(7, b"one") is None
    assert fresh.room == 100


async def test_what_there_is_no_room_for_is_not_held() -> None:
    fresh = FreshObjects(100, 60.0)
    fresh.put(7, {b"one": item(60), b"two": item(60), b"three": item(40)})
    assert fresh.room == 0
    assert fresh.take(7, b"two") is None
    assert fresh.take(7, b"three") is not None
    assert fresh.room == 40


async def test_the_same_object_again_takes_no_more_room() -> None:
    fresh = FreshObjects(100, 60.0)
    fresh.put(7, {b"one": item(60)})
    fresh.put(7, {b"one": item(60)})
    fresh.take(7, b"one")
    assert fresh.room == 100


async def test_nothing_is_held_for_long() -> None:
    fresh = FreshObjects(100, 0.0)
    fresh.put(7, {b"one": item(60)})
    gone = asyncio.Event()
    asyncio.get_running_loop().call_later(0.0, gone.set)  # behind the timer of what was put
    await gone.wait()
    assert fresh.room == 100
    assert fresh.take(7, b"one") is None
