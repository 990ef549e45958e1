"""The relay decides like the direct wire: what one device does to its connection, the other sees, and nothing stays."""

import asyncio
import contextlib
import functools
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from isthmus.association.machine import UpperLayer
from isthmus.cloudio.options import StreamOptions
from isthmus.router.config import RouterLimits
from isthmus.router.lan import connection
from isthmus.router.routing.records import Settings
from isthmus.testing.devices import Archive, Listening, Wire, calling, listening
from isthmus.testing.dicom import abort, associate_ac, associate_rq, echo_rq, echo_rsp, release_rp, release_rq, store_rq
from isthmus.testing.network import Network, NetworkOptions, until

MIB = 1024 * 1024


@contextlib.asynccontextmanager
async def relayed(
    folder: Path, options: NetworkOptions | None = None
) -> AsyncIterator[tuple[Network, int, Archive, Listening]]:
    archive = Archive()
    async with listening(archive) as pacs, Network.running(folder, options=options or NetworkOptions()) as network:
        await network.pair(pacs)
        yield network, network.sites["north"].port, archive, pacs
        await network.quiet()


async def test_a_device_that_half_closes_has_ended_its_association(tmp_path: Path) -> None:
    async with relayed(tmp_path) as (network, port, archive, pacs):
        async with calling(port) as wire:
            await wire.associate("PACS", "WS")
            wire.writer.write_eof()
            await pacs.let_go()
            await network.quiet()
        assert archive.endings == ["aborted 2/0"]


async def test_an_abort_of_either_device_arrives_with_its_source_and_reason(tmp_path: Path) -> None:
    async def aborting(wire: Wire) -> None:
        await wire.send(associate_ac(await wire.pdu()))
        await wire.pdu()
        await wire.send(abort(2, 5))
        await wire.ended()

    async with relayed(tmp_path) as (network, port, archive, pacs):
        async with calling(port) as wire:
            await wire.associate("PACS", "WS")
            await wire.send(abort(0, 4))
            await pacs.let_go()
        assert archive.endings == ["aborted 0/4"]
        pacs.script = aborting
        async with calling(port) as wire:
            await wire.associate("PACS", "WS")
            await wire.send(echo_rq())
            assert await wire.pdu() == abort(2, 5)
        await network.quiet()


@pytest.mark.parametrize("called", ["PACS", "NEAR"])
async def test_an_association_that_is_idle_too_long_ends_on_both_sides_and_progress_is_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, called: str
) -> None:
    async with relayed(tmp_path) as (network, port, archive, pacs):
        await network.sites["north"].control("device_add", address=f"NEAR@127.0.0.1:{pacs.port}")
        monkeypatch.setattr(Settings, "idle_seconds", 0.8)
        async with calling(port) as wire:
            await wire.associate(called, "WS")
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await wire.ended(0.4)
                await wire.send(echo_rq())
                assert await wire.pdu() == echo_rsp()
            assert await wire.pdu(5.0) == abort(2, 0)
            await pacs.let_go()
            assert archive.endings == ["aborted 2/0"]


@pytest.mark.parametrize("after", [abort(2, 5), release_rq(), echo_rq(), echo_rq() + abort(0, 1)])
@pytest.mark.parametrize("called", ["PACS", "NEAR"])
async def test_what_a_device_sends_in_one_breath_with_its_accept_is_not_lost(
    tmp_path: Path, after: bytes, called: str
) -> None:
    async def hasty(wire: Wire) -> None:
        await wire.send(associate_ac(await wire.pdu()) + after)
        assert await wire.pdu() in {b"", abort(2, 0)}

    async with relayed(tmp_path) as (network, port, _, pacs):
        await network.sites["north"].control("device_add", address=f"NEAR@127.0.0.1:{pacs.port}")
        pacs.script = hasty
        async with calling(port) as wire:
            await wire.associate(called, "WS")
            got = b""
            while len(got) < len(after):
                got += await wire.pdu(5.0)
            assert got == after
        await pacs.let_go()


@pytest.mark.parametrize("called", ["PACS", "NEAR"])
async def test_a_device_that_accepts_and_hangs_up_lets_its_caller_go(tmp_path: Path, called: str) -> None:
    async def fickle(wire: Wire) -> None:
        await wire.send(associate_ac(await wire.pdu()))
        wire.reset()

    async with relayed(tmp_path) as (network, port, _, pacs):
        await network.sites["north"].control("device_add", address=f"NEAR@127.0.0.1:{pacs.port}")
        pacs.script = fickle
        async with calling(port) as wire:
            await wire.associate(called, "WS")
            assert await wire.pdu(5.0) == abort(2, 0)


