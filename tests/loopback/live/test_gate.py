"""The gate towards the LAN: what is no DICOM, or too much of it, is dropped, costs nothing and keeps nobody out."""

import asyncio
import contextlib
import functools
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from isthmus.association.machine import UpperLayer
from isthmus.dicom.framing import MAX_ASSOCIATE
from isthmus.testing.depth import count
from isthmus.testing.devices import Archive, calling, listening
from isthmus.testing.dicom import abort, associate_rq, echo_rq, echo_rsp, pdata, release_rq, store_rq
from isthmus.testing.network import Network, NetworkOptions, Site

MIB = 1024 * 1024
DROPPED_WITHIN = 6.0  # seconds, by the rules; the gate's own clock says 5
HURRY = functools.partial(UpperLayer, opening=2.0)  # a gate whose clock says 2, and so drops within 3


def resident() -> int:
    return int(psutil.Process(os.getpid()).memory_info().rss)


@contextlib.asynccontextmanager
async def one_router(folder: Path) -> AsyncIterator[Site]:
    """A Router whose device WS reaches PACS of another site."""
    async with listening(Archive()) as pacs, Network.running(folder, options=NetworkOptions()) as network:
        await network.pair(pacs)
        yield network.sites["north"]
        await network.quiet()


async def echoes(site: Site) -> None:
    """Fail unless a device is served."""
    async with calling(site.port) as wire:
        assert (await wire.associate("PACS", "WS"))[0] == 2
        await wire.send(echo_rq())
        assert await wire.pdu() == echo_rsp()
        await wire.release()


JUNK = (
    b"GET / HTTP/1.1\r\nHost: pacs\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS ClientHello
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"\x00" * 64,
    pdata(1, b"data before an association"),
    release_rq(),
    b"\x02\x00\x00\x00\x00\x44" + bytes(0x44),  # an A-ASSOCIATE-AC
)


async def test_what_is_no_association_request_is_aborted_and_dropped(tmp_path: Path) -> None:
    async with one_router(tmp_path) as site:

        async def thrown(junk: bytes) -> None:
            async with calling(site.port, source="127.0.0.7") as wire:
                await wire.send(junk)
                answer = await wire.ended(DROPPED_WITHIN)
            assert answer[:9] == abort(2, 0)[:9], junk  # by the service-provider
            assert len(answer) == 10

        await asyncio.gather(*map(thrown, JUNK))
        await echoes(site)


async def test_a_pdu_of_4_gib_is_refused_at_its_header_and_nothing_is_allocated(tmp_path: Path) -> None:
    """T13, for every type of PDU, known or not."""
    async with one_router(tmp_path) as site:
        await echoes(site)
        before = resident()

        async def huge(kind: int) -> None:
            async with calling(site.port, source=f"127.0.2.{kind + 1}") as wire:
                await wire.send(bytes((kind, 0)) + b"\xff\xff\xff\xff" + bytes(1000))
                assert (await wire.ended(DROPPED_WITHIN))[:1] == b"\x07"

        for _ in range(count(push=2, nightly=100)):
            await asyncio.gather(*(huge(kind) for kind in range(8)))
        assert resident() - before < 16 * MIB
        await echoes(site)


async def test_4_gib_inside_an_association_end_it_at_the_header(tmp_path: Path) -> None:
    async with one_router(tmp_path) as site:
        await echoes(site)
        before = resident()
        for kind in (1, 2, 3, 5, 6, 7):
            async with calling(site.port) as wire:
                await wire.associate("PACS", "WS")
                await wire.send(bytes((kind, 0)) + b"\xff\xff\xff\xff" + bytes(1000))
                assert (await wire.pdu(DROPPED_WITHIN))[:1] == b"\x07"
        assert resident() - before < 16 * MIB


async def test_a_pdv_longer_than_its_pdu_ends_the_association(tmp_path: Path) -> None:
    async with one_router(tmp_path) as site, calling(site.port) as wire:
        await wire.associate("PACS", "WS")
        await wire.send(b"\x04\x00\x00\x00\x00\x0a\xff\xff\xff\xff\x01\x03" + bytes(4))
        assert await wire.pdu() == abort(2, 6)


async def test_an_association_request_over_256_kib_is_refused_at_its_header(tmp_path: Path) -> None:
    async with one_router(tmp_path) as site:
        async with calling(site.port) as wire:
            await wire.send(b"\x01\x00" + (MAX_ASSOCIATE + 1).to_bytes(4, "big"))
            assert (await wire.ended(DROPPED_WITHIN))[:1] == b"\x07"
        await echoes(site)


