"""Associations whose objects are queued: real devices' bytes, a real spool, and no delivery that takes objects away."""

import asyncio
import contextlib
import dataclasses
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from isthmus.dicom import uids
from isthmus.dicom.associate import AssociateAccept
from isthmus.dicom.command import CommandField, CommandSet, Tag, encode
from isthmus.dicom.framing import Data, Framer
from isthmus.dicom.pdus import message
from isthmus.kit.clock import SystemClock
from isthmus.kit.files import make_private_folder
from isthmus.kit.names import AETitle
from isthmus.router.live.opening import Opening
from isthmus.router.queued.ingest.accepting import Ingest
from isthmus.router.queued.ledger.database import Ledger
from isthmus.router.queued.spool.bundles import Spool
from isthmus.router.queued.spool.recovery import recover
from isthmus.router.queued.spool.room import Room
from isthmus.router.routing.records import DeliveryMode, DeliveryRule, Group
from isthmus.testing.devices import Archive, Wire, calling, listening
from isthmus.testing.dicom import (
    CT_CONTEXT,
    CT_IMAGE_STORAGE,
    ECHO_CONTEXT,
    MR_IMAGE_STORAGE,
    TRANSFER_SYNTAXES,
    abort,
    associate_rj,
    associate_rq,
    echo_rq,
    move_command,
    store_rq,
)
from isthmus.testing.network import Network, Site, until

COMMITMENT = (uids.STORAGE_COMMITMENT_PUSH_MODEL, (uids.IMPLICIT_VR_LITTLE_ENDIAN,))
DATA_SET = bytes(range(256)) * 2000


