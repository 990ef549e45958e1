"""Revisions: all Bridges that have counted the same say the same, in whatever order they heard of it."""

import asyncio
import secrets
from copy import deepcopy

from hypothesis import given
from hypothesis import strategies as st

from isthmus.bridge.directory.changes import Changes, Touch
from isthmus.bridge.signalling.hub import Hub
from isthmus.envelope.identity import RouterId

ROUTERS = [RouterId(letter * 36) for letter in "ABC"]
touches = st.lists(
    st.tuples(st.booleans(), st.sets(st.sampled_from(ROUTERS)).map(tuple), st.booleans()).map(
        lambda drawn: (drawn[0], Touch(drawn[1], but=drawn[2]))
    ),
    max_size=10,
)


def bridges() -> tuple[Changes, Changes]:
    one, other = (Changes(Hub(), secrets.token_bytes) for _ in range(2))
    one.set_column(deepcopy(other.column))
    other.set_column(deepcopy(one.column))
    return one, other


def note(changes: Changes, touch: Touch) -> None:
    for router_id in touch.router_ids if touch.but else ():
        changes.touch_all_but(router_id)
    if not touch.but:
        changes.touch(touch.router_ids)


@given(touches)
async def test_bridges_that_heard_of_the_same_changes_agree(happened: list[tuple[bool, Touch]]) -> None:
    one, other = bridges()
    said: list[tuple[Changes, Changes, Touch]] = []
    one.on_touch = lambda touch: said.append((one, other, touch))
    other.on_touch = lambda touch: said.append((other, one, touch))
    for here, touch in happened:
        note(one if here else other, touch)
    for origin, to, touch in said:
        to.touched(origin.column.run, touch)
    assert [one.revision(router) for router in ROUTERS] == [other.revision(router) for router in ROUTERS]


async def test_a_change_that_all_but_one_see_changes_their_revisions_only() -> None:
    changes = Changes(Hub(), secrets.token_bytes)
    before = [changes.revision(router) for router in ROUTERS]
    changes.touch_all_but(ROUTERS[0])
    after = [changes.revision(router) for router in ROUTERS]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, False]


async def test_a_column_that_was_told_whole_replaces_what_was_missed() -> None:
    one, other = bridges()
    other.touch([ROUTERS[1]])
    assert one.revision(ROUTERS[1]) != other.revision(ROUTERS[1])
    one.set_column(deepcopy(other.column))
    assert one.revision(ROUTERS[1]) == other.revision(ROUTERS[1])
    one.forget_column(other.column.run)
    assert one.revision(ROUTERS[1]).startswith(one.column.run)


class Lane:
    """Counts what was sent to it."""

    waiting = 0

    def __init__(self) -> None:
        self.sent = asyncio.Semaphore(0)

    def send(self, *_parts: bytes | memoryview) -> None:
        self.sent.release()

    def revoke(self) -> None:
        """Nobody is revoked here."""


async def test_everybody_is_told_of_two_changes_that_each_spare_another() -> None:
    hub, lanes = Hub(), [Lane() for _ in ROUTERS]
    changes = Changes(hub, secrets.token_bytes)
    for router, lane in zip(ROUTERS, lanes, strict=True):
        hub.attach(router.encode(), lane)
    changes.touch_all_but(ROUTERS[0])
    async with asyncio.timeout(5):
        await lanes[1].sent.acquire()
    assert lanes[0].sent.locked()  # which saw nothing new
    changes.touch_all_but(ROUTERS[0])
    changes.touch_all_but(ROUTERS[1])
    async with asyncio.timeout(5):
        for lane in lanes:
            await lane.sent.acquire()
