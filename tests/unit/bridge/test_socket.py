"""A Router's connection to the hub in the moments in which it is made."""

import asyncio
from collections.abc import Iterable
from typing import Any, cast

import pytest
from uvicorn.server import ServerState

from isthmus.adapters.signalling.websocket import Opcode, frame
from isthmus.bridge.accounts.service import Account
from isthmus.bridge.signalling.hub import Hub
from isthmus.bridge.signalling.socket import SignallingSocket
from isthmus.testing.bridge import Bench

UPGRADE = (
    b"GET /api/v1/signalling HTTP/1.1\r\nHost: bridge\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


class Admits:
    """A doorkeeper who knows everybody."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self.revoked = False

    def admit_socket(self, target: str, authorization: str) -> Account:
        del target, authorization
        return self._account

    def is_revoked(self, account: Account) -> bool:
        return self.revoked and account == self._account


class Wire(asyncio.Transport):
    """The connection below."""

    def __init__(self) -> None:
        super().__init__()
        self.is_open = True
        self.protocol: Any = None

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.protocol = protocol

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return not self.is_open

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        pass

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if self.is_open:
            self.is_open = False
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)


async def test_no_connection_outlives_a_bridge_that_stops_while_it_is_made(bench: Bench) -> None:
    account = bench.account(await bench.join("clinic"))
    for turns in range(3):
        state, wire = ServerState(), Wire()
        socket = SignallingSocket(Hub(), Admits(account), state, {})
        wire.protocol = socket
        socket.connection_made(wire)
        socket.data_received(UPGRADE)
        for _ in range(turns):
            await asyncio.sleep(0)
        for connection in cast("set[SignallingSocket]", set(state.connections)):
            connection.shutdown()
        for _ in range(3):
            await asyncio.sleep(0)
        assert not wire.is_open, f"after {turns} turns"
        assert not state.connections
        if wire.protocol is not socket:
            wire.protocol.abort()


@pytest.mark.parametrize("revoked", [False, True])
async def test_a_router_that_is_revoked_before_its_first_frame_does_not_get_to_the_hub(
    bench: Bench, revoked: bool
) -> None:
    member = await bench.join("clinic")
    hub, doorkeeper, wire = Hub(), Admits(bench.account(member)), Wire()
    socket = SignallingSocket(hub, doorkeeper, ServerState(), {})
    wire.protocol = socket
    socket.connection_made(wire)
    socket.data_received(UPGRADE)
    await asyncio.sleep(0)
    doorkeeper.revoked = revoked
    ping = b"".join(frame(Opcode.PING, (), masks=True))
    memoryview(wire.protocol.get_buffer(-1))[: len(ping)] = ping
    wire.protocol.buffer_updated(len(ping))
    assert hub.is_online(member.identity.router_id) is not revoked
    assert wire.is_open is not revoked
    wire.abort()
    await asyncio.sleep(0)
