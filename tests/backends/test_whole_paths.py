"""Real devices over whole pairs of real services: live and queued; and what the services hold of it tells nothing."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from pydicom import dcmread
from tests.backends.servers.azurite import ACCOUNT, ACCOUNT_KEY, AzuriteServer
from tests.backends.servers.moto import MotoServer
from tests.backends.servers.moto import moto as moto
from tests.backends.servers.nats import NatsServer
from tests.backends.servers.nats import nats_server as nats_server
from tests.clouds import use_pair
from tests.interop import dcmtk
from tests.interop.queued import all_are, nothing_left, queue_for, sites, storescu
from tests.interop.sites import CT, MR, caller, publish

pytestmark = pytest.mark.interop


@dataclass(frozen=True, slots=True)
class Clouds:
    """A pair: where it is, and the operator's keys. `held` returns all that its services have kept so far."""

    signalling: str
    blobstore: str
    hosts: tuple[str, ...]
    secrets: Mapping[str, str] = field(repr=False)


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


def _built_in(_: pytest.FixtureRequest) -> tuple[str, dict[str, str], int]:
    return "bridge:", {}, 0


SERVICES = {"nats": _nats, "sqs": _sqs, "azure queue": _azure_queue, "bridge": _built_in}
PAIRS = (("nats", "bridge"), ("sqs", "bridge"), ("azure queue", "bridge"))


@pytest.fixture
def clouds(request: pytest.FixtureRequest) -> Clouds:
    signalling, signalling_keys, signalling_port = SERVICES[request.param[0]](request)
    blobstore, blobstore_keys, blobstore_port = SERVICES[request.param[1]](request)
    ports = [port for port in (signalling_port, blobstore_port) if port]
    return Clouds(
        signalling, blobstore, tuple(f"127.0.0.1:{port}" for port in ports), {**signalling_keys, **blobstore_keys}
    )


@pytest.mark.parametrize("clouds", PAIRS, indirect=True, ids=" and ".join)
async def test_live_and_queued_images_arrive_over_the_pair(clouds: Clouds, tmp_path: Path) -> None:
    async with sites(tmp_path) as network, dcmtk.storescp(tmp_path / "got", title="ARCHIVE") as port:
        await use_pair(
            network,
            "cloud",
            signalling=clouds.signalling,
            blobstore=clouds.blobstore,
            hosts=clouds.hosts,
            secrets=clouds.secrets,
        )
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
