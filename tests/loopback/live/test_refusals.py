"""Every answer of ours to an A-ASSOCIATE-RQ, byte for byte at the wire, with the line in the log that explains it.

Times are asserted by what is switched off: a refusal that needs no Bridge comes while there is none.
"""

import asyncio
import contextlib
import functools
import socket
from collections.abc import AsyncIterator, MutableMapping
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from isthmus.association.machine import UpperLayer
from isthmus.router.config import RouterLimits
from isthmus.testing.devices import Archive, Wire, calling, listening
from isthmus.testing.dicom import abort, associate_ac, associate_rj, associate_rq, echo_rq, echo_rsp
from isthmus.testing.network import Network, NetworkOptions, Site, until

Line = MutableMapping[str, Any]


def rj(result: int, source: int, reason: int) -> bytes:
    return bytes((3, 0, 0, 0, 0, 4, 0, result, source, reason))


async def asked(site: Site, request: bytes, *, source: str = "127.0.0.1") -> tuple[bytes, Line]:
    """Return the answer to an A-ASSOCIATE-RQ, and the line in the log about its refusal."""
    with capture_logs() as logs:
        async with calling(site.port, source=source) as wire:
            await wire.send(request)
            answer = await wire.pdu()
    lines = [line for line in logs if line["event"] in {"association refused", "association refused there"}]
    return answer, lines[-1] if lines else {}


def explains(line: Line, answer: str, table: str, command: str) -> None:
    """Fail unless the log says which answer was given, which table lacks what, and what would mend it."""
    assert line["answer"] == answer
    assert table in f"{line['why']} {line['hint']}"
    assert command in line["hint"]


@contextlib.asynccontextmanager
async def two_sites(
    folder: Path, *, services: tuple[str, ...] = ("any",), options: NetworkOptions | None = None, **device: Any
) -> AsyncIterator[tuple[Network, Archive, Any]]:
    archive = Archive()
    async with listening(archive) as pacs, Network.running(folder, options=options or NetworkOptions()) as network:
        await network.pair(pacs, services, **device)
        yield network, archive, pacs
        await network.quiet()


async def test_what_the_tables_refuse_is_refused_without_a_bridge(tmp_path: Path) -> None:
    async with two_sites(tmp_path) as (network, _, pacs):
        north = network.sites["north"]
        await north.control("device_add", address="OFF@127.0.0.1:9")
        await north.control("device_disable", device="OFF")
        await network.stop_bridge()

        answer, line = await asked(north, associate_rq("NOBODY", "WS"))
        assert answer == rj(1, 1, 7)
        explains(line, "1/1/7", "neither the device table nor the directory has it", "isthmus grant add NOBODY")

        answer, line = await asked(north, associate_rq("PACS", "STRANGER"))
        assert answer == rj(1, 1, 3)
        explains(line, "1/1/3", "the device table lacks it", "isthmus device add STRANGER@127.0.0.1")

        answer, line = await asked(north, associate_rq("PACS", "WS"), source="127.0.0.2")
        assert answer == rj(1, 1, 3)
        explains(line, "1/1/3", "the device table lacks that address", "isthmus device set WS --from-address 127.0.0.2")

        answer, line = await asked(north, associate_rq("OFF", "WS"))
        assert answer == rj(2, 3, 1)
        explains(line, "2/3/1", "OFF is disabled", "isthmus device enable OFF")

        answer, line = await asked(north, associate_rq("WS", "WS"))
        assert answer == rj(1, 1, 7)
        explains(line, "1/1/7", "the device table has no port of it", "isthmus device set WS --port")

        await north.control("device_disable", device="WS")
        answer, line = await asked(north, associate_rq("PACS", "WS"))
        assert answer == rj(1, 1, 3)
        explains(line, "1/1/3", "WS is disabled", "isthmus device enable WS")
        assert pacs.dialled == 0


async def test_what_no_association_can_be_is_refused_by_the_protocol(tmp_path: Path) -> None:
    async with two_sites(tmp_path) as (network, _, pacs):
        north = network.sites["north"]
        await network.stop_bridge()
        request = associate_rq("PACS", "WS")
        answer, line = await asked(north, request.replace(b"1.2.840.10008.3.1.1.1", b"1.2.840.10008.3.1.1.9"))
        assert answer == rj(1, 1, 2)
        assert line["answer"] == "1/1/2"
        answer, line = await asked(north, request[:6] + b"\x00\x02" + request[8:])
        assert answer == rj(1, 2, 2)
        assert line["answer"] == "1/2/2"
        assert pacs.dialled == 0


