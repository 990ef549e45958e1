"""Queued delivery when something is not well: refused images, members of a group and whole sites away, no room."""

from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import pytest_asyncio
from pydicom import Dataset, dcmread
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.sop_class import CTImageStorage, MRImageStorage
from tests.interop import dcmtk, queued
from tests.interop.dcmtk import data_set_bytes, files
from tests.interop.pynet import accepting, of_north
from tests.interop.queued import all_are, counts, nothing_left, queue_for, storescu
from tests.interop.sites import CT, MR, TEST_FILES, caller, new_title, publish

from isthmus.router.live.opening import Opening
from isthmus.router.queued.ingest.accepting import Ingest
from isthmus.testing.network import Network, Site, until

pytestmark = [pytest.mark.interop, pytest.mark.asyncio(loop_scope="module")]

_THREE = (CT, MR, TEST_FILES / "rtplan.dcm")


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def network(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Network]:
    async with queued.sites(tmp_path_factory.mktemp("network"), ("north", "south", "west")) as network:
        yield network


@pytest.mark.parametrize(("status", "mended_by"), [(0xA900, "south"), (0xC000, "north")])
async def test_an_image_that_the_archive_refuses_is_held_with_its_words_and_goes_when_it_is_mended(
    network: Network, status: int, mended_by: str
) -> None:
    got: list[str] = []
    mended = False

    def store(event: Any) -> Dataset:
        answer = Dataset()
        answer.Status = 0x0000
        if event.request.AffectedSOPClassUID == MRImageStorage and not mended:
            answer.Status = status
            answer.ErrorComment = "Patient ID is not of this hospital"
        else:
            got.append(event.request.AffectedSOPInstanceUID)
        return answer

    images = [dcmread(path) for path in (MR, CT)]
    contexts = [(kind, ExplicitVRLittleEndian) for kind in (CTImageStorage, MRImageStorage)]
    north = network.sites["north"]
    async with accepting([CTImageStorage, MRImageStorage], [(evt.EVT_C_STORE, store)]) as port:
        title, who = await queue_for(network, new_title("PACS"), port, ["store"]), await caller(network)
        answers = await of_north(
            network, who, title, contexts, lambda one: [one.send_c_store(image).Status for image in images]
        )
        assert answers == [0, 0]  # what the archive thinks of it is not the scanner's affair any more
        await all_are(north, title, delivered=1, held=1)
        assert got == [images[1].SOPInstanceUID]
        studies = {}
        for site in (north, network.sites["south"]):
            (row,) = [row for row in await queued.rows(site, title) if row["held"]]
            studies[site.name] = row["study"]  # each site has its own name for it
            (held,) = (await queued.ask(site, "queue", "show", row["study"]))["held"]
            assert (held["destination"], held["count"], held["status"]) == (title, 1, f"{status:04X}H")
            assert held["comment"] == "Patient ID is not of this hospital"
            assert held["comment"] in await queued.command(site, "queue", "show", row["study"])
        mended = True
        await queued.command(network.sites[mended_by], "queue", "retry", studies[mended_by], "--destination", title)
        await all_are(north, title, delivered=2)
        assert got == [images[1].SOPInstanceUID, images[0].SOPInstanceUID]
    await nothing_left(network)


async def test_a_study_that_a_person_held_goes_when_it_is_released(network: Network, tmp_path: Path) -> None:
    north, folder = network.sites["north"], tmp_path / "got"
    who, title = await caller(network), new_title("LOCAL")
    async with dcmtk.storescp(folder) as port:
        await north.control("device_add", address=f"{title}@127.0.0.1:{port}")
        await north.control("group_add", title=(group := new_title("GROUP")), member=[title])
        assert await queued.probe(north, title)
    await storescu(north.port, who, group, [CT, MR])
    await until(lambda: waits(north, title))
    (row,) = [row for row in await queued.rows(north, title) if row["modality"] == "CT"]
    await queued.command(north, "queue", "hold", row["study"], "--destination", title)
    async with dcmtk.storescp(folder, port=port):
        await all_are(north, title, delivered=1, held=1)
        await queued.command(north, "queue", "release", row["study"], "--destination", title)
        await all_are(north, title, delivered=2)


async def waits(site: Site, title: str) -> bool:
    """Return whether all that there is for a destination waits for a device that is off."""
    found = await queued.rows(site, title)
    return bool(found) and all("does not answer" in row["reason"] for row in found)


