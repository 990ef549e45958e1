"""A cloud that fails and lags, Routers that die anywhere, a provider that lies: nothing is lost or doubled (T5, T9)."""

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from tests.unit.router.queued.post.sites import Site, introduce, learn

from isthmus.adapters.blobstore.memory import MemoryBlobstore
from isthmus.adapters.signalling.memory import MemorySignalling
from isthmus.envelope.mailboxes import envelope_blob_name
from isthmus.errors import BlobMissing
from isthmus.ports.blobstore import BlobInfo, BlobstoreTraits
from isthmus.router.queued.post import downloads, inbox, mailbox, outbox
from isthmus.router.queued.spool.inbound import InboundBundle
from isthmus.testing.depth import count
from isthmus.testing.network import until
from isthmus.testing.weather import Weather, WeatherBlobstore, WeatherSignalling

Cloud = tuple[MemorySignalling, MemoryBlobstore]


class Provider:
    """A blobstore that does what a test makes of it."""

    def __init__(self, inner: MemoryBlobstore) -> None:
        self.inner = inner
        self.on_get: Callable[[str, bytes | None], bytes | None] = lambda name, body: body
        self.puts: dict[str, set[bytes]] = {}
        self.calls = 0
        self.stop_at = -1
        self.stopped = asyncio.Event()

    @property
    def traits(self) -> BlobstoreTraits:
        return self.inner.traits

    async def _step(self) -> None:
        self.calls += 1
        if self.stop_at >= 0 and self.calls > self.stop_at:
            self.stopped.set()
            await asyncio.Event().wait()

    async def put(self, name: str, body: bytes) -> None:
        await self._step()
        self.puts.setdefault(name, set()).add(body)
        await self.inner.put(name, body)
        await self._step()

    async def get(self, name: str, *, wait: float = 0.0) -> bytes:
        await self._step()
        try:
            body: bytes | None = await self.inner.get(name, wait=wait)
        except BlobMissing:
            body = None
        body = self.on_get(name, body)
        await self._step()
        if body is None:
            raise BlobMissing(name)
        return body

    async def delete(self, *names: str) -> None:
        await self._step()
        await self.inner.delete(*names)

    async def list(self, prefix: str) -> AsyncIterator[BlobInfo]:
        async for blob in self.inner.list(prefix):
            yield blob

    async def close(self) -> None:
        await self.inner.close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten every wait, so that a test takes seconds."""
    for module in (mailbox, outbox, downloads):
        monkeypatch.setattr(module, "_FIRST_WAIT", 0.01)
        monkeypatch.setattr(module, "_MOST_WAIT", 0.1)
    for module in (inbox, downloads):
        monkeypatch.setattr(module, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(inbox, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(inbox, "_MOST_LOOK_SECONDS", 0.1)
    monkeypatch.setattr(inbox, "_AGAIN_SECONDS", 0.02)
    monkeypatch.setattr(inbox, "_SOON_MOST", 0.1)
    monkeypatch.setattr(inbox, "_FOLLOW_SECONDS", 0.02)


@pytest.fixture
def provider(cloud: Cloud, north: Site, south: Site, quick: None) -> Provider:
    """Put the provider between both sites and the store."""
    provider = Provider(cloud[1])
    north.blobstore = south.blobstore = provider
    south.signalling = north.signalling = MemorySignalling(max_notice_bytes=200)  # letters go by the store alone
    return provider


def images(number: int, size: int = 20_000) -> list[bytes]:
    chance = random.Random(number)
    return [chance.randbytes(size + index) for index in range(number)]


@pytest.mark.parametrize("seed", range(count(push=2, nightly=500)))
async def test_with_every_third_call_failing_nothing_is_lost_doubled_or_overwritten(
    tmp_path: Path, cloud: Cloud, quick: None, seed: int
) -> None:
    weather = Weather(drop=0.2, repeat=0.2, reorder=0.2, delay=0.002, trouble=0.3, lag=0.3)
    provider = Provider(cloud[1])
    store = WeatherBlobstore(provider, weather, seed=seed)
    signalling = WeatherSignalling(cloud[0], weather, seed=seed)
    north, south = Site(tmp_path / "n", "north", signalling, store), Site(tmp_path / "s", "south", signalling, store)
    introduce(north, south)
    south.device("PACS", for_site="north")
    data = images(count(push=20, nightly=100))
    async with north.running(), south.running():
        for first in range(0, len(data), 10):
            await north.store_objects(*data[first : first + 10], to=south)
        await south.until_all("waiting", len(data), ours=True, seconds=60)
        assert sorted(await south.deliver()) == sorted(data)
        await north.until_all("delivered", len(data), seconds=60)
    assert all(len(bodies) == 1 for bodies in provider.puts.values())


@pytest.mark.parametrize("who", ["north", "south"])
async def test_a_router_that_dies_at_any_call_loses_and_doubles_nothing(
    north: Site, south: Site, provider: Provider, who: str
) -> None:
    """Each round the Router stops at a later call to the store and starts again from what is durable."""
    data = images(4)
    victim = Provider(provider.inner)
    dies, lives = (north, south) if who == "north" else (south, north)
    dies.blobstore = victim
    async with lives.running():
        async with contextlib.AsyncExitStack() as stack:
            if dies is north:
                await stack.enter_async_context(north.running())
            learned, north.directory.verified = north.directory.verified, {}
            await north.store_objects(*data[:2], to=south)
            await north.store_objects(*data[2:], to=south)
            north.directory.verified = learned
        for step in range(count(push=12, nightly=60)):
            victim.calls, victim.stop_at, victim.stopped = 0, step, asyncio.Event()
            async with dies.running():
                lives.post.connected()
                try:
                    async with asyncio.timeout(0.5):
                        await victim.stopped.wait()
                except TimeoutError:
                    break
        victim.stop_at = -1
        async with dies.running():
            lives.post.connected()
            await south.until("SELECT 1 WHERE (SELECT COUNT(*) FROM copies) = 4")
            assert sorted(await south.deliver()) == sorted(data)
            await north.until_all("delivered", 4)
            assert await south.rows("SELECT COUNT(*), COUNT(DISTINCT object_id) FROM copies") == [(4, 4)]
    assert all(len(bodies) == 1 for bodies in [*victim.puts.values(), *provider.puts.values()])


async def test_a_router_that_dies_at_any_time_loses_and_doubles_nothing(
    north: Site, south: Site, provider: Provider
) -> None:
    data = images(6)
    chance = random.Random(4)
    async with north.running():
        await north.store_objects(*data, to=south)
    for _ in range(count(push=15, nightly=300)):
        async with north.running(), south.running():
            await asyncio.sleep(chance.random() * 0.05)  # where it is killed is what is tried here
    async with north.running(), south.running():
        await south.until_all("waiting", 6, ours=True)
        assert sorted(await south.deliver()) == sorted(data)
        await north.until_all("delivered", 6)


# -- a provider that lies


async def test_a_blob_that_was_cut_or_changed_is_fetched_again(north: Site, south: Site, provider: Provider) -> None:
    seen: set[str] = set()

    def once(name: str, body: bytes | None) -> bytes | None:
        if body is None or name.count("/") == 2 or name in seen:
            return body
        seen.add(name)
        return body[: len(body) // 2] if len(seen) % 2 else body[:-100] + bytes(100)

    provider.on_get = once
    async with north.running(), south.running():
        await north.store_objects(*images(2), to=south)
        await north.store_objects(*images(3), to=south)
        await south.until_all("waiting", 5, ours=True)
        assert sorted(await south.deliver()) == sorted([*images(2), *images(3)])


async def test_blobs_that_never_verify_come_anew_and_then_are_held_and_told_of(
    north: Site, south: Site, provider: Provider
) -> None:
    provider.on_get = lambda name, body: body if body is None or name.count("/") == 2 else bytes(len(body))
    async with north.running(), south.running():
        await north.store_objects(*images(1), to=south)
        await south.until_alert("does not verify")
        await north.until_alert("does not verify there")
        await north.until_all("held", 1)
        assert await south.states() == []


async def test_a_letter_that_was_changed_swapped_or_replayed_is_not_read_and_a_person_is_told(
    north: Site, south: Site, provider: Provider
) -> None:
    kept: dict[str, bytes] = {}

    def lie(name: str, body: bytes | None) -> bytes | None:
        if body is not None and name.count("/") == 2:
            kept[name] = body
        return body

    provider.on_get = lie
    async with north.running(), south.running():
        await north.store_objects(*images(1), to=south)
        await south.until_all("waiting", 1, ours=True)
        prefix = south.directory.mailboxes[north.keys.router_id]
        first = kept[f"q/{prefix}/000000000001"]
        second = f"q/{prefix}/000000000002"
        for wrong in (first, first[:-1] + bytes((first[-1] ^ 1,)), b"", bytes(5_000_000)):
            south.alerts.clear()
            south.post.core.alerts.clear("south", "mailbox")
            south.post.core.alerts.clear("north", "mailbox")
            provider.on_get = lambda name, body, lie=wrong: lie if name == second else body  # type: ignore[misc]
            south.post.connected()
            await south.until_alert("letter 2 of site north is not read")
        await north.store_objects(*images(2), to=south)
        provider.on_get = lambda name, body: body
        await south.until_all("waiting", 3, ours=True)
        assert (await south.rows("SELECT next_in FROM mailboxes"))[0][0] >= 3


async def test_a_withheld_letter_is_told_of_and_asked_for_and_keeps_nobody_elses(
    north: Site, south: Site, provider: Provider
) -> None:
    withheld: set[str] = set()
    provider.on_get = lambda name, body: None if name in withheld else body
    async with north.running(), south.running():
        prefix = south.directory.mailboxes[north.keys.router_id]
        withheld.add(f"q/{prefix}/000000000001")
        await north.store_objects(*images(1), to=south)
        await north.until_all("posted", 1)
        await north.store_objects(*images(2), to=south)
        await north.until("SELECT 1 WHERE (SELECT COUNT(*) FROM copies WHERE state = 'posted') = 3")
        await south.until_alert("letter 1 of site north is missing")
        assert await south.states() == []
        withheld.clear()
        await south.until_all("waiting", 3, ours=True)


async def test_blobs_that_vanished_are_asked_for_and_put_again(north: Site, south: Site, provider: Provider) -> None:
    async with north.running():
        await north.store_objects(*images(2), to=south)
        await north.until_all("posted", 2)
        for name in [blob.name async for blob in provider.list("q/")]:
            if name.count("/") == 1:
                await provider.inner.delete(name)
        async with south.running():
            await south.until_alert("missing in the cloud")
            await south.until_all("waiting", 2, ours=True)


async def test_blobs_that_come_late_are_fetched_as_soon_as_their_letter_is_put_again(
    north: Site, south: Site, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "delays", lambda *_: itertools.repeat(200.0))
    async with north.running():
        await north.store_objects(*images(2), to=south)
        await north.until_all("posted", 2)
        names = [blob.name async for blob in provider.list("q/") if blob.name.count("/") == 1]
        late = {name: await provider.inner.get(name) for name in names}
        await provider.inner.delete(*late)
        async with south.running():
            await until(lambda: any(pull.tries for pull in south.post.downloads._pulls.values()))
            for name, body in late.items():
                await provider.inner.put(name, body)
            await north.post.letters.put_again(south.keys.router_id)
            await south.until_all("waiting", 2, ours=True)


async def test_receipts_of_a_site_that_is_not_the_destination_change_nothing(
    north: Site, south: Site, provider: Provider
) -> None:
    west = Site(north.folder.parent / "west", "west", north.signalling, provider)
    introduce(north, south, west)
    async with north.running():
        await north.store_objects(*images(1), to=south)
        await north.until_all("posted", 1)
        ((envelope_id,),) = await north.rows("SELECT envelope_id FROM envelopes")
        async with west.running():
            await west.forge(envelope_id, north)
            await north.until_alert("receipts for what it never got")
        assert await north.states() == ["posted"]
        assert len(list((north.folder / "spool").iterdir())) == 1


async def test_a_letter_sealed_to_a_key_that_is_gone_is_sealed_anew(
    north: Site, south: Site, provider: Provider
) -> None:
    async with north.running():
        await north.store_objects(*images(2), to=south)
        await north.until_all("posted", 2)
        lost = south.keys.newest
        south.keys._prekeys.clear()
        south.keys.rotate(south.clock.now() + 1)
        assert south.keys.newest.prekey_id != lost.prekey_id
        learn(north, south)
        async with south.running():
            await south.until_all("waiting", 2, ours=True)
            assert sorted(await south.deliver()) == sorted(images(2))
            await north.until_all("delivered", 2)


async def test_a_mailbox_that_a_person_renews_starts_anew_and_loses_nothing(
    north: Site, south: Site, provider: Provider
) -> None:
    async with north.running(), south.running():
        await north.store_objects(*images(1), to=south)
        await south.until_all("waiting", 1, ours=True)
        prefix = south.directory.mailboxes[north.keys.router_id]
        provider.on_get = lambda name, body: b"garbage" if body and name.startswith(f"q/{prefix}") else body
        await north.store_objects(*images(2), to=south)
        await south.until_alert("is not read")
        south.post.renew_mailbox(south.directory.reported[north.keys.membership.site].site)  # type: ignore[union-attr]
        learn(north, south)
        await north.post.letters.put_again(south.keys.router_id)
        await south.until_all("waiting", 3, ours=True)
        await south.deliver()
        await north.until_all("delivered", 3)


async def test_an_upload_that_was_cut_off_goes_on_near_where_it_was(
    north: Site, south: Site, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "SMALL_BLOB", 10_000)
    provider.stop_at = 150  # two steps to a put
    async with north.running():
        await north.store_objects(bytes(1_000_000), to=south)
        await provider.stopped.wait()
        await north.until("SELECT 1 FROM envelopes WHERE uploaded >= 32")
    provider.stop_at, provider.calls = -1, 0
    async with north.running():
        await north.until_all("posted", 1)
        assert provider.calls < 2 * 80
    async with south.running():
        await south.until_all("waiting", 1, ours=True)
        assert await south.deliver() == [bytes(1_000_000)]


async def test_a_download_that_was_cut_off_goes_on_where_it_verifies(
    north: Site, south: Site, provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "SMALL_BLOB", 10_000)
    there: set[str] = set()
    verify = InboundBundle.verified_prefix

    async def noted(bundle: InboundBundle) -> int:
        prefix = await verify(bundle)
        for index, end in enumerate(itertools.accumulate(bundle.manifest.blobs)):
            if end <= prefix:
                there.add(envelope_blob_name(bundle.manifest.name_key, index))
        return prefix

    monkeypatch.setattr(InboundBundle, "verified_prefix", noted)
    async with north.running():
        await north.store_objects(*images(50), to=south)
        await north.until("SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM copies WHERE state <> 'posted')")
    gets: list[str] = []

    def note(name: str, body: bytes | None) -> bytes | None:
        gets.append(name)
        return body

    provider.on_get = note
    provider.stop_at, provider.calls = 120, 0
    async with south.running():
        await provider.stopped.wait()
    first = set(gets)
    gets.clear()
    provider.stop_at = -1
    async with south.running():
        await south.until_all("waiting", 50, ours=True)
        # what stands behind a blob that was still under way is fetched again, and blobs overtake each other
        assert there
        assert not there & set(gets)
        assert len(first & set(gets)) < len(first)
        assert sorted(await south.deliver()) == sorted(images(50))
