"""Being of one mind with the Bridge."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from isthmus.contract.documents import DocumentKind, SignedDocument
from isthmus.contract.rest import REVOKED, HeartbeatAnswer, Network, SessionCount, SiteEntry, Usage
from isthmus.errors import Problem, ProviderTrouble, Retry
from isthmus.kit.clock import SystemClock
from isthmus.kit.tasks import Tasks
from isthmus.router.metrics import Metrics
from isthmus.router.sync import MOST_OFFSET, Sync
from isthmus.testing.clouds import NoClouds


class PlainBridge:
    """A Bridge that keeps what it is given and fails when it is told to."""

    def __init__(self, home: Any) -> None:
        self.home = home
        self.calls: list[str] = []
        self.kept: list[SignedDocument] = []
        self.sites: list[SiteEntry] = []
        self.revision = "1"
        self.ahead = 0.0
        self.away = False
        self.shut_out = False
        self.refuses: DocumentKind | None = None
        self.heard: list[SessionCount] = []
        self.given = asyncio.Event()

    def _call(self, name: str) -> None:
        self.calls.append(name)
        if self.shut_out:
            raise Problem(401, REVOKED, detail="This Router no longer belongs to the network.")
        if self.away:
            raise ProviderTrouble("the Bridge cannot be reached", retry=Retry.LATER)

    async def network(self) -> Network:
        self._call("network")
        counter = self.home.store.published_counter()
        return Network(
            revision=self.revision, site="home", sites=self.sites, providers=[], own_counter=counter, time=0.0
        )

    async def publish(self, documents: Sequence[SignedDocument]) -> None:
        self._call("publish")
        if any(document.kind is self.refuses for document in documents):
            raise Problem(409, "Title taken", detail="PACS belongs to another site", field="titles")
        self.kept += documents
        self.given.set()

    async def heartbeat(
        self, counts: Sequence[SessionCount], *, pairs: Sequence[str] = (), usage: Usage | None = None
    ) -> HeartbeatAnswer:
        self._call("heartbeat")
        self.heard = list(counts)
        return HeartbeatAnswer(time=self.home.clock.now() + self.ahead, revision=self.revision)


@pytest.fixture
def bridge(home: Any) -> PlainBridge:
    return PlainBridge(home)


def make_sync(home: Any, bridge: PlainBridge, system_clock: SystemClock | None = None) -> Sync:
    return Sync(
        bridge,
        home.directory,
        home.keys,
        clock=home.clock,
        system_clock=system_clock,
        counts=list,
        clouds=NoClouds(),
        audit=home.audit,
        metrics=Metrics(),
    )


def kinds(bridge: PlainBridge) -> list[str]:
    return [document.kind.name for document in bridge.kept]


async def test_the_first_turn_names_sessions_then_asks_for_the_network_then_publishes(home: Any, bridge: Any) -> None:
    sync = make_sync(home, bridge)
    await sync.turn()
    assert bridge.calls == ["heartbeat", "network", "publish"]
    assert kinds(bridge) == ["PREKEY", "TITLES"]
    assert sync.connected


async def test_a_turn_with_nothing_due_asks_nothing(home: Any, bridge: Any) -> None:
    sync = make_sync(home, bridge)
    await sync.turn()
    bridge.calls.clear()
    await sync.turn()
    assert bridge.calls == []


async def test_a_lost_notice_is_healed_by_the_next_heartbeat(home: Any, bridge: Any, north: Any) -> None:
    sync = make_sync(home, bridge)
    await sync.turn()
    bridge.revision, bridge.sites = "2", [north.entry()]
    home.clock.advance(20.0)
    await sync.turn()
    assert "north" in home.directory.reported


async def test_a_lost_connection_is_followed_by_a_heartbeat_at_once_and_a_revocation_is_called_that(
    home: Any, bridge: Any
) -> None:
    sync = make_sync(home, bridge)
    await sync.turn()
    bridge.calls.clear()
    bridge.shut_out = True
    await sync.turn()
    assert bridge.calls == []
    sync.went_away()
    await sync.turn()
    assert bridge.calls == ["heartbeat"]
    assert (sync.connected, sync.trouble) == (False, "revoked by the Bridge")


async def test_a_notice_asks_for_the_network_at_once(home: Any, bridge: Any, north: Any) -> None:
    sync = make_sync(home, bridge)
    await sync.turn()
    bridge.calls.clear()
    bridge.sites = [north.entry()]
    sync.network_changed()
    await sync.turn()
    assert bridge.calls == ["network"]
    assert "north" in home.directory.reported


async def test_a_change_here_is_published_in_the_next_turn(home: Any, bridge: Any) -> None:
    sync = make_sync(home, bridge)
    await sync.turn()
    bridge.kept.clear()
    home.administration.device_add("PACS@192.0.2.20:104")
    await sync.turn()
    assert kinds(bridge) == ["TITLES"]


async def test_prekeys_and_documents_are_renewed_each_day(home: Any, bridge: Any) -> None:
    sync = make_sync(home, bridge)
    await sync.turn()
    first = home.keys.newest
    bridge.kept.clear()
    home.clock.advance(86_400.0)
    await sync.turn()
    assert home.keys.newest != first
    assert kinds(bridge) == ["PREKEY", "TITLES"]


async def test_a_refused_title_does_not_hold_up_the_other_documents(home: Any, bridge: Any, north: Any) -> None:
    bridge.sites = [north.entry()]
    sync = make_sync(home, bridge)
    await sync.turn()
    home.accept(north)
    home.administration.device_add("PACS@192.0.2.20:104")
    bridge.kept.clear()
    bridge.refuses = DocumentKind.TITLES
    await sync.turn()
    assert kinds(bridge) == ["STATEMENT"]
    assert sync.connected
    assert "another site" in sync.refusal
    bridge.calls.clear()
    await sync.turn()
    assert bridge.calls == []
    bridge.refuses = None
    home.administration.device_set("PACS", title="HOME_PACS")
    await sync.turn()
    assert sync.refusal == ""
    assert kinds(bridge) == ["STATEMENT", "TITLES"]


async def test_a_bridge_that_was_away_hears_of_the_live_sessions_first(home: Any, bridge: Any) -> None:
    live = SessionCount(
        session_id=bytes(16), other_router_id="X", calling="A", called="B", started=0.0, bytes_out=1, bytes_in=2
    )
    sync = make_sync(home, bridge)
    sync._counts = lambda: [live]
    await sync.turn()
    bridge.away = True
    home.clock.advance(20.0)
    await sync.turn()
    assert "not connected" in repr(sync)
    assert "cannot be reached" in sync.trouble
    bridge.away, bridge.heard = False, []
    bridge.calls.clear()
    await sync.turn()
    assert bridge.calls[0] == "heartbeat"
    assert bridge.heard == [live]
    assert sync.connected
    assert sync.trouble == ""


async def test_a_fetch_that_failed_is_made_again(home: Any, bridge: Any, north: Any) -> None:
    sync = make_sync(home, bridge)
    await sync.turn()
    bridge.sites, bridge.away = [north.entry()], True
    sync.network_changed()
    await sync.turn()
    bridge.away = False
    await sync.turn()
    assert "north" in home.directory.reported


async def test_documents_that_did_not_arrive_are_published_again(home: Any, bridge: Any) -> None:
    sync = make_sync(home, bridge)
    await sync.turn()
    bridge.kept.clear()
    bridge.away = True
    home.administration.device_add("PACS@192.0.2.20:104")
    await sync.turn()
    bridge.away = False
    await sync.turn()
    assert kinds(bridge) == ["TITLES"]


async def test_the_bridges_clock_is_followed_within_an_hour_and_no_further(home: Any, bridge: Any) -> None:
    clock = SystemClock()
    sync = make_sync(home, bridge, clock)
    bridge.ahead = 90.0
    await sync.turn()
    assert clock.offset == pytest.approx(90.0)
    bridge.ahead = MOST_OFFSET
    home.clock.advance(20.0)
    await sync.turn()
    assert clock.offset == pytest.approx(90.0)
    assert sync.offset > MOST_OFFSET


@pytest.mark.parametrize("time", ["NaN", "Infinity", "1e300", "-1"])
def test_a_time_of_the_bridge_that_is_none_is_not_understood(time: str) -> None:
    """It would stay in every later correction of the clock, and nothing would ever run out again."""
    with pytest.raises(ValidationError):
        HeartbeatAnswer.model_validate_json(f'{{"time": {time}, "revision": "1"}}')


async def test_a_fault_in_one_turn_does_not_end_the_conversation(
    home: Any, bridge: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync = make_sync(home, bridge)
    with monkeypatch.context() as patch:
        patch.setattr(bridge, "heartbeat", lambda _: 1 // 0)
        await sync.turn()
    assert not sync.connected
    await sync.turn()
    assert sync.connected


async def test_a_difference_that_may_be_the_networks_delay_is_not_followed(home: Any, bridge: Any) -> None:
    clock = SystemClock()
    bridge.ahead = 0.9
    await make_sync(home, bridge, clock).turn()
    assert clock.offset == 0.0


async def test_unknown_callers_become_durable(home: Any, bridge: Any) -> None:
    home.directory.unknown_callers.note("CT9", "192.0.2.99", "PACS", home.clock.now())
    await make_sync(home, bridge).turn()
    assert len(home.restarted().unknown_callers.listed()) == 1


async def test_a_running_router_publishes_a_change_without_waiting_for_the_next_heartbeat(
    home: Any, bridge: Any
) -> None:
    sync, tasks = make_sync(home, bridge), Tasks("test")
    tasks.spawn(sync.run(), name="sync")
    async with asyncio.timeout(10):
        await bridge.given.wait()
        bridge.given.clear()
        home.administration.device_add("PACS@192.0.2.20:104")
        await bridge.given.wait()
    await tasks.close()
    assert kinds(bridge) == ["PREKEY", "TITLES", "TITLES"]
    assert bridge.calls.count("heartbeat") == 1


async def test_a_running_router_asks_for_the_network_when_it_is_told_that_it_changed(
    home: Any, bridge: Any, north: Any
) -> None:
    sync, tasks = make_sync(home, bridge), Tasks("test")
    tasks.spawn(sync.run(), name="sync")
    async with asyncio.timeout(10):
        await bridge.given.wait()
        bridge.given.clear()
        bridge.sites = [north.entry()]
        sync.network_changed()
        home.administration.device_add("PACS@192.0.2.20:104")
        await bridge.given.wait()
    await tasks.close()
    assert "north" in home.directory.reported
