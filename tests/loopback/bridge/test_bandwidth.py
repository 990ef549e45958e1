"""The cap on the line, where it is kept: at the Router's ends of the built-in services."""

import asyncio
import os
import time

from isthmus.adapters.blobstore.bridge import BridgeBlobstore
from isthmus.contract.notices import NoticeKind, pack
from isthmus.kit.clock import SystemClock
from isthmus.kit.tasks import Tasks
from isthmus.router.queued.bandwidth import Pacer
from isthmus.testing.bridge import BridgeUnderTest, Member

RATE = 4_000_000
BLOB = 500_000


def _capped() -> Pacer:
    pacer = Pacer(SystemClock())
    pacer.set_rate(RATE)
    return pacer


async def _put(member: Member, count: int) -> None:
    store = BridgeBlobstore(member.client)
    await asyncio.gather(*(store.put(f"q/{index}", os.urandom(BLOB)) for index in range(count)))


async def test_blobs_go_up_no_faster_than_the_cap(bridge: BridgeUnderTest) -> None:
    member = await bridge.join("clinic")
    member.client.up = _capped()
    begun = time.monotonic()
    await _put(member, 8)
    assert time.monotonic() - begun > 0.95 * (8 * BLOB / RATE) - 0.15


async def test_blobs_come_down_no_faster_than_the_cap(bridge: BridgeUnderTest) -> None:
    member = await bridge.join("clinic")
    await _put(member, 8)
    store = BridgeBlobstore(member.client)
    member.client.down = _capped()
    begun = time.monotonic()
    bodies = await asyncio.gather(*(store.get(f"q/{index}") for index in range(8)))
    assert time.monotonic() - begun > 0.95 * (8 * BLOB / RATE) - 0.15
    assert {len(body) for body in bodies} == {BLOB}


async def test_live_notices_go_before_queued_blobs(bridge: BridgeUnderTest) -> None:
    member, other = await bridge.join("clinic"), await bridge.join("hospital")
    session = os.urandom(16)
    bridge.parts.hub.link(session, member.identity.router_id, other.identity.router_id)
    member.client.up = _capped()
    notice = pack(NoticeKind.DATA, session, os.urandom(200_000))
    await member.signalling.publish(other.mailbox, notice)  # the connection is made here
    tasks = Tasks("uploads")
    upload = tasks.spawn(_put(member, 16), name="queued")
    begun = time.monotonic()
    for _ in range(10):
        await member.signalling.publish(other.mailbox, notice)
    took = time.monotonic() - begun
    assert not upload.done()
    assert took < 0.6 * (10 * len(notice) + 16 * BLOB) / RATE  # with its share of the line only it would take longer
    await tasks.close()
