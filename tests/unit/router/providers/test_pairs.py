"""Cloud pairs of a Router: off until accepted, tried before they are used, out of use as soon as they fail."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from isthmus.adapters.blobstore.memory import MemoryBlobstore
from isthmus.adapters.signalling.memory import MemorySignalling
from isthmus.cloudio.providers import blobstore_provider
from isthmus.cloudio.stream import Cloud
from isthmus.contract.notices import NO_SESSION, NoticeKind, pack
from isthmus.contract.rest import BlobUrlRequest, BlobUrls, Network, ProviderEntry, ProviderLoan, SiteEntry
from isthmus.errors import Problem, ProviderTrouble, Retry
from isthmus.kit.clock import SystemClock
from isthmus.kit.names import HostPort
from isthmus.kit.tasks import Tasks
from isthmus.ports.provider import GivenKeys, Surroundings, Way
from isthmus.ports.signalling import SignallingTraits
from isthmus.router.providers import pair as pair_module
from isthmus.router.providers import pairs as pairs_module
from isthmus.router.providers.egress import Egress, folder
from isthmus.router.providers.keys import KeyFiles, Lending
from isthmus.router.providers.pairs import CloudPairs
from isthmus.router.providers.usage import Meters
from isthmus.router.routing.store import Store
from isthmus.testing.clouds import SharedBlobstores, SharedSignalling
from isthmus.testing.network import until

OWN, FAR = "A" * 36, "B" * 36
AT = HostPort("127.0.0.1", 7)
OTHER = HostPort("127.0.0.1", 8)


class Lender:
    """A Bridge that lends."""

    def __init__(self) -> None:
        self.expires: float | None = None
        self.refuses: Problem | None = None
        self.asked = 0

    async def loan(self, pair: str) -> ProviderLoan:
        self.asked += 1
        if self.refuses is not None:
            raise self.refuses
        return ProviderLoan(signalling={"key": f"s{self.asked}"}, blobstore={"key": pair}, expires=self.expires)

    async def blob_urls(self, pair: str, request: BlobUrlRequest) -> BlobUrls:
        return BlobUrls(urls=[f"https://{pair}.example/{name}?{request.method}" for name in request.names])


class Scene:
    """A Router's pairs over clouds in memory."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stores, self.services = SharedBlobstores(), SharedSignalling()
        monkeypatch.setattr(pairs_module, "blobstore_provider", lambda _: self.stores)
        monkeypatch.setattr(pairs_module, "signalling_provider", lambda _: self.services)
        monkeypatch.setattr(pair_module, "_AGAIN_FIRST", 0.01)
        self.store = Store.open(folder / "router.db")
        self.egress = Egress(self.store, SystemClock())
        self.lender, self.keys = Lender(), KeyFiles(folder)
        self.came: list[bytes] = []
        self.told: list[list[str]] = []
        self.pairs = CloudPairs(
            Cloud(MemorySignalling(), MemoryBlobstore()),
            self.lender,
            own=OWN,
            egress=self.egress,
            keys=self.keys,
            meters=Meters(bytes),
            ca=None,
            up=None,
            down=None,
            clock=SystemClock(),
        )
        self.pairs.start(self.came.append, lambda: self.told.append(self.pairs.usable))

    def listed(self, *entries: ProviderEntry, far: list[str] | None = None, built_in: int = 100) -> None:
        """Have the Bridge list these pairs besides its own, and another site be able to use some."""
        names = [entry.name for entry in entries] if far is None else far
        site = SiteEntry(site="south", router_id=FAR, public_key=bytes(32), online=True, providers=["bridge", *names])
        own = ProviderEntry(name="bridge", signalling="bridge:", blobstore="bridge:", priority=built_in)
        self.pairs.apply(
            Network(revision="1", site="north", sites=[site], providers=[*entries, own], own_counter=0, time=0.0)
        )

    def state(self, name: str) -> tuple[str, str]:
        row = next(row for row in self.pairs.shown() if row["name"] == name)
        return row["state"], row["reason"]


def entry(name: str, at: HostPort = AT, priority: int = 1) -> ProviderEntry:
    url = f"shared://{at}/{name}"
    return ProviderEntry(name=name, signalling=url, blobstore=url, priority=priority)


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    made = Scene(tmp_path, monkeypatch)
    yield made
    await made.pairs.close()
    made.store.close()


