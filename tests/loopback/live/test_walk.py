"""The thinnest path: a device of one site reaches a device of another."""

import asyncio
from pathlib import Path

from pynetdicom import AE, evt
from pynetdicom.sop_class import CTImageStorage, Verification

from isthmus.testing.network import Network


async def test_an_echo_crosses_the_relay(tmp_path: Path) -> None:
    archive = AE(ae_title="PACS")
    archive.add_supported_context(Verification)
    archive.add_supported_context(CTImageStorage)
    got: list[str] = []

    def echoed(event: evt.Event) -> int:
        got.append(event.assoc.requestor.ae_title)
        return 0

    server = archive.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_ECHO, echoed)])
    port = server.server_address[1]
    async with Network.running(tmp_path) as network:
        north, south = network.sites["north"], network.sites["south"]
        await south.control("device_add", address=f"PACS@127.0.0.1:{port}")
        await north.control("device_add", address="WS@127.0.0.1")
        await network.grant("south", "PACS", "north", ["echo", "store"])

        def echo() -> int:
            scu = AE(ae_title="WS")
            scu.add_requested_context(Verification)
            association = scu.associate("127.0.0.1", north.port, ae_title="PACS")
            assert association.is_established
            status = association.send_c_echo()
            association.release()
            return int(status.Status)

        assert await asyncio.to_thread(echo) == 0
        legs = (await north.control("echo", title="PACS"))["legs"]
        assert [leg["name"] for leg in legs][-2:] == ["C-ECHO", "release"]
        assert any(row["called"] == "PACS" for row in await north.control("audit"))
    server.shutdown()
    assert got[0] == "WS"
