"""Real devices over whole pairs of real services: live and queued; and what the services hold of it tells nothing."""

import gc
import secrets
import time
from collections import Counter
from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid
from tests.backends.servers.azurite import ACCOUNT, ACCOUNT_KEY, AzuriteServer
from tests.backends.servers.ceph import OWNER, CephServer
from tests.backends.servers.moto import MotoServer
from tests.backends.servers.moto import moto as moto
from tests.backends.servers.nats import NatsServer
from tests.backends.servers.nats import nats_server as nats_server
from tests.clouds import Clouds, use_pair
from tests.interop import dcmtk
from tests.interop.queued import all_are, nothing_left, queue_for, sites, storescu
from tests.interop.sites import CT, MR, caller, publish
from tests.loopback.live.test_canaries import NAME, PATIENT_ID, STUDY_UID, hits

from isthmus.adapters.signalling.azure.service import AzureQueueSignalling
from isthmus.router.live.opening import HEARD_SECONDS
from isthmus.testing.devices import Archive, calling, listening
from isthmus.testing.dicom import CT_CONTEXT
from isthmus.testing.network import Network, until

pytestmark = pytest.mark.interop

MIB = 1024 * 1024


def _nats(request: pytest.FixtureRequest) -> tuple[str, dict[str, str], int]:
    server: NatsServer = request.getfixturevalue("nats_server")
    return server.url, {"signalling.account_seed": server.account.seed}, server.port


def _sqs(request: pytest.FixtureRequest) -> tuple[str, dict[str, str], int]:
    server: MotoServer = request.getfixturevalue("moto")
    keys = {"signalling.access_key_id": "AKIATESTTESTTEST", "signalling.secret_access_key": "test"}
    return server.url(secrets.token_hex(6)), keys, server.port


def _azure_queue(request: pytest.FixtureRequest) -> tuple[str, dict[str, str], int]:
    server: AzuriteServer = request.getfixturevalue("azurite")
    url = f"azqueue://127.0.0.1:{server.queue_port}/{ACCOUNT}/n{secrets.token_hex(6)}?tls=no"
    return url, {"signalling.account_key": ACCOUNT_KEY}, server.queue_port


def _s3(request: pytest.FixtureRequest) -> tuple[str, dict[str, str], int]:
    server: CephServer = request.getfixturevalue("ceph")
    keys = {f"blobstore.{name}": value for name, value in OWNER.s3.items()}
    return server.s3(f"paths-{secrets.token_hex(6)}"), keys, server.port


def _azure_blob(request: pytest.FixtureRequest) -> tuple[str, dict[str, str], int]:
    server: AzuriteServer = request.getfixturevalue("azurite")
    return server.blobs(f"paths-{secrets.token_hex(6)}"), {"blobstore.account_key": ACCOUNT_KEY}, server.blob_port


def _built_in(_: pytest.FixtureRequest) -> tuple[str, dict[str, str], int]:
    return "bridge:", {}, 0


SERVICES = {
    "nats": _nats,
    "sqs": _sqs,
    "azure queue": _azure_queue,
    "s3": _s3,
    "azure blob": _azure_blob,
    "bridge": _built_in,
}
PAIRS = (("nats", "s3"), ("sqs", "s3"), ("azure queue", "azure blob"), ("nats", "bridge"))


@pytest.fixture
def clouds(request: pytest.FixtureRequest) -> Clouds:
    signalling, signalling_keys, signalling_port = SERVICES[request.param[0]](request)
    blobstore, blobstore_keys, blobstore_port = SERVICES[request.param[1]](request)
    return Clouds(
        signalling,
        blobstore,
        hosts=[f"127.0.0.1:{port}" for port in (signalling_port, blobstore_port) if port],
        keys={**signalling_keys, **blobstore_keys},
    )


@pytest.mark.parametrize("clouds", PAIRS, indirect=True, ids=" and ".join)
async def test_live_and_queued_images_arrive_over_the_pair(clouds: Clouds, tmp_path: Path) -> None:
    async with sites(tmp_path) as network, dcmtk.storescp(tmp_path / "got", title="ARCHIVE") as port:
        await use_pair(network, "cloud", clouds)
        assert network.parts is not None
        title = await caller(network, "SCANNER")
        await publish(network, "ARCHIVE", port)
        forwarded = network.parts.hub.forwarded_bytes
        ran = await storescu(network.sites["north"].port, title, "ARCHIVE", [CT, MR])
        assert ran.code == 0, ran.output
        assert network.parts.hub.forwarded_bytes - forwarded < 10_000  # what is told of the network
        assert [row.provider for row in await network.parts.audit.newest(1)] == ["cloud"]
        assert _got(tmp_path) == _sent(CT, MR)
        for path in (tmp_path / "got").iterdir():
            path.unlink()
        await queue_for(network, "QUEUED", port)
        ran = await storescu(network.sites["north"].port, title, "QUEUED", [CT, MR])
        assert ran.code == 0, ran.output
        await all_are(network.sites["north"], "QUEUED", delivered=2)
        assert _got(tmp_path) == _sent(CT, MR)
        await nothing_left(network)