async def test_a_new_pair_is_off_until_its_hosts_are_accepted_here(scene: Scene) -> None:
    scene.listed(entry("one"))
    await until(lambda: scene.state("one")[0] == "off")
    assert "egress list" in scene.state("one")[1]
    assert scene.pairs.choose(FAR) is scene.pairs.built_in
    assert scene.stores.opened == []
    scene.egress.allow_typed(AT)
    scene.pairs.look_again()
    await until(lambda: scene.pairs.usable == ["bridge", "one"])
    assert scene.pairs.choose(FAR).name == "one"
    assert scene.told[-1] == ["bridge", "one"]


async def test_a_pair_that_the_other_site_cannot_use_is_not_chosen(scene: Scene) -> None:
    scene.egress.allow_typed(AT)
    scene.listed(entry("one"), far=[])
    await until(lambda: "one" in scene.pairs.usable)
    assert scene.pairs.choose(FAR).name == "bridge"
    assert scene.pairs.choose("C" * 36).name == "bridge"


async def test_the_pair_with_the_smallest_number_goes_first_and_the_built_in_one_has_a_place_among_them(
    scene: Scene,
) -> None:
    scene.egress.allow_typed(AT)
    scene.listed(entry("second", priority=2), entry("first", priority=1))
    await until(lambda: len(scene.pairs.usable) == 3)
    assert scene.pairs.choose(FAR).name == "first"
    scene.listed(entry("second", priority=2), entry("first", priority=1), built_in=0)
    assert scene.pairs.choose(FAR).name == "bridge"


async def test_without_the_built_in_pair_there_may_be_none_at_all(scene: Scene) -> None:
    scene.egress.allow_typed(AT)
    scene.pairs.apply(Network(revision="1", site="north", sites=[], providers=[entry("one")], own_counter=0, time=0.0))
    await until(lambda: "one" in scene.pairs.usable)
    with pytest.raises(ProviderTrouble, match="no cloud pair works"):
        scene.pairs.choose(FAR)
    assert [row["name"] for row in scene.pairs.shown()] == ["one"]


