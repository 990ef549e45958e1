"""How a far device refuses, aborts and goes, and what the caller hears: the same."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from tests.interop import dcmtk
from tests.interop.dcmtk import run
from tests.interop.sites import CT, caller, joined, new_title, publish

from isthmus.testing.devices import Wire, calling, listening
from isthmus.testing.dicom import abort, associate_rj, release_rp, release_rq
from isthmus.testing.free_ports import free_port
from isthmus.testing.network import Network

pytestmark = [pytest.mark.interop, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def network(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Network]:
    async with Network.running(tmp_path_factory.mktemp("network")) as network:
        yield network


async def answer_to(network: Network, answer: bytes | None) -> bytes:
    """Return what a caller hears if the far device answers its request with these bytes; None: it closes."""

    async def script(wire: Wire) -> None:
        assert await wire.pdu()
        if answer is not None:
            await wire.send(answer)
        await wire.close()

    async with listening(script) as device:
        who, title = await caller(network), await publish(network, new_title("PACS"), device.port)
        async with calling(network.sites["north"].port) as wire:
            return await wire.associate(title, who)


@pytest.mark.parametrize(
    "answer",
    [(1, 1, 1), (1, 1, 2), (1, 1, 3), (1, 1, 7), (1, 2, 1), (1, 2, 2), (2, 1, 1), (2, 2, 1), (2, 3, 1), (2, 3, 2),
     (2, 3, 7), (9, 8, 200)],
    ids=lambda answer: "-".join(map(str, answer)),
)  # fmt: skip
async def test_the_far_devices_rejection_arrives_unchanged(network: Network, answer: tuple[int, int, int]) -> None:
    """pynetdicom#791: "local limit exceeded" stays what it is, as does what the standard does not know."""
    assert await answer_to(network, associate_rj(*answer)) == associate_rj(*answer)


@pytest.mark.parametrize(
    "answer", [(0, 0), (2, 0), (2, 1), (2, 2), (2, 6), (1, 77)], ids=lambda answer: "-".join(map(str, answer))
)
async def test_the_far_devices_abort_before_its_answer_arrives_unchanged(
    network: Network, answer: tuple[int, int]
) -> None:
    assert await answer_to(network, abort(*answer)) == abort(*answer)


async def test_a_far_device_that_closes_without_an_answer_is_an_outage(network: Network) -> None:
    assert await answer_to(network, None) == associate_rj(2, 3, 1)


async def test_storescp_refusing_is_heard_by_echoscu(network: Network, tmp_path: Path) -> None:
    async with dcmtk.storescp(tmp_path / "got", "--refuse") as port:
        who, title = await caller(network), await publish(network, new_title("STORE"), port)
        words = ("-v", "-aet", who, "-aec", title, "127.0.0.1")
        direct = await run("echoscu", *words, str(port))
        relayed = await run("echoscu", *words, str(network.sites["north"].port))
    assert "Association Rejected" in relayed.output
    assert (relayed.code, relayed.output) == (direct.code, direct.output)


async def test_dcmqrscp_not_knowing_its_title_is_heard_by_echoscu(network: Network, tmp_path: Path) -> None:
    async with dcmtk.dcmqrscp(tmp_path / "archive", "ANOTHER", {}) as port:
        who, title = await caller(network), await publish(network, new_title("PACS"), port)
        words = ("-v", "-aet", who, "-aec", title, "127.0.0.1")
        direct = await run("echoscu", *words, str(port))
        relayed = await run("echoscu", *words, str(network.sites["north"].port))
    assert "Rejected" in relayed.output
    assert (relayed.code, relayed.output) == (direct.code, direct.output)


@pytest.mark.parametrize("tool", ["--abort-after", "--abort-during"])
async def test_storescp_aborting_is_heard_by_storescu(network: Network, tmp_path: Path, tool: str) -> None:
    async with dcmtk.storescp(tmp_path / "got", tool) as port:
        who, title = await caller(network), await publish(network, new_title("STORE"), port)
        words = ("-v", "-aet", who, "-aec", title, "127.0.0.1")
        direct = await run("storescu", *words, str(port), CT)
        relayed = await run("storescu", *words, str(network.sites["north"].port), CT)
    assert "Peer Aborted Association" in relayed.output, relayed.output
    assert relayed.code == direct.code


async def test_echoscu_aborting_ends_the_far_association(network: Network) -> None:
    heard: list[bytes] = []

    async with joined(network) as pair:
        await pair.near.send(abort(0, 0))
        heard.append(await pair.far.pdu())
    assert heard == [abort(0, 0)]


@pytest.mark.parametrize("answer", [(0, 0), (2, 2), (2, 5), (1, 9)], ids=lambda answer: "-".join(map(str, answer)))
@pytest.mark.parametrize("first", ["caller", "called"])
async def test_an_abort_arrives_with_its_source_and_reason(
    network: Network, answer: tuple[int, int], first: str
) -> None:
    """pynetdicom#769."""
    async with joined(network) as pair:
        one, other = (pair.near, pair.far) if first == "caller" else (pair.far, pair.near)
        await one.send(abort(*answer))
        assert await other.pdu() == abort(*answer)


@pytest.mark.parametrize("first", ["caller", "called"])
async def test_a_release_is_mirrored_and_answered_by_the_other_device(network: Network, first: str) -> None:
    async with joined(network) as pair:
        one, other = (pair.near, pair.far) if first == "caller" else (pair.far, pair.near)
        await one.send(release_rq())
        assert await other.pdu() == release_rq()
        await other.send(release_rp())
        assert await one.pdu() == release_rp()


@pytest.mark.parametrize("first", ["caller", "called"])
async def test_a_connection_that_breaks_is_an_abort_for_the_other_device(network: Network, first: str) -> None:
    async with joined(network) as pair:
        one, other = (pair.near, pair.far) if first == "caller" else (pair.far, pair.near)
        one.reset()
        assert await other.pdu() == abort(2, 0)


async def test_a_device_that_is_switched_off_is_an_outage_at_once(network: Network) -> None:
    """Rules section 1: 2/3/1; nothing listens there, and TCP says so at once."""
    who, title = await caller(network), await publish(network, new_title("PACS"), free_port())
    async with calling(network.sites["north"].port) as wire:
        async with asyncio.timeout(5):  # and not after a time-out
            assert await wire.associate(title, who) == associate_rj(2, 3, 1)