async def test_a_site_that_is_not_accepted_here_is_refused_by_the_acceptance_table(tmp_path: Path) -> None:
    async with two_sites(tmp_path) as (network, _, pacs):
        north = network.sites["north"]
        await north.control("site_remove", site="south")
        answer, line = await asked(north, associate_rq("PACS", "WS"))
        assert answer == rj(1, 1, 3)
        explains(line, "1/1/3", "the acceptance table lacks it", "isthmus site accept south")
        assert pacs.dialled == 0


async def test_a_site_that_does_not_accept_this_one_is_refused_by_its_acceptance_table(tmp_path: Path) -> None:
    async with two_sites(tmp_path) as (network, _, pacs):
        north, south = network.sites["north"], network.sites["south"]
        await south.control("site_remove", site="north")

        async def told() -> bool:
            return not await north.control("directory")

        await until(told)
        answer, line = await asked(north, associate_rq("PACS", "WS"))
        assert answer == rj(1, 1, 3)
        explains(line, "1/1/3", "the acceptance table of site south lacks it", "isthmus site accept north")
        assert pacs.dialled == 0


async def test_a_caller_without_a_grant_is_refused_by_the_grant_table(tmp_path: Path) -> None:
    archive = Archive()
    async with listening(archive) as pacs, Network.running(tmp_path, options=NetworkOptions()) as network:
        north, south = network.sites["north"], network.sites["south"]
        await south.control("device_add", address=f"PACS@127.0.0.1:{pacs.port}")
        await north.control("device_add", address="WS@127.0.0.1")
        await north.control("device_add", address="CT9@127.0.0.1")
        await network.grant("south", "PACS", "north", ["echo"], caller="CT9")
        answer, line = await asked(north, associate_rq("PACS", "WS"))
        assert answer == rj(1, 1, 3)
        explains(line, "1/1/3", "the grant table of site south lacks it", "isthmus grant add PACS --site north")
        assert pacs.dialled == 0
        answer, _ = await asked(north, associate_rq("PACS", "CT9"))
        assert answer[0] == 2
        await network.quiet()


async def test_the_called_site_asks_its_own_tables_too(tmp_path: Path) -> None:
    async with two_sites(tmp_path) as (network, _, pacs):
        north, south = network.sites["north"], network.sites["south"]
        # South's tables change, and nobody hears of it: the caller's Router still believes what it was told.
        south.live.core.directory._listeners.clear()
        grant = (await south.control("grant_list"))[0]["grant_id"]
        await south.control("grant_remove", grant=grant)
        with capture_logs() as logs:
            async with calling(north.port) as wire:
                assert await wire.associate("PACS", "WS") == rj(1, 1, 3)
        line = next(line for line in logs if line["event"] == "association refused")
        explains(line, "1/1/3", "the grant table lacks it", "isthmus grant add PACS --site north")
        there = next(line for line in logs if line["event"] == "association refused there")
        assert (there["answer"], there["site"]) == ("1/1/3", "south")
        assert pacs.dialled == 0


async def test_a_site_known_to_be_offline_is_refused_as_an_outage_at_once(tmp_path: Path) -> None:
    async with two_sites(tmp_path) as (network, _, _pacs):
        north = network.sites["north"]
        await network.sites["south"].end()

        async def told() -> bool:
            return not any(row["online"] for row in await north.control("directory"))

        await until(told)
        await network.stop_bridge()
        answer, line = await asked(north, associate_rq("PACS", "WS"))
        assert answer == rj(2, 3, 1)
        explains(line, "2/3/1", "the Router of site south is offline", "isthmus site list")


async def test_a_bridge_that_is_gone_is_an_outage(tmp_path: Path) -> None:
    async with two_sites(tmp_path) as (network, _, pacs):
        await network.stop_bridge()
        answer, line = await asked(network.sites["north"], associate_rq("PACS", "WS"))
        assert answer == rj(2, 3, 1)
        explains(line, "2/3/1", "the Bridge is not reachable", "isthmus doctor")
        assert pacs.dialled == 0


async def test_too_many_sessions_at_the_bridge_are_a_limit_that_is_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("isthmus.bridge.sessions.service.MOST_OPEN", 1)
    async with two_sites(tmp_path) as (network, _, pacs):
        async with calling(network.sites["north"].port) as wire:
            assert (await wire.associate("PACS", "WS"))[0] == 2
            answer, line = await asked(network.sites["north"], associate_rq("PACS", "WS"))
            assert answer == rj(2, 3, 2)
            assert "north has 1 sessions open" in line["why"]
        assert pacs.dialled == 1