async def test_a_device_that_dies_inside_a_pdu_or_a_data_set_lets_the_other_go(tmp_path: Path) -> None:
    message = store_rq(bytes(200_000))
    async with relayed(tmp_path) as (network, port, archive, pacs):
        for cut in (3, 40, 150, 20_000, 100_003):
            async with calling(port) as wire:
                await wire.associate("PACS", "WS")
                await wire.send(message[:cut])
                wire.reset()
            await pacs.let_go()
            await network.quiet()
        assert len(archive.endings) == 5
        assert set(archive.endings) <= {"aborted 2/0", "lost"}


async def test_an_abort_inside_a_data_set_arrives_after_what_came_before_it(tmp_path: Path) -> None:
    message = store_rq(bytes(300_000))
    whole = message[: len(message) // 2 // 16_390 * 16_390]
    async with relayed(tmp_path) as (_, port, archive, pacs):
        async with calling(port) as wire:
            await wire.associate("PACS", "WS")
            await wire.send(message[: 6 + int.from_bytes(message[2:6], "big")])
            await wire.send(abort(0, 0))
            await pacs.let_go()
        assert whole
        assert archive.endings == ["aborted 0/0"]
        assert archive.bytes_in == 6 + int.from_bytes(message[2:6], "big")


@pytest.mark.parametrize("how", ["abort", "reset", "close"])
async def test_a_caller_that_gives_up_during_set_up_has_the_called_device_let_go(tmp_path: Path, how: str) -> None:
    let_go = asyncio.Event()

    async def slow(wire: Wire) -> None:
        assert await wire.pdu()
        assert await wire.pdu() in {b"", abort(2, 0)}
        let_go.set()

    async with listening(slow) as pacs, Network.running(tmp_path, options=NetworkOptions()) as network:
        await network.pair(pacs)
        async with calling(network.sites["north"].port) as wire:
            await wire.send(associate_rq("PACS", "WS"))
            await pacs.until(lambda: pacs.dialled == 1)
            if how == "abort":
                await wire.send(abort())
            elif how == "reset":
                wire.reset()
        async with asyncio.timeout(5):
            await let_go.wait()
        await network.quiet()


async def test_fifty_associations_at_once_each_get_their_own_bytes(tmp_path: Path) -> None:
    async with relayed(tmp_path) as (network, port, archive, pacs):

        async def one(index: int) -> None:
            async with calling(port) as wire:
                assert (await wire.associate("PACS", "WS"))[0] == 2
                for _ in range(3):
                    await wire.send(echo_rq(1, index))
                    assert await wire.pdu() == echo_rsp(1, index)
                await wire.release()

        await asyncio.gather(*(one(index) for index in range(1, 51)))
        assert (pacs.dialled, archive.released) == (50, 50)
        await network.quiet()


async def test_both_devices_releasing_at_once_both_end(tmp_path: Path) -> None:
    ended = []

    async def releasing(wire: Wire) -> None:
        await wire.send(associate_ac(await wire.pdu()))
        await wire.pdu()
        await wire.send(release_rq())
        first = await wire.pdu()
        if first[0] == 5:  # PS3.8 Sta10: the acceptor hears the requestor's answer before it gives its own
            first = await wire.pdu()
            await wire.send(release_rp())
        ended.append(first[0])

    async with listening(releasing) as pacs, Network.running(tmp_path, options=NetworkOptions()) as network:
        await network.pair(pacs)
        async with calling(network.sites["north"].port) as wire:
            await wire.associate("PACS", "WS")
            await wire.send(echo_rq() + release_rq())
            answers = [await wire.pdu()]
            if answers[0][0] == 5:
                answers.append(await wire.pdu())
                await wire.send(release_rp())
            assert 6 in {answer[0] for answer in answers}
        await pacs.let_go()
        await network.quiet()
    assert ended == [6]


async def test_a_device_that_reads_nothing_stops_its_sender_and_memory_stays_bounded(tmp_path: Path) -> None:
    """Backpressure end to end: 64 MiB are offered, far fewer are taken until the called device reads."""
    read_on = asyncio.Event()
    digest = hashlib.sha256()
    got = 0

    async def slow(wire: Wire) -> None:
        nonlocal got
        await wire.send(associate_ac(await wire.pdu()))
        await read_on.wait()
        while got < len(message) and (data := await wire.read_some(1 << 20)):
            got += len(data)
            digest.update(data)

    message = store_rq(bytes(range(256)) * 4096 * 64, max_pdu_length=131_072)
    options = NetworkOptions(stream=StreamOptions(window_most=4 * MIB))
    async with (
        listening(slow, receive_buffer=65_536) as pacs,
        Network.running(tmp_path, options=options) as network,
    ):
        await network.pair(pacs)
        async with calling(network.sites["north"].port) as wire:
            await wire.associate("PACS", "WS")
            taken = 0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2.0):
                    for start in range(0, len(message), MIB):
                        await wire.send(message[start : start + MIB])
                        taken = start + MIB
            # windows of 4 MiB, socket buffers and the two devices' own: nowhere near all of it
            assert taken < 32 * MIB
            for site in network.sites.values():
                assert site.live.core.pool.used < 10 * MIB
            read_on.set()
            await wire.send(message[taken + MIB :])
            await until(lambda: got == len(message), 20, what=lambda: f"{got} of {len(message)} bytes")
            assert digest.digest() == hashlib.sha256(message).digest()
        await pacs.let_go()
        await network.quiet()


