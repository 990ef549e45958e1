from collections.abc import Callable

from tests.unit.cloudio.test_core import exchange, make

from isthmus.cloudio.options import MIB
from isthmus.cloudio.pool import Pool, Share


def test_those_who_wait_are_told_once_when_a_sixteenth_is_free_to_their_site() -> None:
    pool = Pool(limit=1600)
    others, share = pool.share("others"), pool.share("site")
    told: list[str] = []
    others.take(1600)
    share.wait("a", lambda: told.append("a"))
    others.give(0)
    assert told == []
    others.give(100)
    assert told == ["a"]
    others.give(500)
    assert told == ["a"]


def test_who_leaves_is_not_told() -> None:
    share = Pool(limit=100).share("site")
    told: list[str] = []
    share.take(100)
    share.wait("a", lambda: told.append("a"))
    share.wait("b", lambda: told.append("b"))
    share.leave("a")
    share.give(100)
    assert told == ["b"]


def test_one_who_waits_again_while_being_told_is_not_told_twice() -> None:
    share = Pool(limit=100).share("site")
    told: list[int] = []

    def tell() -> None:
        told.append(share.free)
        share.wait("a", tell)

    share.take(100)
    share.wait("a", tell)
    share.give(60)
    assert told == [20]
    share.give(40)
    assert told == [20, 100]


def test_nobody_is_told_in_the_midst_of_what_another_does() -> None:
    """What waits is called later: a fault of it is not that of whoever gave bytes back, nor does it cost the rest."""
    soon: list[Callable[[], None]] = []
    pool = Pool(limit=100, later=soon.append)
    share, other = pool.share("site"), pool.share("other")
    told: list[str] = []
    other.take(100)
    share.wait("a", lambda: told.append("a"))
    share.wait("b", lambda: told.append("b"))
    other.give(100)
    assert told == []
    for call in soon:
        call()
    assert told == ["a", "b"]


def fill(share: Share) -> int:
    """Take as much as the share allows, a byte at a time."""
    while share.free > 0:
        share.take(1)
    return share.used


def test_one_site_holds_half_of_the_pool_at_the_most() -> None:
    pool = Pool(limit=1200)
    assert fill(pool.share("greedy")) == 600


def test_sites_that_give_nothing_back_leave_as_much_as_each_of_them_has() -> None:
    pool = Pool(limit=1200)
    shares = [pool.share(f"site{number}") for number in range(5)]
    while any(share.free > 0 for share in shares):
        for share in shares:
            if share.free > 0:
                share.take(1)
    assert [share.used for share in shares] == [200] * 5
    assert pool.share("next").free == 200


def test_a_site_at_its_share_is_not_woken_by_what_others_give_back() -> None:
    pool = Pool(limit=1600)
    greedy, good = pool.share("greedy"), pool.share("good")
    fill(greedy)
    told: list[str] = []
    greedy.wait("stuck", lambda: told.append("stuck"))
    good.take(300)
    good.give(300)
    assert told == []
    greedy.give(100)
    assert told == ["stuck"]


def test_a_share_is_one_as_long_as_it_is_used_and_forgotten_then() -> None:
    pool = Pool()
    share = pool.share("site")
    assert pool.share("site") is share
    assert pool.share("another") is not share
    share.take(5)
    share.give(5)
    del share
    assert pool.share("site").used == 0
    assert "0 of 268435456 bytes" in repr(pool)


def test_streams_of_one_site_that_never_acknowledge_leave_room_for_those_of_others() -> None:
    pool = Pool(limit=200_000)
    for _ in range(20):
        stuck, _device = make(pool=pool, far="never acknowledges", credit_out=MIB)
        while stuck.write(bytes(1000), 0.0, flush=True):
            pass
    assert pool.used < 125_000  # half, and of each stream the write that was one too many
    core, device = make(pool=pool, far="takes all", credit_out=MIB)
    far, reader = make(initiator=False, credit_in=MIB)
    for _ in range(100):
        if not core.write(bytes(5000), 0.0, flush=True):
            exchange(core, far, 0.0)
    exchange(core, far, 0.0)
    assert sum(map(len, reader.data)) == 500_000
    assert device.writable > 0


def test_a_stream_that_only_lacks_credit_is_not_asked_each_time_that_another_gives_memory_back() -> None:
    pool = Pool(limit=100_000)
    core, _ = make(pool=pool, credit_out=1000)
    assert not core.write(bytes(1000), 0.0, flush=True)
    assert "0 waiting" in repr(pool)