@dataclass
class Queuing:
    """A site whose Router queues into a spool of its own."""

    site: Site
    spool: Spool
    ledger: Ledger

    async def rows(self, what: str) -> list[tuple[Any, ...]]:
        """Return what the ledger has."""

        def read(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
            return connection.execute(what).fetchall()

        await self.spool.indexer.flush()
        return await self.ledger.read(read)

    async def contents(self) -> list[bytes]:
        """Return the data set of each object, in the order in which they came."""
        found = []
        for name, object_id, position, length in await self.rows(
            "SELECT b.name, o.object_id, o.position, o.length FROM objects AS o JOIN bundles AS b"
            " ON b.bundle_id = o.bundle_id ORDER BY b.bundle_id, o.position"
        ):
            async with self.spool.reader(name) as reader:
                found.append(b"".join(reader.open_object(object_id, position, length)[1]))
        return found

    def choose(self, title: str, mode: DeliveryMode = DeliveryMode.QUEUED) -> None:
        """Let what goes to `title` go so."""
        directory = self.site.live.core.directory
        directory._store.save_delivery_rule(DeliveryRule(AETitle(title), None, mode))
        directory.reload()


@contextlib.asynccontextmanager
async def queuing(site: Site, folder: Path) -> AsyncIterator[Queuing]:
    """Have a site's Router queue what is to be queued."""
    make_private_folder(folder)
    clock, live = SystemClock(), site.live
    ledger = Ledger.open(folder / "ledger.db")
    spool = Spool(folder, b"s" * 32, ledger, clock, Room(folder, clock, floor=0), live.core.random)
    await recover(spool)
    answerer = live._answerer
    assert answerer is not None
    async with spool.running():
        live.handle(Opening(live, Ingest(live, spool)), answerer)
        yield Queuing(site, spool, ledger)
        await until(lambda: not live.sessions)
    await ledger.close()


def mirror(site: Site, device: str, *classes: str) -> None:
    """Let a site know that a device of its own takes these classes."""
    directory = site.live.core.directory
    found = directory.device_called(AETitle(device))
    assert found is not None
    with directory._store.transaction() as connection:
        connection.executemany(
            "REPLACE INTO mirror VALUES (?, ?, ?, 'declared', 1.0)",
            [(found.device_id, abstract, transfer) for abstract in classes for transfer in TRANSFER_SYNTAXES],
        )
    directory.reload()


@contextlib.asynccontextmanager
async def queued_pacs(
    folder: Path, *classes: str, services: tuple[str, ...] = ("store", "echo", "commitment")
) -> AsyncIterator[tuple[Network, Queuing, Archive]]:
    """Give two sites: WS of north queues for PACS of south, which takes these classes (default: CT)."""
    archive = Archive()
    async with listening(archive) as pacs, Network.running(folder) as network:
        await network.pair(pacs, services)
        north, south = network.sites["north"], network.sites["south"]
        mirror(south, "PACS", *(classes or (CT_IMAGE_STORAGE,)))
        await until(lambda: any(device.syntaxes for _, device in north.live.core.directory.offers()))
        async with queuing(north, folder / "queue") as queue:
            queue.choose("PACS")
            yield network, queue, archive


async def answered(wire: Wire) -> CommandSet:
    """Return the next response."""
    (frame,) = Framer().feed(await wire.pdu())
    assert isinstance(frame, Data)
    (command,) = frame.commands
    return command.parse()


async def store(wire: Wire, data_set: bytes, number: int = 1) -> int | None:
    """Store an object; return the status."""
    await wire.send(store_rq(data_set, message_id=number, sop_instance=f"1.2.3.{number}"))
    answer = await answered(wire)
    assert answer.responds_to == number
    return answer.status


async def test_what_is_queued_is_accepted_kept_and_answered_while_the_other_site_is_away(tmp_path: Path) -> None:
    async with queued_pacs(tmp_path) as (network, queue, pacs):
        await network.sites["south"].end()
        contents = [DATA_SET + bytes([number]) * number for number in range(1, 6)]
        async with calling(queue.site.port) as wire:
            accept = AssociateAccept.parse(await wire.associate("PACS", "WS"))
            assert accept.accepted_ids == {1, 3}
            for number, data_set in enumerate(contents, start=1):
                assert await store(wire, data_set, number) == 0
            await wire.send(echo_rq(message_id=99))
            assert (await answered(wire)).status == 0
            await wire.release()
        assert await queue.contents() == contents
        copies = await queue.rows("SELECT destination, site, calling, kind, state FROM copies ORDER BY copy_id")
        assert copies == [("PACS", "south", "WS", "store", "waiting")] * 5
        assert pacs.commands == []


async def test_sessions_and_audit_say_that_it_is_queued_and_the_bridge_is_told_nothing(tmp_path: Path) -> None:
    async with queued_pacs(tmp_path) as (network, queue, _):
        north = queue.site
        async with calling(north.port) as wire:
            await wire.associate("PACS", "WS")
            (row,) = await north.control("sessions")
            assert (row["mode"], row["calling"], row["called"], row["site"]) == ("queued", "WS", "PACS", "south")
            assert row["services"] == ["echo", "store"]
            assert north.live.counts() == []
            assert network.parts is not None
            assert list(network.parts.sessions.live) == []
            await store(wire, DATA_SET)
            await wire.release()
        await until(lambda: not north.live.sessions)
        ended, opened = [row for row in await north.control("audit") if row["what"] in {"opened", "ended"}]
        assert (opened["mode"], ended["mode"], ended["outcome"]) == ("queued", "queued", "released")
        assert ended["bytes_out"] > len(DATA_SET)


async def test_a_device_of_which_nothing_is_known_is_refused_for_now_and_the_hint_probes_it(tmp_path: Path) -> None:
    async with listening(Archive()) as pacs, Network.running(tmp_path) as network:
        await network.pair(pacs, ["echo"])  # so that it is asked for no storage class
        async with queuing(network.sites["north"], tmp_path / "queue") as queue:
            queue.choose("PACS")
            with capture_logs() as logs:
                async with calling(queue.site.port) as wire:
                    assert await wire.associate("PACS", "WS") == associate_rj(2, 3, 1)
            (line,) = [line for line in logs if line["event"] == "association refused"]
            assert line["hint"] == "at site south: isthmus device probe PACS"
            assert queue.spool._taken == set()


async def test_contexts_are_answered_from_what_the_device_takes_and_data_on_others_is_an_abort(tmp_path: Path) -> None:
    async with queued_pacs(tmp_path) as (_, queue, _):
        request = associate_rq("PACS", "WS", [ECHO_CONTEXT, CT_CONTEXT, (MR_IMAGE_STORAGE, TRANSFER_SYNTAXES)])
        async with calling(queue.site.port) as wire:
            await wire.send(request)
            accept = AssociateAccept.parse(await wire.pdu())
            assert [one.result for one in accept.contexts] == [0, 0, 3]
            await wire.send(store_rq(DATA_SET, context_id=5))
            assert await wire.pdu() == abort(2, 6)
        assert await queue.contents() == []


async def test_an_abort_or_a_lost_connection_inside_an_object_loses_that_object_only(tmp_path: Path) -> None:
    async with queued_pacs(tmp_path) as (_, queue, _):
        for number, end in enumerate(("abort", "reset"), start=1):
            async with calling(queue.site.port) as wire:
                await wire.associate("PACS", "WS")
                assert await store(wire, DATA_SET, number) == 0
                whole = store_rq(DATA_SET, message_id=7)
                half = 6 + int.from_bytes(whole[2:6], "big") + 10 * 16_384  # an A-ABORT counts between two PDUs only
                await wire.send(whole[: half if end == "abort" else half + 200])
                if end == "abort":
                    await wire.send(abort())
                    await wire.ended()
                else:
                    wire.reset()
            await until(lambda: not queue.site.live.sessions)
        assert await queue.contents() == [DATA_SET, DATA_SET]
        await until(lambda: not queue.spool._taken)


async def test_without_room_associations_are_refused_for_now_objects_too_and_live_goes_on(tmp_path: Path) -> None:
    async with queued_pacs(tmp_path) as (network, queue, pacs):
        async with calling(queue.site.port) as wire:
            await wire.associate("PACS", "WS")
            assert await store(wire, DATA_SET, 1) == 0
            queue.spool.room.limit(quota=0, floor=0)
            assert await store(wire, DATA_SET, 2) == 0xA700
            async with calling(queue.site.port) as other:
                assert await other.associate("PACS", "WS") == associate_rj(2, 3, 2)
            queue.spool.room.limit(quota=None, floor=0)
            assert await store(wire, DATA_SET, 3) == 0
            await wire.release()
        queue.spool.room.limit(quota=0, floor=0)
        queue.choose("PACS", DeliveryMode.LIVE)
        async with calling(queue.site.port) as wire:
            await wire.associate("PACS", "WS")
            assert await store(wire, DATA_SET) == 0
            await wire.release()
        assert pacs.commands == [CommandField.C_STORE_RQ]
        assert len(await queue.contents()) == 2
        await network.quiet()


async def test_an_association_ends_when_the_tables_allow_it_no_more(tmp_path: Path) -> None:
    async with queued_pacs(tmp_path) as (network, queue, _):
        south = network.sites["south"]
        async with calling(queue.site.port) as wire:
            await wire.associate("PACS", "WS")
            assert await store(wire, DATA_SET) == 0
            (grant,) = await south.control("grant_list")
            await south.control("grant_remove", grant=grant["grant_id"])
            await until(lambda: not queue.site.live.core.directory.offers())
            queue.site.live.recheck()
            assert await wire.pdu() == abort(2, 0)
            async with calling(queue.site.port) as again:
                assert await again.associate("PACS", "WS") == associate_rj(1, 1, 3)
        assert len(await queue.contents()) == 1


async def test_a_group_makes_a_copy_for_each_member_also_of_this_site(tmp_path: Path) -> None:
    async with queued_pacs(tmp_path) as (_, queue, _):
        north = queue.site
        await north.control("device_add", address="STATION@127.0.0.1:9")
        directory = north.live.core.directory
        directory._store.save_group(Group(AETitle("ALL"), (AETitle("STATION"), AETitle("PACS"))))
        directory.reload()
        async with calling(north.port) as wire:
            assert await wire.associate("ALL", "WS") == associate_rj(2, 3, 1)  # nobody knows what STATION takes
        mirror(north, "STATION", CT_IMAGE_STORAGE, MR_IMAGE_STORAGE)
        async with calling(north.port) as wire:
            await wire.send(associate_rq("ALL", "WS", [CT_CONTEXT, (MR_IMAGE_STORAGE, TRANSFER_SYNTAXES), COMMITMENT]))
            accept = AssociateAccept.parse(await wire.pdu())
            assert [one.result for one in accept.contexts] == [0, 3, 0]
            await wire.send(store_rq(DATA_SET, context_id=1))
            assert (await answered(wire)).status == 0
            await wire.release()
        assert await queue.contents() == [DATA_SET]
        copies = await queue.rows("SELECT destination, site FROM copies ORDER BY copy_id")
        assert copies == [("STATION", None), ("PACS", "south")]


async def test_commitment_is_kept_behind_the_objects_and_the_archives_report_is_let_in(tmp_path: Path) -> None:
    async with queued_pacs(tmp_path) as (network, queue, _):
        north = queue.site
        await north.control("device_set", device="WS", port=9)
        action = encode(
            {
                Tag.REQUESTED_SOP_CLASS_UID: uids.STORAGE_COMMITMENT_PUSH_MODEL,
                Tag.REQUESTED_SOP_INSTANCE_UID: "1.2.840.10008.1.20.1.1",
                Tag.COMMAND_FIELD: CommandField.N_ACTION_RQ,
                Tag.MESSAGE_ID: 8,
                Tag.DATA_SET_TYPE: 1,
                Tag.ACTION_TYPE_ID: 1,
            }
        )
        async with calling(north.port) as wire:
            await wire.send(associate_rq("PACS", "WS", [ECHO_CONTEXT, CT_CONTEXT, COMMITMENT]))
            assert AssociateAccept.parse(await wire.pdu()).accepted_ids == {1, 3, 5}
            assert await store(wire, DATA_SET) == 0
            assert north.live.core.directory._returns == {}
            await wire.send(message(5, action, b"references"))
            answer = await answered(wire)
            assert (answer.command_field, answer.status) == (CommandField.N_ACTION_RSP, 0)
            (opened,) = north.live.core.directory._returns.values()
            assert (opened.caller, opened.title) == ("PACS", "WS")
            assert opened.services == {"commitment"}
            assert opened.router_id == network.sites["south"].router_id
            await wire.release()
        kinds = await queue.rows("SELECT kind, destination FROM copies ORDER BY copy_id")
        assert kinds == [("store", "PACS"), ("commit", "PACS")]
        assert await queue.contents() == [DATA_SET, b"references"]


async def test_what_a_relayed_move_asks_for_goes_live_and_all_else_is_queued(tmp_path: Path) -> None:
    """A workstation of south moves from an archive of north, which has the workstation queued."""
    stores = Archive()
    async with (
        listening(Archive()) as archive,
        listening(stores) as station,
        queued_pacs(tmp_path) as (network, queue, _),
    ):
        north, south = queue.site, network.sites["south"]
        await north.control("device_add", address=f"ARCHIVE@127.0.0.1:{archive.port}")
        await south.control("device_add", address=f"STATION@127.0.0.1:{station.port}")
        await network.grant("north", "ARCHIVE", "south")
        await network.grant("south", "STATION", "north", ["store"])
        mirror(south, "STATION", CT_IMAGE_STORAGE)
        await until(
            lambda: any(
                device.title == "STATION" and device.syntaxes for _, device in north.live.core.directory.offers()
            )
        )
        queue.choose("STATION")
        move = (uids.STUDY_ROOT_MOVE, (uids.IMPLICIT_VR_LITTLE_ENDIAN,))
        async with calling(south.port) as asking:
            await asking.associate("ARCHIVE", "STATION", contexts=[move])
            await asking.send(message(1, move_command("STATION"), b"identifier"))
            await until(lambda: any(session.moves_to == "STATION" for session in north.live.sessions.values()))
            async with calling(north.port) as wire:
                await wire.associate("STATION", "ARCHIVE")
                assert await store(wire, DATA_SET) == 0
                await wire.release()
            assert stores.commands == [CommandField.C_STORE_RQ]
            assert await queue.contents() == []
            await asking.release()
        await until(lambda: not any(session.moves_to for session in north.live.sessions.values()))
        async with calling(north.port) as wire:
            await wire.associate("STATION", "ARCHIVE")
            assert await store(wire, DATA_SET) == 0
            await wire.release()
        assert stores.commands == [CommandField.C_STORE_RQ]
        assert await queue.contents() == [DATA_SET]
        await network.quiet()


async def test_many_associations_at_once_keep_every_object_once(tmp_path: Path) -> None:
    async with queued_pacs(tmp_path) as (_, queue, _):

        async def send(number: int) -> None:
            async with calling(queue.site.port) as wire:
                await wire.associate("PACS", "WS")
                for one in range(10):
                    assert await store(wire, DATA_SET + bytes([number, one]), one + 1) == 0
                await wire.release()

        await asyncio.gather(*(send(number) for number in range(8)))
        contents = await queue.contents()
        assert sorted(data[-2:] for data in contents) == [bytes([a, b]) for a in range(8) for b in range(10)]


async def test_a_device_that_its_owner_has_queued_only_is_queued_without_a_choice_and_not_relayed(
    tmp_path: Path,
) -> None:
    async with queued_pacs(tmp_path) as (network, queue, pacs):
        directory = network.sites["south"].live.core.directory
        device = directory.device_called(AETitle("PACS"))
        assert device is not None
        options = dataclasses.replace(device.options, modes=(DeliveryMode.QUEUED,))
        directory._store.save_device(dataclasses.replace(device, options=options))
        directory.reload()
        offers = queue.site.live.core.directory.offers
        await until(lambda: any(granted.modes == ["queued"] for _, granted in offers()))
        queue.site.live.core.directory._store.delete_delivery_rule(AETitle("PACS"), None)
        queue.site.live.core.directory.reload()
        async with calling(queue.site.port) as wire:
            await wire.associate("PACS", "WS")
            assert await store(wire, DATA_SET) == 0
            await wire.release()
        queue.choose("PACS", DeliveryMode.LIVE)
        async with calling(queue.site.port) as wire:
            assert await wire.associate("PACS", "WS") == associate_rj(1, 1, 3)
        assert pacs.commands == []
