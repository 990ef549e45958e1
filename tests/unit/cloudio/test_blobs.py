from isthmus.cloudio.blobs import BlobBook, BlobTask, BlobWork
from isthmus.cloudio.options import StreamOptions

BODY = memoryview(b"sealed")


def take(book: BlobBook, now: float = 0.0) -> BlobWork:
    work = book.take(now)
    assert work is not None
    return work


def test_a_blob_is_put_once_however_often_it_is_wanted() -> None:
    book = BlobBook(StreamOptions())
    book.put(3, "three", BODY, healing=True)
    book.put(3, "three", BODY, healing=True)
    work = take(book)
    assert (work.task, work.sequence, work.name, work.body) == (BlobTask.PUT, 3, "three", BODY)
    assert book.take(0.0) is None
    assert book.done(work)
    book.put(3, "three", BODY, healing=True)
    assert book.take(0.0) is None
    assert book.stored(3)


def test_failed_work_waits_longer_each_time() -> None:
    book = BlobBook(StreamOptions())
    book.get(1, "one")
    now, waits = 0.0, []
    for _ in range(6):
        book.failed(take(book, now), now)
        waits.append(round(book.deadline() - now, 3))
        assert book.take(now) is None
        now = book.deadline()
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0]


def test_an_announcement_hurries_what_waits() -> None:
    book = BlobBook(StreamOptions())
    book.get(1, "one")
    book.failed(take(book), 0.0)
    assert book.take(0.0) is None
    book.hurry(1)
    assert take(book).name == "one"


def test_what_the_reader_got_it_deletes() -> None:
    book = BlobBook(StreamOptions())
    book.get(1, "one")
    book.done(take(book))
    deletion = take(book)
    assert (deletion.task, deletion.name) == (BlobTask.DELETE, "one")
    book.done(deletion)
    assert book.empty


def test_what_arrives_another_way_is_not_looked_for_any_more() -> None:
    book = BlobBook(StreamOptions())
    book.get(1, "one")
    book.arrived(1)
    assert book.take(0.0) is None
    book.get(2, "two")
    running = take(book)
    book.arrived(2)
    book.failed(running, 0.0)
    assert book.take(10.0) is None


def test_a_large_segment_that_was_stored_at_the_first_try_is_the_readers_to_delete() -> None:
    book = BlobBook(StreamOptions())
    book.put(1, "one", BODY, healing=False)
    book.done(take(book))
    book.released(1)
    assert book.empty


def test_a_put_that_failed_once_may_have_come_after_the_readers_deletion() -> None:
    book = BlobBook(StreamOptions())
    book.put(1, "one", BODY, healing=False)
    book.failed(take(book), 0.0)
    book.done(take(book, 1.0))
    book.released(1)
    assert take(book, 1.0).task is BlobTask.DELETE


def test_a_put_that_ends_after_its_segment_was_acknowledged_is_deleted() -> None:
    for healing in (False, True):
        book = BlobBook(StreamOptions())
        book.put(1, "one", BODY, healing=healing)
        running = take(book)
        book.released(1)
        assert not book.done(running)
        assert take(book).task is BlobTask.DELETE


def test_a_put_that_waits_is_dropped_once_its_segment_is_acknowledged() -> None:
    book = BlobBook(StreamOptions())
    book.put(1, "one", BODY, healing=True)
    book.released(1)
    assert book.empty


def test_deletions_end_after_some_tries_and_stay_on_the_list_for_the_end() -> None:
    book = BlobBook(StreamOptions())
    book.get(1, "one")
    book.done(take(book))
    now = 0.0
    for _ in range(4):
        book.failed(take(book, now), now)
        now += 10
    assert book.take(now) is None
    assert book.leftovers() == ["one"]


def test_leftovers_are_all_that_may_be_in_the_store() -> None:
    book = BlobBook(StreamOptions())
    for sequence, name in enumerate(("stored", "running", "unclear", "waiting")):
        book.put(sequence, name, BODY, healing=False)
    book.done(take(book))
    running, unclear = take(book), take(book)
    assert running.name == "running"
    book.failed(unclear, 0.0)
    book.get(9, "wanted")
    assert book.leftovers() == ["running", "stored", "unclear", "wanted"]
    assert book.empty
    assert book.leftovers() == []


def test_what_is_given_up_is_forgotten() -> None:
    book = BlobBook(StreamOptions())
    book.put(1, "one", BODY, healing=False)
    book.give_up(take(book))
    assert book.empty
