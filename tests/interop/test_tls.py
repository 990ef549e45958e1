"""DICOM TLS between devices and their Routers, with DCMTK's BCP 195 profiles (PS3.15 annex B)."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from pydicom import dcmread
from tests.interop import dcmtk
from tests.interop.certificates import Authority, Credentials
from tests.interop.dcmtk import Ran, files, run
from tests.interop.sites import CT, caller, new_title, publish

from isthmus.testing.devices import Archive, calling, listening
from isthmus.testing.network import Network, NetworkOptions

pytestmark = [pytest.mark.interop, pytest.mark.asyncio(loop_scope="module")]

PROFILES = ["+py", "+px", "+pz"]  # BCP 195: non-downgrading, plain, extended


@dataclass(frozen=True, slots=True)
class Secure:
    """A network whose Routers have certificates of one authority, and a device that has one too."""

    network: Network
    authority: Authority
    device: Credentials

    @property
    def port(self) -> str:
        """Where north listens for DICOM TLS."""
        where = self.network.sites["north"].address.dicom_tls
        assert where is not None
        return str(where.port)

    async def scu(self, tool: str, calling: str, called: str, *more: str | Path) -> Ran:
        """Run a DCMTK tool of north, with the device's certificate, over TLS."""
        words = ("+tls", self.device.key, self.device.certificate, "+cf", self.authority.certificate)
        return await run(tool, "-v", *words, "-aet", calling, "-aec", called, *more)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def secure(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Secure]:
    folder = tmp_path_factory.mktemp("network")
    authority = Authority(tmp_path_factory.mktemp("authority"))
    for site in ("north", "south"):
        tls = folder / site / "tls"
        authority.issue(f"router of {site}", tls)
        (tls / "devices.pem").write_bytes(authority.certificate.read_bytes())
    async with Network.running(folder, options=NetworkOptions(tls=True, dicom_tls=True)) as network:
        yield Secure(network, authority, authority.issue("device"))


@pytest.mark.parametrize("profile", PROFILES)
async def test_a_device_calls_its_router_over_tls(secure: Secure, tmp_path: Path, profile: str) -> None:
    who, folder = await caller(secure.network, "CT"), tmp_path / "got"
    async with dcmtk.storescp(folder) as port:
        title = await publish(secure.network, new_title("STORE"), port, ["store"])
        ran = await secure.scu("storescu", who, title, profile, "127.0.0.1", secure.port, CT)
    assert ran.code == 0, ran.output
    (image,) = files(folder)
    assert dcmread(image).PixelData == dcmread(CT).PixelData


@pytest.mark.parametrize("profile", PROFILES)
async def test_a_router_calls_its_device_over_tls(secure: Secure, tmp_path: Path, profile: str) -> None:
    who, folder = await caller(secure.network, "CT"), tmp_path / "got"
    tls = {
        "to_device": True,
        "ca": str(secure.authority.certificate),
        "certificate": str(secure.device.certificate),
        "key": str(secure.device.key),
    }
    own = secure.authority.issue("archive", tmp_path / "archive")
    words = ("+tls", own.key, own.certificate, "+cf", secure.authority.certificate, profile)
    async with dcmtk.storescp(folder, *words) as port:
        title = await publish(secure.network, new_title("STORE"), port, ["store"], tls=tls)
        north = str(secure.network.sites["north"].port)
        ran = await run("storescu", "-v", "-aet", who, "-aec", title, "127.0.0.1", north, CT)
    assert ran.code == 0, ran.output
    (image,) = files(folder)
    assert dcmread(image).PixelData == dcmread(CT).PixelData


async def test_a_caller_without_a_certificate_is_refused(secure: Secure) -> None:
    archive = Archive()
    async with listening(archive) as device:
        who, title = await caller(secure.network, "CT"), new_title("PACS")
        await publish(secure.network, title, device.port)
        ran = await run(
            "echoscu", "-v", "+tla", "+cf", secure.authority.certificate, "-aet", who, "-aec", title,
            "127.0.0.1", secure.port,
        )  # fmt: skip
        assert ran.code != 0, ran.output
        assert device.dialled == 0


async def test_a_caller_with_a_certificate_of_another_authority_is_refused(secure: Secure, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger", "Another CA").issue("stranger")
    async with listening(Archive()) as device:
        who, title = await caller(secure.network, "CT"), new_title("PACS")
        await publish(secure.network, title, device.port)
        ran = await run(
            "echoscu", "-v", "+tls", stranger.key, stranger.certificate, "+cf", secure.authority.certificate,
            "-aet", who, "-aec", title, "127.0.0.1", secure.port,
        )  # fmt: skip
        assert ran.code != 0, ran.output
        assert device.dialled == 0


async def test_a_plain_caller_on_the_tls_port_gets_nothing(secure: Secure) -> None:
    ran = await run("echoscu", "-v", "-to", "5", "-ta", "5", "127.0.0.1", secure.port)
    assert ran.code != 0, ran.output


async def test_a_device_that_must_use_tls_is_refused_without_it(secure: Secure) -> None:
    title, who = new_title("PACS"), new_title("CT")
    async with listening(Archive()) as device:
        await publish(secure.network, title, device.port)
        tls = {"to_device": False, "from_device": True}
        await secure.network.sites["north"].control("device_add", address=f"{who}@127.0.0.1", tls=tls)
        async with calling(secure.network.sites["north"].port) as wire:
            assert await wire.associate(title, who) == bytes.fromhex("03 00 00000004 00 01 01 03")
        assert device.dialled == 0
        ran = await secure.scu("echoscu", who, title, "127.0.0.1", secure.port)
        assert ran.code == 0, ran.output


async def test_a_device_whose_certificate_does_not_verify_is_not_reached(secure: Secure, tmp_path: Path) -> None:
    """An outage as far as the caller knows: 2/3/1, and the log says TLS."""
    who, folder = await caller(secure.network, "CT"), tmp_path / "got"
    stranger = Authority(tmp_path / "stranger", "Another CA").issue("stranger")
    tls = {"to_device": True, "ca": str(secure.authority.certificate)}
    words = ("+tls", stranger.key, stranger.certificate, "-ic")
    async with dcmtk.storescp(folder, *words) as port:
        title = await publish(secure.network, new_title("STORE"), port, ["store", "echo"], tls=tls)
        async with calling(secure.network.sites["north"].port) as wire:
            assert await wire.associate(title, who) == bytes.fromhex("03 00 00000004 00 02 03 01")
