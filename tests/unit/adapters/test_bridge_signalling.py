"""What the built-in signalling says of a Bridge that is away, without one."""

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from isthmus.adapters.bridge_http import BridgeConnection
from isthmus.adapters.signalling.bridge import BridgeSignalling
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