async def test_a_thousand_idle_connections_are_dropped_in_time_while_others_are_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """T12: 3 bytes of a header and silence, from forty addresses."""
    monkeypatch.setattr("isthmus.router.lan.listener.UpperLayer", HURRY)
    async with one_router(tmp_path) as site:
        await echoes(site)
        before = resident()
        loop = asyncio.get_running_loop()
        async with contextlib.AsyncExitStack() as stack:
            wires = []
            for index in range(1000):
                wire = await stack.enter_async_context(calling(site.port, source=f"127.0.1.{1 + index % 40}"))
                await wire.send(b"\x01\x00\x00")
                wires.append(wire)
                if index % 100 == 50:
                    await echoes(site)
            opened = loop.time()
            await echoes(site)
            async with asyncio.timeout_at(opened + 3.0):
                assert set(await asyncio.gather(*(wire.ended(DROPPED_WITHIN) for wire in wires))) <= {b"", abort(2, 0)}
            await echoes(site)
            # Both ends of every connection live in this process: 64 KiB for the two of them.
            assert resident() - before < 64 * MIB


async def test_whoever_sends_its_request_byte_by_byte_has_five_seconds_for_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isthmus.router.lan.listener.UpperLayer", HURRY)  # here two
    async with one_router(tmp_path) as site, calling(site.port) as wire:
        request = associate_rq("PACS", "WS")
        async with asyncio.timeout(5.0):
            for index in range(len(request)):
                try:
                    await wire.send(request[index : index + 1])
                except ConnectionError:
                    break
                if wire.reader.at_eof():
                    break
                await asyncio.sleep(0.05)  # progress, but no end: 20 bytes a second
            else:
                pytest.fail("the whole request was taken")


async def test_refused_connections_that_stay_keep_nobody_out_and_are_bounded(tmp_path: Path) -> None:
    async with one_router(tmp_path) as site:
        limit = site.live.core.limits.half_open_per_address
        async with contextlib.AsyncExitStack() as stack:
            wires = []
            for _ in range(limit + 20):
                wire = await stack.enter_async_context(calling(site.port, source="127.0.0.66"))
                assert (await wire.associate("PACS", "STRANGER"))[0] == 3
                wires.append(wire)
            # the first ones gave way, long before ARTIM would have ended
            await asyncio.gather(*(wire.ended(3.0) for wire in wires[:19]))
            assert not wires[-1].reader.at_eof()
            await echoes(site)


async def test_mutated_pdus_crash_and_hang_nothing(tmp_path: Path) -> None:
    """T11 at the wire: lengths, types, contexts, PDV headers and user items, before and inside an association."""
    chance = random.Random(11)
    seeds = [associate_rq("PACS", "WS"), echo_rq(), store_rq(b"\x08\x00\x05\x00" * 50), release_rq(), abort()]
    async with one_router(tmp_path) as site:
        before = resident()
        for index in range(count(push=120, nightly=20_000)):
            async with calling(site.port) as wire:
                if index % 2:
                    await wire.associate("PACS", "WS")
                for _ in range(chance.randint(1, 4)):
                    data = bytearray(chance.choice(seeds))
                    for _ in range(chance.randint(0, 4)):
                        data[chance.randrange(len(data))] = chance.randrange(256)
                    cut = chance.choice((len(data), chance.randrange(len(data) + 1)))
                    with contextlib.suppress(ConnectionError):
                        await wire.send(bytes(data[:cut]))
                if index % 10 == 0:
                    wire.reset()
            if index % 40 == 39:
                await echoes(site)
        assert resident() - before < 64 * MIB
        await echoes(site)


async def test_no_connection_outlives_its_router(tmp_path: Path) -> None:
    async with (
        listening(Archive()) as pacs,
        Network.running(tmp_path, options=NetworkOptions()) as network,
        contextlib.AsyncExitStack() as stack,
    ):
        await network.pair(pacs)
        site = network.sites["north"]
        _, refused, released = [await stack.enter_async_context(calling(site.port)) for _ in range(3)]
        assert (await refused.associate("NOWHERE", "WS"))[0] == 3
        assert (await released.associate("PACS", "WS"))[0] == 2  # those before it have been accepted too
        await released.send(release_rq())
        assert (await released.pdu())[0] == 6
        assert len([one for one in network.left() if one.startswith("open")]) > 1
        await site.end()
        assert [one for one in network.left() if one.startswith("open")] == []
