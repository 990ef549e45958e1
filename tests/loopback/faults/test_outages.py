"""Parts that stop, die or lose notices under live associations: bytes stay whole, devices are let go in time."""

import asyncio
import contextlib
import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from isthmus.cloudio.options import StreamOptions
from isthmus.cloudio.stream import Cloud
from isthmus.ports.signalling import SignallingTraits
from isthmus.testing.depth import count
from isthmus.testing.devices import Archive, Listening, calling, listening
from isthmus.testing.dicom import abort, echo_rq, echo_rsp, store_rq, store_rsp
from isthmus.testing.network import Network, NetworkOptions, until
from isthmus.testing.weather import Weather, WeatherBlobstore, WeatherSignalling

MIB = 1024 * 1024
QUICK_SILENCE = StreamOptions(silence_limit=4.0, status_idle=1.0)


@contextlib.asynccontextmanager
async def relayed(
    folder: Path, options: NetworkOptions | None = None
) -> AsyncIterator[tuple[Network, int, Archive, Listening]]:
    archive = Archive()
    async with listening(archive) as pacs, Network.running(folder, options=options or NetworkOptions()) as network:
        await network.pair(pacs)
        yield network, network.sites["north"].port, archive, pacs
        await network.quiet()


@pytest.mark.timeout(600)
async def test_an_association_survives_a_bridge_that_stops_and_comes_back(tmp_path: Path) -> None:
    """T3: the transfer stands still, then goes on; not a byte is lost or repeated."""
    message = store_rq(os.urandom(4 * MIB), max_pdu_length=65_536)
    sent = hashlib.sha256()
    async with relayed(tmp_path) as (network, port, archive, pacs):
        async with calling(port) as wire:
            assert (await wire.associate("PACS", "WS"))[0] == 2
            for seconds in (1.0, 10.0) * count(push=1, nightly=10):
                half = len(message) // 2
                await wire.send(message[:half])
                await until(lambda: archive.bytes_in > 0)
                await network.stop_bridge()
                writing = asyncio.get_running_loop().create_task(wire.send(message[half:]))
                await asyncio.sleep(seconds)  # the outage itself: nothing to wait for
                await network.start_bridge()
                await writing
                sent.update(message)
                assert await wire.pdu(25.0) == store_rsp()
            assert archive.digest.digest() == sent.digest()
            await wire.release()
        assert (pacs.dialled, archive.released) == (1, 1)
        assert network.parts is not None
        # both Routers name it to the new Bridge, or it is over before they did; either way nothing is left
        await network.quiet(40.0)


async def test_new_associations_are_taken_again_once_the_bridge_is_back(tmp_path: Path) -> None:
    async with relayed(tmp_path) as (network, port, _, _pacs):
        await network.stop_bridge()
        async with calling(port) as wire:
            assert (await wire.associate("PACS", "WS"))[0] == 3
        await network.start_bridge()
        await until(lambda: takes_associations(port), 20)


@pytest.mark.parametrize("seed", range(2))
async def test_set_up_and_data_work_in_bad_weather(tmp_path: Path, seed: int) -> None:
    """T4: notices dropped, repeated and reordered, both ways, from the offer's answer to the last status."""
    weather = Weather()

    def around(name: str, cloud: Cloud) -> Cloud:
        own = seed * 10 + (name == "north")
        return Cloud(
            WeatherSignalling(cloud.signalling, weather, seed=own), WeatherBlobstore(cloud.blobstore, weather, seed=own)
        )

    message = store_rq(os.urandom(MIB), max_pdu_length=65_536)
    options = NetworkOptions(around=around, stream=replace(QUICK_SILENCE, silence_limit=8.0))
    async with relayed(tmp_path, options) as (network, port, archive, pacs):
        weather.drop = weather.repeat = weather.reorder = 0.2
        sent = hashlib.sha256()
        for _ in range(count(push=3, nightly=50)):
            async with calling(port) as wire:
                assert (await wire.associate("PACS", "WS"))[0] == 2
                await wire.send(echo_rq())
                assert await wire.pdu() == echo_rsp()
                await wire.send(message)
                assert await wire.pdu() == store_rsp()
                await wire.release()
                sent.update(echo_rq() + message)
        assert archive.digest.digest() == sent.digest()
        assert archive.released == pacs.dialled
        weather.drop = weather.repeat = weather.reorder = 0.0
        await network.quiet(15.0)


