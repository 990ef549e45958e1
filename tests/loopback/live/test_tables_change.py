"""What is relayed follows the tables: an association that is allowed no more ends at once."""

import asyncio
import sqlite3
import time
from pathlib import Path

import pytest

from isthmus.cloudio.options import StreamOptions
from isthmus.cloudio.stream import Duplex
from isthmus.dicom.command import CommandField
from isthmus.dicom.framing import PduType
from isthmus.dicom.pdus import message
from isthmus.router.config import RouterLimits
from isthmus.router.live import registry
from isthmus.router.routing.store import Store
from isthmus.testing.devices import Archive, Wire, calling, listening
from isthmus.testing.dicom import abort, associate_ac, associate_rj, associate_rq, echo_rq, move_command
from isthmus.testing.network import Network, NetworkOptions, until

IMPATIENT = NetworkOptions(stream=StreamOptions(silence_limit=3.0, status_idle=1.0))


@pytest.mark.parametrize("change", ["site removed here", "site removed there", "grant withdrawn", "site revoked"])
async def test_an_association_ends_when_the_tables_no_longer_allow_it(tmp_path: Path, change: str) -> None:
    async with listening(Archive()) as pacs, Network.running(tmp_path, options=IMPATIENT) as network:
        await network.pair(pacs)
        north, south = network.sites["north"], network.sites["south"]
        async with calling(north.port) as wire:
            assert (await wire.associate("PACS", "WS"))[0] == PduType.ASSOCIATE_AC
            match change:
                case "site removed here":
                    await north.control("site_remove", site="south")
                case "site removed there":
                    await south.control("site_remove", site="north")
                case "grant withdrawn":
                    (grant,) = await south.control("grant_list")
                    await south.control("grant_remove", grant=grant["grant_id"])
                case _:
                    assert network.bridge is not None
                    await network.bridge.control("revoke", site="south")
            assert (await wire.pdu())[0] == PduType.ABORT
            await pacs.let_go()


@pytest.mark.parametrize("change", ["device_disable", "device_remove"])
@pytest.mark.parametrize(("called", "device"), [("PACS", "WS"), ("NEAR", "WS"), ("NEAR", "NEAR"), ("PACS", "PACS")])
async def test_an_association_ends_when_a_device_of_it_is_disabled_or_removed(
    tmp_path: Path, called: str, device: str, change: str
) -> None:
    archive = Archive()
    async with listening(archive) as pacs, Network.running(tmp_path, options=IMPATIENT) as network:
        await network.pair(pacs)
        north, south = network.sites["north"], network.sites["south"]
        await north.control("device_add", address=f"NEAR@127.0.0.1:{pacs.port}")
        await north.control("device_add", address="CT9@127.0.0.1")
        async with calling(north.port) as wire, calling(north.port) as other:
            assert (await wire.associate(called, "WS"))[0] == PduType.ASSOCIATE_AC
            assert (await other.associate("PACS" if device == "NEAR" else "NEAR", "CT9"))[0] == PduType.ASSOCIATE_AC
            await (south if device == "PACS" else north).control(change, device=device)
            assert await wire.pdu() == abort(2, 0)
            await other.send(echo_rq())  # what has nothing to do with it goes on
            assert (await other.pdu())[0] == PduType.P_DATA_TF
            await other.release()
        await pacs.let_go()
        await network.quiet()


async def test_an_association_ends_when_its_grant_runs_out_or_loses_a_service(tmp_path: Path) -> None:
    options = NetworkOptions(limits=RouterLimits(recheck_seconds=0.2), stream=IMPATIENT.stream)
    async with listening(Archive()) as pacs, Network.running(tmp_path, options=options) as network:
        await network.pair(pacs, ["store"])
        await network.grant("south", "PACS", "north", ["echo"], until=time.time() + 3.0)
        south = network.sites["south"]
        async with calling(network.sites["north"].port) as wire:
            assert (await wire.associate("PACS", "WS"))[0] == PduType.ASSOCIATE_AC
            await wire.send(echo_rq())
            assert (await wire.pdu())[0] == PduType.P_DATA_TF
            assert (await wire.pdu())[0] == PduType.ABORT
        await pacs.let_go()
        async with calling(network.sites["north"].port) as wire:
            await network.grant("south", "PACS", "north", ["query"])
            assert (await wire.associate("PACS", "WS"))[0] == PduType.ASSOCIATE_AC
            await south.control("grant_remove", grant=1)
            assert (await wire.pdu())[0] == PduType.ABORT
        await pacs.let_go()


async def test_a_grant_that_is_withdrawn_while_the_device_thinks_lets_nobody_in(tmp_path: Path) -> None:
    decide = asyncio.Event()

    async def thinking(wire: Wire) -> None:
        request = await wire.pdu()
        await decide.wait()
        await wire.send(associate_ac(request))
        assert await wire.pdu() == abort(2, 0)

    async with listening(thinking) as pacs, Network.running(tmp_path, options=IMPATIENT) as network:
        await network.pair(pacs)
        async with calling(network.sites["north"].port) as wire:
            await wire.send(associate_rq("PACS", "WS"))
            await pacs.until(lambda: pacs.dialled == 1)
            await network.sites["south"].control("grant_remove", grant=1)
            decide.set()
            assert await wire.pdu() == associate_rj(1, 1, 3)
        await pacs.let_go()
        await network.quiet()


