"""Associations and queued objects over a pair of clouds that both sites accepted, and over the next when it fails."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.clouds import Clouds, chosen, use_pair
from tests.loopback.live.test_canaries import IDENTIFIER, INSTANCE_UID, element, hits

from isthmus.cloudio import providers
from isthmus.errors import ProviderTrouble, Retry
from isthmus.router.providers import pair as pair_module
from isthmus.router.queued import mirror
from isthmus.testing.clouds import SharedClouds
from isthmus.testing.devices import Archive, Listening, calling, listening
from isthmus.testing.dicom import CT_CONTEXT, store_rq, store_rsp
from isthmus.testing.network import Network, until

AT = ("127.0.0.1:7", "127.0.0.1:8")
BODY = element(0x0008, 0x0018, INSTANCE_UID) + IDENTIFIER + bytes(1_500_000)


class Scene:
    """Two sites, an archive, and clouds in memory."""

    def __init__(self, network: Network, clouds: SharedClouds, archive: Archive, pacs: Listening) -> None:
        self.network, self.clouds, self.archive, self.pacs = network, clouds, archive, pacs
        self.queued = False
        self.north, self.south = network.sites["north"], network.sites["south"]

    async def use(self, name: str, at: str = AT[0], priority: int = 10) -> None:
        url = f"shared://{at}/{name}"
        keys = {"signalling.key": "hush", "blobstore.key": "hush"}
        await use_pair(self.network, name, Clouds(url, url, [at], keys), priority=priority)

    async def store(self) -> None:
        """Have the caller store an object, and the archive get it."""
        before = self.archive.bytes_in
        async with calling(self.north.port) as wire:
            await wire.associate("PACS", "WS", contexts=(CT_CONTEXT,))
            await wire.send(store_rq(BODY, 1, sop_instance=INSTANCE_UID))
            answer = await wire.pdu()
            assert answer in {store_rsp(1, 1), store_rsp(1, 1, sop_instance=INSTANCE_UID)}  # the archive's, or ours
            await wire.release()
        await until(lambda: self.archive.bytes_in - before > len(BODY))

    def blobs(self, name: str, at: str = AT[0]) -> int:
        return len(self.clouds.blobstores.stores[f"shared://{at}/{name}"])


@pytest.fixture
async def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    clouds, archive = SharedClouds(), Archive()
    monkeypatch.setattr(providers, "_provider", clouds.found)
    monkeypatch.setattr(mirror, "APART_SECONDS", 0.0)
    monkeypatch.setattr(pair_module, "_AGAIN_FIRST", 0.05)
    async with listening(archive) as pacs, Network.running(tmp_path) as network:
        await network.pair(pacs)
        made = Scene(network, clouds, archive, pacs)
        yield made
        if not made.queued:  # letters lie with the Bridge until the next ones acknowledge them
            await network.quiet()


async def test_a_live_association_goes_over_the_pair_that_both_sites_accepted(scene: Scene) -> None:
    await scene.store()
    await scene.use("shared")
    stores = scene.clouds.blobstores.stores["shared://127.0.0.1:7/shared"]
    service = scene.clouds.signalling.services["shared://127.0.0.1:7/shared"]
    service.traits = replace(service.traits, cheap_bulk=False, max_notice_bytes=8192)  # as queue services are
    assert scene.network.parts is not None
    before = scene.network.parts.hub.forwarded_bytes
    puts: list[bytes] = []
    well = stores.put

    async def put(name: str, body: bytes) -> None:
        puts.append(name.encode() + body)
        await well(name, body)

    stores.put = put  # type: ignore[method-assign]  # to see what the cloud sees
    await scene.store()
    assert sum(map(len, puts)) > len(BODY)
    assert hits(b"".join(puts)) == []
    assert scene.network.parts.hub.forwarded_bytes - before < 20_000  # the offer, and what is told of the network
    await until(lambda: scene.blobs("shared") == 0)


async def test_sessions_say_over_which_pair_they_go(scene: Scene) -> None:
    await scene.use("shared")
    async with calling(scene.north.port) as wire:
        await wire.associate("PACS", "WS", contexts=(CT_CONTEXT,))
        for site in (scene.north, scene.south):
            await until(lambda site=site: site.live.sessions)  # type: ignore[misc]  # a default binds it
            assert [row["pair"] for row in await site.control("sessions")] == ["shared"]
        await wire.release()


async def test_when_a_pair_fails_the_next_association_goes_over_the_next_and_comes_back(scene: Scene) -> None:
    await scene.use("second", AT[1], priority=2)
    await scene.use("first", priority=1)
    store = scene.clouds.blobstores.stores["shared://127.0.0.1:7/first"]
    well = store.put

    async def fails(name: str, body: bytes) -> None:
        raise ProviderTrouble("503", retry=Retry.LATER)

    store.put = fails  # type: ignore[method-assign]  # the store is down
    with pytest.raises(ProviderTrouble):
        await scene.north.live.core.pairs.named("first").cloud.blobstore.put("x", b"x")
    assert chosen(scene.north, scene.south) == "second"
    await scene.store()
    store.put = well  # type: ignore[method-assign]
    await until(lambda: chosen(scene.north, scene.south) == "first")


async def test_a_site_that_forbids_a_pairs_host_is_reached_over_another(scene: Scene) -> None:
    await scene.use("shared")
    await scene.south.control("egress_forbid", host=AT[0])
    await until(lambda: chosen(scene.north, scene.south) == "bridge")
    await scene.store()


async def test_an_offer_over_a_pair_that_is_not_in_use_is_refused_and_says_so(scene: Scene) -> None:
    await scene.use("shared")
    pairs = scene.south.live.core.pairs
    await pairs.close()  # without a word to the Bridge
    async with calling(scene.north.port) as wire:
        assert (await wire.associate("PACS", "WS", contexts=(CT_CONTEXT,)))[0] == 3  # A-ASSOCIATE-RJ
    rows = await scene.south.control("audit")
    assert any("cloud pair shared" in row["outcome"] for row in rows)


async def test_queued_objects_go_over_the_pair_and_over_the_next_when_it_fails(scene: Scene) -> None:
    await scene.use("second", AT[1], priority=2)
    await scene.use("first", priority=1)
    answer = {"done": False}
    while not answer["done"]:
        answer = await scene.south.control("device_probe", device="PACS")
    await until(
        lambda: any(
            device.title == "PACS" and device.syntaxes for _, device in scene.north.live.core.directory.offers()
        )
    )
    await scene.north.control("delivery_set", title="PACS", mode="queued")
    scene.queued = True
    used: list[str] = []
    down = False
    for name, at in (("first", AT[0]), ("second", AT[1])):
        store = scene.clouds.blobstores.stores[f"shared://{at}/{name}"]
        well = store.put

        async def put(blob: str, body: bytes, *, pair: str = name, well: object = well) -> None:
            if blob.startswith("q/"):
                used.append(pair)
                if down and pair == "first":
                    raise ProviderTrouble("503", retry=Retry.LATER)
            await well(blob, body)  # type: ignore[operator]

        store.put = put  # type: ignore[method-assign,assignment]
    await scene.store()
    assert set(used) == {"first"}
    down, used[:] = True, []
    await scene.store()
    assert used[0] == "first"
    assert used[-1] == "second"
    await until(lambda: scene.blobs("second", AT[1]) == 0)