async def test_a_refusal_arrives_in_bad_weather(tmp_path: Path) -> None:
    """A lost answer must not turn the device's own word into an outage."""
    weather, first = Weather(), True

    class LosesTheFirstAnswer(WeatherSignalling):
        async def publish(self, to: str, notice: bytes) -> None:
            nonlocal first
            if notice[0] == 16 and first:
                first = False
                return
            await super().publish(to, notice)

    def around(name: str, cloud: Cloud) -> Cloud:
        return Cloud(LosesTheFirstAnswer(cloud.signalling, weather), cloud.blobstore)

    async with relayed(tmp_path, NetworkOptions(around=around)) as (network, port, _, _pacs):
        network.sites["south"].live.core.directory._listeners.clear()
        await network.sites["south"].control("grant_remove", grant=1)
        async with calling(port) as wire:
            assert await wire.associate("PACS", "WS") == bytes((3, 0, 0, 0, 0, 4, 0, 1, 1, 3))
        assert not first


async def test_bytes_come_through_a_blobstore_that_fails(tmp_path: Path) -> None:
    """Every segment goes as a blob, a third of the calls fail, some after they were carried out (T5 at push size)."""
    weather = Weather()

    class OnlyBlobs(WeatherSignalling):
        @property
        def traits(self) -> SignallingTraits:
            return replace(super().traits, cheap_bulk=False, max_notice_bytes=8192)

    def around(name: str, cloud: Cloud) -> Cloud:
        return Cloud(OnlyBlobs(cloud.signalling, Weather()), WeatherBlobstore(cloud.blobstore, weather, seed=7))

    message = store_rq(os.urandom(2 * MIB), max_pdu_length=65_536)
    async with relayed(tmp_path, NetworkOptions(around=around)) as (network, port, archive, _pacs):
        weather.trouble = 0.3
        async with calling(port) as wire:
            await wire.associate("PACS", "WS")
            await wire.send(message)
            assert await wire.pdu(30.0) == store_rsp()
            weather.trouble = 0.0
            await wire.release()
        assert archive.digest.digest() == hashlib.sha256(message).digest()
        await network.quiet()


async def test_a_killed_router_lets_the_devices_of_the_other_side_go(tmp_path: Path) -> None:
    """A process of its own, killed without a word; the silence limit is 4 s here, 25 by default."""
    archive = Archive()
    options = NetworkOptions(stream=QUICK_SILENCE)
    async with listening(archive) as pacs, Network.running(tmp_path, options=options) as network:
        await network.pair(pacs)
        await network.sites["south"].end()
        with await asyncio.to_thread(start_process, network.sites["south"].data) as process:
            try:
                assert process.stdout is not None
                assert await asyncio.to_thread(process.stdout.readline)
                await until(lambda: takes_associations(network.sites["north"].port))
                async with calling(network.sites["north"].port) as wire:
                    assert (await wire.associate("PACS", "WS"))[0] == 2
                    await wire.send(echo_rq())
                    assert await wire.pdu() == echo_rsp()
                    process.send_signal(signal.SIGKILL)
                    assert await wire.pdu(8.0) == abort(2, 0)
                await pacs.let_go()  # by the kernel: its connection died with the process
            finally:
                process.kill()
        await network.quiet()
        await network.start("south")  # what the dead one left behind keeps nobody from starting
        await until(lambda: takes_associations(network.sites["north"].port))
        await network.quiet()


async def test_the_callers_router_killed_lets_the_called_device_go(tmp_path: Path) -> None:
    archive = Archive()
    options = NetworkOptions(stream=QUICK_SILENCE)
    async with listening(archive) as pacs, Network.running(tmp_path, options=options) as network:
        await network.pair(pacs)
        await network.sites["north"].end()
        with await asyncio.to_thread(start_process, network.sites["north"].data) as process:
            try:
                assert process.stdout is not None
                port = int(await asyncio.to_thread(process.stdout.readline))
                await until(lambda: takes_associations(port))
                async with calling(port) as wire:
                    assert (await wire.associate("PACS", "WS"))[0] == 2
                    process.send_signal(signal.SIGKILL)
                    assert await wire.ended() == b""
                await pacs.let_go(8.0)
                assert archive.endings[-1] == "aborted 2/0"
            finally:
                process.kill()
        await network.quiet()


async def takes_associations(port: int) -> bool:
    async with calling(port) as wire:
        answer = await wire.associate("PACS", "WS")
        if answer[:1] != b"\x02":
            return False
        await wire.release()
    return True


def start_process(data: Path) -> subprocess.Popen[bytes]:
    """Run a Router in a process of its own; its first line of output is its LAN port."""
    code = (
        "import asyncio, logging, structlog; from pathlib import Path;"
        "from isthmus.cloudio.options import StreamOptions;"
        "from isthmus.kit.names import HostPort; from isthmus.router.app import run_router;"
        "from isthmus.router.config import RouterConfig;"
        "structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL));"
        "any_port = HostPort('127.0.0.1', 0);"
        f"config = RouterConfig(Path({str(data)!r}), dicom=any_port, console=any_port,"
        " stream=StreamOptions(silence_limit=4.0, status_idle=1.0));"
        "asyncio.run(run_router(config, asyncio.Event(), lambda where: print(where.dicom.port, flush=True)))"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
