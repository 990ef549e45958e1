"""Post through a real Bridge: its blobstore, its doorbells, its quotas."""

import contextlib
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.router.queued.post.sites import Site

from isthmus.adapters.blobstore.bridge import BridgeBlobstore
from isthmus.contract.notices import NO_SESSION, NoticeKind, pack
from isthmus.router.queued.post import outbox
from isthmus.testing.bridge import BridgeUnderTest, Member, running_bridge
from isthmus.testing.network import until


async def join(bridge: BridgeUnderTest, folder: Path, name: str) -> tuple[Site, Member]:
    member = await bridge.join(name)
    store = BridgeBlobstore(member.client)
    return Site(folder / name, name, member.signalling, store, identity=member.identity), member


async def acquaint(*joined: tuple[Site, Member]) -> None:
    for _ in range(2):
        for site, member in joined:
            site.directory.apply(await member.client.network(), site.clock.now())
            for other, _ in joined:
                if other is not site and not site.directory.acceptances:
                    site.administration.site_accept(other.name, router_id=other.keys.router_id)
        for site, member in joined:
            site.store.forget_published()
            await member.client.publish(site.directory.own_documents(site.clock.now()))


@contextlib.asynccontextmanager
async def two_sites(bridge: BridgeUnderTest, folder: Path) -> AsyncIterator[tuple[Site, Site]]:
    north, south = await join(bridge, folder, "north"), await join(bridge, folder, "south")
    await acquaint(north, south)
    south[0].device("PACS", for_site="north")
    await acquaint(north, south)
    for site, member in (north, south):
        site.directory.apply(await member.client.network(), site.clock.now())
    async with north[0].running(), south[0].running():
        await bridge.all_online(north[1], south[1])
        yield north[0], south[0]


async def test_objects_go_through_a_bridge_and_leave_nothing_there_but_letters(tmp_path: Path) -> None:
    data = [secrets.token_bytes(500_000) for _ in range(30)]
    async with running_bridge(tmp_path / "bridge") as bridge, two_sites(bridge, tmp_path) as (north, south):
        await north.store_objects(*data, to=south)
        await south.until_all("waiting", len(data), ours=True)
        assert sorted(await south.deliver()) == sorted(data)
        await north.until_all("delivered", len(data))
        await until(lambda: bridge.parts.blobs.used < 100_000)
        assert north.alerts == south.alerts == []


async def test_a_full_queue_waits_at_the_sender_and_goes_on_when_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_MOST_WAIT", 0.3)
    data = [secrets.token_bytes(900_000) for _ in range(8)]
    async with (
        running_bridge(tmp_path / "bridge", queue_quota=2_500_000) as bridge,
        two_sites(bridge, tmp_path) as (north, south),
    ):
        for content in data:
            await north.store_objects(content, to=south)
        await south.until_all("waiting", len(data), ours=True)
        assert sorted(await south.deliver()) == sorted(data)
        await north.until_all("delivered", len(data))


async def test_no_doorbell_rings_for_a_site_that_was_not_accepted(tmp_path: Path) -> None:
    async with running_bridge(tmp_path / "bridge") as bridge, two_sites(bridge, tmp_path) as (_, south):
        stranger = await bridge.join("stranger")
        stranger.listen()
        await bridge.all_online(stranger)
        before = bridge.parts.hub.dropped_bytes["refused"]
        notice = pack(NoticeKind.LETTER, NO_SESSION, bytes(8) + stranger.mailbox.encode())
        await stranger.signalling.publish(south.keys.router_id, notice)
        await until(lambda: bridge.parts.hub.dropped_bytes["refused"] > before)