def _sent(*paths: Path) -> set[tuple[str, bytes]]:
    """Return who is who, and the pixels: storescu leaves out what pads a file's end."""
    found = [dcmread(path) for path in paths]
    return {(image.SOPInstanceUID, image.PixelData) for image in found}


def _got(folder: Path) -> set[tuple[str, bytes]]:
    return _sent(*dcmtk.files(folder / "got"))


@pytest.mark.parametrize("clouds", [("nats", "s3"), ("azure queue", "azure blob")], indirect=True, ids=" and ".join)
async def test_what_a_store_holds_for_a_site_that_is_away_tells_nothing_and_is_gone_once_it_is_back(
    clouds: Clouds, tmp_path: Path
) -> None:
    image = dcmread(CT)
    image.PatientName, image.PatientID, image.StudyInstanceUID = NAME, PATIENT_ID, STUDY_UID
    image.save_as(tmp_path / "canary.dcm")
    async with sites(tmp_path) as network, dcmtk.storescp(tmp_path / "got", title="ARCHIVE") as port:
        await use_pair(network, "cloud", clouds)
        north, south = network.sites["north"], network.sites["south"]
        title = await caller(network, "SCANNER")
        await queue_for(network, "QUEUED", port)
        await south.end()
        ran = await storescu(north.port, title, "QUEUED", [tmp_path / "canary.dcm"])
        assert ran.code == 0, ran.output
        await all_are(north, "QUEUED", posted=1)
        held = await clouds.held()
        assert sum(map(len, held.values())) > 30_000
        assert hits("\n".join(held).encode() + b"".join(held.values())) == []
        await network.start("south")
        await all_are(north, "QUEUED", delivered=1)
        assert _got(tmp_path) == _sent(tmp_path / "canary.dcm")
        await until(lambda: _nothing(clouds))


async def _nothing(clouds: Clouds) -> bool:
    return not await clouds.held()


@pytest.mark.parametrize("clouds", [("azure queue", "azure blob")], indirect=True, ids=" and ".join)
async def test_an_association_after_a_pause_finds_its_listener_awake(clouds: Clouds, tmp_path: Path) -> None:
    """The offer goes through the Bridge: nothing that was put into a queue has the caller's Router look there."""
    async with listening(Archive()) as pacs, Network.running(tmp_path) as network:
        await network.pair(pacs)
        await use_pair(network, "cloud", clouds)
        await until(_look_seldom)
        async with calling(network.sites["north"].port) as wire:
            assert (await wire.associate("PACS", "WS", contexts=(CT_CONTEXT,)))[0] == 2  # A-ASSOCIATE-AC
            await wire.release()
        await network.quiet()


def _look_seldom() -> bool:
    """Return whether every listener at a queue leaves it alone for longer than a caller waits."""
    services = [thing for thing in gc.get_objects() if type(thing) is AzureQueueSignalling]
    rhythms = [rhythm for service in services for rhythm in service._listeners.values()]
    return bool(rhythms) and all(rhythm.next_look() - time.monotonic() > HEARD_SECONDS for rhythm in rhythms)


MOST_QUEUED_REQUESTS = 600
"""Billable requests for a GiB that is queued, at both ends together; deletions cost nothing."""


@pytest.mark.parametrize("clouds", [("nats", "s3")], indirect=True, ids=" and ".join)
async def test_a_gibibyte_that_is_queued_costs_no_more_requests_than_is_promised(
    clouds: Clouds, tmp_path: Path
) -> None:
    images = [_image(tmp_path / f"{number}.dcm", MIB) for number in range(64)]
    async with sites(tmp_path) as network, dcmtk.storescp(tmp_path / "got", title="ARCHIVE") as port:
        await use_pair(network, "cloud", clouds)
        title = await caller(network, "SCANNER")
        await queue_for(network, "QUEUED", port)
        before = _requests(network)
        ran = await storescu(network.sites["north"].port, title, "QUEUED", images)
        assert ran.code == 0, ran.output
        await all_are(network.sites["north"], "QUEUED", delivered=len(images))
        asked = _requests(network) - before
    assert asked["put"] >= 8
    assert (asked.total() - asked["delete"]) * 1024 / len(images) <= MOST_QUEUED_REQUESTS, asked


def _requests(network: Network) -> Counter[str]:
    """Return what all Routers asked of providers so far, by kind."""
    counts: Counter[str] = Counter()
    for site in network.sites.values():
        usage = site.live.core.pairs.usage
        for row in usage.counts if usage is not None else ():
            counts[row.kind] += row.requests
    return counts


def _image(path: Path, size: int) -> Path:
    image = dcmread(CT)
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    image.Rows, image.Columns = 1024, size // 2048
    image.PixelData = secrets.token_bytes(size)
    image.save_as(path)
    return path