async def test_a_device_that_is_switched_off_is_an_outage(tmp_path: Path) -> None:
    async with two_sites(tmp_path) as (network, _, pacs):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))  # bound, not listening: refused
            await network.sites["south"].control("device_set", device="PACS", port=free.getsockname()[1])
            with capture_logs() as logs:
                async with calling(network.sites["north"].port) as wire:
                    assert await wire.associate("PACS", "WS") == rj(2, 3, 1)
        line = next(line for line in logs if line["event"] == "association refused")
        explains(line, "2/3/1", "PACS at 127.0.0.1", "isthmus device show PACS")
        assert pacs.dialled == 0
        assert network.sites["south"].live.setting_up == 0


async def test_a_device_that_tcp_does_not_reach_is_an_outage_before_the_callers_own_timer(tmp_path: Path) -> None:
    async with two_sites(tmp_path) as (network, _, _pacs), black_hole() as port:
        await network.sites["south"].control("device_set", device="PACS", port=port)
        async with calling(network.sites["north"].port) as wire:
            await wire.send(associate_rq("PACS", "WS"))
            assert await wire.pdu(5.0) == rj(2, 3, 1)  # the promise: under 5 s in all, on a machine that is not busy


@contextlib.asynccontextmanager
async def black_hole() -> AsyncIterator[int]:
    """A port whose backlog is full: packets to it are not answered."""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock, contextlib.ExitStack() as stack:
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError, TimeoutError):
                async with asyncio.timeout(0.05):
                    await loop.sock_connect(filler, sock.getsockname())
        yield sock.getsockname()[1]


async def test_a_device_that_stays_silent_is_an_outage_after_its_associate_timeout(tmp_path: Path) -> None:
    async def silent(wire: Wire) -> None:
        await wire.pdu()
        assert await wire.pdu() == abort(2, 0)

    async with listening(silent) as pacs, Network.running(tmp_path, options=NetworkOptions()) as network:
        await network.pair(pacs, associate_timeout=0.3)
        with capture_logs() as logs:
            async with calling(network.sites["north"].port) as wire:
                assert await wire.associate("PACS", "WS") == rj(2, 3, 1)
        line = next(line for line in logs if line["event"] == "association refused")
        explains(line, "2/3/1", "no answer within 0.3 s", "isthmus device show PACS")
        await pacs.let_go()
        await network.quiet()


