"""Blobs in an object store that several Bridges share: what each sees, what it costs, and what is left behind."""

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from isthmus.adapters.blobstore.memory import MemoryBlobstore
from isthmus.bridge.blobs.book import BlobBook
from isthmus.bridge.blobs.objects import ObjectBlobStore
from isthmus.bridge.blobs.store import Allowance
from isthmus.bridge.database import Database
from isthmus.errors import BlobExists, BlobMissing, ContainerMissing, OperatorError, Problem, ProviderTrouble, Retry
from isthmus.kit.tasks import Tasks
from isthmus.ports.blobstore import BlobInfo
from isthmus.testing.clock import FakeClock

DAY = 86_400.0
BODY = b"sealed" * 1000
LATER = ProviderTrouble("busy", retry=Retry.LATER)


class Store(MemoryBlobstore):
    """A store that counts what it is asked, and fails when it is told to."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock=clock)
        self.asked: Counter[str] = Counter()
        self.fails: dict[str, ProviderTrouble] = {}
        self.before_put = asyncio.Event()
        self.before_put.set()

    def ask(self, what: str) -> None:
        self.asked[what] += 1
        if what in self.fails:
            raise self.fails[what]

    async def put(self, name: str, body: bytes) -> None:
        await self.before_put.wait()
        self.ask("put")
        await super().put(name, body)

    async def get(self, name: str, *, wait: float = 0.0) -> bytes:
        self.ask("get")
        return await super().get(name, wait=wait)

    async def delete(self, *names: str) -> None:
        if names:
            self.ask("delete")
        await super().delete(*names)

    async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        self.ask("list")
        async for blob in super().list(prefix):
            yield blob


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> Store:
    return Store(clock)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    made = Database.in_folder(tmp_path)
    await made.open()
    yield made
    await made.close()


Bridge = Callable[[], ObjectBlobStore]


@pytest.fixture
def bridge(store: Store, database: Database, clock: FakeClock, tmp_path: Path) -> Bridge:
    """Return what makes the blobs of one more Bridge; none of them tells the others anything."""
    made: list[ObjectBlobStore] = []

    def make() -> ObjectBlobStore:
        folder = tmp_path / f"bridge{len(made)}"
        live, queued = Allowance(10_000, DAY), Allowance(20_000, 30 * DAY)
        made.append(ObjectBlobStore(store, BlobBook(database), folder, clock, live=live, queued=queued))
        return made[-1]

    return make


@pytest.fixture
async def two(bridge: Bridge, store: Store) -> tuple[ObjectBlobStore, ObjectBlobStore]:
    one, other = bridge(), bridge()
    await one.open()
    await other.open()
    store.asked.clear()
    return one, other


async def put(blobs: ObjectBlobStore, name: str = "live/name", body: bytes = BODY, site: str = "north") -> bool:
    async def whole() -> AsyncIterator[bytes]:
        yield body

    return await blobs.put(site, name, whole(), len(body), hashlib.sha256(body).digest())


async def got(blobs: ObjectBlobStore, name: str = "live/name", wait: float = 0.0) -> bytes:
    _, parts = await blobs.read(name, wait)
    return b"".join([part async for part in parts])


def held(store: Store) -> list[str]:
    return [name for name in store._blobs if name != "mark"]


async def test_what_one_bridge_was_given_another_has_also_if_it_was_told_nothing(
    two: tuple[ObjectBlobStore, ObjectBlobStore], bridge: Bridge
) -> None:
    one, other = two
    assert await put(one)
    assert await got(other) == BODY
    assert [entry.name for entry in other.list_of("north", "live/", "", 10)] == ["live/name"]
    later = bridge()
    await later.open()
    assert later.used == len(BODY)
    assert later.has("live/name", hashlib.sha256(BODY).digest())


async def test_the_same_again_is_harmless_and_another_body_is_refused_at_either_bridge(
    two: tuple[ObjectBlobStore, ObjectBlobStore],
) -> None:
    assert await put(two[0])
    for blobs in two:
        await put(blobs)
        with pytest.raises(BlobExists):
            await put(blobs, body=b"other")
        assert await got(blobs) == BODY
        assert blobs.used == len(BODY)


async def test_what_was_deleted_at_another_bridge_can_be_put_again_though_no_word_of_it_came(
    two: tuple[ObjectBlobStore, ObjectBlobStore],
) -> None:
    one, other = two
    await put(one)
    await got(other)
    await other.delete("live/name")
    assert await put(one)
    assert await got(other) == BODY


async def test_a_blob_that_the_store_lost_can_be_put_again(
    two: tuple[ObjectBlobStore, ObjectBlobStore], store: Store
) -> None:
    one, other = two
    await put(one)
    await store.delete(*held(store))
    with pytest.raises(BlobMissing):
        await got(other)
    assert await put(one)
    assert await got(other) == BODY


async def test_a_blob_costs_one_put_one_get_and_one_delete_and_looking_for_it_nothing(
    two: tuple[ObjectBlobStore, ObjectBlobStore], store: Store
) -> None:
    one, other = two
    for blobs in two:
        with pytest.raises(BlobMissing):
            await got(blobs, wait=0.01)
    assert not store.asked
    await put(one)
    await got(other)
    await other.delete("live/name")
    await one.delete("live/name", "q/never")
    assert store.asked == {"put": 1, "get": 1, "delete": 1}


async def test_the_store_learns_neither_names_nor_sites(
    two: tuple[ObjectBlobStore, ObjectBlobStore], store: Store
) -> None:
    await put(two[0], "q/secret-name")
    (name,) = held(store)
    assert name == f"q/{hashlib.sha256(hashlib.sha256(BODY).digest() + b'q/secret-name').hexdigest()}"
    assert await store.get(name) == BODY


async def test_of_two_bodies_that_are_put_at_once_one_has_the_name_and_the_other_does_not_stay(
    two: tuple[ObjectBlobStore, ObjectBlobStore], store: Store
) -> None:
    """Whatever the store makes of it: each body is an object of its own there."""
    puts = [put(blobs, body=BODY + bytes((at,))) for at, blobs in enumerate(two)]
    outcomes = await asyncio.gather(*puts, return_exceptions=True)
    (lost,) = (at for at, outcome in enumerate(outcomes) if outcome is not True)
    assert isinstance(outcomes[lost], BlobExists)
    assert {await got(blobs) for blobs in two} == {BODY + bytes((1 - lost,))}
    await two[lost].sweep()
    assert len(held(store)) == 1


async def test_who_looks_for_what_another_bridge_has_replaced_does_not_strike_out_what_is_there_now(
    two: tuple[ObjectBlobStore, ObjectBlobStore],
) -> None:
    one, other = two
    await put(one)
    await got(other)
    await one.delete("live/name")
    await put(one, body=b"another")
    with pytest.raises(BlobMissing):
        await got(other)
    assert await got(other) == await got(one) == b"another"


async def test_what_the_store_did_not_delete_goes_with_the_next_that_is_deleted(
    two: tuple[ObjectBlobStore, ObjectBlobStore], store: Store
) -> None:
    one, _ = two
    await put(one)
    store.fails["delete"] = LATER
    with pytest.raises(ProviderTrouble):
        await one.delete("live/name")
    with pytest.raises(BlobMissing):
        await got(one)
    store.fails.clear()
    await one.delete()
    assert held(store) == []


@pytest.mark.parametrize("what", ["put", "get", "delete"])
async def test_trouble_at_the_store_is_trouble_for_who_asks_and_passes(
    two: tuple[ObjectBlobStore, ObjectBlobStore], store: Store, tmp_path: Path, what: str
) -> None:
    one, other = two
    calls: dict[str, Callable[[], Awaitable[object]]] = {
        "put": lambda: put(one),
        "get": lambda: got(other),
        "delete": lambda: other.delete("live/name"),
    }
    for each, call in calls.items():
        if each == what:
            store.fails[what] = LATER
            with pytest.raises(ProviderTrouble):
                await call()
            store.fails.clear()
        await call()
    assert not held(store)
    assert one.used == len(BODY)  # until it is told
    await one.sweep()
    assert one.used == 0
    assert not list((tmp_path / "bridge0").iterdir())


async def test_a_put_that_is_not_listed_is_not_answered_and_can_be_repeated(
    two: tuple[ObjectBlobStore, ObjectBlobStore], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two

    async def away(_: object) -> None:
        raise LATER

    with monkeypatch.context() as patch:
        patch.setattr(one._book, "add", away)
        with pytest.raises(ProviderTrouble):
            await put(one)
    assert len(held(store)) == 1
    for blobs in two:
        with pytest.raises(BlobMissing):
            await got(blobs)
    assert await put(other)
    assert await got(one) == BODY


async def test_who_waits_reads_along_at_the_same_bridge_and_has_the_last_byte_when_the_store_has_it(
    two: tuple[ObjectBlobStore, ObjectBlobStore], store: Store
) -> None:
    one, _ = two
    tasks = Tasks("test")
    store.before_put.clear()
    reading = tasks.spawn(got(one, wait=10), name="read", awaited=True)
    putting = tasks.spawn(put(one), name="put", awaited=True)
    while not store.before_put._waiters:  # noqa: ASYNC110 - the put is about to be asked
        await asyncio.sleep(0)
    assert not reading.done()
    store.before_put.set()
    assert await reading == BODY
    assert await putting
    await tasks.close()


@pytest.mark.parametrize("at", [0, 1])
async def test_what_is_deleted_while_it_is_put_does_not_stay(
    two: tuple[ObjectBlobStore, ObjectBlobStore], store: Store, at: int
) -> None:
    one, other = two
    other.on_deleted = one.deleted_elsewhere
    tasks = Tasks("test")
    store.before_put.clear()
    putting = tasks.spawn(put(one), name="put", awaited=True)
    while not store.before_put._waiters:  # noqa: ASYNC110 - the put is about to be asked
        await asyncio.sleep(0)
    await two[at].delete("live/name")
    store.before_put.set()
    await putting
    assert one.used == 0
    assert not held(store)
    with pytest.raises(BlobMissing):
        await got(other)


async def test_a_site_has_so_much_room_at_all_bridges_together(two: tuple[ObjectBlobStore, ObjectBlobStore]) -> None:
    one, other = two
    one.on_kept = other.kept_elsewhere
    await put(one)
    with pytest.raises(Problem) as refused:
        await put(other, "live/more")
    assert refused.value.status == 507
    await put(other, "live/more", site="south")
    await put(other, "q/more")
    await one.forget_site("north")
    await other.sweep()
    assert other.list_of("north", "", "", 10) == []
    assert [entry.name for entry in other.list_of("south", "", "", 10)] == ["live/more"]


async def test_what_everybody_forgot_goes_when_its_time_is_over_also_if_it_is_in_no_list(
    two: tuple[ObjectBlobStore, ObjectBlobStore], store: Store, clock: FakeClock
) -> None:
    one, other = two
    await put(one)
    await put(one, "q/queued")
    orphans = [f"{kind}/{'0' * 64}" for kind in ("live", "q")]
    for name in orphans:
        await store.put(name, b"of a Bridge that died")
    clock.advance(DAY + 3601)
    assert await other.sweep() == 2
    assert len(held(store)) == 2
    clock.advance(30 * DAY)
    await other.sweep()
    assert held(store) == []
    assert "mark" in store._blobs
    await one.sweep()
    assert one.used == 0


async def test_a_store_that_is_looked_through_is_so_once_a_day(
    two: tuple[ObjectBlobStore, ObjectBlobStore], store: Store, clock: FakeClock
) -> None:
    one, _ = two
    for _ in range(10):
        await one.sweep()
        clock.advance(600)
    assert store.asked["list"] == 1
    clock.advance(DAY)
    await one.sweep()
    assert store.asked["list"] == 2


async def test_another_store_is_another_place_with_another_list(
    two: tuple[ObjectBlobStore, ObjectBlobStore], database: Database, clock: FakeClock, tmp_path: Path
) -> None:
    one, other = two
    await put(one)
    elsewhere = ObjectBlobStore(
        Store(clock), BlobBook(database), tmp_path / "moved", clock, live=Allowance(1, 1), queued=Allowance(1, 1)
    )
    await elsewhere.open()
    assert await one.mark() == await other.mark() != await elsewhere.mark()
    assert elsewhere.used == 0
    await elsewhere.sweep()
    await one.sweep()
    assert one.used == 0


@pytest.mark.parametrize(
    ("trouble", "hint"),
    [
        (ContainerMissing("there is no bucket b", hint="isthmus provider setup makes it"), "make it first"),
        (ProviderTrouble("refuses the keys", retry=Retry.NEVER, hint="check the keys"), "check the keys"),
    ],
)
@pytest.mark.parametrize("what", ["put", "get", "delete", "list"])
async def test_a_store_that_does_not_do_what_is_needed_is_refused_at_the_start_with_a_hint(
    bridge: Bridge, store: Store, what: str, trouble: ProviderTrouble, hint: str
) -> None:
    store.fails[what] = trouble
    with pytest.raises(OperatorError, match=f"^--blobs: {trouble}$") as refused:
        await bridge().open()
    assert hint in refused.value.hint


async def test_a_store_that_overwrites_is_refused_at_the_start(
    bridge: Bridge, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def overwrite(name: str, body: bytes) -> None:
        store._blobs[name] = (body, 0.0)

    monkeypatch.setattr(store, "put", overwrite)
    with pytest.raises(OperatorError, match="overwritten"):
        await bridge().open()


async def test_a_bucket_of_somebody_else_is_refused_at_the_start(bridge: Bridge, store: Store) -> None:
    await store.put("mark", b"of a shop")
    with pytest.raises(OperatorError, match="not a Bridge's") as refused:
        await bridge().open()
    assert "prefix of its own" in refused.value.hint


async def test_what_came_in_when_a_bridge_died_is_cleared_away(bridge: Bridge, tmp_path: Path) -> None:
    blobs = bridge()
    (tmp_path / "bridge0").mkdir()
    (tmp_path / "bridge0" / "new.0123").write_bytes(b"half")
    await blobs.open()
    assert not list((tmp_path / "bridge0").iterdir())
