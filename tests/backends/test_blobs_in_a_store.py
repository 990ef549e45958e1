"""Bridges that keep the built-in blobs in a real Ceph: the suite, several of them on one bucket, and bad weather."""

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator, Collection
from pathlib import Path

import pytest
from pydicom import dcmread
from tests.backends.blobstores.opening import opened
from tests.backends.bridges import STOPS_SECONDS, BridgeProcess, running_bridges
from tests.backends.servers.ceph import OWNER, STRANGER, CephServer
from tests.backends.servers.nats import NatsServer, bus_url
from tests.backends.servers.postgres import PostgresServer
from tests.backends.servers.weather import BAD, Trouble, weather
from tests.interop import dcmtk
from tests.interop.queued import all_are, queue_for, storescu
from tests.interop.sites import CT, MR, caller, publish
from tests.loopback.live.test_canaries import NAME, PATIENT_ID, STUDY_UID, hits

from isthmus.adapters.blobstore import s3
from isthmus.adapters.blobstore.bridge import BridgeBlobstore
from isthmus.cloudio.retry import RetryingBlobstore
from isthmus.errors import BlobExists, BlobMissing, Problem, ProviderTrouble, Retry
from isthmus.ports.blobstore import Blobstore
from isthmus.ports.provider import Way
from isthmus.router.queued import mirror
from isthmus.testing.blobstore_suite import BlobstoreSuite
from isthmus.testing.bridge import running_bridge
from isthmus.testing.devices import Archive, Wire, calling, listening
from isthmus.testing.dicom import echo_rq, echo_rsp
from isthmus.testing.network import until

pytestmark = pytest.mark.interop


@pytest.fixture
async def database(server: PostgresServer) -> str:
    """Return the URL of a new database."""
    return server.url(await server.new_database())


@pytest.fixture
async def bucket(ceph: CephServer) -> str:
    """Return the name of a new bucket."""
    name = f"bridges-{secrets.token_hex(6)}"
    await s3.PROVIDER.set_up(ceph.s3(name), OWNER.s3, Way(), keep_days=40)
    return name


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return keys_file(tmp_path / "keys", OWNER.secret_access_key)


@pytest.fixture
def arguments(database: str, ceph: CephServer, bucket: str, keys: Path) -> list[str]:
    """Return how each Bridge is run."""
    return ["--database-url", database, "--blobs", ceph.s3(bucket), "--blobs-keys", str(keys)]


def keys_file(path: Path, secret: str) -> Path:
    path.touch(0o600)
    path.write_text(f"access_key_id={OWNER.access_key_id}\nsecret_access_key={secret}\n")
    return path


async def held(ceph: CephServer, bucket: str) -> dict[str, bytes]:
    """Return all that is in a bucket but its mark, as whoever runs the store sees it."""
    store = opened(s3.PROVIDER, ceph.s3(bucket), OWNER.s3)
    try:
        return {blob.name: await store.get(blob.name) async for blob in store.list("") if blob.name != "mark"}
    finally:
        await store.close()


# -- one Bridge


class TestBlobsOfABridgeWithAStore(BlobstoreSuite):
    @pytest.fixture
    async def store(self, tmp_path: Path, ceph: CephServer, bucket: str) -> AsyncIterator[Blobstore]:
        async with running_bridge(tmp_path / "bridge", blobs=ceph.s3(bucket), blobs_keys=OWNER.s3) as bridge:
            store = BridgeBlobstore((await bridge.join("clinic")).client)
            yield store
            await store.close()


async def test_in_bad_weather_nothing_that_was_acknowledged_is_lost_and_nothing_is_a_fault(
    tmp_path: Path, ceph: CephServer, bucket: str
) -> None:
    async with weather(ceph.port) as sky:
        url = ceph.s3(bucket, port=sky.port)
        async with running_bridge(tmp_path / "bridge", blobs=url, blobs_keys=OWNER.s3) as bridge:
            store = BridgeBlobstore((await bridge.join("clinic")).client)
            patient = RetryingBlobstore(store, tries=20, first=0.001, most=0.01)
            sky.some, sky.share = BAD, 0.5
            bodies = {f"q/{secrets.token_hex(8)}": secrets.token_bytes(size) for size in (0, 1000, 300_000) * 4}
            for name, body in bodies.items():
                await patient.put(name, body)
            for name, body in bodies.items():
                assert await patient.get(name) == body
                with pytest.raises(BlobExists):
                    await patient.put(name, body + b"!")
            await patient.delete(*bodies)
            for name in bodies:
                with pytest.raises(BlobMissing):
                    await patient.get(name)
            assert bridge.parts.blobs.used == 0
        assert len(set(sky.met)) > 3
    assert await held(ceph, bucket) == {}