async def test_one_member_of_a_group_that_is_off_keeps_nobody_waiting_and_gets_all_when_it_is_there(
    network: Network, tmp_path: Path
) -> None:
    """Two members at two other sites, one at the scanner's own; then another one takes the place of the one at west."""
    north, who, group = network.sites["north"], await caller(network, "CT"), new_title("GROUP")
    async with (
        dcmtk.storescp(tmp_path / "south") as south_port,
        dcmtk.storescp(tmp_path / "local") as local_port,
    ):
        async with dcmtk.storescp(tmp_path / "west") as west_port:
            south = await queue_for(network, new_title("PACS"), south_port, ["store"], choose=False)
            west = await queue_for(network, new_title("AI"), west_port, ["store"], owner="west", choose=False)
            local = new_title("LOCAL")
            await north.control("device_add", address=f"{local}@127.0.0.1:{local_port}")
            await queued.command(
                north, "group", "add", group, *(word for one in (south, west, local) for word in ("--member", one))
            )
            assert await queued.probe(north, local)
        ran = await storescu(north.port, who, group, _THREE)
        assert ran.code == 0, ran.output
        assert ran.output.count("Received Store Response (Success)") == 3
        for title in (south, local):
            await all_are(north, title, delivered=3)
        await all_are(north, west, received=3)
        await until(lambda: waits(network.sites["west"], west))
        listed = (await queued.ask(north, "queue", "list"))["rows"]
        ours = [row for row in listed if row["destination"] in {south, west, local}]
        assert {(row["destination"], row["site"]) for row in ours} == {(west, "west")}
        assert all("at site west" in row["reason"] for row in ours)
        async with dcmtk.storescp(tmp_path / "west", port=west_port):
            await all_are(north, west, delivered=3)
        south_got, local_got, west_got = (
            Counter(map(data_set_bytes, files(tmp_path / name))) for name in ("south", "local", "west")
        )
        assert south_got == local_got == west_got
        assert len(south_got) == 3
        await queued.command(north, "group", "set", group, "--member", south, "--member", local)
        ran = await storescu(north.port, who, group, [CT])
        assert ran.code == 0, ran.output
        for title in (south, local):
            await all_are(north, title, delivered=4)
        assert await counts(north, west) == {"total": 3, "delivered": 3}
    await nothing_left(network)


async def test_a_site_that_is_away_fetches_later_and_the_sender_may_be_off_by_then(
    network: Network, tmp_path: Path
) -> None:
    who, folder = await caller(network), tmp_path / "got"
    async with dcmtk.storescp(folder) as port:
        title = await queue_for(network, new_title("PACS"), port, ["store"])
        await network.sites["south"].end()
        north = network.sites["north"]
        ran = await storescu(north.port, who, title, _THREE)
        assert ran.code == 0, ran.output
        await all_are(north, title, posted=3)
        assert all("site south is offline" in row["reason"] for row in await queued.rows(north, title))
        await north.end()
        assert files(folder) == []
        south = await network.start("south")
        await all_are(south, title, delivered=3)
        assert len(files(folder)) == 3
        north = await network.start("north")
        await all_are(north, title, delivered=3)
        assert len(files(folder)) == 3
    await nothing_left(network)


@contextmanager
def no_room(site: Site) -> Iterator[None]:
    """Let the spool of a site have no room, from any thread."""
    opening = site.live._opener
    assert isinstance(opening, Opening)
    assert isinstance(opening._queued, Ingest)
    with patch.object(opening._queued._spool.room, "_lack", return_value=("the disk is full", "")):
        yield


async def test_without_room_the_sender_hears_a700_and_live_associations_go_on(network: Network, tmp_path: Path) -> None:
    north, who, folder = network.sites["north"], await caller(network), tmp_path / "got"
    images = [dcmread(path) for path in (CT, MR)]
    contexts = [(kind, ExplicitVRLittleEndian) for kind in (CTImageStorage, MRImageStorage)]
    async with dcmtk.storescp(folder) as port:
        title = await queue_for(network, new_title("PACS"), port, ["store"])
        live = await publish(network, new_title("LIVE"), port, ["store"])

        def work(one: Any) -> list[int]:
            statuses = [one.send_c_store(images[0]).Status]
            with no_room(north):
                statuses.append(one.send_c_store(images[1]).Status)
            return [*statuses, one.send_c_store(images[1]).Status]

        assert await of_north(network, who, title, contexts, work) == [0x0000, 0xA700, 0x0000]
        await all_are(north, title, delivered=2)
        with no_room(north):
            ran = await storescu(north.port, who, title, [CT])
            assert ran.code != 0
            assert "Local Limit Exceeded" in ran.output, ran.output
            ran = await storescu(north.port, who, live, [CT])
            assert ran.code == 0, ran.output
        assert len(files(folder)) == 2  # storescp names a file after its instance: CT came live once more
        assert await counts(north, title) == {"total": 2, "delivered": 2}
