"""Revisions: all Bridges that have counted the same say the same, in whatever order they heard of it."""

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
def test_bridges_that_heard_of_the_same_changes_agree(happened: list[tuple[bool, Touch]]) -> None:
    one, other = bridges()
    for here, touch in happened:
        note(one if here else other, touch)
    said: list[tuple[Changes, Changes, Touch]] = []
    again_one, again_other = bridges()
    again_one.on_touch = lambda touch: said.append((again_one, again_other, touch))
    again_other.on_touch = lambda touch: said.append((again_other, again_one, touch))
    for here, touch in happened:
        note(again_one if here else again_other, touch)
    for origin, to, touch in said:
        to.touched(origin.column.run, touch)
    assert [again_one.revision(router) for router in ROUTERS] == [again_other.revision(router) for router in ROUTERS]


def test_a_change_that_all_but_one_see_changes_their_revisions_only() -> None:
    changes = Changes(Hub(), secrets.token_bytes)
    before = [changes.revision(router) for router in ROUTERS]
    changes.touch_all_but(ROUTERS[0])
    after = [changes.revision(router) for router in ROUTERS]
    assert [old == new for old, new in zip(before, after, strict=True)] == [True, False, False]


def test_a_column_that_was_told_whole_replaces_what_was_missed() -> None:
    one, other = bridges()
    other.touch([ROUTERS[1]])
    assert one.revision(ROUTERS[1]) != other.revision(ROUTERS[1])
    one.set_column(deepcopy(other.column))
    assert one.revision(ROUTERS[1]) == other.revision(ROUTERS[1])
    one.forget_column(other.column.run)
    assert one.revision(ROUTERS[1]).startswith(one.column.run)