@pytest.mark.parametrize("kind", [Trouble.BUSY, Trouble.BROKEN, Trouble.CUT_BEFORE, Trouble.DENIED_ANSWER])
async def test_a_store_in_trouble_is_answered_so_that_a_router_asks_again_later(
    tmp_path: Path, ceph: CephServer, bucket: str, kind: Trouble
) -> None:
    async with weather(ceph.port) as sky:
        url = ceph.s3(bucket, port=sky.port)
        async with running_bridge(tmp_path / "bridge", blobs=url, blobs_keys=OWNER.s3) as bridge:
            member = await bridge.join("clinic")
            store = BridgeBlobstore(member.client)
            await store.put("q/before", b"body")
            sky.always = kind
            for call in (store.put("q/a", b"body"), store.get("q/before"), store.delete("q/before")):
                with pytest.raises(ProviderTrouble) as put_off:
                    await call
                assert put_off.value.retry is Retry.LATER
                assert not isinstance(put_off.value, BlobMissing)
            with pytest.raises(Problem) as said:
                await member.client.request("PUT", "/blobs/q/a", b"body")
            assert said.value.status == 503
            sky.always = Trouble.NONE
            await store.put("q/a", b"body")
            assert await store.get("q/a") == b"body"
            await store.delete("q/a", "q/before")
    assert await held(ceph, bucket) == {}


# -- several


