"""What is relayed follows the tables: an association that is allowed no more ends at once."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from isthmus.dicom.framing import Framer, Pdu, PduType
from isthmus.testing.dicom import associate_ac, associate_rq
from isthmus.testing.network import Network


async def _read_pdu(reader: asyncio.StreamReader) -> Pdu:
    framer = Framer()
    while True:
        data = await reader.read(65536)
        assert data, "the connection was closed"
        for frame in framer.feed(data):
            assert isinstance(frame, Pdu)
            return frame


@pytest.fixture
async def archive_port() -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = await _read_pdu(reader)
        writer.write(associate_ac(request.raw))
        assert (await _read_pdu(reader)).type is PduType.ABORT
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.mark.parametrize("change", ["site removed here", "site removed there", "grant withdrawn", "site revoked"])
async def test_an_association_ends_when_the_tables_no_longer_allow_it(
    tmp_path: Path, archive_port: int, change: str
) -> None:
    async with Network.running(tmp_path) as network:
        north, south = network.sites["north"], network.sites["south"]
        await south.control("device_add", address=f"PACS@127.0.0.1:{archive_port}")
        await north.control("device_add", address="WS@127.0.0.1")
        await network.grant("south", "PACS", "north", ["store"])
        reader, writer = await asyncio.open_connection("127.0.0.1", north.port)
        writer.write(associate_rq("PACS", "WS"))
        assert (await _read_pdu(reader)).type is PduType.ASSOCIATE_AC
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
        async with asyncio.timeout(10):
            assert (await _read_pdu(reader)).type is PduType.ABORT
        writer.close()
