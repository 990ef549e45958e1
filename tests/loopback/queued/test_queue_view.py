"""A study on its way between two sites, as the operators of both see it and stop it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs
from tests.unit.router.queued.study_objects import data_set

from isthmus.dicom import uids
from isthmus.dicom.framing import Data, Framer
from isthmus.testing.devices import Archive, Wire, calling, listening
from isthmus.testing.dicom import CT_IMAGE_STORAGE, store_rq
from isthmus.testing.network import Network, Site, until


@asynccontextmanager
async def queued(folder: Path) -> AsyncIterator[tuple[Network, Archive]]:
    """Give two sites: what WS of north sends to PACS of south is queued."""
    archive = Archive()
    async with listening(archive) as pacs, Network.running(folder) as network:
        await network.pair(pacs, ["store"])
        north, south = network.sites["north"], network.sites["south"]
        pair = f"{CT_IMAGE_STORAGE}:{uids.EXPLICIT_VR_LITTLE_ENDIAN}"
        await south.control("device_probe", device="PACS", calling=None, everything=False, declare=[pair], forget=False)
        await until(lambda: any(device.syntaxes for _, device in north.live.core.directory.offers()))
        await north.control("delivery_set", title="PACS", mode="queued")
        yield network, archive


async def send(site: Site, study: int, count: int) -> None:
    """Send a study as WS does."""
    async with calling(site.port) as wire:
        await wire.associate("PACS", "WS")
        for number in range(1, count + 1):
            await wire.send(store_rq(data_set(study), message_id=number, sop_instance=f"2.25.{study}.{number}"))
            assert await _status(wire) == 0
        await wire.release()


async def _status(wire: Wire) -> int | None:
    (frame,) = Framer().feed(await wire.pdu())
    assert isinstance(frame, Data)
    return frame.commands[0].parse().status


def _all_files(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


async def rows(site: Site, **more: Any) -> list[dict[str, Any]]:
    """Return the rows of a site's queue."""
    return list((await site.control("queue_list", **more))["rows"])


async def test_a_study_is_seen_at_both_sites_until_it_is_delivered_and_found_for_a_while(tmp_path: Path) -> None:
    async with queued(tmp_path) as (network, archive):
        north, south = network.sites["north"], network.sites["south"]
        (pacs,) = [row for row in await south.control("device_list") if row["title"] == "PACS"]
        await south.control("device_set", device="PACS", port=1)  # where nobody listens
        await send(north, 1, 5)

        async def arrived() -> bool:
            return [row["waiting"] for row in await rows(south)] == [5]

        await until(arrived, 20)
        (here,), (there,) = await rows(north), await rows(south)
        assert "other" not in (here["study"], there["study"])
        assert "PACS does not answer" in there["reason"]
        assert (here["description"], there["description"]) == ("Head, synthetic",) * 2
        assert (here["destination"], here["site"], here["sender"]) == ("PACS", "south", "WS")
        for site in (north, south):
            (found,) = await site.control("queue_find", accession="a1", name="doe")
            assert found["patient_id"] == "P1"
        await south.control("device_set", device="PACS", port=pacs["port"])
        await south.control("queue_retry", study=there["study"])

        async def delivered() -> bool:
            return [row["delivered"] for row in await rows(north, done=True)] == [5]

        await until(delivered, 30)
        assert len(archive.commands) == 5
        assert await rows(north) == []


async def test_a_study_that_is_held_at_the_sender_goes_when_it_is_released(tmp_path: Path) -> None:
    async with queued(tmp_path) as (network, archive):
        north, south = network.sites["north"], network.sites["south"]
        await south.end()
        await send(north, 2, 3)

        async def noted() -> bool:
            return [row["total"] for row in await rows(north)] == [3]

        await until(noted)
        (row,) = await rows(north)
        answer = await north.control("queue_hold", study=row["study"])
        assert answer["objects"] + answer["too_late"] == 3
        await north.control("queue_release", study=row["study"])
        await network.start("south")

        async def delivered() -> bool:
            return [row["delivered"] for row in await rows(north, done=True)] == [3]

        await until(delivered, 40)
        assert len(archive.commands) == 3


async def test_nothing_of_the_patient_leaves_the_ledgers(tmp_path: Path) -> None:
    with capture_logs() as logs:
        async with queued(tmp_path) as (network, archive):
            north = network.sites["north"]
            await send(north, 3, 3)
            await until(lambda: len(archive.commands) == 3, 30)
            await north.control("queue_find", accession="A3")
            audit = await north.control("audit")
    assert any(row["what"] == "looked" for row in audit)
    stored = await asyncio.to_thread(_all_files, tmp_path)
    for canary in ("Doe", "Jané", "Head, synthetic", "2.25.3.1"):
        assert canary not in str(logs)
        assert canary not in str(audit)
    for canary in ("Doe^Jan", "Jané", "Head, synthetic", "2.25.3.1"):  # three letters are in any megabyte of ciphertext
        assert canary.encode() not in stored