async def test_a_fault_in_one_session_ends_that_one_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with listening(Archive()) as pacs, Network.running(tmp_path, options=IMPATIENT) as network:
        await network.pair(pacs)
        port = network.sites["north"].port
        async with calling(port) as faulty, calling(port) as well:
            await faulty.associate("PACS", "WS")
            (broken,) = network.sites["south"].live.links.values()
            receive = Duplex.receive

            def stumble(link: Duplex, notice: bytes | memoryview) -> None:
                if link is broken:
                    raise ZeroDivisionError("a bug")
                receive(link, notice)

            monkeypatch.setattr(Duplex, "receive", stumble)
            await faulty.send(echo_rq())
            assert (await faulty.pdu())[0] == PduType.ABORT
            assert (await well.associate("PACS", "WS"))[0] == PduType.ASSOCIATE_AC
            await well.send(echo_rq())
            assert (await well.pdu())[0] == PduType.P_DATA_TF
            await well.release()


async def test_a_stream_that_fails_by_a_fault_lets_both_devices_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(Archive()) as pacs, Network.running(tmp_path, options=IMPATIENT) as network:
        await network.pair(pacs)
        async with calling(network.sites["north"].port) as wire:
            await wire.associate("PACS", "WS")

            async def stumble(_: Duplex) -> None:
                raise ZeroDivisionError("a bug")

            with monkeypatch.context() as patch:
                patch.setattr(Duplex, "_wait", stumble)
                assert (await wire.pdu())[0] == PduType.ABORT
        await pacs.let_go()
        await network.quiet()


@pytest.mark.parametrize("services", ["any", "query"])
async def test_a_far_router_cannot_keep_a_stream_open_when_its_association_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, services: str
) -> None:
    """With `query` no context is left, no device is called, and the stream is all that there is."""
    monkeypatch.setattr(registry, "LINGER_SECONDS", 1.5)
    async with listening(Archive()) as pacs, Network.running(tmp_path, options=IMPATIENT) as network:
        await network.pair(pacs, [services])
        north, south = network.sites["north"], network.sites["south"]
        async with calling(north.port) as wire:
            await wire.associate("PACS", "WS")
            (link,) = north.live.links.values()
            monkeypatch.setattr(link, "finish", lambda: None)
            monkeypatch.setattr(north.live, "linger", lambda _: None)
            wire.reset()
        await until(lambda: not south.live.links, 8.0)


async def test_a_device_whose_tls_files_are_gone_is_an_outage_and_told_in_time(tmp_path: Path) -> None:
    async with listening(Archive()) as pacs, Network.running(tmp_path, options=IMPATIENT) as network:
        await network.pair(pacs)
        authorities = tmp_path / "ca.pem"
        authorities.write_bytes(b"")
        await network.sites["south"].control("device_set", device="PACS", tls={"ca": str(authorities)})
        authorities.unlink()
        async with calling(network.sites["north"].port) as wire:
            assert await wire.associate("PACS", "WS") == bytes((3, 0, 0, 0, 0, 4, 0, 2, 3, 1))
        assert not pacs.dialled


async def test_a_full_disk_here_does_not_end_an_association_that_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way back is then open until the next start only."""
    archive = Archive()
    async with listening(archive) as pacs, Network.running(tmp_path, options=IMPATIENT) as network:
        await network.pair(pacs)
        north = network.sites["north"]
        await north.control("device_set", device="WS", port=pacs.port)

        def full(*_: object, **__: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(Store, "save_return", full)
        async with calling(north.port) as wire:
            await wire.associate("PACS", "WS")
            await wire.send(message(1, move_command("WS")) + echo_rq())
            assert (await wire.pdu())[0] == PduType.P_DATA_TF
            await wire.release()
        assert archive.commands[0] == CommandField.C_MOVE_RQ


async def test_a_full_disk_there_is_a_refusal_at_once_that_may_be_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be remembered cannot be told from a replay, so that no device is called for it."""
    async with listening(Archive()) as pacs, Network.running(tmp_path, options=IMPATIENT) as network:
        await network.pair(pacs)

        def full(*_: object, **__: object) -> bool:
            raise sqlite3.OperationalError("database or disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(Store, "remember_offer", full)
            async with calling(network.sites["north"].port) as wire:
                assert await wire.associate("PACS", "WS") == associate_rj(2, 3, 2)
        assert not pacs.dialled
        async with calling(network.sites["north"].port) as wire:
            assert (await wire.associate("PACS", "WS"))[0] == PduType.ASSOCIATE_AC
            await wire.release()
