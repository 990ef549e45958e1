"""One of several Bridges that stops while the others go on talking."""

from collections.abc import Callable

import pytest

from isthmus.bridge.cluster import service
from isthmus.bridge.cluster.packets import Kind
from isthmus.bridge.cluster.peers import Peer
from isthmus.bridge.cluster.service import Cluster
from isthmus.testing.bridge import Bench


class TalkativeBus:
    """Brings a last word while it is closed, as one does that has much to send."""

    def __init__(self) -> None:
        self.last_word: Callable[[], None] = lambda: None

    async def open(self, name: str, take: Callable[[bytes], None]) -> None:
        del name, take

    def send(self, to: str, packet: bytes) -> None:
        pass

    async def close(self) -> None:
        self.last_word()


async def test_what_another_bridge_says_while_this_one_leaves_begins_nothing_that_outlives_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_MEET_SECONDS", 0.0)
    bus = TalkativeBus()
    cluster = Cluster(bench.parts, bus)
    await cluster.open()
    bus.last_word = lambda: cluster.heard(Peer("other"), Kind.PROVIDERS, memoryview(b""))
    await cluster.close()
    assert len(cluster._tasks) == 0