async def test_the_first_trouble_takes_a_pair_out_of_use_and_the_next_session_uses_the_next(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.egress.allow_typed(AT)
    scene.egress.allow_typed(OTHER)
    scene.listed(entry("first", priority=1), entry("second", OTHER, priority=2))
    await until(lambda: len(scene.pairs.usable) == 3)
    store = scene.stores.stores["shared://127.0.0.1:7/first"]
    well = store.put

    async def fails(name: str, body: bytes) -> None:
        raise ProviderTrouble("the store is down", retry=Retry.LATER)

    monkeypatch.setattr(store, "put", fails)
    with pytest.raises(ProviderTrouble):
        await scene.pairs.named("first").cloud.blobstore.put("x", b"x")
    assert scene.pairs.choose(FAR).name == "second"
    await until(lambda: scene.state("first") == ("fails", "the store is down"))
    monkeypatch.setattr(store, "put", well)
    await until(lambda: scene.pairs.choose(FAR).name == "first")


async def test_a_missing_blob_is_no_trouble(scene: Scene) -> None:
    scene.egress.allow_typed(AT)
    scene.listed(entry("one"))
    await until(lambda: "one" in scene.pairs.usable)
    with pytest.raises(ProviderTrouble):
        await scene.pairs.named("one").queued.get("nothing")
    assert "one" in scene.pairs.usable


async def test_notices_of_sessions_come_in_and_what_only_the_bridge_may_say_does_not(scene: Scene) -> None:
    scene.egress.allow_typed(AT)
    scene.listed(entry("one"))
    await until(lambda: "one" in scene.pairs.usable)
    service = scene.services.services["shared://127.0.0.1:7/one"]
    for kind in (NoticeKind.REVOKED, NoticeKind.OFFER, NoticeKind.NETWORK_CHANGED, NoticeKind.LETTER, NoticeKind.DATA):
        await service.publish(OWN, pack(kind, NO_SESSION, b"body"))
    await until(lambda: scene.came)
    assert scene.came == [pack(NoticeKind.DATA, NO_SESSION, b"body")]


async def test_a_pair_that_is_listed_no_more_is_let_go_and_one_that_changed_is_opened_anew(scene: Scene) -> None:
    scene.egress.allow_typed(AT)
    scene.listed(entry("one"))
    await until(lambda: "one" in scene.pairs.usable)
    scene.listed(entry("one", OTHER))
    scene.egress.allow_typed(OTHER)
    scene.pairs.look_again()
    await until(lambda: len(scene.stores.opened) == 2 and "one" in scene.pairs.usable)
    scene.listed()
    assert scene.pairs.usable == ["bridge"]
    with pytest.raises(ProviderTrouble, match="not known"):
        scene.pairs.named("one")


async def test_a_pair_whose_turn_is_another_stays_open(scene: Scene) -> None:
    scene.egress.allow_typed(AT)
    scene.listed(entry("one"), entry("two", priority=2))
    await until(lambda: {"one", "two"} <= set(scene.pairs.usable))
    used = scene.pairs.named("one").cloud
    scene.listed(entry("one", priority=3), entry("two", priority=2))
    assert scene.pairs.named("one").cloud is used
    assert len(scene.stores.opened) == 2
    assert [row["priority"] for row in scene.pairs.shown() if row["name"] == "one"] == [3]


async def test_a_forbidden_host_lets_its_pair_go(scene: Scene) -> None:
    scene.egress.allow_typed(AT)
    scene.listed(entry("one"))
    await until(lambda: "one" in scene.pairs.usable)
    scene.egress.forbid(AT)
    scene.pairs.look_again()
    await until(lambda: scene.state("one")[0] == "off")
    with pytest.raises(ProviderTrouble, match="not in use"):
        _ = scene.pairs.named("one").cloud


async def test_a_pair_whose_provider_is_not_installed_says_so(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    scene.listed(ProviderEntry(name="odd", signalling="bridge:", blobstore="gopher://hole/x", priority=1))
    await until(lambda: scene.state("odd")[0] == "off")
    assert "no provider" in scene.state("odd")[1]


async def test_a_pair_that_connects_to_nothing_is_a_folder_that_somebody_here_must_have_typed(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    share = tmp_path / "share"
    share.mkdir()
    scene.listed(ProviderEntry(name="nfs", signalling="bridge:", blobstore=f"file://{share}", priority=1))
    await until(lambda: scene.state("nfs")[0] == "off")
    assert f"{share} is not in the egress list" in scene.state("nfs")[1]
    assert list(share.iterdir()) == []
    await blobstore_provider(f"file://{share}").set_up(f"file://{share}", {}, Way(), keep_days=30)
    scene.egress.allow_typed(folder(str(share)))
    scene.pairs.look_again()
    await until(lambda: "nfs" in scene.pairs.usable)


async def test_a_billed_service_is_listened_to_only_while_a_session_holds_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pair_module, "LINGER_SECONDS", 0.0)
    monkeypatch.setattr(pair_module, "_LINGER_STEP", 0.05)
    service = scene.services.services.setdefault("shared://127.0.0.1:7/one", MemorySignalling())
    service.traits = SignallingTraits(max_notice_bytes=65536, cheap_bulk=False, retention=60.0, billed=True)
    scene.egress.allow_typed(AT)
    scene.listed(entry("one"))
    await until(lambda: "one" in scene.pairs.usable)
    await until(lambda: not _listeners(service))
    with scene.pairs.named("one").held():
        await until(lambda: _listeners(service))
    await until(lambda: not _listeners(service))


def _listeners(service: Any) -> int:
    return sum(box.listeners for box in service._mailboxes.values())


async def test_a_service_that_has_to_be_looked_into_is_told_when_something_is_to_come(scene: Scene) -> None:
    scene.egress.allow_typed(AT)
    scene.listed(entry("one"))
    await until(lambda: "one" in scene.pairs.usable)
    (handle,) = scene.services.handles
    before = handle.expected
    with scene.pairs.named("one").held():
        assert handle.expected == before + 1


async def test_keys_are_lent_once_and_renewed_before_they_end() -> None:
    lender, clock = Lender(), SystemClock()
    lending = Lending(lender, "one", clock)
    lender.expires = clock.now() + 3600
    loans = await asyncio.gather(*(lending.keys(side).loan() for side in ("signalling", "blobstore") for _ in range(3)))
    assert lender.asked == 1
    assert dict(loans[0].fields) == {"key": "s1"}
    lender.expires = clock.now() + 200
    lending = Lending(lender, "one", clock)
    await lending.keys("signalling").loan()
    assert dict((await lending.keys("signalling").loan()).fields) == {"key": "s3"}
    assert await lending.keys("blobstore").urls("PUT", ["a/b"]) == ["https://one.example/a/b?PUT"]


@pytest.mark.parametrize(
    ("status", "retry"), [(403, Retry.NEVER), (404, Retry.NEVER), (429, Retry.LATER), (503, Retry.LATER)]
)
async def test_a_bridge_that_lends_nothing_is_a_trouble_with_its_words(status: int, retry: Retry) -> None:
    lender = Lender()
    lender.refuses = Problem(status, "No loan", detail="a key is refused", hint="isthmus provider test one")
    with pytest.raises(ProviderTrouble, match="key is refused") as trouble:
        await Lending(lender, "one", SystemClock()).keys("signalling").loan()
    assert trouble.value.retry is retry
    assert "provider test" in trouble.value.hint


async def test_keys_of_this_site_go_before_what_the_bridge_lends(scene: Scene) -> None:
    scene.keys.write("one", {"signalling": {}, "blobstore": {"key": "own"}})
    scene.egress.allow_typed(AT)
    scene.listed(entry("one"))
    await until(lambda: "one" in scene.pairs.usable)
    keys = scene.stores.opened[0].keys
    assert isinstance(keys, GivenKeys)
    assert dict((await keys.loan()).fields) == {"key": "own"}
    assert scene.pairs.shown()[0]["own_keys"] is True
    with pytest.raises(ProviderTrouble):
        await keys.urls("GET", ["x"])
    assert scene.keys.clear("one")
    await scene.pairs.open_anew("one")
    await until(lambda: len(scene.stores.opened) == 2)
    assert not isinstance(scene.stores.opened[1].keys, GivenKeys)


def test_counts_only_grow_and_name_pair_and_kind() -> None:
    meters = Meters(bytes)
    assert meters.report() is None
    meters.of("one").count("put", up=100)
    meters.of("one").count("put", up=50)
    meters.of("two").count("receive")
    report = meters.report()
    assert report is not None
    assert report.run == "00" * 8
    assert [(row.provider, row.kind, row.requests, row.up, row.down) for row in report.counts] == [
        ("one", "put", 2, 150, 0),
        ("two", "receive", 1, 0, 0),
    ]


class Slow:
    """Services whose closing takes until `go_on` is set; counts which are open."""

    def __init__(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        self.closing, self.go_on = asyncio.Event(), asyncio.Event()
        self.open: list[str] = []
        for kind, shared in (("signalling", scene.services), ("blobstore", scene.stores)):
            monkeypatch.setattr(shared, "open", self._opener(kind, shared.open, monkeypatch))

    def _opener(self, kind: str, real: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
        def opened(url: str, surroundings: Surroundings) -> Any:
            service = real(url, surroundings)
            self.open.append(kind)

            async def close() -> None:
                self.closing.set()
                await self.go_on.wait()
                self.open.remove(kind)

            monkeypatch.setattr(service, "close", close)
            return service

        return opened


async def in_use(scene: Scene) -> None:
    """Have the Bridge list a pair that is accepted here, until it works."""
    scene.egress.allow_typed(AT)
    scene.listed(entry("one"))
    await until(lambda: scene.state("one")[0] == "works")


async def test_a_pair_that_the_bridge_lists_again_while_it_is_opened_anew_is_opened_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, tasks = Slow(scene, monkeypatch), Tasks("test")
    await in_use(scene)
    anew = tasks.spawn(scene.pairs.open_anew("one"), name="other keys")
    await slow.closing.wait()
    scene.listed(entry("one"))
    slow.go_on.set()
    await anew
    await until(lambda: scene.state("one")[0] == "works")
    assert slow.open == ["signalling", "blobstore"]
    assert len(scene.pairs._tasks) == 1


async def test_a_pair_that_is_being_let_go_when_the_router_stops_is_let_go_to_the_end(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, tasks = Slow(scene, monkeypatch), Tasks("test")
    await in_use(scene)
    scene.listed()
    await slow.closing.wait()
    stopping = tasks.spawn(scene.pairs.close(), name="stop")
    await asyncio.sleep(0)
    slow.go_on.set()
    await stopping
    assert slow.open == []