async def test_a_device_that_never_reads_again_is_not_held_on_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its system still answers, with a window of zero: what waits for it would wait for ever."""
    monkeypatch.setattr(connection, "CLOSING_SECONDS", 0.5)
    monkeypatch.setattr("isthmus.router.live.called_device.UpperLayer", functools.partial(UpperLayer, artim=0.5))
    asleep = asyncio.Event()

    async def sleeping(wire: Wire) -> None:
        await wire.send(associate_ac(await wire.pdu()))
        wire.writer.transport.pause_reading()  # type: ignore[attr-defined]  # it reads too
        await asleep.wait()

    options = NetworkOptions()
    async with (
        listening(sleeping, receive_buffer=16_384) as pacs,
        Network.running(tmp_path, options=options) as network,
    ):
        await network.pair(pacs)
        async with calling(network.sites["north"].port) as wire:
            await wire.associate("PACS", "WS")
            for _ in range(12):
                await wire.send(store_rq(bytes(MIB)))
            wire.reset()
        south = network.sites["south"].live
        await until(lambda: not south.sessions)

        def held() -> list[str]:
            return [what for what in network.left() if what.startswith("open:")]

        await until(lambda: not held(), 14.0, what=lambda: "; ".join(held()))
        asleep.set()


async def test_a_hang_up_is_noticed_while_nobody_reads(tmp_path: Path) -> None:
    """While a caller waits for credit its socket is not read; that it is gone is seen nevertheless."""
    gone = asyncio.Event()

    async def stuck(wire: Wire) -> None:
        await wire.send(associate_ac(await wire.pdu()))
        await gone.wait()

    options = NetworkOptions(stream=StreamOptions(window_most=MIB, window_least=MIB))
    async with listening(stuck, receive_buffer=65_536) as pacs, Network.running(tmp_path, options=options) as network:
        await network.pair(pacs)
        north = network.sites["north"]
        async with calling(north.port) as wire:
            await wire.associate("PACS", "WS")
            wire.writer.write(store_rq(bytes(32 * MIB), max_pdu_length=131_072))
            connection = next(iter(north.live.sessions.values())).connection
            await until(lambda: connection is not None and connection._paused)
            wire.reset()
        await until(lambda: not north.live.sessions, 5)
        gone.set()
        await pacs.let_go()
        await network.quiet()


async def test_a_stop_drains_and_then_lets_go(tmp_path: Path) -> None:
    options = NetworkOptions(limits=RouterLimits(drain_seconds=1.0))
    async with relayed(tmp_path, options) as (network, port, archive, pacs):
        async with calling(port) as ends, calling(port) as stays:
            await ends.associate("PACS", "WS")
            await stays.associate("PACS", "WS")
            stopping = asyncio.get_running_loop().create_task(network.sites["north"].end())
            await until(lambda: network.sites["north"].live.paused)
            with pytest.raises(ConnectionError):
                async with calling(port):
                    pass
            await ends.send(echo_rq())  # what runs goes on
            assert await ends.pdu() == echo_rsp()
            await ends.release()
            assert await stays.pdu() == abort(2, 0)
            await stopping
        await pacs.let_go()
        assert sorted(archive.endings) == ["aborted 2/0", "released"]