@pytest.mark.parametrize("bus", ["notify", "nats"])
async def test_real_devices_send_live_and_queued_by_way_of_two_bridges_on_one_bucket(
    tmp_path: Path,
    arguments: list[str],
    ceph: CephServer,
    nats_bus: NatsServer,
    bucket: str,
    bus: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is held for a site that is away outlives a Bridge that is killed, and tells nothing."""
    if bus == "nats":
        arguments = [*arguments, "--bus", bus_url(nats_bus)]
    monkeypatch.setattr(mirror, "APART_SECONDS", 0.0)
    image = dcmread(CT)
    image.PatientName, image.PatientID, image.StudyInstanceUID = NAME, PATIENT_ID, STUDY_UID
    image.save_as(tmp_path / "canary.dcm")
    async with (
        running_bridges(tmp_path, arguments) as network,
        dcmtk.storescp(tmp_path / "got", title="ARCHIVE") as port,
    ):
        for bridge, name in zip(network.bridges, ("north", "south"), strict=True):
            network.balancer.ports = [bridge.port]
            await network.join(name)
        network.balancer.ports = [bridge.port for bridge in network.bridges]
        await network.accept_all()
        title = await caller(network, "SCANNER")
        await publish(network, "ARCHIVE", port)
        north, south = network.sites["north"], network.sites["south"]
        ran = await storescu(north.port, title, "ARCHIVE", [CT, MR])
        assert ran.code == 0, ran.output
        await queue_for(network, "QUEUED", port)
        ran = await storescu(north.port, title, "QUEUED", [CT, MR])
        assert ran.code == 0, ran.output
        await all_are(north, "QUEUED", delivered=2)

        await south.end()
        ran = await storescu(north.port, title, "QUEUED", [tmp_path / "canary.dcm"])
        assert ran.code == 0, ran.output
        await all_are(north, "QUEUED", delivered=2, posted=1)
        await until(lambda: holds(ceph, bucket, 30_000))  # the letter may go before its blob
        there = await held(ceph, bucket)
        assert sum(map(len, there.values())) > 30_000
        assert hits("\n".join(there).encode() + b"".join(there.values())) == []
        for bridge in network.bridges:
            await bridge.stop(signal.SIGKILL)
            await bridge.start()
            await network.together()
        assert [(await status(bridge))["blob_bytes"] for bridge in network.bridges] == [
            sum(map(len, there.values()))
        ] * 2
        await network.start("south")
        await all_are(north, "QUEUED", delivered=3)
        await until(lambda: are_gone(ceph, bucket, there))  # what says so to the sender may be there for a while
        assert all(OWNER.secret_access_key not in line for bridge in network.bridges for line in bridge.said)


async def status(bridge: BridgeProcess) -> dict[str, object]:
    answer: dict[str, object] = await bridge.control.control("status")
    return answer


async def holds(ceph: CephServer, bucket: str, more_than: int) -> bool:
    return sum(map(len, (await held(ceph, bucket)).values())) > more_than


async def are_gone(ceph: CephServer, bucket: str, names: Collection[str]) -> bool:
    return not set(names) & set(await held(ceph, bucket))


async def test_an_association_outlives_a_bridge_that_is_restarted_and_one_that_is_killed(
    tmp_path: Path, arguments: list[str]
) -> None:
    async with listening(Archive()) as pacs, running_bridges(tmp_path, arguments) as network:
        await network.join("north")
        await network.join("south")
        await network.accept_all()
        await network.pair(pacs)
        async with calling(network.sites["north"].port) as wire:
            assert (await wire.associate("PACS", "WS"))[0] == 2
            for how, bridge in zip((signal.SIGTERM, signal.SIGKILL), network.bridges, strict=True):
                await bridge.stop(how)
                await answers(wire)
                await bridge.start()
                await network.together()
            await wire.release()
        await network.quiet()


async def answers(wire: Wire) -> None:
    await wire.send(echo_rq())
    assert await wire.pdu(25) == echo_rsp()


# -- the start


async def test_a_bridge_keeps_where_its_blobs_are_and_refuses_another_place_while_others_run(
    tmp_path: Path, arguments: list[str], ceph: CephServer, bucket: str
) -> None:
    async with running_bridges(tmp_path, arguments) as network:
        first, second = network.bridges
        await second.stop()
        without = BridgeProcess(second.data, [word for word in second.arguments if word not in arguments[2:]])
        await without.start()
        await without.stop()
        await s3.PROVIDER.set_up(ceph.s3(f"{bucket}-2"), OWNER.s3, Way(), keep_days=40)
        for other in ([ceph.s3(f"{bucket}-2")], [ceph.s3(f"{bucket}/below")], [str(tmp_path / "folder")]):
            moved = [*arguments[:2], "--blobs", *other, *(arguments[4:] if other[0].startswith("s3:") else [])]
            assert "keep their blobs elsewhere" in await refusal(BridgeProcess(second.data, ["--no-tls", *moved]))
        await first.stop()
        await second.start()


@pytest.mark.parametrize(
    ("change", "line", "hint"),
    [
        ({"keys": "wrong"}, "the keys may not get in the bucket", "s3:GetObject"),  # Ceph says no more
        ({"keys": ""}, "the keys for S3 lack secret_access_key", "--blobs-keys FILE"),
        ({"bucket": "no-such-bucket"}, "there is no bucket no-such-bucket", "make it first"),
        ({"port": "1"}, "cannot be reached", "firewall"),
        ({"url": "gopher://x/y"}, "no provider for gopher://x/y", "s3:"),
        ({"url": "s3://x:1/"}, "the URL lacks a bucket", "s3://HOST:PORT/BUCKET"),
    ],
)
async def test_what_is_wrong_with_the_store_is_told_at_the_start_in_one_line_with_a_hint(
    tmp_path: Path, ceph: CephServer, bucket: str, change: dict[str, str], line: str, hint: str
) -> None:
    file = keys_file(tmp_path / "keys", change.get("keys", OWNER.secret_access_key))
    url = change.get("url") or ceph.s3(change.get("bucket", bucket), port=int(change.get("port", ceph.port)))
    bridge = BridgeProcess(tmp_path / "bridge", ["--no-tls", "--blobs", url, "--blobs-keys", str(file)])
    said = await refusal(bridge)
    assert line in said
    assert hint in said
    assert OWNER.secret_access_key not in said
    assert sum(text.startswith("isthmus: ") for text in bridge.said) == 1, said


async def test_keys_that_others_may_read_are_not_taken(tmp_path: Path, ceph: CephServer, bucket: str) -> None:
    file = keys_file(tmp_path / "keys", OWNER.secret_access_key)
    file.chmod(0o640)
    bridge = BridgeProcess(tmp_path / "bridge", ["--no-tls", "--blobs", ceph.s3(bucket), "--blobs-keys", str(file)])
    assert "others than its owner may read" in await refusal(bridge)


async def test_what_keys_may_not_do_is_named_at_the_start(tmp_path: Path, ceph: CephServer, bucket: str) -> None:
    file = tmp_path / "keys"
    file.touch(0o600)
    file.write_text("\n".join(f"{name} = {value}" for name, value in STRANGER.s3.items()))
    bridge = BridgeProcess(tmp_path / "bridge", ["--no-tls", "--blobs", ceph.s3(bucket), "--blobs-keys", str(file)])
    assert "the permission s3:GetObject is needed" in await refusal(bridge)


async def refusal(bridge: BridgeProcess) -> str:
    """Return what a Bridge says that does not start."""
    bridge.data.mkdir(exist_ok=True)
    try:
        with pytest.raises(AssertionError) as refused:
            await bridge.start()
        assert bridge.process is not None
        async with asyncio.timeout(STOPS_SECONDS):
            assert await bridge.process.wait() == 1
    finally:
        await bridge.stop()
    return str(refused.value)
