"""What the built-in signalling says of a Bridge that is away, without one."""

import asyncio
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from isthmus.adapters.bridge_http import BridgeConnection
from isthmus.adapters.signalling import bridge as bridge_module
from isthmus.adapters.signalling.bridge import BridgeSignalling
from isthmus.adapters.signalling.websocket import Opcode, frame
from isthmus.contract.batches import LANE_BYTES, make_tag, pack_batch
from isthmus.errors import Problem, ProviderTrouble, Retry


class Away:
    """A Bridge that cannot be reached, and after a while says no."""

    own_id = "ROUTER"

    def __init__(self, *answers: Exception) -> None:
        self._answers = iter(answers)
        self.asked_all = asyncio.Event()

    async def request(self, *_: object, **_options: object) -> bytes:
        raise ProviderTrouble("cannot be asked either", retry=Retry.LATER)

    async def upgrade(self, _path: str) -> Any:
        try:
            raise next(self._answers)
        except StopIteration:
            self.asked_all.set()
            await asyncio.Event().wait()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    def delays(*_: float) -> Iterator[float]:
        return itertools.repeat(0.0)

    monkeypatch.setattr("isthmus.kit.backoff.delays", delays)


async def test_a_bridge_that_stays_away_is_not_complained_of_with_each_try() -> None:
    unreachable = [ProviderTrouble("cannot be reached", retry=Retry.LATER) for _ in range(50)]
    bridge = Away(*unreachable, Problem(401, "Revoked", detail="gone"), *unreachable)
    signalling = BridgeSignalling(cast("BridgeConnection", bridge))
    with capture_logs() as logs:
        signalling.attach("ROUTER", lambda _: None)
        await asyncio.wait_for(bridge.asked_all.wait(), 20)
        await signalling.close()
    assert [line["error"] for line in logs if line["event"] == "signalling not connected"] == [
        "cannot be reached",
        "gone",
        "cannot be reached",
    ]


class Wire(asyncio.Transport):
    """The way below a WebSocket whose other end answers the first Ping."""

    def __init__(self) -> None:
        super().__init__()
        self.is_open = True
        self._protocol: asyncio.BufferedProtocol | None = None

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = cast("asyncio.BufferedProtocol", protocol)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        pass

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return not self.is_open

    def resume_reading(self) -> None:
        pass

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        if b"".join(list_of_data)[0] & 0x0F == Opcode.PING:
            asyncio.get_running_loop().call_soon(self._answer)

    def close(self) -> None:
        self.abort()

    def abort(self) -> None:
        if self.is_open:
            self.is_open = False
            assert self._protocol is not None
            asyncio.get_running_loop().call_soon(self._protocol.connection_lost, None)

    def _answer(self) -> None:
        pong = b"".join(frame(Opcode.PONG, (), masks=False))
        if self.is_open and self._protocol is not None:
            memoryview(self._protocol.get_buffer(-1))[: len(pong)] = pong
            self._protocol.buffer_updated(len(pong))


class PollsFirst:
    """A Bridge that no WebSocket reaches at first."""

    own_id = "ROUTER"
    up = down = None

    def __init__(self) -> None:
        self.wires: list[Wire] = []
        self.reached = asyncio.Event()
        self._left = asyncio.Event()
        self._refusals = 5

    async def request(self, method: str, _path: str, *_: object, query: str = "", **_options: object) -> bytes:
        if method == "DELETE":
            self._left.set()
        elif "wait=25" in query:
            await self._left.wait()
        return pack_batch((), tag=make_tag(bytes(LANE_BYTES), 0))

    async def upgrade(self, _path: str) -> Any:
        if self._refusals:
            self._refusals -= 1
            raise ProviderTrouble("no upgrade", retry=Retry.LATER)
        self.wires.append(Wire())
        self.reached.set()
        return Response(), self.wires[-1]


class Response:
    def close(self) -> None:
        """Lets go of the connection, which the test looks at itself."""


@pytest.mark.parametrize("heard_seconds", [0.0, 60.0])
async def test_no_connection_is_left_by_one_who_closes_while_a_websocket_takes_over_from_long_polls(
    heard_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge_module, "_HEARD_SECONDS", heard_seconds)
    monkeypatch.setattr(bridge_module, "_FIRST_DELAY", 0.0)
    for turns in range(40):
        bridge = PollsFirst()
        signalling = BridgeSignalling(cast("BridgeConnection", bridge))
        signalling.attach("ROUTER", lambda _: None)
        async with asyncio.timeout(20):
            await bridge.reached.wait()
            for _ in range(turns):  # of the loop, so that each moment of the change is met
                await asyncio.sleep(0)
            await signalling.close()
        assert [wire.is_open for wire in bridge.wires] == [False] * len(bridge.wires), f"after {turns} turns"