async def test_a_device_that_answers_slowly_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Archives that look up names take seconds: longer than the offer is repeated, and than a silent Router gets.

    That is 4 s, here 1.2; the offer is repeated after 1 s.
    """
    monkeypatch.setattr("isthmus.router.live.opening.HEARD_SECONDS", 1.2)
    answer = asyncio.Event()

    async def slow(wire: Wire) -> None:
        request = await wire.pdu()
        await answer.wait()
        await wire.send(associate_ac(request))
        assert await wire.pdu() == abort(2, 0)

    async with listening(slow) as pacs, Network.running(tmp_path, options=NetworkOptions()) as network:
        await network.pair(pacs)
        async with calling(network.sites["north"].port) as wire:
            asking = asyncio.get_running_loop().call_later(1.8, answer.set)
            assert (await wire.associate("PACS", "WS"))[0] == 2
            asking.cancel()
            assert pacs.dialled == 1
            await wire.close()
        await network.quiet()


@pytest.mark.parametrize(
    "answer", [associate_rj(1, 1, 7), associate_rj(2, 3, 2), associate_rj(1, 1, 1), abort(2, 3), abort(0, 0)]
)
async def test_the_devices_own_refusal_arrives_unchanged(tmp_path: Path, answer: bytes) -> None:
    async def refusing(wire: Wire) -> None:
        await wire.pdu()
        await wire.send(answer)
        await wire.ended()

    async with listening(refusing) as pacs, Network.running(tmp_path, options=NetworkOptions()) as network:
        await network.pair(pacs)
        got, line = await asked(network.sites["north"], associate_rq("PACS", "WS"))
        assert got == answer
        assert line["event"] == "association refused there"
        await network.quiet()


async def test_a_paused_router_is_over_its_limit(tmp_path: Path) -> None:
    async with two_sites(tmp_path) as (network, _, pacs):
        north, south = network.sites["north"], network.sites["south"]
        await north.control("pause")
        answer, line = await asked(north, associate_rq("PACS", "WS"))
        assert answer == rj(2, 3, 2)
        assert line["hint"] == "isthmus router pause --off"
        await north.control("pause", paused=False)
        await south.control("pause")
        answer, _ = await asked(north, associate_rq("PACS", "WS"))
        assert answer == rj(2, 3, 2)
        assert pacs.dialled == 0
        await south.control("pause", paused=False)
        answer, _ = await asked(north, associate_rq("PACS", "WS"))
        assert answer[0] == 2


async def test_live_limits_are_2_3_2_and_end_with_the_associations(tmp_path: Path) -> None:
    options = NetworkOptions(limits=RouterLimits(live=3, live_per_address=2))
    async with two_sites(tmp_path, options=options) as (network, _, _pacs):
        north = network.sites["north"]
        await north.control("device_set", device="WS", from_address=["127.0.0.0/8"])
        async with (
            calling(north.port) as one,
            calling(north.port) as two,
            calling(north.port, source="127.0.0.9") as three,
        ):
            assert (await one.associate("PACS", "WS"))[0] == 2
            assert (await two.associate("PACS", "WS"))[0] == 2
            answer, line = await asked(north, associate_rq("PACS", "WS"))
            assert answer == rj(2, 3, 2)
            assert "127.0.0.1 has its 2 associations" in line["why"]
            assert (await three.associate("PACS", "WS"))[0] == 2
            answer, line = await asked(north, associate_rq("PACS", "WS"), source="127.0.0.8")
            assert answer == rj(2, 3, 2)
            assert "relays its 3 associations" in line["why"]
            await one.release()
            await two.release()
            await network_has(north, 1)
            answer, _ = await asked(north, associate_rq("PACS", "WS"))
            assert answer[0] == 2


async def network_has(site: Site, count: int) -> None:
    await until(lambda: len(site.live.sessions) == count)


async def test_a_devices_limit_counts_associations_that_are_still_being_set_up(tmp_path: Path) -> None:
    go = asyncio.Event()
    archive = Archive()

    async def slow(wire: Wire) -> None:
        await go.wait()
        await archive(wire)

    async with listening(slow) as pacs, Network.running(tmp_path, options=NetworkOptions()) as network:
        await network.pair(pacs, max_associations=2)
        north = network.sites["north"]
        crowded: list[str] = []
        network.sites["south"].live.when_crowded(lambda device: crowded.append(device.network_title))
        async with contextlib.AsyncExitStack() as stack:
            wires = [await stack.enter_async_context(calling(north.port)) for _ in range(5)]
            for wire in wires:
                await wire.send(associate_rq("PACS", "WS"))
            refused = 0
            waiting = {asyncio.ensure_future(wire.pdu()): wire for wire in wires}  # noqa: TID251 - awaited below
            while refused < 3:
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for answered in done:
                    assert answered.result() == rj(2, 3, 2)
                    refused += 1
                    del waiting[answered]
            assert pacs.dialled == 2
            assert crowded == ["PACS"] * 3
            go.set()
            for answered in waiting:
                assert (await answered)[0] == 2
        await network.quiet()


async def test_what_is_refused_is_closed_when_artim_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After our A-ASSOCIATE-RJ the caller has ARTIM (10 s, here 0.2) to close; then the Router does."""
    monkeypatch.setattr("isthmus.router.lan.listener.UpperLayer", functools.partial(UpperLayer, artim=0.2))
    async with two_sites(tmp_path) as (network, archive, _pacs):
        north = network.sites["north"]
        async with calling(north.port) as wire:
            assert await wire.associate("NOBODY", "WS") == rj(1, 1, 7)
            assert await wire.ended() == b""
        async with calling(north.port) as wire:  # and after our A-RELEASE-RP
            await wire.associate("PACS", "WS")
            await wire.send(b"\x05\x00\x00\x00\x00\x04\x00\x00\x00\x00")
            assert (await wire.pdu())[0] == 6
            assert await wire.ended() == b""
        assert archive.released == 1


async def test_nobody_is_cut_off_before_artim_ends(tmp_path: Path) -> None:
    """The refused caller may read its answer in peace: the connection stays until it closes, or ARTIM ends."""
    async with two_sites(tmp_path) as (network, _, _pacs), calling(network.sites["north"].port) as wire:
        assert await wire.associate("NOBODY", "WS") == rj(1, 1, 7)
        with pytest.raises(TimeoutError):
            await wire.ended(0.3)


async def test_an_echo_passes_where_all_of_this_is_right(tmp_path: Path) -> None:
    """The counterpart of every refusal above."""
    async with two_sites(tmp_path, services=("echo",)) as (network, archive, pacs):
        async with calling(network.sites["north"].port) as wire:
            assert (await wire.associate("PACS", "WS"))[0] == 2
            await wire.send(echo_rq())
            assert await wire.pdu() == echo_rsp()
            await wire.release()
        assert (pacs.dialled, archive.released) == (1, 1)
