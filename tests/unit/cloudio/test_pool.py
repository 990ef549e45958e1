from isthmus.cloudio.pool import Pool


def test_those_who_wait_are_told_once_when_a_sixteenth_is_free() -> None:
    pool = Pool(limit=1600)
    told: list[str] = []
    pool.take(1600)
    pool.wait("a", lambda: told.append("a"))
    pool.give(99)
    assert told == []
    pool.give(1)
    assert told == ["a"]
    pool.give(500)
    assert told == ["a"]


def test_who_leaves_is_not_told() -> None:
    pool = Pool(limit=100)
    told: list[str] = []
    pool.take(100)
    pool.wait("a", lambda: told.append("a"))
    pool.wait("b", lambda: told.append("b"))
    pool.leave("a")
    pool.give(100)
    assert told == ["b"]


def test_one_who_waits_again_while_being_told_is_not_told_twice() -> None:
    pool = Pool(limit=100)
    told: list[int] = []

    def tell() -> None:
        told.append(pool.free)
        pool.wait("a", tell)

    pool.take(100)
    pool.wait("a", tell)
    pool.give(50)
    assert told == [50]
    pool.give(50)
    assert told == [50, 100]
